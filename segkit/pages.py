"""Pages of a list: `limit` and a cursor (keyset), or `limit` and a small `offset`.

A list is sorted by (created_at, id), newest first. The next page starts below the last row of this one, which the cursor names;
an index on that pair finds it at once at any depth. The comparison must be of row values: written with OR, both databases
read every row above it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, literal, select, true, tuple_

from segkit.errors import CursorError, PageError

MOST_ROWS = 1000
DEEPEST_OFFSET = 100_000

Item = TypeVar("Item")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAYOUT = struct.Struct(">qq6s")
MARK_BYTES = 6


@dataclass(frozen=True)
class Page(Generic[Item]):
    """One page of a list."""

    items: tuple[Item, ...]
    total: int  #: rows of the whole list
    next: str | None = None  #: hand it back as `after` to get the next page; None on the last page


@dataclass(frozen=True)
class Place:
    """A row's place in a list."""

    created_at: datetime
    id: int


def encode_cursor(place: Place, scope: str) -> str:
    """Write a place as an opaque cursor, good only for the list that `scope` names.

    Examples
    --------
    >>> cursor = encode_cursor(Place(EPOCH, 7), "images of 1")
    >>> decode_cursor(cursor, "images of 1").id
    7
    """
    moment = (place.created_at - EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(LAYOUT.pack(moment, place.id, _mark(moment, place.id, scope))).decode()


def decode_cursor(cursor: str, scope: str) -> Place:
    """Read a cursor back.

    Raises
    ------
    CursorError
        It was changed, cut, made up, or given out by another list.
    """
    try:
        packed = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        moment, number, mark = LAYOUT.unpack(packed)
        created_at = EPOCH + timedelta(microseconds=moment)
    except (binascii.Error, struct.error, UnicodeError, OverflowError, AttributeError):
        raise CursorError from None
    # The last characters have bits to spare: of the texts that read the same, only the one that was given out is good.
    if mark != _mark(moment, number, scope) or base64.urlsafe_b64encode(packed).decode() != cursor:
        raise CursorError
    return Place(created_at, number)


def _mark(moment: int, number: int, scope: str) -> bytes:
    return hashlib.blake2b(f"{moment}:{number}:{scope}".encode("utf-8", "surrogatepass"), digest_size=MARK_BYTES).digest()


def check_page(limit: int, after: str | None, offset: int | None) -> None:
    """Refuse a page that would cost too much, or that is asked for in two ways at once.

    Raises
    ------
    PageError
        `limit` or `offset` is out of bounds, or both `after` and `offset` are given.
    """
    if not _whole(limit, 1, MOST_ROWS) or not _whole(offset or 0, 0, DEEPEST_OFFSET):
        raise PageError
    if after is not None and offset is not None:
        raise PageError("Give either `after` or `offset`, not both.")


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def cut(statement: Select[Any], created_at: Any, number: Any, scope: str, limit: int, after: str | None, offset: int | None) -> Select[Any]:
    """Sort a statement newest first and cut one page out of it, with one row more to tell whether another page follows.

    Parameters
    ----------
    statement : Select
        The whole list, unsorted.
    created_at, number : column
        What the list is sorted by; `number` is unique.
    scope : str
        Names the list and its filters, so that a cursor of another list is refused.
    limit, after, offset
        As the caller got them.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    """
    check_page(limit, after, offset)
    if after is not None:
        statement = statement.where(below(created_at, number, decode_cursor(after, scope)))
    statement = statement.order_by(created_at.desc(), number.desc()).limit(limit + 1)
    return statement.offset(offset) if offset else statement


def below(created_at: Any, number: Any, place: Place) -> ColumnElement[bool]:
    """Everything that comes after a place in a list that is sorted newest first."""
    return tuple_(created_at, number) < tuple_(literal(place.created_at, created_at.type), literal(place.id, number.type))


def page_of(rows: Sequence[Row[Any]], make: Callable[[Row[Any]], Item], total: int, scope: str, limit: int) -> Page[Item]:
    """Build the page from the rows of a statement that `cut` made; each row has `created_at` and `id`."""
    kept = rows[:limit]
    following = encode_cursor(Place(kept[-1].created_at, kept[-1].id), scope) if len(rows) > limit else None
    return Page(tuple(make(row) for row in kept), total, following)


def with_total(
    connection: Connection, total: Select[Any], chosen: Select[Any], keys: tuple[str, ...], *, down: bool = True
) -> tuple[int | None, Sequence[Row[Any]]]:
    """Fetch a page and the length of the whole list in one statement, also when the page is empty.

    Returns
    -------
    int or None, rows
        None when `total` selects nothing.
    """
    counted, listed = total.subquery("counted"), chosen.subquery("listed")
    order = [listed.c[key].desc() if down else listed.c[key] for key in keys]
    rows = connection.execute(select(counted.c.total, *listed.c).join_from(counted, listed, true(), isouter=True).order_by(*order)).all()
    if not rows:
        return None, []
    return rows[0].total, rows if rows[0].id is not None else []
