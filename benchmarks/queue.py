"""The queue: jobs claimed and finished per second beside three others, and what it and Dask cost on small real images.

    python -m benchmarks.queue              five rounds, 2,000 images
    python -m benchmarks.queue --quick      three short rounds, under a minute
    python -m benchmarks.queue --json       the same, ending in one JSON line

A job of ours does nothing but has everything the queue promises: a lease, a raised attempt as fence, counters, a result row, and a
commit that is flushed to the disk before the next batch is claimed (PostgreSQL with fsync and synchronous_commit on, SQLite with
synchronous=FULL). One process claims, results and finishes go into one transaction for each batch, on one
connection: `jobs.exchange` with the rows of `results.insertion`. The peers run a function that does nothing, one process too, on the
same server and disk with their own settings:

- pgqueuer with asyncpg on one connection, at the same batch size; timed from the first job's call to the last one's, without its
  start and last commit
- procrastinate, with as many jobs at once as our worker claims; timed likewise
- litequeue, which claims one by one, set to the same synchronous=FULL (it comes with NORMAL, which a power cut may take jobs from)

Rounds are interleaved, ratios are formed within a round, and their medians are quoted. "Loop" is the worker's own function over the
same images in a pool of one process per core, without queue, database or Dask; both are timed from the first image to the last, so
that neither's start counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg
import cv2
import litequeue
import numpy as np
import procrastinate
import psycopg
import skimage.data
import tifffile
from numpy.typing import NDArray
from pgqueuer import Queries, QueueManager
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job as PgqueuerJob
from pgqueuer.types import QueueExecutionMode
from skimage.io import imread

import segkit
from benchmarks.ingest import listing, postgresql, sqlite
from segkit import catalog, cluster, jobs, kernels, results
from segkit.database import Database
from segkit.images import Limits, Selection
from segkit.settings import Settings, load
from segkit.tasks import Task, attempt

DSB2018 = Path(__file__).parents[2] / "shared" / "data" / "dsb2018"
CROP = 128
BATCHES = (10, 64)


@dataclass
class Ratios:
    """Rates of a round side by side, jobs per second."""

    name: str
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    def add(self, ours: float, peer: float) -> None:
        """Note a round."""
        self.ours.append(ours)
        self.peer.append(peer)

    @property
    def median(self) -> float:
        """Median of the rounds' ratios."""
        return statistics.median(ours / peer for ours, peer in zip(self.ours, self.peer, strict=True))

    def line(self) -> str:
        """One line of the table."""
        return f"{self.name:44}{statistics.median(self.ours):>12,.0f}{statistics.median(self.peer):>12,.0f}{self.median:>10.2f}x"


# Ours


class Plate:
    """A project whose images are queued anew for each round."""

    def __init__(self, database: Database, images: int) -> None:
        self.database = database
        with database.write() as connection:
            self.project = catalog.create_project(connection, "benchmark")
            catalog.add(connection, self.project.id, listing(images))
        self.runs = 0

    def queue(self, number: int) -> jobs.Run:
        """Queue a new run over the first so many images."""
        self.runs += 1
        with self.database.write() as connection:
            images = catalog.images(connection, self.project.id, limit=1).items[0].id
            return jobs.submit(
                connection,
                self.project.id,
                segmenter="none",
                version=str(self.runs),
                parameters={"diameter_um": 9.0},
                selection={},
                images=range(images - number + 1, images + 1),
                segkit_version=segkit.__version__,
            )

    def rate(self, number: int, batch: int) -> float:
        """Work a new run off; jobs per second."""
        run = self.queue(number)
        started = time.perf_counter()
        with self.database.write() as connection:
            claims = jobs.claim(connection, "benchmark", batch, 60)
        while claims:
            with self.database.write() as connection:
                rows = results.insertion(connection, [result_of(claim) for claim in claims])
                finished = [jobs.Finished(claim.job_id, claim.attempt, 1) for claim in claims]
                _, claims = jobs.exchange(connection, "benchmark", batch, 60, finished, along=rows)
        seconds = time.perf_counter() - started
        self.check(run, number)
        return number / seconds

    def check(self, run: jobs.Run, number: int) -> None:
        """Each job must be done, have its result, and be counted."""
        with self.database.write() as connection:
            wrong, state = jobs.recount(connection, run.id), jobs.progress(connection, run.id)
        if wrong or (state.done, state.objects, state.left) != (number, number, 0):
            raise AssertionError(f"{number} jobs, but {state}")


def result_of(claim: jobs.Claim) -> results.NewResult:
    return results.NewResult(
        job_id=claim.job_id,
        run_id=claim.run_id,
        image_id=claim.image_id,
        attempt=claim.attempt,
        path=f"results/{claim.run_id}/{claim.image_id}",
        checksum="0" * 40,
        objects=1,
        summary={"objects": 1, "area_um2": {"mean": 61.2, "median": 58.0}},
        bytes=1000,
        seconds=0.1,
    )


