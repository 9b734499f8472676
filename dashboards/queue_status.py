"""What waits, runs, fails and why, how fast it goes, and what to do about it.

panel serve --address 127.0.0.1 dashboards/queue_status.py       alone; `segkit serve` shows it under /dashboards/queue_status
"""

from __future__ import annotations

import segkit
from segkit import dashboards


def page(kit: segkit.Kit) -> dashboards.Page:
    """Lay the page out."""
    return dashboards.page(
        "queue_status",
        [
            [dashboards.queue_card(kit)],
            [dashboards.runs_card(kit), dashboards.failures_card(kit)],
            [dashboards.jobs_card(kit, dashboards.chosen_run())],
            [dashboards.workers_card(kit)],
        ],
    )


dashboards.serve_alone(page)
