"""What a run found: objects and their distributions, the plate, the images that most deserve a look, and exports.

panel serve --address 127.0.0.1 dashboards/results.py       alone; `segkit serve` shows it under /dashboards/results
"""

from __future__ import annotations

import segkit
from segkit import dashboards


def page(kit: segkit.Kit) -> dashboards.Page:
    """Lay the page out."""
    run = dashboards.chosen_run() or dashboards.newest_run(kit)
    return dashboards.page(
        "results",
        [
            [dashboards.pick_card(kit, run)],
            [dashboards.found_card(kit, run), dashboards.plate_card(kit, run)],
            [dashboards.objects_card(kit, run)],
            [dashboards.gallery_card(kit, run)],
            [dashboards.exports_card(kit, run)],
        ],
    )


dashboards.serve_alone(page)
