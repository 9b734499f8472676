"""Cursors and pages: what a caller may ask for, and that a cursor cannot be made up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import CursorError, PageError
from segkit.pages import DEEPEST_OFFSET, MOST_ROWS, Place, check_page, decode_cursor, encode_cursor

MOMENTS = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))


@given(MOMENTS, st.integers(0, 2**63 - 1))
def test_a_cursor_reads_back(moment: datetime, number: int) -> None:
    place = Place(moment, number)
    assert decode_cursor(encode_cursor(place, "images of 1"), "images of 1") == place


@given(st.text(max_size=60))
def test_made_up_cursors_are_refused(text: str) -> None:
    with pytest.raises(CursorError):
        decode_cursor(text, "images of 1")


def test_a_cursor_of_another_list_is_refused() -> None:
    cursor = encode_cursor(Place(datetime(2026, 1, 1, tzinfo=UTC), 3), "images of 1")
    with pytest.raises(CursorError):
        decode_cursor(cursor, "images of 2")


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_cursor_is_refused(position: int, change: int) -> None:
    cursor = bytearray(encode_cursor(Place(datetime(2026, 1, 1, tzinfo=UTC), 3), "runs").encode())
    position %= len(cursor)
    cursor[position] ^= change
    try:
        text = cursor.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(CursorError):
        decode_cursor(text, "runs")


@pytest.mark.parametrize("limit", [0, -1, MOST_ROWS + 1, True, 1.5, "10", None])
def test_limits_have_bounds(limit: object) -> None:
    with pytest.raises(PageError):
        check_page(limit, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [-1, DEEPEST_OFFSET + 1, 1.5, "3"])
def test_offsets_have_bounds(offset: object) -> None:
    with pytest.raises(PageError):
        check_page(10, None, offset)  # type: ignore[arg-type]


def test_after_and_offset_exclude_each_other() -> None:
    with pytest.raises(PageError, match="not both"):
        check_page(10, "x", 5)
