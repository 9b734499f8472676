"""A card: what one part of a dashboard shows, and what can be asked of it, without a word on how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from segkit.errors import DatabaseLateError

#: What a card shows, as JSON can hold it.
Facts = dict[str, Any]
#: Ends following a card.
Stop = Callable[[], None]
#: A page waits no longer for the database than this; it is drawn without, and shows what comes later.
PATIENCE_SECONDS = 1.0
#: Threads that look at databases while pages wait.
LOOKERS = 4
Found = TypeVar("Found")


@cache
def lookers() -> ThreadPoolExecutor:
    """Return the threads that look at databases for pages."""
    return ThreadPoolExecutor(LOOKERS, thread_name_prefix="segkit-looking")


def within(seconds: float, looking: Future[Found]) -> Found:
    """Wait so long, and no longer, for what a thread of `lookers` finds.

    Raises
    ------
    DatabaseLateError
        It has not found it yet. It goes on.
    """
    try:
        return looking.result(seconds)
    except TimeoutError:
        if looking.done():
            raise  # the database's own
        raise DatabaseLateError from None


class Card:
    """What a part of a dashboard shows. Its facts may be asked for at any time, from any thread.

    A page may ask a card by name (`answers`); what changes something is in `changes` too, and is refused to who may only look.
    """

    kind = ""  #: of the script that draws it
    title = ""
    changes: frozenset[str] = frozenset()

    def facts(self) -> Facts:
        """Return what is to be shown now."""
        return {}

    def answers(self) -> Mapping[str, Callable[[Facts], Facts]]:
        """Return what can be asked, by name."""
        return {}

    def follow(self, tell: Callable[[], None]) -> Stop:
        """Call `tell`, from another thread, whenever there are other facts; returns what ends that."""
        return lambda: None


def moment(when: datetime | None) -> float | None:
    """Write a time as JSON can: in seconds since 1970."""
    return None if when is None else when.timestamp()
