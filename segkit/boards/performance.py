"""The card of performance: what took how long, how much memory and disk there is, from the history that the database keeps.

Charts are drawn of samples that servers and workers left each minute, so they are there after a restart; what happens within this
minute, and what only the service itself knows, stands in tables beside them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from segkit import history
from segkit.boards.board import board_of
from segkit.boards.cards import PATIENCE_SECONDS, Card, Facts, Stop, lookers, within
from segkit.errors import SegkitError
from segkit.history import DAY, HOUR, MINUTE, Sample
from segkit.kit import Kit
from segkit.meter import IMAGES, SECONDS, room
from segkit.telemetry import memory_limit, memory_used, plan

#: How far a page may look back: its name, the hours, and the window of the samples.
RANGES = {
    "hour": ("last hour, a point a minute", 1, MINUTE),
    "day": ("last 24 hours, a point a minute", 24, MINUTE),
    "month": ("last 30 days, a point an hour", 24 * 30, HOUR),
    "year": ("last year, a point a day", 24 * 365, DAY),
}
#: How often a page is told.
TELL_SECONDS = 5.0
MIB, GIB = 2**20, 2**30
MOST_ROUTES, MOST_STATEMENTS, MOST_PLANS = 15, 10, 5
SHORT = 90
#: Points of a line; of more the worst of each few are kept.
MOST_POINTS = 300

#: The samples of one moment, of all processes.
Moment = Sequence[Sample]
Value = Callable[[Moment, int], float | None]


class Probe(Protocol):
    """What only the service knows, live: `segkit.server.metrics.Metrics`."""

    def performance(self) -> Any:
        """Tell what took how long since the service started."""

    def slow(self) -> Any:
        """List the statements that were slow."""

    def plan(self, number: str) -> Any:
        """Tell how the database would run one of them."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    value: Value


def total(name: str) -> Value:
    """Add an increment up over all processes, per second."""

    def value(samples: Moment, window_s: int) -> float | None:
        held = [each.measured[name] for each in samples if name in each.measured]
        return sum(held) / window_s if held else None

    return value


def most(name: str, factor: float = 1.0, source: str = "") -> Value:
    """Return the largest of all processes."""

    def value(samples: Moment, window_s: int) -> float | None:
        held = [each.measured[name] for each in samples if name in each.measured and each.source.startswith(source)]
        return max(held) * factor if held else None

    return value


def summed(name: str) -> Value:
    """Add a level up over all processes."""

    def value(samples: Moment, window_s: int) -> float | None:
        held = [each.measured[name] for each in samples if name in each.measured]
        return sum(held) if held else None

    return value


def share(part: str, rest: str) -> Value:
    """Return how many percent one increment is of itself and another."""

    def value(samples: Moment, window_s: int) -> float | None:
        one, other = (sum(each.measured.get(name, 0.0) for each in samples) for name in (part, rest))
        return 100 * one / (one + other) if one + other else None

    return value


def quotient(over: str, under: str) -> Value:
    """Divide one increment by another."""

    def value(samples: Moment, window_s: int) -> float | None:
        one, other = (sum(each.measured.get(name, 0.0) for each in samples) for name in (over, under))
        return one / other if other else None

    return value


#: Charts whose lines are always the same: name, title, unit, lines.
CHARTS: tuple[tuple[str, str, str, tuple[Line, ...]], ...] = (
    ("jobs", "Queue", "jobs", (Line("waiting", most("queued")), Line("running", most("running")))),
    (
        "requests",
        "Time to answer a request",
        "ms",
        (Line("median", most("p50_seconds", 1000)), Line("p95", most("p95_seconds", 1000)), Line("p99", most("p99_seconds", 1000))),
    ),
    (
        "rates",
        "Requests and statements",
        "per second",
        (Line("requests", total("requests_total")), Line("statements", total("statements_total"))),
    ),
    ("cache", "Reads answered from the cache", "%", (Line("hit rate", share("hits_total", "misses_total")),)),
    (
        "server",
        "Memory of the service",
        "MiB",
        (Line("service", most("peak_memory_bytes", 1 / MIB, "server")), Line("cache", most("cache_bytes", 1 / MIB))),
    ),
    ("workers", "Memory of the fullest Dask worker", "MiB", (Line("in use", most("peak_memory_bytes", 1 / MIB, "worker")),)),
    (
        "threads",
        "Dask threads and processes",
        "number",
        (Line("threads", summed("dask_threads")), Line("busy", summed("dask_busy")), Line("worker processes", summed("dask_workers"))),
    ),
    ("disk", "Room on the disk of the results", "GiB", (Line("free", most("disk_free_bytes", 1 / GIB)),)),
)


