"""What batches there are. Each list is one statement."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, true

from segkit.batches.queue import batch, has_status, unknown
from segkit.batches.records import Record
from segkit.errors import UnknownStatusError
from segkit.pages import Page, cut, page_of, with_total
from segkit.schema import ErrorKind, JobStatus

COLUMNS = [batch.c[field.name] for field in fields(Record)]


def record(connection: Connection, number: int) -> Record:
    """Return one batch.

    Raises
    ------
    UnknownBatchError
        There is none of this number.
    """
    row = connection.execute(select(*COLUMNS).where(batch.c.id == number)).one_or_none()
    if row is None:
        raise unknown(number)
    return record_of(row)


def page(
    connection: Connection,
    limit: int = 100,
    *,
    status: str | None = None,
    schedule_id: int | None = None,
    after: str | None = None,
    offset: int | None = None,
) -> Page[Record]:
    """List batches newest first: all, those in one state, or those of one schedule.

    Raises
    ------
    UnknownStatusError, PageError, CursorError
        The page cannot be given.
    """
    meant: ColumnElement[bool] = true()
    if status is not None:
        meant = has_status(known_status(status))
    if schedule_id is not None:
        meant = meant & (batch.c.schedule_id == schedule_id)
    scope = f"{status or 'all'} batches of {schedule_id or 'all'}"
    chosen = cut(select(*COLUMNS).where(meant), batch.c.created_at, batch.c.id, scope, limit, after, offset)
    total, rows = with_total(connection, select(func.count().label("total")).select_from(batch).where(meant), chosen, ("created_at", "id"))
    return page_of(rows, record_of, total or 0, scope, limit)


def known_status(name: str) -> JobStatus:
    """Refuse a state that there is not."""
    if name not in set(JobStatus):
        raise UnknownStatusError(name, JobStatus)
    return JobStatus(name)


def record_of(row: Row[Any]) -> Record:
    """Turn a row into a record."""
    values = dict(row._mapping)
    values.pop("total", None)
    kind = values.pop("error_kind")
    return Record(status=JobStatus(values.pop("status")), error_kind=ErrorKind(kind) if kind else None, **values)
