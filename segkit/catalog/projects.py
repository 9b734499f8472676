"""Projects: make, find, list and delete them."""

from __future__ import annotations

import secrets
from difflib import get_close_matches
from typing import Any, cast

from sqlalchemy import Connection, Row, Select, Table, delete, func, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from segkit.catalog.records import Project
from segkit.database import now_sql
from segkit.errors import ProjectExistsError, ProjectNameError, UnknownProjectError
from segkit.pages import Page, cut, page_of
from segkit.schema import Image, Job, Result, Run
from segkit.schema import Project as ProjectRow

table = cast(Table, ProjectRow.__table__)
COLUMNS = (table.c.id, table.c.name, table.c.created_at, table.c.revision, table.c.images, table.c.unreadable)
LONGEST_NAME = 200
NAMED_IN_ERROR = 10
SCOPE = "projects"
#: Revisions start at random below this, so that no two projects, in whatever databases share a Redis, have one revision.
FIRST_REVISIONS = 2**40


def create_project(connection: Connection, name: str) -> Project:
    """Make a project.

    Raises
    ------
    ProjectExistsError
        There is one of this name.
    ProjectNameError
        The name is empty, too long, or holds what cannot be printed.
    """
    row = _insert(connection, checked_name(name))
    if row is None:
        raise ProjectExistsError(f'There is a project "{name.strip()}" already. Open it, or choose another name.')
    return Project(*tuple(row))


def ensure_project(connection: Connection, name: str) -> Project:
    """Return the project of this name, made now if there was none."""
    row = _insert(connection, checked_name(name))
    return Project(*tuple(row)) if row is not None else project(connection, name)


def _insert(connection: Connection, name: str) -> Row[Any] | None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {"name": name, "created_at": now_sql(), "revision": secrets.randbelow(FIRST_REVISIONS), "images": 0, "unreadable": 0}
    statement = dialect.insert(table).values(values).on_conflict_do_nothing(index_elements=[table.c.name]).returning(*COLUMNS)
    return connection.execute(statement).one_or_none()


def checked_name(name: str) -> str:
    """Return a name without blanks around it.

    Raises
    ------
    ProjectNameError
        It cannot be a project's name.
    """
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ProjectNameError
    return name


def project(connection: Connection, name: str) -> Project:
    """Find a project by its name.

    Raises
    ------
    UnknownProjectError
        There is none; the nearest name is suggested.
    """
    name = name.strip()
    row = connection.execute(select(*COLUMNS).where(table.c.name == name)).one_or_none() if name.isprintable() else None
    if row is None:
        raise UnknownProjectError(name, _nearest_names(connection, name))
    return Project(*tuple(row))


def project_numbered(connection: Connection, number: int) -> Project:
    """Find a project by its number.

    Raises
    ------
    UnknownProjectError
        There is none.
    """
    row = connection.execute(select(*COLUMNS).where(table.c.id == number)).one_or_none()
    if row is None:
        raise UnknownProjectError(f"number {number}", [])
    return Project(*tuple(row))


def _nearest_names(connection: Connection, name: str) -> list[str]:
    names = connection.scalars(select(table.c.name).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(1000)).all()
    return get_close_matches(name, names, n=NAMED_IN_ERROR, cutoff=0.0)


def projects(connection: Connection, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[Project]:
    """List projects, newest first, in one statement.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    """
    rows = connection.execute(projects_statement(limit, after, offset)).all()
    return page_of([row for row in rows if row.id is not None], _project_of, rows[0].total, SCOPE, limit)


def projects_statement(limit: int, after: str | None = None, offset: int | None = None) -> Select[Any]:
    """Select a page of projects, each row with the number of them all; one row of nothing but that when the page is empty."""
    page = cut(select(*COLUMNS), table.c.created_at, table.c.id, SCOPE, limit, after, offset).subquery("page")
    total = select(func.count().label("total")).select_from(table).subquery("counted")
    joined = select(total.c.total, *page.c).select_from(total.outerjoin(page, true()))
    return joined.order_by(page.c.created_at.desc(), page.c.id.desc())


def _project_of(row: Row[Any]) -> Project:
    return Project(*tuple(row)[1:])


def delete_project(connection: Connection, project_id: int) -> list[int]:
    """Delete a project with its images, runs, jobs and results. Ask first: nothing brings it back but a copy.

    Rows are locked in the order that all keep: jobs, runs, then the project. Whoever is committing a job of it either ends
    before, or finds the job gone.

    Returns
    -------
    list of int
        Its runs, whose folders of results are to be removed once this is committed.
    """
    of_project = select(Run.id).where(Run.project_id == project_id)
    jobs = select(Job.id).where(Job.run_id.in_(of_project)).order_by(Job.id).with_for_update()
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.count()).select_from(jobs.subquery()))
    run_ids = list(connection.scalars(of_project.order_by(Run.id)))
    connection.execute(delete(Result).where(Result.run_id.in_(of_project)))
    connection.execute(delete(Job).where(Job.run_id.in_(of_project)))
    connection.execute(delete(Run).where(Run.project_id == project_id))
    connection.execute(delete(Image).where(Image.project_id == project_id))
    connection.execute(delete(table).where(table.c.id == project_id))
    return run_ids


def recount(connection: Connection, project_id: int) -> bool:
    """Count a project's images anew and mend its counters.

    Returns
    -------
    bool
        Whether they were wrong; never, unless somebody changed the tables by hand.
    """
    kept = connection.execute(select(table.c.images, table.c.unreadable).where(table.c.id == project_id).with_for_update()).one_or_none()
    true_counts = connection.execute(select(func.count(), func.count(Image.error)).where(Image.project_id == project_id)).one()
    if kept is None or tuple(kept) == tuple(true_counts):
        return False
    count_images(connection, project_id, true_counts[0] - kept[0], true_counts[1] - kept[1])
    return True


def count_images(connection: Connection, project_id: int, images: int, unreadable: int) -> None:
    """Add to a project's counters, and tell caches that its lists changed."""
    counts = {"images": table.c.images + images, "unreadable": table.c.unreadable + unreadable, "revision": table.c.revision + 1}
    connection.execute(update(table).where(table.c.id == project_id).values(counts))


def lock_project(connection: Connection, project_id: int) -> Project:
    """Keep others from adding to a project, or deleting it, until this transaction ends.

    Raises
    ------
    UnknownProjectError
        It was deleted.
    """
    statement = select(*COLUMNS).where(table.c.id == project_id).with_for_update(key_share=True)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise UnknownProjectError(f"number {project_id}", [])
    return Project(*tuple(row))
