"""segkit: segment microscopy images from Jupyter, durably, exactly and measured in micrometres."""

import lazy_loader

__version__ = "0.1.0"

# Heavy modules load when they are first used (SPEC 1), so that `import segkit` and `segkit --help` are instant.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["errors", "exports", "images", "kit", "reports", "scoring", "segmenters", "settings", "training"],
    submod_attrs={
        "kit": ["Image", "Kit", "Project", "Run", "open"],
        "reports": ["compare", "compare_with_truth", "follow", "report"],
        "scoring": ["score"],
        "segmenters": ["segment"],
        "errors": ["SegkitError"],
    },
)
