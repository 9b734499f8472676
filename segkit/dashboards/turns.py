"""Threads that work for pages, and how what they bring gets back into a page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import panel as pn

log = logging.getLogger(__name__)
THREADS = 4


@cache
def threads() -> ThreadPoolExecutor:
    """Return the threads that answer pages, so that a slow answer stops no page."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="segkit-dashboards")


class Turns:
    """Lets other threads do something in a page when it is that page's turn.

    A document notes such a callback without a lock. One that a thread adds while the page is still being made can be lost, and the page
    would wait for ever; so it is added by the thread that makes pages.
    """

    def __init__(self) -> None:
        self._document = pn.state.curdoc
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # a notebook, or a page that is made in a thread
            self._loop = None

    @property
    def on_page(self) -> bool:
        """Whether there is a page, and no notebook."""
        return self._document is not None

    def later(self, call: Callable[[], None]) -> None:
        """Call something at the page's next turn; in a notebook at once. From any thread."""
        if self._document is None:
            call()
        elif self._loop is None:
            self._document.add_next_tick_callback(call)
        else:
            try:
                self._loop.call_soon_threadsafe(self._document.add_next_tick_callback, call)
            except RuntimeError as error:  # the server is going down at this moment
                log.debug("A page could not be told: %s", error)
