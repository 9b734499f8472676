"""Images of a project: pages of them, and one by its number."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection, Row, Select, Table, select, true

from segkit.catalog.records import Image
from segkit.errors import UnknownImageError, UnknownProjectError
from segkit.pages import Page, cut, page_of
from segkit.schema import Image as ImageRow
from segkit.schema import Project as ProjectRow

table = cast(Table, ImageRow.__table__)
project = cast(Table, ProjectRow.__table__)
NAMES = tuple(Image.__dataclass_fields__)
COLUMNS = tuple(table.c[name] for name in NAMES)


def images(
    connection: Connection,
    project_id: int,
    limit: int = 100,
    *,
    after: str | None = None,
    offset: int | None = None,
    unreadable: bool = False,
) -> Page[Image]:
    """List the images of a project, newest first, in one statement.

    Parameters
    ----------
    connection
        In a transaction.
    project_id : int
        Whose images.
    limit, after, offset
        How many, and from where: `after` is a page's `next`, at any depth; `offset` is for small depths.
    unreadable : bool
        Only those that cannot be read.

    Raises
    ------
    UnknownProjectError
        There is no such project, or no longer.
    PageError, CursorError
        The page cannot be given.
    """
    rows = connection.execute(images_statement(project_id, limit, after, offset, unreadable)).all()
    if not rows:
        raise UnknownProjectError(f"number {project_id}", [])
    return page_of([row for row in rows if row.id is not None], image_of, rows[0].total, scope(project_id, unreadable), limit)


def images_statement(
    project_id: int, limit: int, after: str | None = None, offset: int | None = None, unreadable: bool = False
) -> Select[Any]:
    """Select a page of images, each row with the project's counter; one row of nothing but that when the page is empty."""
    page = chosen(project_id, scope(project_id, unreadable), limit, after, offset, unreadable).subquery("page")
    total = (project.c.unreadable if unreadable else project.c.images).label("total")
    joined = select(total, *page.c).select_from(project.outerjoin(page, true())).where(project.c.id == project_id)
    return joined.order_by(page.c.created_at.desc(), page.c.id.desc())


def chosen(project_id: int, scope: str, limit: int, after: str | None, offset: int | None, unreadable: bool) -> Select[Any]:
    """Select the rows of a page, newest first, and one more when another page follows."""
    wanted = select(*COLUMNS).where(table.c.project_id == project_id)
    if unreadable:
        wanted = wanted.where(table.c.error.is_not(None))
    return cut(wanted, table.c.created_at, table.c.id, scope, limit, after, offset)


def scope(project_id: int, unreadable: bool) -> str:
    """Name a list of images, for its cursors."""
    return f"{'unreadable ' if unreadable else ''}images of {project_id}"


def image(connection: Connection, number: int) -> Image:
    """Find an image by its number.

    Raises
    ------
    UnknownImageError
        There is none.
    """
    row = connection.execute(select(*COLUMNS).where(table.c.id == number)).one_or_none()
    if row is None:
        raise UnknownImageError(f"There is no image {number}.")
    return image_of(row)


def image_of(row: Row[Any]) -> Image:
    """Make a record of a row that has all `COLUMNS`; JSON lists become tuples."""
    fields = {name: row._mapping[name] for name in NAMES}
    for name in ("shape", "channels"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return Image(**fields)
