"""Work of which only the newest counts: while a slider moves, what it passed is not computed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from segkit.widgets.answering import threads

log = logging.getLogger(__name__)


class Newest:
    """Runs one call at a time off the main thread; of those that come meanwhile only the last is run."""

    def __init__(self) -> None:
        self._next: Callable[[], None] | None = None
        self._running = False
        self._changed = threading.Condition()

    def submit(self, call: Callable[[], None]) -> None:
        """Run this as soon as the thread is free, unless a newer call comes first."""
        with self._changed:
            self._next = call
            if not self._running:
                self._running = True
                threads().submit(self._run).add_done_callback(self._ended)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to run; False when it took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)

    @property
    def overtaken(self) -> bool:
        """Whether a newer call waits, so that the present one may give up."""
        return self._next is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                call, self._next = self._next, None
                if call is None:
                    self._running = False
                    self._changed.notify_all()
                    return
            call()

    def _ended(self, future: Future[None]) -> None:
        """Let others in again after a call that failed."""
        error = future.exception()
        if error is None:
            return
        log.error("What a widget computes failed", exc_info=error)
        with self._changed:
            self._running, self._next = False, None
            self._changed.notify_all()
