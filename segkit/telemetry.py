"""How long database statements and requests take, and the names of all metrics.

It watches an engine that is handed to it, and counts what a server tells it; switched off, nothing is hooked in and nothing costs.

Statements are told apart by their text. Parameters are never in the text, so they are neither counted apart nor ever recorded.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from sqlalchemy import Connection, Engine, event

#: Statements beyond this many different texts are counted together, so that memory stays bounded.
MOST_STATEMENTS = 1000
MOST_SLOW = 100
OTHERS = "(other statements)"
MOST_ROUTES = 500
OTHER_ROUTES = "(other routes)"
#: Share of its limit at which memory is warned of.
WARN_AT = 0.85
#: Steps of times in seconds, each a tenth longer than the one before, from 50 microseconds to about 10 minutes.
SCALE = tuple(50e-6 * 1.1**step for step in range(172))


@dataclass(frozen=True)
class Metric:
    """One metric as Prometheus knows it: `segkit_<noun>_<verb>_<unit>`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


#: Every metric that there is, by a short name.
METRICS = {
    "requests": Metric("segkit_requests_answered_total", "counter", "Requests answered.", ("method", "route", "status")),
    "request_seconds": Metric("segkit_requests_answered_seconds", "histogram", "Time to answer a request.", ("method", "route")),
    "statements": Metric("segkit_statements_executed_total", "counter", "Database statements executed."),
    "statement_seconds": Metric("segkit_statements_executed_seconds_total", "counter", "Time that database statements took."),
    "slow_statements": Metric("segkit_statements_slowed_total", "counter", "Database statements slower than SEGKIT_SLOW_QUERY_MS."),
    "cache_answers": Metric("segkit_cache_answered_total", "counter", "Cached reads, by where the answer came from.", ("source",)),
    "cache_evictions": Metric("segkit_cache_evicted_total", "counter", "Entries that made room for others."),
    "cache_replaced": Metric("segkit_cache_replaced_total", "counter", "Entries that were found outdated."),
    "cache_failures": Metric("segkit_cache_failed_total", "counter", "Calls to Redis that failed."),
    "cache_garbage": Metric("segkit_cache_discarded_total", "counter", "Entries of Redis that were not ours, and were deleted."),
    "cache_fill_seconds": Metric("segkit_cache_filled_seconds_total", "counter", "Time spent making answers that were not kept yet."),
    "cache_bytes": Metric("segkit_cache_held_bytes", "gauge", "Memory that kept answers take."),
    "cache_limit": Metric("segkit_cache_limited_bytes", "gauge", "Memory that kept answers may take."),
    "cache_entries": Metric("segkit_cache_held_entries", "gauge", "Answers that are kept."),
    "questions": Metric("segkit_revisions_asked_total", "counter", "Questions to PostgreSQL whether there is news of writes."),
    "losses": Metric("segkit_listeners_lost_total", "counter", "Connections lost that hear of writes."),
    "packed_before": Metric("segkit_answers_packed_bytes_total", "counter", "Bytes of answers before they were packed on their way out."),
    "packed_after": Metric("segkit_answers_sent_bytes_total", "counter", "Bytes of the same answers afterwards."),
    "jobs": Metric("segkit_jobs_counted", "gauge", "Jobs of all runs by status.", ("status",)),
    "objects": Metric("segkit_objects_counted", "gauge", "Objects in the results of all runs."),
    "workers": Metric("segkit_workers_held", "gauge", "Workers that hold jobs now."),
    "late": Metric("segkit_leases_lapsed", "gauge", "Jobs whose worker did not renew its lease; they go to others."),
    "waited": Metric("segkit_queue_waited_seconds", "gauge", "Age of the oldest run that has jobs waiting; 0 when none waits."),
    "batches": Metric("segkit_batches_counted", "gauge", "Executions of notebooks by status.", ("status",)),
    "health": Metric("segkit_health_reported", "gauge", "Parts as /health tells them: 0 ok, 1 degraded, 2 down.", ("part",)),
    "backup": Metric("segkit_backup_taken_timestamp_seconds", "gauge", "When the last backup was taken, in seconds since 1970."),
    "backup_wanted": Metric("segkit_backup_wanted_seconds", "gauge", "SEGKIT_BACKUP_EVERY_DAYS in seconds; 0: never."),
    "disk_left": Metric("segkit_home_left_bytes", "gauge", "Room left on the disk of the home folder."),
    "disk": Metric("segkit_home_limited_bytes", "gauge", "Size of the disk of the home folder."),
    "memory": Metric("segkit_memory_used_bytes", "gauge", "Memory in use, by process.", ("process",)),
    "memory_limit": Metric("segkit_memory_limited_bytes", "gauge", "Memory that a process may use.", ("process",)),
    "cpu": Metric("segkit_process_used_cpu_seconds_total", "counter", "Processor time that the server used."),
    "started": Metric("segkit_process_started_timestamp_seconds", "gauge", "When the server started, in seconds since 1970."),
}


@dataclass(frozen=True)
class StatementTiming:
    """What one statement cost since the engine is watched."""

    statement: str
    count: int
    seconds: float  #: of all its executions together
    slowest: float  #: seconds of the slowest one


