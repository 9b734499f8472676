"""One writer at a time, of all threads and processes that use a SQLite file, in turn.

The lock is a file beside the database, locked with `flock`, which the system lifts when a process dies. A second file is the turn:
who waits for the lock holds the turn, so the process that just wrote cannot write again before it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from segkit.database.faults import folder_fault
from segkit.errors import DatabaseBusyError

#: `flock` cannot wait for a limited time, so one looks again and again; for one's turn, and more often for the lock itself.
LOOK_SECONDS = {"turn": 0.002, "lock": 0.0002}


class WriteLock:
    """What one thread of one process holds while it writes to a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._database = path
        self._threads = threading.Lock()
        self._files: dict[str, int] = {}

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Hold the lock in this block; wait for it at most so many seconds.

        Raises
        ------
        DatabaseBusyError
            Others kept it all the time.
        """
        until = time.monotonic() + seconds
        if not self._threads.acquire(timeout=seconds):
            raise DatabaseBusyError
        try:
            with ExitStack() as stack:
                with self._locked("turn", until):
                    stack.enter_context(self._locked("lock", until))
                yield
        finally:
            self._threads.release()

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        with self._threads:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    @contextmanager
    def _locked(self, name: str, until: float) -> Iterator[None]:
        file = self._open(name)
        while not _try_lock(file):
            if time.monotonic() > until:
                raise DatabaseBusyError
            time.sleep(LOOK_SECONDS[name])
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _open(self, name: str) -> int:
        if name not in self._files:
            try:
                path = self._database.with_name(f"{self._database.name}.write-{name}")
                self._files[name] = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise folder_fault(error, self._database) from error
        return self._files[name]


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
