"""A widget whose page asks and whose kernel answers, off the thread that runs cells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import anywidget

from segkit.errors import SegkitError

#: What the page asks, and the bytes that travel beside it.
Asked = Mapping[str, Any]
#: What it is told, and the bytes that travel beside that.
Answer = tuple[dict[str, Any], list[bytes]]

THREADS = 4

log = logging.getLogger(__name__)


@cache
def threads() -> ThreadPoolExecutor:
    """Return the threads that answer, shared by all widgets."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="segkit-widgets")


class Answering(anywidget.AnyWidget):
    """The page sends `{"id": ..., "ask": name, ...}`; it gets `{"id": ..., ...}` and buffers, or an error in words.

    Plain custom messages, which JupyterLab, Voila and VS Code all carry.
    """

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.on_msg(self._asked)

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what can be asked, by name."""
        return {}

    def answer(self, content: Asked, buffers: Sequence[Any] = ()) -> Answer:
        """Answer one question, in the thread that calls."""
        return self.answers()[content["ask"]](content, buffers)

    def _asked(self, widget: Any, content: Asked, buffers: Sequence[Any]) -> None:
        if isinstance(content, dict) and content.get("ask") in self.answers():
            threads().submit(self.answer, content, buffers or ()).add_done_callback(partial(self._deliver, content.get("id")))

    def _deliver(self, number: Any, future: Future[Answer]) -> None:
        error = future.exception()
        if error is None:
            content, buffers = future.result()
            self.send({"id": number, **content}, buffers)
            return
        if not isinstance(error, SegkitError):
            log.error("A widget could not answer", exc_info=error)
        self.send({"id": number, "error": str(error) or type(error).__name__})

    def tell(self, what: str, **content: Any) -> None:
        """Send the page news that it did not ask for; from any thread."""
        self.send({"tell": what, **content})
