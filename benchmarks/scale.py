"""Years of history: whether lists, claims, summaries and retention cost the same in a catalog of a hundred times the size.

    python -m benchmarks.scale                  10 million images and 100 million jobs, or the most that fits the disk, beside 1/100 of it
    python -m benchmarks.scale --quick          100,000 images and 1 million jobs beside 1/100 of them, under a minute
    python -m benchmarks.scale --json           the same, ending in one JSON line
    python -m benchmarks.scale --folder PLACE   keep the filled databases there, and fill none that is filled already

Real PostgreSQL, with fsync, holds both sizes, and every question is segkit's own function, called as the service and workers call it. Each
time is the median of many calls at places all over the history, the two sizes in turn. A cost that is kept has a ratio near one: an index
that is a level deeper, and pages that are not in memory, may cost some more. Then a thousand workers claim, beat and finish against the
larger: logical ones, which share a pool of connections as they would share PgBouncer's, each on its own lease. No job may be claimed twice.
"""

from __future__ import annotations

import logging
import random
import statistics
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, text

from benchmarks.report import arguments, finish, show
from benchmarks.scale_filling import ACTIVE_RUNS, PROJECTS, SMALL_RUN, Size, bytes_of, fill, filled, fitting, server
from segkit import catalog, history, jobs, results, upkeep
from segkit.catalog.images import scope
from segkit.database import Database
from segkit.pages import EPOCH, Place, encode_cursor
from segkit.schema import Base, JobStatus

IMAGES, JOBS = 10_000_000, 100_000_000
QUICK_IMAGES, QUICK_JOBS = 100_000, 1_000_000
FRACTION = 100
#: Disk that stays free for others.
RESERVE = 14 * 2**30
WORKERS, CONNECTIONS, BATCH = 1000, 16, 16
LEASE_SECONDS = 60.0
#: A worker beats once in so many exchanges: one a second or so against a beat every 15 s would be fewer.
BEAT_EVERY = 4
job = Base.metadata.tables["job"]


