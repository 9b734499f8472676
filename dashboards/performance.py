"""What takes how long, memory against its limits, threads and disk, now and over time.

panel serve --address 127.0.0.1 dashboards/performance.py       alone; `segkit serve` shows it under /dashboards/performance
"""

from __future__ import annotations

import segkit
from segkit import dashboards


def page(kit: segkit.Kit) -> dashboards.Page:
    """Lay the page out."""
    return dashboards.page("performance", [[dashboards.performance_card(kit)], [dashboards.workers_card(kit)]])


dashboards.serve_alone(page)