class PerformanceCard(Card):
    """Charts over time, and tables of what there is now."""

    kind = "charts"
    title = "Performance"

    def __init__(self, kit: Kit, probe: Probe | None = None, range: str = "hour") -> None:
        self.kit, self.probe, self.range = kit, probe, range
        self._plans: dict[str, str] = {}

    def answers(self) -> Mapping[str, Callable[[Facts], Facts]]:
        """Return what can be asked: to look further back."""
        return {"range": self._choose}

    def _choose(self, asked: Facts) -> Facts:
        if asked["range"] in RANGES:
            self.range = asked["range"]
        return self.facts()

    def follow(self, tell: Callable[[], None]) -> Stop:
        """Tell every few seconds."""
        told = time.monotonic()

        def maybe(snapshot: object) -> None:
            nonlocal told
            if time.monotonic() - told >= TELL_SECONDS - 0.5:
                told = time.monotonic()
                tell()

        return board_of(self.kit).follow(maybe)

    def facts(self) -> Facts:
        """Return charts and tables; or why not, where the database does not answer in time."""
        try:
            return within(PATIENCE_SECONDS, lookers().submit(self._read))
        except SegkitError as error:
            return {"fault": str(error)}

    def _read(self) -> Facts:
        words, hours, window_s = RANGES[self.range]
        until = datetime.now(UTC)
        with self.kit.database.read() as connection:
            samples = history.read(connection, window_s, until - timedelta(hours=hours))
        span = [until.timestamp() - 3600 * hours, until.timestamp()]
        moments = by_moment(samples, window_s)
        charts = [drawn(name, title, unit, lines, moments, window_s) for name, title, unit, lines in (*of_segmenters(samples), *CHARTS)]
        limits = {"server": limit_of(samples, "server"), "workers": limit_of(samples, "worker")}
        for chart in charts:
            chart |= {
                "span": span,
                "window": words,
                "gap": 2.5 * max(window_s, 3600 * hours / MOST_POINTS),
                "limit": limits.get(chart["name"]),
            }
        ranges = [{"name": name, "words": each[0].partition(",")[0]} for name, each in RANGES.items()]
        return {"charts": charts, "tables": self._tables(), "ranges": ranges, "range": self.range}

    def _tables(self) -> list[Facts]:
        tables = [self._now()]
        if self.probe is not None:
            tables.append(requests_table(self.probe.performance().requests))
        return [*tables, self._statements(), self._slow()]

    def _now(self) -> Facts:
        statistics = self.kit.catalog.cache.statistics()
        disk = room(self.kit.settings.home)
        rows = [
            ["memory of this process", f"{memory_used() / MIB:,.0f} of {memory_limit() / MIB:,.0f} MiB"],
            ["cache", f"{statistics.bytes / MIB:,.1f} MiB, {100 * statistics.hit_rate:.0f} % of reads answered from it"],
        ]
        if disk:
            rows.append(["disk of the results", f"{disk['disk_free_bytes'] / GIB:,.0f} of {disk['disk_bytes'] / GIB:,.0f} GiB free"])
        return {"title": "Now", "columns": ["what", "how much"], "rows": rows, "note": ""}

    def _statements(self) -> Facts:
        timings = self.kit.database.timings
        rows = timings.timings()[:MOST_STATEMENTS] if timings else []
        shown = [[shortened(row.statement), row.count, 1000 * row.seconds / row.count, 1000 * row.slowest] for row in rows]
        note = "since this process started" if timings else "Statements are not timed: SEGKIT_ENABLE_PERFORMANCE_MONITORING is off."
        return {
            "title": "Most expensive statements",
            "columns": ["statement", "times", "mean, ms", "worst, ms"],
            "rows": shown,
            "note": note,
        }

    def _slow(self) -> Facts:
        timings = self.kit.database.timings
        rows = timings.slow_by_text()[:MOST_STATEMENTS] if timings else []
        shown = [
            [shortened(row.statement), row.count, 1000 * row.slowest, self._plan(row.statement) if place < MOST_PLANS else None]
            for place, row in enumerate(rows)
        ]
        limit = f"slower than {self.kit.settings.slow_query_ms:g} ms since this process started"
        note = limit if shown else f"No statement was {limit}."
        return {"title": "Slow statements", "columns": ["statement", "times", "worst, ms", "plan"], "rows": shown, "note": note}

    def _plan(self, statement: str) -> Facts | None:
        """Ask once how the database would run a statement."""
        timings = self.kit.database.timings
        executed = timings.recorded(statement) if timings else None
        if executed is None:
            return None
        if statement not in self._plans:
            with self.kit.database.read() as connection:
                self._plans[statement] = "\n".join(plan(connection, executed))
        return {"short": "show the plan", "more": self._plans[statement]}


