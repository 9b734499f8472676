"""What dashboards show, as plain data: boards that look at the database once for all who watch, and cards that are drawn of them.

Nothing here draws. `segkit.widgets` draws cards in notebooks and Voila, `segkit.dashboards` in Panel, with the same scripts.
"""

from segkit.boards.board import Board, Snapshot, board_of
from segkit.boards.cards import Card, Facts, Stop
from segkit.boards.performance import PerformanceCard, Probe
from segkit.boards.queue import FailuresCard, JobsCard, QueueCard, RunsCard, WorkersCard
from segkit.boards.results import ExportsCard, FoundCard, GalleryCard, PickCard, PlateCard

__all__ = [
    "Board",
    "Card",
    "ExportsCard",
    "Facts",
    "FailuresCard",
    "FoundCard",
    "GalleryCard",
    "JobsCard",
    "PerformanceCard",
    "PickCard",
    "PlateCard",
    "Probe",
    "QueueCard",
    "RunsCard",
    "Snapshot",
    "Stop",
    "WorkersCard",
    "board_of",
]
