"""Dashboards in Panel: cards for a page, a notebook or Voila, and the page they stand on. Panel is imported here alone.

`queue_card(kit)` is a Panel object in a page, and shows itself in a notebook without Panel being set up there.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cards": [
            "Shown",
            "exports_card",
            "failures_card",
            "found_card",
            "gallery_card",
            "jobs_card",
            "objects_card",
            "performance_card",
            "pick_card",
            "plate_card",
            "queue_card",
            "runs_card",
            "workers_card",
        ],
        "look": ["Page", "chosen_run", "newest_run", "page"],
        "mounting": ["mount", "paths", "serve_alone", "warmed"],
    },
)
