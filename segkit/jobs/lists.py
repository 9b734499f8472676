"""What there is: runs, jobs, progress, workers. Each list is one statement, whatever its length."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, select, true

from segkit.errors import UnknownJobError, UnknownRunError
from segkit.jobs import statements
from segkit.jobs.records import Holder, Job, Progress, Run, Summary
from segkit.jobs.statements import has_status, image, now, project
from segkit.pages import EPOCH, Page, Place, check_page, cut, decode_cursor, encode_cursor, page_of, with_total
from segkit.schema import ErrorKind, JobStatus

#: Tables; `run` and `job` are functions here.
of_runs, of_jobs = statements.run, statements.job

COUNTED = [*JobStatus, "objects"]


# Runs


def run(connection: Connection, run_id: int) -> Run:
    """Return one run.

    Raises
    ------
    UnknownRunError
        There is no such run.
    """
    row = connection.execute(all_runs().where(of_runs.c.id == run_id)).one_or_none()
    if row is None:
        raise unknown_run(run_id)
    return run_of(row)


def runs(
    connection: Connection, limit: int = 100, *, project_id: int | None = None, after: str | None = None, offset: int | None = None
) -> Page[Run]:
    """List runs newest first, of one project or of all.

    Parameters
    ----------
    limit, after, offset
        How many, and from where: after a page's `next`, or, for small depths, a number of rows to skip.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    """
    scope = f"runs of {'all projects' if project_id is None else project_id}"
    meant = true() if project_id is None else of_runs.c.project_id == project_id
    page = cut(all_runs().where(meant), of_runs.c.created_at, of_runs.c.id, scope, limit, after, offset)
    total, rows = with_total(connection, select(func.count().label("total")).select_from(of_runs).where(meant), page, ("created_at", "id"))
    return page_of(rows, run_of, total or 0, scope, limit)


def all_runs() -> Select[Any]:
    """Select runs with the names of their projects."""
    hidden = {"fingerprint"}
    columns = [column for column in of_runs.c if column.name not in hidden]
    return select(*columns, project.c.name.label("project")).join_from(of_runs, project, project.c.id == of_runs.c.project_id)


def run_of(row: Row[Any]) -> Run:
    """Turn a row into a record."""
    fields = dict(row._mapping)
    fields.pop("total", None)
    return Run(**fields)


def progress(connection: Connection, run_id: int) -> Progress:
    """Tell where a run stands, from its counters.

    Raises
    ------
    UnknownRunError
        There is no such run.
    """
    columns = (*(of_runs.c[name] for name in COUNTED), of_runs.c.created_at, of_runs.c.finished_at)
    row = connection.execute(select(*columns).where(of_runs.c.id == run_id)).one_or_none()
    if row is None:
        raise unknown_run(run_id)
    return Progress(**row._mapping)


def summary(connection: Connection) -> Summary:
    """Add the counters of all runs up."""
    added = [func.coalesce(func.sum(of_runs.c[name]), 0).label(name) for name in COUNTED]
    active = func.count(case((of_runs.c.queued + of_runs.c.running > 0, 1)))
    row = connection.execute(select(*added, func.count().label("runs"), active.label("active")).select_from(of_runs)).one()
    return Summary(**{name: int(number) for name, number in row._mapping.items()})


def unknown_run(run_id: int) -> UnknownRunError:
    """Make the error for a run that is not there."""
    return UnknownRunError(f"There is no run {run_id}. `segkit list runs` shows them.")


# Jobs


def job(connection: Connection, job_id: int) -> Job:
    """Return one job.

    Raises
    ------
    UnknownJobError
        There is no such job.
    """
    row = connection.execute(all_jobs().where(of_jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise UnknownJobError(f"There is no job {job_id}. `segkit list jobs` shows those of a run.")
    return job_of(row)


def page(
    connection: Connection,
    run_id: int,
    status: JobStatus | None = None,
    limit: int = 100,
    *,
    after: str | None = None,
    offset: int | None = None,
) -> Page[Job]:
    """List the jobs of a run, those of one status in the order they were queued, all of them in the order of their images.

    Raises
    ------
    UnknownRunError
        There is no such run.
    PageError, CursorError
        The page cannot be given.
    """
    check_page(limit, after, offset)
    scope = f"{status or 'all'} jobs of {run_id}"
    key = of_jobs.c.image_id if status is None else of_jobs.c.id
    meant = of_jobs.c.run_id == run_id if status is None else and_(of_jobs.c.run_id == run_id, has_status(JobStatus(status)))
    chosen = all_jobs().where(meant).order_by(key).limit(limit + 1)
    if after is not None:
        chosen = chosen.where(key > decode_cursor(after, scope).id)
    counted = of_runs.c[status] if status is not None else sum_of_statuses()
    total, rows = with_total(
        connection, select(counted.label("total")).where(of_runs.c.id == run_id), chosen.offset(offset), (key.name,), down=False
    )
    if total is None:
        raise unknown_run(run_id)
    following = encode_cursor(Place(EPOCH, rows[limit - 1]._mapping[key.name]), scope) if len(rows) > limit else None
    return Page(tuple(job_of(row) for row in rows[:limit]), total, following)


def failures(connection: Connection, run_id: int, limit: int = 100, *, after: str | None = None) -> Page[Job]:
    """List the jobs of a run that were given up, each with its reason."""
    return page(connection, run_id, JobStatus.FAILED, limit, after=after)


def all_jobs() -> Select[Any]:
    """Select jobs with the names of their images.

    Each name is looked up for itself: a join of millions of jobs with millions of images was merged, from the first image there is.
    """
    name = select(image.c.name).where(image.c.id == of_jobs.c.image_id).scalar_subquery()
    return select(*of_jobs.c, name.label("image_name"))


def job_of(row: Row[Any]) -> Job:
    """Turn a row into a record."""
    fields = dict(row._mapping)
    fields.pop("total", None)
    kind = fields.pop("error_kind")
    return Job(status=JobStatus(fields.pop("status")), error_kind=kind and ErrorKind(kind), **fields)


def workers(connection: Connection) -> list[Holder]:
    """List who holds jobs now, and until when."""
    late = func.count(case((of_jobs.c.lease_until < now(), 1)))
    columns = [
        of_jobs.c.worker,
        func.count().label("jobs"),
        func.min(of_jobs.c.started_at).label("since"),
        func.min(of_jobs.c.lease_until).label("lease_until"),
        late.label("late"),
    ]
    held = select(*columns).where(has_status(JobStatus.RUNNING)).group_by(of_jobs.c.worker).order_by(of_jobs.c.worker)
    return [Holder(**row._mapping) for row in connection.execute(held)]


# Parts of lists


def sum_of_statuses() -> ColumnElement[int]:
    """All jobs of a run, from its counters."""
    queued, running, *ended = (of_runs.c[status] for status in JobStatus)
    return sum(ended, start=queued + running)