def by_moment(samples: Iterable[Sample], window_s: int) -> dict[float, list[Sample]]:
    """Put samples of different processes together that ended in the same window."""
    together: dict[float, list[Sample]] = defaultdict(list)
    for sample in samples:
        together[sample.at.timestamp() // window_s * window_s].append(sample)
    return dict(sorted(together.items()))


def of_segmenters(samples: Sequence[Sample]) -> list[tuple[str, str, str, tuple[Line, ...]]]:
    """Return the charts that have a line for each segmenter."""
    start, end = IMAGES.split("{}")
    keys = {name for sample in samples for name in sample.measured if name.startswith(start) and name.endswith(end)}
    names = sorted(key[len(start) : -len(end)] for key in keys)
    rates = tuple(Line(name, total(IMAGES.format(name))) for name in names)
    costs = tuple(Line(name, quotient(SECONDS.format(name), IMAGES.format(name))) for name in names)
    return [("images", "Images by segmenter", "per second", rates), ("seconds", "Computing by segmenter", "s per image", costs)]


def drawn(name: str, title: str, unit: str, lines: tuple[Line, ...], moments: Mapping[float, Moment], window_s: int) -> Facts:
    """Return a chart; its span and window are added by who asked."""
    series = [
        {"name": line.name, "points": thinned([(when, line.value(held, window_s)) for when, held in moments.items()])} for line in lines
    ]
    return {"name": name, "title": title, "unit": unit, "series": series}


def thinned(points: Sequence[tuple[float, float | None]]) -> list[list[float | None]]:
    """Keep the largest of each few points where there are more than a page can show."""
    known = [(when, value) for when, value in points if value is not None]
    size = -(-len(known) // MOST_POINTS) or 1
    parts = [known[place : place + size] for place in range(0, len(known), size)]
    return [[part[-1][0], round(max(value for _, value in part), 6)] for part in parts]


def limit_of(samples: Sequence[Sample], source: str) -> Facts | None:
    """Return the limit of memory that the newest sample of a kind of process names."""
    for sample in reversed(samples):
        if sample.source.startswith(source) and sample.measured.get("memory_limit_bytes"):
            return {"name": "limit", "value": sample.measured["memory_limit_bytes"] / MIB}
    return None


def requests_table(timings: Sequence[Any]) -> Facts:
    """Return requests by route."""
    slowest = sorted(timings, key=lambda each: each.p95_seconds * each.count, reverse=True)[:MOST_ROUTES]
    rows = [
        [
            f"{each.method} {each.route}",
            each.count,
            each.errors,
            *(1000 * value for value in (each.p50_seconds, each.p95_seconds, each.p99_seconds)),
        ]
        for each in slowest
    ]
    columns = ["route", "requests", "errors", "p50, ms", "p95, ms", "p99, ms"]
    return {
        "title": "Requests by route",
        "columns": columns,
        "rows": rows,
        "note": "since the service started; routes that cost most first",
    }


def shortened(statement: str) -> Facts | str:
    """Show the start of a statement, and all of it on demand."""
    line = " ".join(statement.split())
    return line if len(line) <= SHORT else {"short": f"{line[:SHORT]}…", "more": statement}
