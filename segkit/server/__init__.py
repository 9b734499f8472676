"""The HTTP service over the library: thin, every route calls one function of it. Async lives here and nowhere else."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"app": ["create_app"], "serving": ["serve"]})
