"""What takes longer than a request may: it goes on in a thread, and anybody may ask how far it is.

What is kept here is how far it is, nothing else: what was done lies in the database and on the disk, and asking for the same again
does nothing twice. So it may be forgotten when the service stops.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from segkit.errors import SegkitError, TooBusyError
from segkit.server.problems import words_of

THREADS = 2
MOST_WAITING = 100
#: So many ended tasks are remembered.
MOST_ENDED = 1000

#: What work is about: first its kind.
Key = tuple[Any, ...]

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where something stands that goes on in the background."""

    WAITING = "waiting"  #: for others to end
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  #: `error` says why


@dataclass(frozen=True)
class Work:
    """Something that goes on in the background, as it was when it was asked about."""

    id: int
    key: Key  #: what it is about; of each there is one at a time
    state: State
    started_at: datetime
    ended_at: datetime | None = None
    done: int = 0
    total: int | None = None  #: None: not known
    outcome: Any = None  #: what it returned
    error: str | None = None
    problem: str | None = None  #: what kind of error, as problem details are titled


class Stopped(Exception):
    """The service stops, so the work does too."""


Progress = Callable[[int, int | None], None]


class Background:
    """The threads of one server process, and what they do."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "segkit-background")
        self._works: dict[int, Work] = {}
        self._latest: dict[Key, int] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stopping = False

    def start(self, key: Key, call: Callable[[Progress], Any]) -> Work:
        """Start something, unless the same is going on already.

        Parameters
        ----------
        key
            Names what is done.
        call
            Does it, in a thread; it is to tell its progress now and then, and ends when that raises.

        Raises
        ------
        TooBusyError
            Too much waits already.
        """
        with self._lock:
            there = self._works.get(self._latest.get(key, 0))
            if there is not None and there.ended_at is None:
                return there
            if sum(each.ended_at is None for each in self._works.values()) >= MOST_WAITING:
                raise TooBusyError
            work = Work(next(self._numbers), key, State.WAITING, datetime.now(UTC))
            self._works[work.id] = work
            self._latest[key] = work.id
            self._forget()
        self._pool.submit(self._do, work.id, call)
        return work

    def find(self, number: int) -> Work | None:
        """Return a piece of work by its number; None when there is none, or it was forgotten."""
        with self._lock:
            return self._works.get(number)

    def latest(self, key: Key) -> Work | None:
        """Return the latest work of a key."""
        with self._lock:
            return self._works.get(self._latest.get(key, 0))

    def close(self) -> None:
        """Have everything stop, and wait for it."""
        self._stopping = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _do(self, number: int, call: Callable[[Progress], Any]) -> None:
        def progress(done: int, total: int | None) -> None:
            if self._stopping:
                raise Stopped
            self._change(number, done=done, total=total)

        self._change(number, state=State.RUNNING)
        try:
            outcome = call(progress)
        except Stopped:
            self._end(number, State.FAILED, error="The service was stopped. Ask again: what was done is kept.")
        except SegkitError as error:
            self._end(number, State.FAILED, error=str(error), problem=words_of(type(error)))
        except Exception as error:
            log.exception("This should not happen.")
            self._end(number, State.FAILED, error=f"This should not happen: {type(error).__name__}. The service's log says more.")
        else:
            self._end(number, State.DONE, outcome=outcome)

    def _end(self, number: int, state: State, **changes: Any) -> None:
        self._change(number, state=state, ended_at=datetime.now(UTC), **changes)

    def _change(self, number: int, **changes: Any) -> None:
        with self._lock:
            self._works[number] = replace(self._works[number], **changes)

    def _forget(self) -> None:
        ended = [number for number, each in self._works.items() if each.ended_at is not None]
        for number in ended[: max(0, len(ended) - MOST_ENDED)]:
            forgotten = self._works.pop(number)
            if self._latest.get(forgotten.key) == number:
                del self._latest[forgotten.key]
