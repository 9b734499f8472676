"""What the service measures of itself: for people as JSON, for Prometheus as text, and a row a minute for the dashboards."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from sqlalchemy import Connection, func, select

from segkit import history, jobs, upkeep
from segkit.errors import SegkitError, UnknownStatementError
from segkit.jobs.records import Holder
from segkit.kit import Kit
from segkit.schema import Project
from segkit.server import exposition, standing
from segkit.server.answers import Answers, answer
from segkit.server.compression import Savings
from segkit.server.health import Health, Report, report
from segkit.server.problems import told
from segkit.server.replies import reply, to_json
from segkit.telemetry import Histogram, MemoryUse, Requests, RouteTiming, StatementTiming, memory_limit, memory_used, plan

router = APIRouter(tags=["metrics"])
log = logging.getLogger(__name__)
MOST_STATEMENTS = 20
Window = Literal["60", "3600", "86400"]


@dataclass(frozen=True)
class CacheState:
    """How well the cache does."""

    hit_rate: float
    hits: int  #: answered from this process
    shared_hits: int  #: answered from Redis
    joined: int  #: waited for another that was asking the same
    misses: int
    evictions: int
    replaced: int  #: found outdated
    shared_failures: int
    fill_seconds: float
    entries: int
    bytes: int
    limit_bytes: int


@dataclass(frozen=True)
class Performance:
    """What takes how long, since the service started."""

    started_at: datetime
    monitored: bool  #: whether requests and statements are timed (SEGKIT_ENABLE_PERFORMANCE_MONITORING)
    requests: list[RouteTiming]
    statements: int
    statement_seconds: float
    slow_statements: int
    most_expensive: list[StatementTiming]
    cache: CacheState
    questions: int  #: to PostgreSQL whether there is news of writes; no statements
    jobs: jobs.Summary
    memory: list[MemoryUse]
    cpu_seconds: float


@dataclass(frozen=True)
class Overview:
    """What a dashboard shows at a glance."""

    at: datetime
    projects: int
    images: int
    unreadable: int
    jobs: jobs.Summary
    workers: list[Holder]
    requests: int
    p95_seconds: float
    hit_rate: float
    memory: list[MemoryUse]
    warnings: list[str]


@dataclass(frozen=True)
class SlowStatement:
    """A statement that was slow at least once."""

    id: str
    statement: str
    count: int
    worst_seconds: float
    mean_seconds: float


@dataclass(frozen=True)
class Plan:
    """How the database would run a statement."""

    id: str
    statement: str
    plan: list[str]


class Metrics:
    """Everything that one server process measures; `app.state.metrics`."""

    def __init__(self, kit: Kit, answers: Answers, requests: Requests, savings: Savings) -> None:
        self.kit, self.answers, self.requests, self.savings = kit, answers, requests, savings
        self.started_at = datetime.now(UTC)
        self._before: dict[str, float] = {}
        self._taken = Histogram()
        self._warned: set[str] = set()

    def performance(self) -> Performance:
        """Gather what takes how long."""
        timings = self.kit.database.timings
        return Performance(
            self.started_at,
            timings is not None,
            self.requests.timings(),
            timings.count() if timings else 0,
            timings.seconds() if timings else 0.0,
            timings.slowed if timings else 0,
            timings.timings()[:MOST_STATEMENTS] if timings else [],
            self.cache(),
            self.answers.following.questions,
            self.kit.queue(),
            self.memory(),
            time.process_time(),
        )

    def overview(self) -> Overview:
        """Gather what a dashboard shows."""
        counted = [func.count(), func.coalesce(func.sum(Project.images), 0), func.coalesce(func.sum(Project.unreadable), 0)]
        with self.kit.database.read() as connection:
            projects, images, unreadable = tuple(connection.execute(select(*counted).select_from(Project)).one())
            queue, workers, others = jobs.summary(connection), jobs.workers(connection), self._others(connection)
        memory = [*self.memory(), *others]
        taken = self.requests.all()
        warnings = [use.warning for use in memory if use.warning is not None]
        return Overview(
            datetime.now(UTC),
            int(projects),
            int(images),
            int(unreadable),
            queue,
            workers,
            taken.count,
            taken.quantile(0.95),
            self.cache().hit_rate,
            memory,
            warnings,
        )

    def cache(self) -> CacheState:
        """Tell how well the cache does."""
        cache = self.answers.cache
        now = cache.statistics()
        known = {name: value for name, value in asdict(now).items() if name in CacheState.__dataclass_fields__}
        return CacheState(hit_rate=now.hit_rate, limit_bytes=cache.memory.most_bytes, **known)

    def memory(self) -> list[MemoryUse]:
        """Tell what this process and its cache hold. A full cache is no fault: it makes room by itself."""
        cache = self.answers.cache
        return [MemoryUse("server", memory_used(), memory_limit()), MemoryUse("cache", cache.memory.bytes, cache.memory.most_bytes)]

    def _others(self, connection: Connection) -> list[MemoryUse]:
        """Read what other processes, workers above all, told of their memory within the last minutes."""
        told = [(sample.source, sample.measured) for sample in history.latest(connection) if sample.source != self.source]
        return [
            MemoryUse(source, round(each["peak_memory_bytes"]), round(each["memory_limit_bytes"]))
            for source, each in told
            if "peak_memory_bytes" in each and each.get("memory_limit_bytes")
        ]

    @property
    def source(self) -> str:
        """Name this process in the history."""
        return f"server {platform.node()}:{os.getpid()}"

    def minute(self) -> dict[str, float]:
        """Measure the window since the last call, for the history; and warn, once each time that something comes close to its limit."""
        queue, cache, memory = self.kit.queue(), self.answers.cache.statistics(), memory_used()
        self._warn()
        timings = self.kit.database.timings
        taken = self.requests.all()
        window = taken.since(self._taken)
        self._taken = taken
        totals = {
            "requests_total": taken.count,
            "request_seconds_total": taken.seconds,
            "statements_total": timings.count() if timings else 0,
            "statement_seconds_total": timings.seconds() if timings else 0.0,
            "slow_statements_total": timings.slowed if timings else 0,
            "hits_total": cache.hits + cache.shared_hits + cache.joined,
            "misses_total": cache.misses,
            "evictions_total": cache.evictions,
            "done_total": queue.done,
            "failed_total": queue.failed,
            "objects_total": queue.objects,
            "cpu_seconds_total": time.process_time(),
        }
        increments = {name: max(0.0, value - self._before.get(name, value)) for name, value in totals.items()}
        self._before = dict(totals)
        return increments | {
            "queued": queue.queued,
            "running": queue.running,
            "p50_seconds": window.quantile(0.5),
            "p95_seconds": window.quantile(0.95),
            "p99_seconds": window.quantile(0.99),
            "peak_memory_bytes": memory,
            "memory_limit_bytes": memory_limit(),
            "cache_bytes": cache.bytes,
        }

    def _warn(self) -> None:
        with self.kit.database.read() as connection:
            uses = [*self.memory()[:1], *self._others(connection)]
        close = {use.part: use.warning for use in uses if use.warning is not None}
        for part in close.keys() - self._warned:
            log.warning("%s", close[part])
        self._warned = set(close)

    def prometheus(self) -> bytes:
        """Write everything as Prometheus reads it; also while the database is down, without what only it knows."""
        cache, following = self.answers.cache.statistics(), self.answers.following
        uses = {(use.part,): use for use in (self.memory()[0], *self._other_processes())}
        sources = {"memory": cache.hits, "redis": cache.shared_hits, "joined": cache.joined, "database": cache.misses}
        values: dict[str, dict[tuple[str, ...], float]] = {
            "cache_answers": {(source,): number for source, number in sources.items()},
            "cache_evictions": {(): cache.evictions},
            "cache_replaced": {(): cache.replaced},
            "cache_failures": {(): cache.shared_failures},
            "cache_garbage": {(): cache.garbage},
            "cache_fill_seconds": {(): cache.fill_seconds},
            "cache_bytes": {(): cache.bytes},
            "cache_limit": {(): self.answers.cache.memory.most_bytes},
            "cache_entries": {(): cache.entries},
            "questions": {(): following.questions},
            "losses": {(): following.losses},
            "packed_before": {(): self.savings.taken},
            "packed_after": {(): self.savings.sent},
            "memory": {part: use.used_bytes for part, use in uses.items()},
            "memory_limit": {part: use.limit_bytes for part, use in uses.items()},
            "cpu": {(): time.process_time()},
            "started": {(): self.started_at.timestamp()},
        }
        return exposition.write(
            values | standing.values(self.kit, self.answers) | self._timed(), {"request_seconds": self.requests.histograms()}
        )

    def _other_processes(self) -> list[MemoryUse]:
        try:
            with self.kit.database.read() as connection:
                return self._others(connection)
        except SegkitError:
            return []

    def _timed(self) -> dict[str, dict[tuple[str, ...], float]]:
        timings = self.kit.database.timings
        if timings is None:
            return {}
        return {
            "requests": {(method, route, str(status)): number for (method, route, status), number in self.requests.statuses().items()},
            "statements": {(): timings.count()},
            "statement_seconds": {(): timings.seconds()},
            "slow_statements": {(): timings.slowed},
        }

    def slow(self) -> list[SlowStatement]:
        """List the statements that were slow at least once, the worst first."""
        timings = self.kit.database.timings
        rows = timings.slow_by_text() if timings else []
        return [SlowStatement(mark(row.statement), row.statement, row.count, row.slowest, row.seconds / row.count) for row in rows]

    def plan(self, number: str) -> Plan:
        """Ask how the database would run a statement that was recorded here. It is not run.

        Raises
        ------
        UnknownStatementError
            None of that number was slow.
        """
        timings = self.kit.database.timings
        text = next((row.statement for row in self.slow() if row.id == number), None)
        executed = timings.recorded(text) if timings and text else None
        if text is None or executed is None:
            raise UnknownStatementError
        with self.kit.database.read() as connection:
            return Plan(number, text, plan(connection, executed))


def mark(statement: str) -> str:
    """Name a statement by its text."""
    return hashlib.blake2b(statement.encode(), digest_size=8).hexdigest()


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """Measure, and clear what is over its time, while the app runs."""
    metrics = app.state.metrics = Metrics(app.state.kit, app.state.answers, app.state.requests, app.state.savings)
    sampler = history.Sampler(metrics.kit.database, metrics.source, metrics.minute)
    keeper = upkeep.Keeper(metrics.kit.database, metrics.kit.settings).start()
    if metrics.kit.settings.enable_performance_monitoring:
        sampler.start()
    try:
        yield
    finally:
        await to_thread.run_sync(sampler.close)
        await to_thread.run_sync(keeper.close)


@router.get("/api/metrics/performance", response_model=Performance)
async def show_performance(request: Request) -> Response:
    """Show what takes how long: requests by route, statements, the cache, jobs, memory."""
    metrics: Metrics = request.app.state.metrics
    return await answer(request, None, None, lambda: to_json(metrics.performance()))


@router.get("/api/metrics/summary", response_model=Overview)
async def show_summary(request: Request) -> Response:
    """Show what a dashboard shows at a glance, with warnings."""
    metrics: Metrics = request.app.state.metrics
    return await answer(request, None, None, lambda: to_json(metrics.overview()))


@router.get("/api/metrics/slow-queries", response_model=list[SlowStatement])
async def list_slow_queries(request: Request) -> Response:
    """List the database statements that were slow at least once, without their parameters, which are never recorded."""
    metrics: Metrics = request.app.state.metrics
    return await answer(request, None, None, lambda: to_json(metrics.slow()))


@router.get("/api/metrics/slow-queries/{statement_id}/plan", response_model=Plan, responses=told(404))
async def show_plan(request: Request, statement_id: Annotated[str, Path(pattern="^[0-9a-f]{16}$")]) -> Response:
    """Show how the database would run a slow statement. It is not run."""
    metrics: Metrics = request.app.state.metrics
    return await answer(request, None, None, lambda: to_json(metrics.plan(statement_id)))


@router.get("/api/metrics/history", response_model=list[history.Sample])
async def list_history(
    request: Request,
    window_s: Annotated[Window, Query(description="Minutes, hours or days.")] = "60",
    hours: Annotated[float, Query(gt=0, le=30_000, allow_inf_nan=False, description="How far back.")] = 6,
) -> Response:
    """List what all processes measured over time, oldest first."""
    kit: Kit = request.app.state.kit

    def fill() -> bytes:
        with kit.database.read() as connection:
            return to_json(history.read(connection, int(window_s), datetime.now(UTC) - timedelta(hours=hours)))

    return await answer(request, None, None, fill)


@router.get(
    "/health",
    response_model=Report,
    responses={503: {"model": Report, "description": "It cannot serve."}},
    openapi_extra={"security": [{}, {"token": []}]},  # this machine itself may ask without a token
)
def show_health(request: Request) -> Response:
    """Show whether the service can serve, part by part."""
    found = report(request.app.state.kit, request.app.state.answers)
    return reply(found, 503 if found.health is Health.DOWN else 200, Cache_Control="no-store")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def show_metrics(request: Request) -> Response:
    """Show all metrics as Prometheus reads them."""
    metrics: Metrics = request.app.state.metrics
    return Response(await to_thread.run_sync(metrics.prometheus), headers={"Content-Type": exposition.MEDIA_TYPE})
