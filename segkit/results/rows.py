"""Results in the database: what was committed, by which attempt, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, Row, Select, func, select
from sqlalchemy import insert as into

from segkit.database import now_sql
from segkit.errors import UnknownImageError, UnknownRunError
from segkit.pages import EPOCH, Page, Place, check_page, cut, decode_cursor, encode_cursor, page_of, with_total
from segkit.rows import given
from segkit.schema import Base

correction, image, result, run = (Base.metadata.tables[name] for name in ("correction", "image", "result", "run"))


@dataclass(frozen=True)
class NewResult:
    """A published result that is about to be committed."""

    job_id: int
    run_id: int
    image_id: int
    attempt: int
    path: str  #: relative to the home folder
    checksum: str
    objects: int
    summary: dict[str, Any]
    bytes: int
    seconds: float  #: of computing, without waiting


@dataclass(frozen=True)
class Record:
    """A committed result."""

    job_id: int
    run_id: int
    image_id: int
    attempt: int
    path: str  #: relative to the home folder; `locate` gives the full one
    checksum: str
    objects: int
    summary: dict[str, Any]
    bytes: int
    seconds: float
    created_at: datetime
    image: str  #: name of the image
    uri: str  #: where the image lies


def insert(connection: Connection, rows: Sequence[NewResult]) -> None:
    """Add results, in the transaction that finishes their jobs. A job has one result at most: a second is an error of the database."""
    if rows:
        connection.execute(*insertion(connection, rows))


def insertion(connection: Connection, rows: Sequence[NewResult]) -> tuple[Insert, dict[str, Any]]:
    """Return the statement of `insert` and its parameters, for who has it executed along with another, as `jobs.exchange` does."""
    return insert_statement(connection.dialect.name), {"results": [vars(row) for row in rows]}


@cache
def insert_statement(dialect: str) -> Insert:
    """Insert the given rows in one statement, whatever their number."""
    new = given(dialect, {field.name: result.c[field.name].type for field in fields(NewResult)}, "results")
    rows = select(*new.c, now_sql())
    return into(result).from_select([*new.c.keys(), "created_at"], rows, include_defaults=False)


def of_run(connection: Connection, run_id: int, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[Record]:
    """List the results of a run, in the order of its jobs.

    Raises
    ------
    UnknownRunError
        There is no such run.
    PageError, CursorError
        The page cannot be given.
    """
    check_page(limit, after, offset)
    scope = f"results of run {run_id}"
    page = records().where(result.c.run_id == run_id).order_by(result.c.job_id).limit(limit + 1).offset(offset)
    if after is not None:
        page = page.where(result.c.job_id > decode_cursor(after, scope).id)
    total, rows = with_total(connection, select(run.c.done.label("total")).where(run.c.id == run_id), page, ("id",), down=False)
    if total is None:
        raise UnknownRunError(f"There is no run {run_id}. `segkit list runs` shows them.")
    following = encode_cursor(Place(EPOCH, rows[limit - 1].id), scope) if len(rows) > limit else None
    return Page(tuple(record_of(row) for row in rows[:limit]), total, following)


def from_job(connection: Connection, run_id: int, job_id: int, limit: int) -> list[Record]:
    """List the results of a run from a job on, in the order of its jobs."""
    chosen = records().where(result.c.run_id == run_id, result.c.job_id >= job_id).order_by(result.c.job_id).limit(limit)
    return [record_of(row) for row in connection.execute(chosen)]


def of_image(
    connection: Connection, image_id: int, limit: int = 100, *, after: str | None = None, offset: int | None = None
) -> Page[Record]:
    """List the results of an image, newest first.

    Raises
    ------
    UnknownImageError
        There is no such image.
    PageError, CursorError
        The page cannot be given.
    """
    scope = f"results of image {image_id}"
    page = cut(records().where(result.c.image_id == image_id), result.c.created_at, result.c.job_id, scope, limit, after, offset)
    counted = select(func.count()).where(result.c.image_id == image_id).scalar_subquery()
    total, rows = with_total(connection, select(counted.label("total")).where(image.c.id == image_id), page, ("created_at", "id"))
    if total is None:
        raise UnknownImageError(f"There is no image {image_id}.")
    return page_of(rows, record_of, total, scope, limit)


def paths(connection: Connection) -> set[str]:
    """Every path that a committed result, or a version of one, uses: what `sweep` must keep."""
    return set(connection.execute(select(result.c.path).union(select(correction.c.path))).scalars())


def records() -> Select[Any]:
    """Select results with the names and places of their images; `id` is the job's."""
    columns = (*result.c, result.c.job_id.label("id"), image.c.name.label("image"), image.c.uri)
    return select(*columns).join_from(result, image, image.c.id == result.c.image_id)


def record_of(row: Row[Any]) -> Record:
    """Turn a row into a record."""
    fields = dict(row._mapping)
    del fields["id"]
    fields.pop("total", None)
    return Record(**fields)
