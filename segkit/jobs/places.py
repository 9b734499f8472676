"""Rows of a run's jobs by their place, for tables that a person scrolls: any row of a hundred thousand is found at once.

The place is looked up in an index alone, without the rows before it; from there the page is cut by keyset as any other.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, func, select

from segkit.jobs import statements
from segkit.jobs.lists import page
from segkit.jobs.records import Job
from segkit.jobs.statements import has_status
from segkit.pages import EPOCH, Page, Place, encode_cursor
from segkit.schema import JobStatus

of_jobs = statements.job


def rows(connection: Connection, run_id: int, status: JobStatus | None, first: int, count: int) -> Page[Job]:
    """List so many jobs of a run from the row numbered `first` (from 0) on, in the order of `page`.

    Raises
    ------
    UnknownRunError
        There is no such run.
    """
    if first == 0:
        return page(connection, run_id, status, count)
    before = connection.scalar(key_statement(run_id, status).offset(first - 1).limit(1))
    if before is None:  # the list became shorter than that
        return Page((), page(connection, run_id, status, 1).total)
    return page(connection, run_id, status, count, after=encode_cursor(Place(EPOCH, before), f"{status or 'all'} jobs of {run_id}"))


def place(connection: Connection, run_id: int, image_id: int) -> int | None:
    """Return the row of an image's job among all jobs of a run, from 0; None when the run has no such image."""
    mine = of_jobs.c.run_id == run_id
    if connection.scalar(select(of_jobs.c.id).where(mine, of_jobs.c.image_id == image_id)) is None:
        return None
    return connection.scalar(select(func.count()).select_from(of_jobs).where(mine, of_jobs.c.image_id < image_id))


def key_statement(run_id: int, status: JobStatus | None) -> Select[Any]:
    """Select what the jobs of a run are sorted by: an index holds it all."""
    key = of_jobs.c.image_id if status is None else of_jobs.c.id
    chosen = select(key).where(of_jobs.c.run_id == run_id).order_by(key)
    return chosen if status is None else chosen.where(has_status(status))
