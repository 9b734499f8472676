"""What processes measured over time: a row a minute from each, thinned with age, for the dashboards.

A minute's row is kept for a day, an hour's for ninety days, a day's for three years. Names that end in `_total` are increments within
the window and are added up; names that start with `peak_` keep the largest; all others are levels, of which the mean is kept.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import cast

from sqlalchemy import Connection, Table, delete, insert, select, text

from segkit.database import Database, now
from segkit.errors import SegkitError
from segkit.schema import Sample as SampleRow

table = cast(Table, SampleRow.__table__)
MINUTE, HOUR, DAY = 60, 3600, 86_400
#: Windows from short to long, each with how long its rows are kept.
KEPT = {MINUTE: timedelta(days=1), HOUR: timedelta(days=90), DAY: timedelta(days=3 * 365)}
MOST_READ = 20_000
#: Of PostgreSQL: one process thins at a time.
ADVISORY_LOCK = 7_354_108_227

log = logging.getLogger(__name__)
Measured = Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """What one process measured in a window of time."""

    at: datetime  #: end of the window
    window_s: int
    source: str  #: the process, such as "server lab1:4711"
    measured: dict[str, float]


def record(connection: Connection, source: str, measured: Measured, window_s: int = MINUTE, at: datetime | None = None) -> None:
    """Keep what a process measured in the window that ends now. What is no number is left out."""
    kept = {name: value for name, value in measured.items() if math.isfinite(value)}
    values = {"at": at or now(connection), "window_s": window_s, "source": source[:200], "measured": kept}
    connection.execute(insert(table).values(values))


def read(connection: Connection, window_s: int, since: datetime, limit: int = MOST_READ) -> list[Sample]:
    """Return samples of one window length, of all processes, oldest first.

    Parameters
    ----------
    window_s : int
        60, 3600 or 86400.
    since : datetime
        Samples that end after it.
    limit : int
        No more than this, the newest.
    """
    columns = (table.c.at, table.c.window_s, table.c.source, table.c.measured)
    wanted = select(*columns).where(table.c.window_s == window_s, table.c.at > since).order_by(table.c.at.desc()).limit(limit)
    return [Sample(*row) for row in reversed(connection.execute(wanted).all())]


def latest(connection: Connection, within: timedelta = timedelta(minutes=3)) -> list[Sample]:
    """Return the newest minute of each process that measured lately."""
    newest = {sample.source: sample for sample in read(connection, MINUTE, now(connection) - within)}
    return list(newest.values())


def thin(connection: Connection) -> int:
    """Make hours of minutes and days of hours, and delete what is older than it is to be kept; returns how many rows went."""
    if (
        connection.dialect.name == "postgresql"
        and not connection.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK}).scalar_one()
    ):
        return 0
    moment = now(connection)
    for short, long in ((MINUTE, HOUR), (HOUR, DAY)):
        _gather(connection, short, long, moment)
    gone = 0
    for window_s, age in KEPT.items():
        gone += connection.execute(delete(table).where(table.c.window_s == window_s, table.c.at <= moment - age)).rowcount
    return gone


def _gather(connection: Connection, short: int, long: int, moment: datetime) -> None:
    """Make long windows of the short ones that have ended since the last long one."""
    newest = connection.scalar(select(table.c.at).where(table.c.window_s == long).order_by(table.c.at.desc()).limit(1))
    oldest = connection.scalar(select(table.c.at).where(table.c.window_s == short).order_by(table.c.at).limit(1))
    if oldest is None:
        return
    since = newest or oldest - timedelta(seconds=1)
    until = _floor(moment, long)
    if until <= since:
        return
    while since < until:  # one long window at a time: a thousand processes leave sixty thousand rows in an hour
        end = min(_floor(since, long) + timedelta(seconds=long), until)
        samples = sorted(_between(connection, short, since, end), key=lambda sample: sample.source)
        for source, group in groupby(samples, key=lambda sample: sample.source):
            record(connection, source, combine([sample.measured for sample in group]), long, end)
        since = end


def _between(connection: Connection, window_s: int, since: datetime, until: datetime) -> list[Sample]:
    """Read all samples of one window length that end in a time, however many they are, oldest first."""
    columns = (table.c.at, table.c.window_s, table.c.source, table.c.measured)
    wanted = select(*columns).where(table.c.window_s == window_s, table.c.at > since, table.c.at <= until).order_by(table.c.at)
    return [Sample(*row) for row in connection.execute(wanted)]


def combine(parts: Sequence[Measured]) -> dict[str, float]:
    """Make one window of several.

    Examples
    --------
    >>> combine([{"requests_total": 2, "peak_memory": 5, "queued": 4}, {"requests_total": 3, "peak_memory": 9, "queued": 6}])
    {'requests_total': 5, 'peak_memory': 9, 'queued': 5.0}
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _combined(name, [part[name] for part in parts if name in part]) for name in names}


def _combined(name: str, values: list[float]) -> float:
    if name.endswith("_total"):
        return sum(values)
    return max(values) if name.startswith("peak_") else sum(values) / len(values)


def _floor(moment: datetime, window_s: int) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() // window_s * window_s, UTC)


class Sampler:
    """A thread that measures once in a while and keeps it. What goes wrong is logged, and the next minute is another try."""

    def __init__(self, database: Database, source: str, measure: Callable[[], Measured], seconds: float = MINUTE) -> None:
        self._database, self._source, self._measure, self._seconds = database, source, measure, seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="segkit-sampler", daemon=True)

    def start(self) -> Sampler:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop, and wait until it has."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def sample(self) -> None:
        """Measure now, and thin what is old."""
        measured = self._measure()
        with self._database.write() as connection:
            record(connection, self._source, measured, round(self._seconds) or 1)
            thin(connection)

    def _work(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self.sample()
            except SegkitError as error:
                log.warning("This minute was not kept: %s", error)