# Peers on PostgreSQL


class Stopwatch:
    """Notes when a peer calls its first and its last job."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def note(self) -> None:
        """A job is called."""
        self.times.append(time.perf_counter())

    def rate(self, number: int) -> float:
        """Jobs per second between the first and the last call."""
        if len(self.times) != number:
            raise AssertionError(f"{len(self.times)} calls for {number} jobs")
        return (number - 1) / (self.times[-1] - self.times[0])


@contextmanager
def database_beside(database: Database, name: str) -> Iterator[str]:
    """Make a database for a peer on our server, with the settings that ours has."""
    url = database.engine.url.set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit"):
            if connection.execute(f"SHOW {setting}").fetchone() != ("on",):
                raise AssertionError(f"{setting} is not on")
        connection.execute(f"CREATE DATABASE {name}")
    yield url.set(database=name).render_as_string(hide_password=False)


async def install_pgqueuer(url: str) -> None:
    connection = await asyncpg.connect(url)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def pgqueuer_rate(url: str, number: int, batch: int) -> float:
    """Let pgqueuer work off a queue it just filled; jobs per second."""
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.enqueue(["nothing"] * number, [None] * number, [0] * number)
    await connection.execute("ANALYZE")
    watch, manager = Stopwatch(), QueueManager(queries)

    @manager.entrypoint("nothing")
    async def nothing(job: PgqueuerJob) -> None:
        watch.note()

    await manager.run(dequeue_timeout=timedelta(seconds=1), batch_size=batch, mode=QueueExecutionMode.drain)
    return watch.rate(number)


async def install_procrastinate(url: str) -> None:
    async with procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url)).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def procrastinate_rate(url: str, number: int, concurrency: int) -> float:
    """Let procrastinate work off a queue it just filled; jobs per second."""
    app, watch = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url)), Stopwatch()

    @app.task(name="nothing")
    async def nothing() -> None:
        watch.note()

    async with app.open_async():
        await nothing.batch_defer_async(*({} for _ in range(number)))
        await app.run_worker_async(wait=False, concurrency=concurrency, install_signal_handlers=False)
    return watch.rate(number)


def beside_postgresql(rounds: int, number: int, batch: int) -> tuple[Ratios, list[Ratios]]:
    """Compare with procrastinate at our worker's batch, and with pgqueuer at several."""
    versus_procrastinate = Ratios(f"PostgreSQL, {batch} at once; procrastinate")
    versus_pgqueuer = [Ratios(f"PostgreSQL, batches of {size}; pgqueuer") for size in BATCHES]
    with postgresql() as database, database_beside(database, "pgqueuer") as one, database_beside(database, "procrastinate") as other:
        plate = Plate(database, 4 * number)
        asyncio.run(install_pgqueuer(one))
        asyncio.run(install_procrastinate(other))
        plate.rate(min(batch * 10, 2 * number), batch)
        for _ in range(rounds):
            versus_procrastinate.add(plate.rate(number, batch), asyncio.run(procrastinate_rate(other, number // 4, batch)))
            for size, ratios in zip(BATCHES, versus_pgqueuer, strict=True):
                jobs_each = number if size < 50 else 4 * number
                ratios.add(plate.rate(jobs_each, size), asyncio.run(pgqueuer_rate(one, jobs_each, size)))
    return versus_procrastinate, versus_pgqueuer


# The peer on SQLite


def litequeue_rate(number: int, synchronous: str) -> float:
    """Let litequeue work off a queue it just filled, one by one; jobs per second."""
    with tempfile.TemporaryDirectory() as folder:
        queue = litequeue.LiteQueue(Path(folder) / "queue.db")
        with queue.transaction():
            for _ in range(number):
                queue.put("nothing")
        queue.conn.execute(f"PRAGMA synchronous={synchronous}")
        started, done = time.perf_counter(), 0
        while message := queue.pop():
            queue.done(message.message_id)
            done += 1
        seconds = time.perf_counter() - started
        queue.close()
    if done != number:
        raise AssertionError(f"{done} of {number} jobs")
    return number / seconds


def beside_sqlite(rounds: int, number: int, batch: int) -> list[Ratios]:
    """Compare with litequeue: at our worker's batch, one by one, and with what it comes with."""
    compared = [
        Ratios(f"SQLite, batches of {batch}; litequeue, FULL"),
        Ratios("SQLite, one by one; litequeue, FULL"),
        Ratios(f"SQLite, batches of {batch}; litequeue, NORMAL"),
    ]
    with sqlite() as database:
        plate = Plate(database, 2 * number)
        plate.rate(min(batch * 10, 2 * number), batch)
        for _ in range(rounds):
            ours, full = plate.rate(2 * number, batch), litequeue_rate(number // 2, "FULL")
            compared[0].add(ours, full)
            compared[1].add(plate.rate(number // 4, 1), full)
            compared[2].add(ours, litequeue_rate(4 * number, "NORMAL"))
    return compared


# Small real images through queue and Dask


def small_images(number: int, folder: Path) -> None:
    """Cut so many different small images out of real ones."""
    sources = [read_gray(path) for path in sorted(DSB2018.glob("*.png"))[:400] if not path.name.endswith(".labels.png")]
    sources = [source for source in sources if min(source.shape) > CROP] or [skimage.data.coins(), skimage.data.cell()]
    random = np.random.default_rng(7)
    for index in range(number):
        source = sources[index % len(sources)]
        row, column = (int(random.integers(0, length - CROP)) for length in source.shape)
        tifffile.imwrite(folder / f"crop{index:05}.tif", source[row : row + CROP, column : column + CROP])


def read_gray(path: Path) -> NDArray[np.uint8]:
    pixels = imread(path)
    return pixels if pixels.ndim == 2 else pixels[..., :3].mean(axis=-1).astype(np.uint8)


def one_thread() -> None:
    """Keep OpenCV from using the cores that the pool uses."""
    cv2.setNumThreads(1)


def loop_rate(settings: Settings, images: Sequence[catalog.Image], run: jobs.Run, home: str) -> float:
    """Run the worker's function over the images in a pool of one process per core; images per second."""
    tasks = [
        Task(
            job_id=image.id,
            attempt=1,
            uri=image.uri,
            name=image.name,
            content_hash=image.content_hash,
            segmenter=run.segmenter,
            parameters=run.parameters,
            selection=Selection(**run.selection),
            pixel_size_um=image.pixel_size_um,
            z_step_um=image.z_step_um,
            staging=results.staging(home, 1, image.id, 1),
            compression_level=settings.compression_level,
            limits=Limits(max_pixels=settings.max_pixels, max_decoded_pixels=settings.max_decoded_pixels),
            most_pixels=settings.tile_above,
            provenance={"image": image.name},
        )
        for image in images
    ]
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, initializer=one_thread) as pool:
        warm = 4 * cores
        list(pool.map(attempt, tasks[:warm], chunksize=1))
        started = time.perf_counter()
        outcomes = list(pool.map(attempt, tasks[warm:], chunksize=8))
        seconds = time.perf_counter() - started
    failed = [outcome for outcome in outcomes if not hasattr(outcome, "written")]
    if failed:
        raise AssertionError(f"{len(failed)} failed, such as {failed[0]}")
    return len(outcomes) / seconds


def queue_rate(kit: segkit.Kit, run: segkit.Run) -> float:
    """Work a run off through queue and Dask; images per second from the first to the last."""
    times: list[float] = []
    kit.work_off([run], watch=lambda event: times.append(time.perf_counter()))
    state = run.progress()
    if state.done != state.total:
        raise AssertionError(f"{state}")
    together = sum(moment - times[0] < 0.001 for moment in times)  # the first commit reports several
    return (len(times) - together) / (times[-1] - times[0])


def dask_vs_loop(number: int, rounds: int) -> Ratios:
    """Compare queue and Dask with a plain loop over the same function."""
    kernels.warm()
    ratios = Ratios(f"{number:,} small images, queue and Dask; loop")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        small_images(number, Path(folder) / "images")
        for turn in range(rounds):
            with segkit.open(home=f"{folder}/home{turn}") as kit:
                project = kit.project("crops", create=True)
                project.add(f"{folder}/images")
                run = project.segment("threshold")
                ours = queue_rate(kit, run)
                images = [image.record for image in project]
                ratios.add(ours, loop_rate(kit.settings, images, run.record, f"{folder}/loop{turn}"))
    return ratios


# The report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three short rounds, fewer images")
    parser.add_argument("--json", action="store_true", help="end in one line of JSON")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the peers switch it on for all
    settings = load()
    batch = settings.prefetch * settings.threads_per_worker * cluster.local_workers(settings)
    rounds, number = (3, 300) if arguments.quick else (5, 2000)
    print(f"{'':44}{'ours/s':>12}{'peer/s':>12}{'ratio':>11}")
    versus_procrastinate, versus_pgqueuer = beside_postgresql(rounds, number, batch)
    show(versus_procrastinate, *versus_pgqueuer)
    versus_litequeue = beside_sqlite(rounds, number // 2, batch)
    show(*versus_litequeue)
    versus_loop = dask_vs_loop(300 if arguments.quick else 2000, 1 if arguments.quick else 3)
    show(versus_loop)
    if arguments.json:
        figures = {
            "vs_procrastinate": versus_procrastinate.median,
            "vs_pgqueuer": min(each.median for each in versus_pgqueuer),
            "sqlite_vs_peer": versus_litequeue[0].median,
            "dask_vs_loop": versus_loop.median,
        }
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def show(*compared: Ratios) -> None:
    for each in compared:
        print(each.line(), flush=True)


if __name__ == "__main__":
    main()
