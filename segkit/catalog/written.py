"""Pages as JSON for those who only pass them on: PostgreSQL writes them itself, in the statement that finds the rows.

An image in Python is sixteen objects, made of a row, checked, and written out again; SQLAlchemy takes longer to put a statement
together than PostgreSQL to answer it. So the few statements are here as text. SQLite runs in this process, where there is nothing to
spare, and its JSON would lose digits.
"""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Connection

from segkit.catalog.images import NAMES, images, scope
from segkit.catalog.projects import COLUMNS, SCOPE, projects
from segkit.errors import UnknownProjectError
from segkit.pages import Place, check_page, decode_cursor, encode_cursor

FORM = orjson.OPT_UTC_Z
ZULU = """to_char(timezone('UTC', created_at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
#: A page, and one row more when another page follows: its JSON, its length, and the place of its last row.
PAGE = """
SELECT {total}, string_agg(item, ',' ORDER BY place) FILTER (WHERE place <= %(limit)s) AS items, count(place) AS length,
    max(at) FILTER (WHERE place = %(limit)s) AS created_at, max(numbered.id) FILTER (WHERE place = %(limit)s) AS id
FROM {whole} (
    SELECT row_to_json((SELECT written FROM (SELECT {columns}) AS written))::text AS item, id, created_at AS at,
        row_number() OVER (ORDER BY created_at DESC, id DESC) AS place
    FROM (SELECT * FROM {table} WHERE {where} ORDER BY created_at DESC, id DESC LIMIT %(limit)s + 1 OFFSET %(offset)s) AS page
) AS numbered {joined}
"""
BELOW = " AND (created_at, id) < (%(at)s, %(below)s)"


def projects_json(connection: Connection, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> bytes:
    """Write a page of projects as JSON; otherwise as `catalog.projects`.

    Returns
    -------
    bytes
        `{"items": [...], "total": n, "next": "..." or null}`
    """
    if connection.dialect.name != "postgresql":
        return orjson.dumps(projects(connection, limit, after=after, offset=offset), option=FORM)
    place = _place(limit, after, offset, SCOPE)
    row = connection.exec_driver_sql(PROJECTS_BELOW if after else PROJECTS, place).one()
    return _page(row, SCOPE, limit)


def images_json(
    connection: Connection,
    project_id: int,
    limit: int = 100,
    *,
    after: str | None = None,
    offset: int | None = None,
    unreadable: bool = False,
) -> bytes:
    """Write a page of a project's images as JSON; otherwise as `catalog.images`.

    Returns
    -------
    bytes
        `{"items": [...], "total": n, "next": "..." or null}`

    Raises
    ------
    UnknownProjectError
        There is no such project, or no longer.
    """
    if connection.dialect.name != "postgresql":
        return orjson.dumps(images(connection, project_id, limit, after=after, offset=offset, unreadable=unreadable), option=FORM)
    name = scope(project_id, unreadable)
    place = _place(limit, after, offset, name) | {"project": project_id}
    row = connection.exec_driver_sql(IMAGES[unreadable, after is not None], place).one_or_none()
    if row is None:
        raise UnknownProjectError(f"number {project_id}", [])
    return _page(row, name, limit)


def _images_statement(unreadable: bool, below: bool) -> str:
    return PAGE.format(
        total=f"project.{'unreadable' if unreadable else 'images'} AS total",
        columns=_columns(NAMES),
        table="image",
        where=f"project_id = %(project)s{' AND error IS NOT NULL' if unreadable else ''}{BELOW if below else ''}",
        whole="project LEFT JOIN",
        joined="ON true WHERE project.id = %(project)s GROUP BY project.id",
    )


def _projects_statement(below: bool) -> str:
    return PAGE.format(
        total="(SELECT count(*) FROM project) AS total",
        columns=_columns(column.name for column in COLUMNS),
        table="project",
        where=f"true{BELOW if below else ''}",
        whole="",
        joined="",
    )


def _columns(names: Any) -> str:
    return ", ".join(f"{ZULU} AS created_at" if name == "created_at" else name for name in names)


PROJECTS, PROJECTS_BELOW = _projects_statement(False), _projects_statement(True)
IMAGES = {(unreadable, below): _images_statement(unreadable, below) for unreadable in (False, True) for below in (False, True)}


def _place(limit: int, after: str | None, offset: int | None, scope: str) -> dict[str, Any]:
    check_page(limit, after, offset)
    place: dict[str, Any] = {"limit": limit, "offset": offset or 0}
    if after is not None:
        above = decode_cursor(after, scope)
        place |= {"at": above.created_at, "below": above.id}
    return place


def _page(row: Any, scope: str, limit: int) -> bytes:
    following = encode_cursor(Place(row.created_at, row.id), scope) if row.length > limit else None
    return f'{{"items":[{row.items or ""}],"total":{row.total},"next":{orjson.dumps(following).decode()}}}'.encode()
