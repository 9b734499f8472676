"""What a person orders of queued, running and ended jobs: again, not at all, or sooner."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, null, select, update

from segkit.errors import UnknownJobError, UnknownRunError
from segkit.jobs.counters import Tally
from segkit.jobs.statements import has_status, job, now, result, run
from segkit.jobs.submission import check_priority, tell_planner
from segkit.rows import given_ids, hand_ids
from segkit.schema import JobStatus


def retry(
    connection: Connection, *, run_id: int | None = None, job_id: int | None = None, max_attempts: int = 3, done_too: bool = False
) -> int:
    """Queue failed and cancelled jobs again, of a run or a single one, each with a fresh number of attempts.

    Parameters
    ----------
    run_id, job_id
        One of the two.
    max_attempts
        Attempts allowed from now on.
    done_too
        Also make results again that are there, such as a corrupt one; their rows are deleted now.

    Returns
    -------
    int
        How many jobs were queued.

    Raises
    ------
    UnknownRunError, UnknownJobError
        There is no such run or job.
    """
    ended = (JobStatus.FAILED, JobStatus.CANCELLED, *((JobStatus.DONE,) if done_too else ()))
    rows = lock(connection, run_id, job_id, ended)
    tally = Tally()
    forget_results(connection, [row for row in rows if row.status == JobStatus.DONE], tally)
    queued = {
        "status": JobStatus.QUEUED,
        "max_attempts": job.c.attempt + max_attempts,
        "not_before": now(),
        "finished_at": null(),
        "error_kind": null(),
        "error": null(),
        "priority": select(run.c.priority).where(run.c.id == job.c.run_id).scalar_subquery(),
    }
    change(connection, rows, queued, JobStatus.QUEUED, tally)
    tell_planner(connection, len(rows))
    return len(rows)


def cancel(connection: Connection, *, run_id: int | None = None, job_id: int | None = None) -> int:
    """Withdraw queued and running jobs, of a run or a single one; what a worker still brings for them is refused.

    Returns
    -------
    int
        How many jobs were cancelled; jobs that have ended stay as they are.

    Raises
    ------
    UnknownRunError, UnknownJobError
        There is no such run or job.
    """
    rows = lock(connection, run_id, job_id, (JobStatus.QUEUED, JobStatus.RUNNING))
    change(connection, rows, {"status": JobStatus.CANCELLED, "lease_until": null(), "finished_at": now()}, JobStatus.CANCELLED, Tally())
    return len(rows)


def prioritise(connection: Connection, priority: int, *, run_id: int | None = None, job_id: int | None = None) -> int:
    """Let jobs be claimed sooner (higher) or later (lower) than others, of a run or a single one.

    Returns
    -------
    int
        How many jobs that have not ended it concerns.

    Raises
    ------
    PriorityError
        It is not between -1000 and 1000.
    UnknownRunError, UnknownJobError
        There is no such run or job.
    """
    check_priority(priority)
    rows = lock(connection, run_id, job_id, (JobStatus.QUEUED, JobStatus.RUNNING))
    connection.execute(
        update(job).where(job.c.id.in_(given_ids(connection.dialect.name))).values(priority=priority), hand_ids(row.id for row in rows)
    )
    if run_id is not None:
        connection.execute(update(run).where(run.c.id == run_id).values(priority=priority))
    return len(rows)


def lock(connection: Connection, run_id: int | None, job_id: int | None, statuses: tuple[JobStatus, ...]) -> list[Row[Any]]:
    """Lock the jobs meant that have one of these statuses, in order of their ids."""
    meant = meaning(connection, run_id, job_id)
    chosen = select(job.c.id, job.c.run_id, job.c.status).where(meant, has_status(*statuses)).order_by(job.c.id)
    return list(connection.execute(chosen.with_for_update(key_share=True)))


def meaning(connection: Connection, run_id: int | None, job_id: int | None) -> ColumnElement[bool]:
    """Be the job, or of the run, that is meant, which must exist."""
    if (run_id is None) == (job_id is None):
        raise TypeError("Name either a run or a job.")
    if run_id is not None:
        if connection.scalar(select(run.c.id).where(run.c.id == run_id)) is None:
            raise UnknownRunError(f"There is no run {run_id}. `segkit list runs` shows them.")
        return job.c.run_id == run_id
    if connection.scalar(select(job.c.id).where(job.c.id == job_id)) is None:
        raise UnknownJobError(f"There is no job {job_id}. `segkit list jobs` shows those of a run.")
    return job.c.id == job_id


def change(connection: Connection, rows: list[Row[Any]], values: dict[str, Any], status: JobStatus, tally: Tally) -> None:
    """Change locked jobs, and count them in their new status."""
    if rows:
        connection.execute(
            update(job).where(job.c.id.in_(given_ids(connection.dialect.name))).values(values), hand_ids(row.id for row in rows)
        )
    for row in rows:
        tally.move(row.run_id, JobStatus(row.status), status)
    tally.write(connection)


def forget_results(connection: Connection, rows: list[Row[Any]], tally: Tally) -> None:
    """Delete the result rows of jobs that are to be made again; their files are replaced when the new ones are published."""
    if not rows:
        return
    gone = delete(result).where(result.c.job_id.in_(given_ids(connection.dialect.name))).returning(result.c.run_id, result.c.objects)
    for row in connection.execute(gone, hand_ids(row.id for row in rows)):
        tally.add(row.run_id, "objects", -row.objects)
