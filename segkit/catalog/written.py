"""Pages as JSON for those who only pass them on: PostgreSQL writes them itself, in the statement that finds the rows.

An image in Python is sixteen objects, made of a row, checked, and written out again; SQLAlchemy takes longer to put a statement
together than PostgreSQL to answer it. So the few statements are here as text. SQLite runs in this process, where there is nothing to
spare, and its JSON would lose digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import JSON, Column, Connection, Integer

from segkit.catalog.images import COLUMNS as IMAGE_COLUMNS
from segkit.catalog.images import images, scope
from segkit.catalog.projects import COLUMNS, SCOPE, projects
from segkit.errors import UnknownProjectError
from segkit.pages import Place, check_page, decode_cursor, encode_cursor

FORM = orjson.OPT_UTC_Z
#: A moment in JSON, with its quotes.
ZULU = r"""to_char(timezone('UTC', created_at), '\"YYYY-MM-DD"T"HH24:MI:SS.US"Z"\"')"""
#: Between two rows: JSON never holds it as it is.
BETWEEN = "\x1e"
#: A page, and one row more when another page follows: the total, its length, the place of its last row, and its JSON, all in one text,
#: because SQLAlchemy takes some 20 microseconds over each column. Rows come to the aggregates in the order of the page. How many there
#: may be stands in the text: of a parameter PostgreSQL fears the worst, and plans each time anew.
PAGE = """
SELECT concat({total}, E'\\x1e', page.length, E'\\x1e', page.created_at, E'\\x1e', page.id, E'\\x1e', page.items) FROM {whole} (
    SELECT string_agg(item, E'\\x1e') AS items, count(*) AS length, (array_agg(at))[{limit}] AS created_at, (array_agg(id))[{limit}] AS id
    FROM (
        SELECT {item} AS item, id, created_at AS at
        FROM {table} WHERE {where} ORDER BY created_at DESC, id DESC LIMIT {most}{skipped}
    ) AS found
) AS page {joined}
"""
#: Texts that are kept: one for each length of a page that is asked for.
MOST_TEXTS = 256
BELOW = " AND (created_at, id) < (%(at)s, %(below)s)"


@dataclass(frozen=True)
class Written:
    """A page that PostgreSQL writes: what to ask it, and what makes JSON of its answer, which is one text or no row."""

    statement: str
    parameters: dict[str, Any]
    limit: int
    read: Callable[[str | None], bytes]

    def ask(self, connection: Connection) -> bytes:
        """Ask for the page."""
        return self.read(connection.exec_driver_sql(self.statement, self.parameters).scalar_one_or_none())


def projects_written(limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Written:
    """Say how PostgreSQL writes a page of projects.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    """
    place = _place(limit, after, offset, SCOPE)

    def read(found: str | None) -> bytes:
        assert found is not None
        return _page(found, SCOPE, limit)

    return Written(projects_statement(limit, after is not None, bool(offset)), place, limit, read)


def images_written(
    project_id: int, limit: int = 100, *, after: str | None = None, offset: int | None = None, unreadable: bool = False
) -> Written:
    """Say how PostgreSQL writes a page of a project's images. To read it raises UnknownProjectError when there is no such project.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    """
    name = scope(project_id, unreadable)
    place = _place(limit, after, offset, name) | {"project": project_id}

    def read(found: str | None) -> bytes:
        if found is None:
            raise UnknownProjectError(f"number {project_id}", [])
        return _page(found, name, limit)

    return Written(images_statement(limit, unreadable, after is not None, bool(offset)), place, limit, read)


def projects_json(connection: Connection, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> bytes:
    """Write a page of projects as JSON; otherwise as `catalog.projects`.

    Returns
    -------
    bytes
        `{"items": [...], "total": n, "next": "..." or null}`
    """
    if connection.dialect.name != "postgresql":
        return orjson.dumps(projects(connection, limit, after=after, offset=offset), option=FORM)
    return projects_written(limit, after=after, offset=offset).ask(connection)


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
    return images_written(project_id, limit, after=after, offset=offset, unreadable=unreadable).ask(connection)


@lru_cache(maxsize=MOST_TEXTS)
def images_statement(limit: int, unreadable: bool, below: bool, skips: bool) -> str:
    """Write the statement of a page of images; its parameters are the project, and where the page begins."""
    return PAGE.format(
        **_ends(limit, skips),
        total=f"project.{'unreadable' if unreadable else 'images'}",
        item=_item(IMAGE_COLUMNS),
        table="image",
        where=f"project_id = %(project)s{' AND error IS NOT NULL' if unreadable else ''}{BELOW if below else ''}",
        whole="project CROSS JOIN LATERAL",
        joined="WHERE project.id = %(project)s",
    )


@lru_cache(maxsize=MOST_TEXTS)
def projects_statement(limit: int, below: bool, skips: bool) -> str:
    """Write the statement of a page of projects."""
    return PAGE.format(
        **_ends(limit, skips),
        total="(SELECT count(*) FROM project)",
        item=_item(COLUMNS),
        table="project",
        where=f"true{BELOW if below else ''}",
        whole="",
        joined="",
    )


def _ends(limit: int, skips: bool) -> dict[str, Any]:
    return {"limit": int(limit), "most": int(limit) + 1, "skipped": " OFFSET %(offset)s" if skips else ""}


def _item(columns: Iterable[Column[Any]]) -> str:
    """Write what makes the JSON of a row, field by field: `row_to_json` looks up every type for every row, and takes 1.4 times as long."""
    fields = [f'"{column.name}":\' || {_value(column)}' for column in columns]
    return "'{" + " || ',".join(fields) + " || '}'"


def _value(column: Column[Any]) -> str:
    name = column.name
    if name == "created_at":
        return ZULU
    as_it_stands = isinstance(column.type, Integer | JSON)
    value = f"{name}::text" if as_it_stands else f"to_json({name})::text"
    return f"coalesce({value}, 'null')" if column.nullable else value


def _place(limit: int, after: str | None, offset: int | None, scope: str) -> dict[str, Any]:
    check_page(limit, after, offset)
    place: dict[str, Any] = {"offset": offset} if offset else {}
    if after is not None:
        above = decode_cursor(after, scope)
        place |= {"at": above.created_at, "below": above.id}
    return place


def _page(found: str, scope: str, limit: int) -> bytes:
    total, length, at, number, items = found.split(BETWEEN, 4)
    following = None
    if int(length) > limit:
        items, following = items[: items.rindex(BETWEEN)], encode_cursor(Place(datetime.fromisoformat(at), int(number)), scope)
    items = items.replace(BETWEEN, ",")
    return f'{{"items":[{items}],"total":{total},"next":{orjson.dumps(following).decode()}}}'.encode()
