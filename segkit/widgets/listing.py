"""Any stretch of a long list, for a page that scrolls: by offset where that is cheap, otherwise from the nearest known cursor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from segkit.pages import DEEPEST_OFFSET, MOST_ROWS, Page


class Listing:
    """Rows of a list by their place in it.

    Parameters
    ----------
    page : callable
        `page(limit, after=..., offset=...)`, as the catalog and the queue list things.
    """

    def __init__(self, page: Callable[..., Page[Any]]) -> None:
        self._page = page
        self._cursors: dict[int, str] = {}
        self._lock = threading.Lock()

    def rows(self, start: int, count: int) -> list[Any]:
        """Return up to `count` rows (at most 1000) from place `start`; fewer at the end of the list."""
        count = max(1, min(count, MOST_ROWS))
        if start in self._cursors or start <= DEEPEST_OFFSET:
            return list(self._at(start, count).items)
        with self._lock:
            for reached in self._walk(start):
                if reached >= start:
                    break
        return list(self._at(start, count).items) if start in self._cursors else []

    def forget(self) -> None:
        """Start anew: the list has changed above what was seen."""
        self._cursors.clear()

    def _at(self, start: int, count: int) -> Page[Any]:
        cursor = self._cursors.get(start)
        page = self._page(count, after=cursor) if cursor is not None else self._page(count, offset=start)
        if page.next is not None:
            self._cursors[start + len(page.items)] = page.next
        return page

    def _walk(self, goal: int) -> Iterator[int]:
        """Go from the nearest known place below to the goal, which becomes known unless the list ends before."""
        place = max((known for known in self._cursors if known < goal), default=DEEPEST_OFFSET)
        while place < goal:
            page = self._at(place, min(MOST_ROWS, goal - place))
            if page.next is None:
                return
            place += len(page.items)
            yield place
