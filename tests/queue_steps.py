"""Steps on the queue as tests take them: submit, claim, commit, fail, and look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, insert, select, update

from segkit import jobs, results
from segkit.database import Database, now_sql
from segkit.schema import Base, ErrorKind

TABLES = Base.metadata.tables
NUCLEI: dict[str, Any] = {
    "segmenter": "nuclei",
    "version": "1",
    "parameters": {"diameter_um": 9.0},
    "selection": {"channel": None, "z": None, "level": 0},
    "segkit_version": "0.1",
}


def add_project(database: Database, images: int, name: str = "plate", unreadable: int = 0) -> int:
    """Make a project with images of which nothing is ever read."""
    with database.write() as connection:
        new = insert(TABLES["project"]).values(name=name, created_at=now_sql(), revision=0, images=0, unreadable=0)
        project_id = connection.execute(new.returning(TABLES["project"].c.id)).scalar_one()
    add_images(database, project_id, images)
    add_images(database, project_id, unreadable, error="The file ends before its pixels do.")
    return project_id


def add_images(database: Database, project_id: int, number: int, error: str | None = None) -> None:
    image = TABLES["image"]
    with database.write() as connection:
        there = connection.execute(select(image.c.id).where(image.c.project_id == project_id)).all()
        rows = [
            {
                "project_id": project_id,
                "content_hash": f"{error}{index}",
                "uri": f"/images/{index}.tif",
                "name": f"{index}.tif",
                "bytes": 9,
                "shape": [20, 30],
                "error": error,
            }
            for index in range(len(there), len(there) + number)
        ]
        if rows:
            connection.execute(insert(image).values(created_at=now_sql()), rows)


def submit(database: Database, project_id: int, **changes: Any) -> jobs.Run:
    with database.write() as connection:
        return jobs.submit(connection, project_id, **(NUCLEI | changes))


def claim(database: Database, limit: int = 1, worker: str = "w", lease: float = 60) -> list[jobs.Claim]:
    with database.write() as connection:
        return jobs.claim(connection, worker, limit, lease)


def commit(database: Database, claims: Sequence[jobs.Claim], objects: int = 3) -> set[int]:
    """Commit results as a worker does: hold, rows, finish."""
    with database.write() as connection:
        held = {row.id for row in jobs.hold(connection, claims)}
        results.insert(connection, [result_of(claim, objects) for claim in claims if claim.job_id in held])
        return jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, objects) for claim in claims])


def result_of(claim: jobs.Claim, objects: int = 3) -> results.NewResult:
    return results.NewResult(claim.job_id, claim.run_id, claim.image_id, claim.attempt, f"r/{claim.job_id}", "c", objects, {}, 10, 0.1)


def fail(database: Database, claim: jobs.Claim, kind: ErrorKind, reason: str = "It broke.", retry_seconds: float = 0.0) -> jobs.Job:
    with database.write() as connection:
        jobs.fail(connection, claim, kind, reason, retry_seconds)
        return jobs.job(connection, claim.job_id)


def let_leases_run_out(database: Database) -> None:
    job = TABLES["job"]
    with database.write() as connection:
        late = jobs.statements.later("seconds")
        connection.execute(update(job).where(job.c.status == "running").values(lease_until=late), {"seconds": -1.0})


def look(database: Database, job_id: int) -> jobs.Job:
    with database.read() as connection:
        return jobs.job(connection, job_id)


def progress(database: Database, run: jobs.Run) -> jobs.Progress:
    with database.read() as connection:
        return jobs.progress(connection, run.id)


def revision(database: Database, project_id: int) -> int:
    project = TABLES["project"]
    with database.read() as connection:
        return connection.execute(select(project.c.revision).where(project.c.id == project_id)).scalar_one()


@contextmanager
def recounted(database: Database) -> Iterator[Database]:
    """A database whose counters, whatever a test does, must equal a recount afterwards."""
    if database.dialect == "sqlite":  # no test cuts the power, and each commit is 10 times faster
        event.listen(database.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous=OFF"))
    yield database
    with database.write() as connection:
        assert jobs.recount(connection) == []