@dataclass(frozen=True)
class SlowStatement:
    """One execution that took longer than the limit."""

    statement: str
    seconds: float
    at: datetime


class Statements:
    """Timings of the statements of one engine, by their text. Made by `watch`."""

    def __init__(self, slow_ms: float) -> None:
        self._slow = slow_ms / 1000
        self._totals: dict[str, list[float]] = {}
        self._recent: deque[SlowStatement] = deque(maxlen=MOST_SLOW)
        self._slowed = 0
        self._lock = threading.Lock()

    def add(self, statement: str, seconds: float) -> None:
        """Count one execution."""
        with self._lock:
            totals = self._totals.get(statement)
            if totals is None:
                key = statement if len(self._totals) < MOST_STATEMENTS else OTHERS
                totals = self._totals.setdefault(key, [0, 0.0, 0.0])
            totals[0] += 1
            totals[1] += seconds
            if seconds > totals[2]:
                totals[2] = seconds
        if seconds > self._slow:
            self._slowed += 1
            self._recent.append(SlowStatement(statement, seconds, datetime.now(UTC)))

    def timings(self) -> list[StatementTiming]:
        """List what every statement cost, the most expensive first."""
        with self._lock:
            rows = [StatementTiming(text, int(count), seconds, slowest) for text, (count, seconds, slowest) in self._totals.items()]
        return sorted(rows, key=lambda row: row.seconds, reverse=True)

    def slow(self) -> list[SlowStatement]:
        """List the latest executions over the limit, newest first; at most `MOST_SLOW`."""
        return list(reversed(self._recent))

    def slow_by_text(self) -> list[StatementTiming]:
        """List the statements that were slow at least once, by their normal text, the slowest first."""
        groups: dict[str, list[StatementTiming]] = {}
        for timing in self.timings():
            if timing.slowest > self._slow:
                groups.setdefault(normal(timing.statement), []).append(timing)
        rows = [
            StatementTiming(text, sum(t.count for t in group), sum(t.seconds for t in group), max(t.slowest for t in group))
            for text, group in groups.items()
        ]
        return sorted(rows, key=lambda row: row.slowest, reverse=True)

    def recorded(self, text: str) -> str | None:
        """Return a statement as it was executed, by its normal text; None when there was none."""
        with self._lock:
            return next((statement for statement in self._totals if normal(statement) == text), None)

    def count(self) -> int:
        """How many statements were executed."""
        with self._lock:
            return int(sum(totals[0] for totals in self._totals.values()))

    def seconds(self) -> float:
        """How long they took together."""
        with self._lock:
            return sum(totals[1] for totals in self._totals.values())

    @property
    def slowed(self) -> int:
        """How many executions took longer than the limit."""
        return self._slowed


def normal(statement: str) -> str:
    """Write a statement in one line, with lists of values as one, so that those that differ in length only are the same.

    Examples
    --------
    >>> normal("SELECT a\\nFROM t  WHERE id IN (%(id_1)s, %(id_2)s)")
    'SELECT a FROM t WHERE id IN (...)'
    """
    text = " ".join(statement.split())
    return _LIST.sub("(...)", text)


_VALUE = r"(?:%\(\w+\)s(?:::[\w ]+)?|\?|:\w+|\$\d+)"
_LIST = re.compile(rf"\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)")


class Histogram:
    """How long something took, in bounded memory: a count for each step of a scale on which each step is a tenth longer.

    Examples
    --------
    >>> taken = Histogram()
    >>> for seconds in (0.010, 0.010, 0.010, 0.500):
    ...     taken.add(seconds)
    >>> taken.count, round(taken.quantile(0.5), 3), round(taken.quantile(1), 3)
    (4, 0.01, 0.5)
    """

    __slots__ = ("count", "counts", "most", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(SCALE) + 1)
        self.count = 0
        self.seconds = 0.0
        self.most = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(SCALE, seconds)] += 1
        self.count += 1
        self.seconds += seconds
        if seconds > self.most:
            self.most = seconds

    def quantile(self, share: float) -> float:
        """Return the seconds within which this share was done; 0 when there was nothing. True to about 5 %."""
        if not self.count:
            return 0.0
        left = share * self.count
        for place, number in enumerate(self.counts):
            if left <= number:
                below = SCALE[place - 1] if place else 0.0
                above = SCALE[place] if place < len(SCALE) else self.most
                return min(self.most, below + (above - below) * left / max(number, 1))
            left -= number
        return self.most

    def within(self, seconds: float) -> int:
        """Count those that took no longer than one step of the scale."""
        return sum(self.counts[: bisect_left(SCALE, seconds * 1.0001)])

    def since(self, before: Histogram) -> Histogram:
        """Return what was counted since another state of the same; the longest is that of all."""
        added = Histogram()
        added.counts = [now - then for now, then in zip(self.counts, before.counts, strict=True)]
        added.count, added.seconds, added.most = self.count - before.count, self.seconds - before.seconds, self.most
        return added

    def __add__(self, other: Histogram) -> Histogram:
        added = Histogram()
        added.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        added.count, added.seconds = self.count + other.count, self.seconds + other.seconds
        added.most = max(self.most, other.most)
        return added


