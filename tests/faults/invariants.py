"""What "nothing lost" means, looked for in tables and files.

`check(database, home)` may be called at any moment, also while workers write. `check(..., drained=True)` is for the end, when the queue
is empty and all workers are gone: then nothing may run, no job may be left, and after `segkit gc` no file may belong to nobody.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, func, select, text

from segkit import results, upkeep
from segkit.database import Database
from segkit.errors import ResultCorruptError
from segkit.jobs.counters import COUNTED, counted
from segkit.schema import Base, JobStatus
from segkit.settings import load

TABLES = Base.metadata.tables
job, run, result, image, project, batch, correction = (
    TABLES[name] for name in ("job", "run", "result", "image", "project", "batch", "correction")
)
#: By this lease everything that is not being written in this millisecond is old, so that nothing hides behind its age.
NO_LEASE = {"lease_seconds": 0.001, "beat_seconds": 0.0005}
SHOWN = 20


def check(database: Database, home: str | Path, *, drained: bool = False, poison: Collection[str] = (), files: bool = True) -> None:
    """Fail with every breach that is found.

    Parameters
    ----------
    database, home
        What is looked at.
    drained
        The queue should be empty: every job has ended, and every job but those of `poison` well. `segkit gc` runs, and must leave no
        file among the results that no row names.
    poison
        Names of images whose jobs should have failed, and with a reason.
    files
        Also open every result and compare it with its checksums.
    """
    found = breaches(database, home, drained=drained, poison=poison, files=files)
    if found:
        more = f"\n... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise AssertionError(f"{len(found)} breaches:\n" + "\n".join(found[:SHOWN]) + more)


def breaches(database: Database, home: str | Path, *, drained: bool = False, poison: Collection[str] = (), files: bool = True) -> list[str]:
    """List every breach; see `check`."""
    home = str(home)
    with one_moment(database) as connection:
        found = [*of_jobs(connection), *of_results(connection), *of_counters(connection), *of_batches(connection, home)]
        listed = list(connection.execute(listing()))
        if drained:
            found += of_an_empty_queue(connection, poison)
    if files:
        found += [breach for row in listed for breach in of_files(database, home, row)]
    if drained:
        found += of_leftovers(database, home)
    return found


@contextmanager
def one_moment(database: Database) -> Iterator[Connection]:
    """Look at the tables of one moment, however busy the workers are; on PostgreSQL a read sees a new moment with each statement."""
    if database.dialect == "sqlite":
        with database.read() as connection:
            yield connection
        return
    with database.write() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        yield connection


# Tables


def of_jobs(connection: Connection) -> Iterator[str]:
    """Every job is in one legal state, and was not started more often than allowed."""
    for row in connection.execute(select(job)):
        yield from of_one(f"job {row.id}", row)


def of_one(name: str, row: Row[Any]) -> Iterator[str]:
    """What holds for a job and a batch alike."""
    if row.status not in set(JobStatus):
        yield f"{name} is in no legal state: {row.status}"
    if row.attempt > row.max_attempts:
        yield f"{name} was started {row.attempt} times of {row.max_attempts}"
    running, ended = row.status == JobStatus.RUNNING, row.status in (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)
    if running and (row.lease_until is None or row.worker is None or row.attempt < 1):
        yield f"{name} runs without a lease, a worker or an attempt"
    if not running and row.lease_until is not None:
        yield f"{name} is {row.status} and on a lease"
    if ended != (row.finished_at is not None):
        yield f"{name} is {row.status}, and its end is {row.finished_at}"
    if row.status == JobStatus.FAILED and not (row.error and row.error_kind):
        yield f"{name} failed without a reason"
    if row.status == JobStatus.DONE and row.error:
        yield f"{name} is done and has an error: {row.error}"


def of_results(connection: Connection) -> Iterator[str]:
    """A done job has one result, of its last attempt, in a place of its own; no other job has any. No image is in a run twice."""
    joined = select(job.c.id, job.c.status, job.c.attempt, job.c.run_id, job.c.image_id, result.c.job_id, result.c.path)
    columns = (result.c.attempt.label("of_attempt"), result.c.run_id.label("of_run"), result.c.image_id.label("of_image"))
    places: Counter[str] = Counter()
    for row in connection.execute(joined.add_columns(*columns).join_from(job, result, result.c.job_id == job.c.id, full=True)):
        if row.id is None:
            yield f"a result of job {row.job_id}, which is not there"
        elif (row.status == JobStatus.DONE) != (row.job_id is not None):
            yield f"job {row.id} is {row.status} {'with' if row.job_id else 'without'} a result"
        elif row.job_id is not None:
            places[row.path] += 1
            if (row.of_attempt, row.of_run, row.of_image) != (row.attempt, row.run_id, row.image_id):
                yield f"the result of job {row.id} is of attempt {row.of_attempt} of {row.attempt}, or of another run or image"
    yield from (f"{number} results in {place}" for place, number in places.items() if number > 1)
    twice = select(job.c.run_id, job.c.image_id, func.count()).group_by(job.c.run_id, job.c.image_id).having(func.count() > 1)
    yield from (f"image {row.image_id} is {row[2]} times in run {row.run_id}" for row in connection.execute(twice))
    strays = (
        select(job.c.id).join_from(job, run, run.c.id == job.c.run_id, isouter=True).join(image, image.c.id == job.c.image_id, isouter=True)
    )
    for number in connection.scalars(
        strays.where((run.c.id.is_(None)) | (image.c.id.is_(None)) | (image.c.project_id != run.c.project_id))
    ):
        yield f"job {number} has no run or image, or they are of two projects"


def of_counters(connection: Connection) -> Iterator[str]:
    """What runs and projects count is what there is."""
    kept = {row.id: row for row in connection.execute(select(run))}
    true = counted(connection, list(kept))
    for number, row in kept.items():
        counters = {name: row._mapping[name] for name in COUNTED}
        if counters != true[number]:
            yield f"run {number} counts {counters}, and there is {true[number]}"
        left = true[number][JobStatus.QUEUED] + true[number][JobStatus.RUNNING]
        if (left == 0) != (row.finished_at is not None):
            yield f"run {number} has {left} jobs left, and its end is {row.finished_at}"
    images = select(image.c.project_id, func.count().label("images"), func.count(image.c.error).label("unreadable"))
    there = {row.project_id: (row.images, row.unreadable) for row in connection.execute(images.group_by(image.c.project_id))}
    for row in connection.execute(select(project)):
        if (row.images, row.unreadable) != there.get(row.id, (0, 0)):
            yield f"project {row.id} counts {row.images} images, {row.unreadable} unreadable, and there are {there.get(row.id)}"


def of_batches(connection: Connection, home: str) -> Iterator[str]:
    """Every batch is in one legal state; a done one left its notebook and its page."""
    for row in connection.execute(select(batch)):
        yield from of_one(f"batch {row.id}", row)
        if row.status == JobStatus.DONE:
            for name in ("notebook.ipynb", "page.html"):
                place = Path(home) / "batches" / str(row.id) / str(row.attempt) / name
                if not place.is_file() or not place.stat().st_size:
                    yield f"batch {row.id} is done without {name}"


def of_an_empty_queue(connection: Connection, poison: Collection[str]) -> Iterator[str]:
    """Every job is done, but for those of poisonous images, which have failed."""
    named = select(job.c.id, job.c.status, job.c.attempt, job.c.error, image.c.name).join_from(job, image, image.c.id == job.c.image_id)
    for row in connection.execute(named):
        wanted = JobStatus.FAILED if row.name in poison else JobStatus.DONE
        if row.status not in (wanted, JobStatus.CANCELLED):
            yield f"job {row.id} ({row.name}) is {row.status} after {row.attempt} attempts: {row.error}"
    for row in connection.execute(select(batch.c.id, batch.c.status).where(batch.c.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))):
        yield f"batch {row.id} is {row.status}"


# Files


def listing() -> Any:
    """Select every result with its image."""
    columns = (image.c.name, image.c.content_hash)
    return select(result, *columns).join_from(result, image, image.c.id == result.c.image_id)


def of_files(database: Database, home: str, row: Row[Any]) -> list[str]:
    """The label image and object table of a result open, match their checksums, and tell the same number of objects as the tables."""
    path = results.locate(home, row.path)
    try:
        opened = results.verify(path, row.checksum)
        table = opened.read_objects()
        labels = np.unique(opened.labels.read())
    except (ResultCorruptError, OSError) as error:
        return [f"the result of job {row.job_id}: {error}"] if still_listed(database, row) else []
    found = []
    counts = {"table": row.objects, "document": opened.objects, "rows": table.num_rows}
    if opened.axes in ("YX", "ZYX"):
        counts["labels"] = int(np.count_nonzero(labels))
    if len(set(counts.values())) > 1:
        found.append(f"the result of job {row.job_id} has {counts} objects")
    made_from = opened.provenance
    if (made_from["content_hash"], made_from["run"]) != (row.content_hash, row.run_id):
        found.append(f"the result of job {row.job_id} was made from another image or run: {json.dumps(made_from)}")
    return found if found and still_listed(database, row) else []


def still_listed(database: Database, row: Row[Any]) -> bool:
    """Whether a result is still what the table said when its files were opened; somebody may have asked for it to be made again."""
    with database.read() as connection:
        return connection.scalar(select(result.c.checksum).where(result.c.job_id == row.job_id)) == row.checksum


def of_leftovers(database: Database, home: str) -> Iterator[str]:
    """After `segkit gc --delete` there is among the results what rows name, and nothing else; no tiles are left of what is done."""
    settings = load(home=home, **NO_LEASE)
    list(upkeep.delete_orphans(database, settings, upkeep.find(database, settings)))
    with database.read() as connection:
        named = set(connection.scalars(select(result.c.path).union(select(correction.c.path))))
    there = {str(place.relative_to(home)) for place in Path(home).glob("results/*/*")}
    yield from (f"{place} belongs to nobody" for place in sorted(there - named))
    yield from (f"{place} is named and not there" for place in sorted(named - there))
    with database.read() as connection:
        failed = {f"{row.run_id}/{row.image_id}" for row in connection.execute(select(job).where(job.c.status == JobStatus.FAILED))}
    tiles = {str(place.relative_to(Path(home) / "tiles")) for place in Path(home).glob("tiles/*/*")}
    yield from (f"tiles/{place} belong to nobody" for place in sorted(tiles - failed))
