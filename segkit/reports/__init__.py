"""Reports: what a run found, how two runs differ, how a run stands against truth, and how objects change over time and wells.

A report is made of pieces, each of which shows itself as the last line of a notebook's cell; notebooks only put them in order.
"""

from segkit.reports.comparing import Comparison, compare, compare_with_truth
from segkit.reports.following import Following, follow
from segkit.reports.quality import Report, report

__all__ = ["Comparison", "Following", "Report", "compare", "compare_with_truth", "follow", "report"]