@dataclass(frozen=True)
class RouteTiming:
    """What one route cost since the service started."""

    method: str
    route: str
    count: int
    errors: int  #: answers of 500 and above
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    most_seconds: float


class Requests:
    """Timings of requests by route. Routes are few: what fits none is counted together."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], Histogram] = {}
        self._statuses: dict[tuple[str, str, int], int] = {}

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        taken = self._taken.get((method, route))
        if taken is None:
            if len(self._taken) >= MOST_ROUTES:
                method, route = "GET", OTHER_ROUTES
            taken = self._taken.setdefault((method, route), Histogram())
        taken.add(seconds)
        key = (method, route, status)
        self._statuses[key] = self._statuses.get(key, 0) + 1

    def histograms(self) -> dict[tuple[str, str], Histogram]:
        """Return the times by method and route."""
        return dict(self._taken)

    def statuses(self) -> dict[tuple[str, str, int], int]:
        """Return how often each status was answered, by method and route."""
        return dict(self._statuses)

    def all(self) -> Histogram:
        """Add the times of all routes up."""
        return sum(self._taken.values(), Histogram())

    def timings(self) -> list[RouteTiming]:
        """List what every route cost, the most expensive first."""
        statuses = self.statuses()
        rows = [
            RouteTiming(
                method,
                route,
                taken.count,
                sum(number for key, number in statuses.items() if key[:2] == (method, route) and key[2] >= 500),
                taken.seconds / max(taken.count, 1),
                taken.quantile(0.5),
                taken.quantile(0.95),
                taken.quantile(0.99),
                taken.most,
            )
            for (method, route), taken in self.histograms().items()
        ]
        return sorted(rows, key=lambda row: row.count * row.mean_seconds, reverse=True)


def watch(engine: Engine, slow_ms: float) -> Statements:
    """Time every statement of an engine from now on.

    Parameters
    ----------
    engine : Engine
        Its statements are timed from sending to the first row.
    slow_ms : float
        Executions that take longer are listed by `Statements.slow`.
    """
    statements = Statements(slow_ms)
    add, now = statements.add, perf_counter

    def timed(execute: Callable[..., None]) -> Callable[..., bool]:
        def execute_timed(cursor: Any, statement: str, *others: Any) -> bool:
            started = now()
            execute(cursor, statement, *others)
            add(statement, now() - started)
            return True  # it is executed

        return execute_timed

    # In the driver's place, and not before and after it: one event costs half of two.
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, name, timed(getattr(engine.dialect, name)))
    return statements


def plan(connection: Connection, statement: str) -> list[str]:
    """Ask the database how it would run a statement, for any values of its parameters. Nothing is run.

    Parameters
    ----------
    connection
        In a read transaction. PostgreSQL must be of version 16 or later.
    statement : str
        As it was executed.

    Returns
    -------
    list of str
        Lines; none for a statement that has no plan.
    """
    driver: Any = connection.connection.driver_connection
    if not re.match(r"\s*(select|with|insert|update|delete)\b", statement, re.IGNORECASE):
        return []
    if connection.dialect.name == "sqlite":
        values = [None] * _quoted_out(statement).count("?")
        return [str(row[-1]) for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    return [str(row[0]) for row in driver.execute(f"EXPLAIN (GENERIC_PLAN) {_numbered(statement)}")]


def _quoted_out(statement: str) -> str:
    return re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", "''", statement)


def _numbered(statement: str) -> str:
    """Write psycopg's parameters as PostgreSQL's own."""
    names: dict[str, int] = {}
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.setdefault(found[1], len(names) + 1)}", statement)
    return numbered.replace("%%", "%")


def memory_used() -> int:
    """Return the bytes of memory that this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_limit() -> int:
    """Return the bytes of memory that this process may hold: those of its container, or else of the machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return machine


@dataclass(frozen=True)
class MemoryUse:
    """What one part holds of what it may hold."""

    part: str  #: "server", "cache", or a worker's name
    used_bytes: int
    limit_bytes: int

    @property
    def warning(self) -> str | None:
        """Say so when it is close to its limit."""
        if self.used_bytes < WARN_AT * self.limit_bytes:
            return None
        used, limit = self.used_bytes / 2**20, self.limit_bytes / 2**20
        return f"{self.part} uses {used:.0f} of {limit:.0f} MiB. Give it more memory, or less to do at once."


@dataclass
class Counted:
    """The statements that were executed while `counted` was open."""

    statements: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.statements)


@contextmanager
def counted(engine: Engine) -> Iterator[Counted]:
    """Collect the statements that an engine executes in this block.

    Examples
    --------
    >>> from sqlalchemy import create_engine, text
    >>> engine = create_engine("sqlite://")
    >>> with counted(engine) as seen, engine.connect() as connection:
    ...     _ = connection.execute(text("select 1"))
    >>> seen.statements
    ['select 1']
    """
    seen = Counted()

    def before(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        seen.statements.append(statement)

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", before)
