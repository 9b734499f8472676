"""Projects with what goes on in them: images, jobs and objects, from the counters that projects and runs keep."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, true

from segkit.jobs import statements
from segkit.jobs.records import Counts
from segkit.pages import Page, cut, page_of
from segkit.schema import JobStatus

project, run = statements.project, statements.run
SCOPE = "activity"
COUNTED = [*JobStatus, "objects"]
SHOWN = ("id", "name", "created_at", "images", "unreadable")


@dataclass(frozen=True, kw_only=True)
class Activity(Counts):
    """A project, and its jobs by status over all its runs."""

    id: int
    name: str
    created_at: datetime
    images: int
    unreadable: int
    runs: int


def activity(connection: Connection, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[Activity]:
    """List projects, newest first, with their counts of now, in one statement that counts no image, job or object.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    """
    rows = connection.execute(activity_statement(limit, after, offset)).all()
    return page_of([row for row in rows if row.id is not None], activity_of, rows[0].total, SCOPE, limit)


def activity_statement(limit: int, after: str | None = None, offset: int | None = None) -> Select[Any]:
    """Select a page of projects with the sums of their runs' counters; only runs of these projects are read."""
    columns = [project.c[name] for name in SHOWN]
    page = cut(select(*columns), project.c.created_at, project.c.id, SCOPE, limit, after, offset).subquery("page")
    sums = [func.coalesce(func.sum(run.c[name]), 0).label(name) for name in COUNTED]
    of_page = select(page.c.id.label("project_id"), func.count(run.c.id).label("runs"), *sums)
    summed = of_page.join_from(page, run, run.c.project_id == page.c.id, isouter=True).group_by(page.c.id).subquery("summed")
    total = select(func.count().label("total")).select_from(project).subquery("counted")
    joined = total.outerjoin(page, true()).outerjoin(summed, summed.c.project_id == page.c.id)
    shown = [column for column in summed.c if column.name != "project_id"]
    return select(total.c.total, *page.c, *shown).select_from(joined).order_by(page.c.created_at.desc(), page.c.id.desc())


def activity_of(row: Row[Any]) -> Activity:
    """Turn a row into a record; PostgreSQL adds whole numbers up to decimal ones."""
    fields = {name: value for name, value in row._mapping.items() if name != "total"}
    return Activity(**fields | {name: int(fields[name]) for name in COUNTED})