@dataclass
class Plant:
    """One filled database, and where in it to look."""

    database: Database
    size: Size
    random: random.Random = field(default_factory=lambda: random.Random(7))

    def project(self) -> int:
        """A project."""
        return self.random.randint(1, PROJECTS)

    def image(self) -> int:
        """An image."""
        return self.random.randint(1, self.size.images)

    def large_run(self) -> int:
        """A run over a whole project."""
        return self.random.randint(1, self.size.large_runs)

    def small_run(self) -> int:
        """One of the newest small runs, which have results."""
        return self.size.ended_runs - self.random.randint(0, max(0, self.size.small_runs // 4))

    def place_of(self, table: str, number: int) -> Place:
        """The place of a row in its list."""
        with self.database.read() as connection:
            row = connection.execute(text(f"SELECT created_at, id FROM {table} WHERE id = :id"), {"id": number}).one()
        return Place(row.created_at, row.id)

    def deep_image(self) -> tuple[int, str]:
        """A project and a cursor deep in its list of images."""
        project = self.project()
        number = (project - 1) * self.size.per_project + max(min(200, self.size.per_project), self.size.per_project // 10)
        return project, encode_cursor(self.place_of("image", number), scope(project, False))

    def deep_run(self) -> str:
        """A cursor deep in the list of all runs."""
        return encode_cursor(self.place_of("run", max(2, self.size.ended_runs // 10)), "runs of all projects")

    def deep_job(self) -> tuple[int, str]:
        """A run and a cursor deep in the list of its jobs."""
        run = self.large_run()
        first = (run - 1) % PROJECTS * self.size.per_project
        return run, encode_cursor(Place(EPOCH, first + self.size.per_project * 9 // 10), f"all jobs of {run}")


#: What is asked: prepared outside of the clock, then called with a connection.
Question = Callable[[Plant], Callable[[Connection], object]]


def questions() -> dict[str, Question]:
    """Everything that lists, summaries and pages of the service, the kit and the dashboards ask."""

    def deep_images(plant: Plant) -> Callable[[Connection], object]:
        project, after = plant.deep_image()
        return lambda connection: catalog.images(connection, project, after=after)

    def deep_jobs(plant: Plant) -> Callable[[Connection], object]:
        run, after = plant.deep_job()
        return lambda connection: jobs.page(connection, run, after=after)

    def deep_runs(plant: Plant) -> Callable[[Connection], object]:
        after = plant.deep_run()
        return lambda connection: jobs.runs(connection, after=after)

    def of(ask: Callable[[Connection, int], object], number: Callable[[Plant], int]) -> Question:
        def prepare(plant: Plant) -> Callable[[Connection], object]:
            chosen = number(plant)
            return lambda connection: ask(connection, chosen)

        return prepare

    failed = JobStatus.FAILED
    return {
        "images, first page": of(catalog.images, Plant.project),
        "images, deep page": deep_images,
        "images that cannot be read": of(lambda c, n: catalog.images(c, n, unreadable=True), Plant.project),
        "one image": of(catalog.image, Plant.image),
        "projects": lambda plant: catalog.projects,
        "projects with activity": lambda plant: jobs.activity,
        "runs, first page": lambda plant: jobs.runs,
        "runs, deep page": deep_runs,
        "runs of a project": of(lambda c, n: jobs.runs(c, project_id=n), Plant.project),
        "jobs of a run, first page": of(jobs.page, Plant.large_run),
        "jobs of a run, deep page": deep_jobs,
        "failed jobs of a run": of(lambda c, n: jobs.page(c, n, failed), Plant.large_run),
        "progress of a run": of(jobs.progress, Plant.large_run),
        "results of a run": of(results.of_run, Plant.small_run),
        "results of an image": of(results.of_image, Plant.image),
        "the queue's counters": lambda plant: jobs.summary,
        "runs that are going": lambda plant: jobs.active_runs,
        "who works": lambda plant: jobs.workers,
    }


def milliseconds(call: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def ask(plant: Plant, question: Question) -> float:
    """Time one question, with the connection that the pool has ready."""
    prepared = question(plant)

    def call() -> None:
        with plant.database.read() as connection:
            prepared(connection)

    return milliseconds(call)


def beside(small: Plant, large: Plant, measure: Callable[[Plant], float], rounds: int) -> tuple[float, float]:
    """Medians of both sizes, measured in turn."""
    measure(small), measure(large)
    pairs = [(measure(small), measure(large)) for _ in range(rounds)]
    return statistics.median(each[0] for each in pairs), statistics.median(each[1] for each in pairs)


# What workers and the upkeep do


def result_of(claim: jobs.Claim) -> results.NewResult:
    """The row of a result."""
    return results.NewResult(
        job_id=claim.job_id,
        run_id=claim.run_id,
        image_id=claim.image_id,
        attempt=claim.attempt,
        path=f"results/{claim.run_id}/{claim.image_id}",
        checksum="0" * 32,
        objects=61,
        summary={"objects": 61},
        bytes=90_000,
        seconds=0.4,
    )


def turn(database: Database, worker: str, claims: list[jobs.Claim]) -> list[jobs.Claim]:
    """Finish what a worker holds and claim more, in one transaction, as workers do."""
    with database.write() as connection:
        if not claims:
            return jobs.claim(connection, worker, BATCH, LEASE_SECONDS)
        rows = results.insertion(connection, [result_of(claim) for claim in claims])
        finished = [jobs.Finished(claim.job_id, claim.attempt, 61) for claim in claims]
        accepted, more = jobs.exchange(connection, worker, BATCH, LEASE_SECONDS, finished, along=rows)
    if len(accepted) != len(claims):
        raise AssertionError(f"{len(claims) - len(accepted)} of {worker}'s leases were lost")
    return more


def claiming(plant: Plant) -> float:
    """Time the claim of a batch; it is given back."""
    claims: list[jobs.Claim] = []
    taken = milliseconds(lambda: claims.extend(turn(plant.database, "benchmark", [])))
    with plant.database.write() as connection:
        jobs.release(connection, claims)
    return taken


def finishing(plant: Plant) -> float:
    """Time the exchange of a batch for the next, which is given back."""
    claims = turn(plant.database, "benchmark", [])
    more: list[jobs.Claim] = []
    taken = milliseconds(lambda: more.extend(turn(plant.database, "benchmark", claims)))
    with plant.database.write() as connection:
        jobs.release(connection, more)
    return taken


def clearing(plant: Plant) -> float:
    """Time a look for rows that are over their time, when none is: what every worker does once an hour."""
    settings = plant.database._settings.model_copy(update={"keep_history_days": 3650})
    return milliseconds(lambda: upkeep.clear(plant.database, settings))


def sampling(plant: Plant) -> float:
    """Time a minute's measurements of one process, and the thinning of all."""

    def sample() -> None:
        with plant.database.write() as connection:
            history.record(connection, "benchmark", {"jobs_total": 1.0, "peak_memory": 2.0})
            history.thin(connection)

    return milliseconds(sample)


# A thousand workers


@dataclass
class Crowd:
    """Logical workers that take turns on a few connections."""

    database: Database
    seconds: float
    latencies: list[float] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)
    claimed: Counter[int] = field(default_factory=Counter)
    done: int = 0
    faults: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> float:
        """Let them all work for a while, then finish what they hold; the seconds that took."""
        waiting = deque((f"machine{number // 4}:{number}:simulated", list[jobs.Claim](), number) for number in range(WORKERS))
        until = time.monotonic() + self.seconds
        started = time.perf_counter()
        threads = [threading.Thread(target=self._serve, args=[waiting, until]) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - started
        for worker, claims, _ in waiting:
            self._finish(worker, claims)
        return taken

    def _serve(self, waiting: deque[tuple[str, list[jobs.Claim], int]], until: float) -> None:
        while time.monotonic() < until:
            try:
                worker, claims, turns = waiting.popleft()
            except IndexError:
                return
            waiting.append((worker, self._turn(worker, claims, turns), turns + 1))

    def _turn(self, worker: str, claims: list[jobs.Claim], turns: int) -> list[jobs.Claim]:
        beat = None
        if claims and turns % BEAT_EVERY == 0:
            beat = milliseconds(lambda: self._beat(worker, claims))
        more: list[jobs.Claim] = []
        taken = milliseconds(lambda: more.extend(turn(self.database, worker, claims)))
        with self._lock:
            self.done += len(claims)
            self.latencies.append(taken)
            self.claimed.update(claim.job_id for claim in more)
            if beat is not None:
                self.beats.append(beat)
        return more

    def _beat(self, worker: str, claims: list[jobs.Claim]) -> None:
        with self.database.write() as connection:
            lost = jobs.renew(connection, worker, claims, LEASE_SECONDS)
        if lost:
            self.faults.append(f"{worker} lost {len(lost)} leases")

    def _finish(self, worker: str, claims: list[jobs.Claim]) -> None:
        with self.database.write() as connection:
            results.insert(connection, [result_of(claim) for claim in claims])
            jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, 61) for claim in claims])
        self.done += len(claims)

    def check(self, active: range) -> None:
        """No job was claimed twice, every claimed job is done with one result, and the counters are right."""
        twice = sum(number > 1 for number in self.claimed.values())
        with self.database.write() as connection:
            wrong = [run for run in active if jobs.recount(connection, run)]
            given = {"ids": list(self.claimed)}
            done = connection.scalar(text("SELECT count(*) FROM job WHERE id = ANY(:ids) AND status = 'done'"), given)
            rows = connection.scalar(text("SELECT count(*) FROM result WHERE job_id = ANY(:ids)"), given)
        if twice or wrong or self.faults or not done == rows == len(self.claimed) == self.done:
            raise AssertionError(
                f"{twice} claimed twice, counters {wrong}, {self.faults[:3]}, {done} of {len(self.claimed)} done, {rows} rows"
            )


def percentile(values: list[float], share: float) -> float:
    """The value that so many lie below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def crowd(plant: Plant, seconds: float) -> dict[str, float]:
    """Let a thousand workers at it, and check what they did."""
    active = range(plant.size.ended_runs + 1, plant.size.ended_runs + ACTIVE_RUNS + 1)
    working = Crowd(plant.database, seconds)
    taken = working.run()
    working.check(active)
    return {
        "workers": WORKERS,
        "claims_per_second": working.done / taken,
        "exchange_p50_ms": percentile(working.latencies, 0.5),
        "exchange_p99_ms": percentile(working.latencies, 0.99),
        "beat_p50_ms": percentile(working.beats, 0.5) if working.beats else 0.0,
        "beat_p99_ms": percentile(working.beats, 0.99) if working.beats else 0.0,
        "jobs_claimed": len(working.claimed),
        "claimed_twice": 0,
    }


# The report


@contextmanager
def planted(folder: Path, size: Callable[[], Size]) -> Iterator[Plant]:
    """Fill a database, unless it is filled, and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = size()
    with server(folder) as database:
        if not filled(database):
            started = time.perf_counter()
            steps = fill(database, chosen)
            said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in steps.items() if seconds >= 1)
            print(f"filled in {time.perf_counter() - started:.0f} s: {said}", flush=True)
        yield Plant(database, found(database, chosen))


def found(database: Database, wanted: Size) -> Size:
    """The size that is really there, when it was filled before."""
    with database.read() as connection:
        images = connection.scalar(text("SELECT sum(images) FROM project"))
        ended = connection.scalar(text("SELECT sum(done + failed) FROM run WHERE finished_at IS NOT NULL"))
    return Size(int(images or 0), int(ended or 0), wanted.results, wanted.run)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, help="images of the larger catalog")
    parser.add_argument("--jobs", type=int, help="jobs of the larger history")
    parser.add_argument("--folder", type=Path, help="where the databases are kept; default: they are deleted")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    images = chosen.images or (QUICK_IMAGES if chosen.quick else IMAGES)
    number = chosen.jobs or (QUICK_JOBS if chosen.quick else JOBS)
    run = min(SMALL_RUN, images // FRACTION // PROJECTS)
    less = Size(images // FRACTION, number // FRACTION, number // FRACTION, run)
    more = Size(images, number, number, run)
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segkit-scale-", ignore_cleanup_errors=True)))
        small = stack.enter_context(planted(folder / "small", lambda: less))
        weighed = bytes_of(small.database)
        fits = fitting(more, less, weighed, folder, 0 if chosen.quick else RESERVE)
        large = stack.enter_context(planted(folder / "large", lambda: fits))
        report(small, large, more, rounds=15 if chosen.quick else 40, seconds=5 if chosen.quick else 30, as_json=chosen.json)


def report(small: Plant, large: Plant, wanted: Size, *, rounds: int, seconds: float, as_json: bool) -> None:
    """Measure, and print what came of it."""
    sizes = bytes_of(large.database)
    with large.database.read() as connection:
        there = connection.scalar(text("SELECT reltuples::bigint FROM pg_class WHERE relname = 'result'"))
    print(
        f"{large.size.images:,} images, {large.size.ended_jobs:,} ended jobs in {large.size.ended_runs:,} runs, about {there:,} results, "
        f"{sum(sizes.values()) / 2**30:.1f} GiB; beside {small.size.images:,}, {small.size.ended_jobs:,}, {small.size.ended_runs:,}"
    )
    if (large.size.images, large.size.jobs) != (wanted.images, wanted.jobs) or (there or 0) < 0.9 * wanted.results:
        print(f"Asked for were {wanted.images:,} images and {wanted.jobs:,} jobs, all with results: this is the most that fits the disk.")
    compared = {name: beside(small, large, lambda plant, asked=asked: ask(plant, asked), rounds) for name, asked in questions().items()}
    compared |= {
        f"claim {BATCH}": beside(small, large, claiming, rounds),
        f"finish {BATCH} and claim {BATCH}": beside(small, large, finishing, rounds),
        "a minute's measurements": beside(small, large, sampling, rounds),
        "retention, nothing due": beside(small, large, clearing, max(3, rounds // 8)),
    }
    rows = [(name, few, many, f"{many / few:.2f}") for name, (few, many) in compared.items()]
    show("Milliseconds", ("what", f"{small.size.ended_jobs:,} jobs", f"{large.size.ended_jobs:,} jobs", "ratio"), rows)
    crowded = crowd(large, seconds)
    show(f"{WORKERS:,} workers", ("", ""), crowded.items())
    figures = {name.replace(" ", "_").replace(",", "").replace("'", ""): many / few for name, (few, many) in compared.items()}
    finish({"images": large.size.images, "jobs": large.size.ended_jobs, **figures, **crowded}, as_json)


if __name__ == "__main__":
    main()
