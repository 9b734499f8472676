"""The loop that lets schedules tick. Any number may be up: `segkit scheduler`, or a thread inside another process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segkit import batches
from segkit.database import Database
from segkit.errors import DatabaseError, ScheduleError
from segkit.schedule.file import sync
from segkit.schedule.store import tick
from segkit.settings import Settings

log = logging.getLogger(__name__)


class Scheduler:
    """Lets schedules tick until told to stop. It only queues: workers run the batches.

    Parameters
    ----------
    database, settings
        Where the schedules are.
    file : path, optional
        A file that names schedules; read again whenever it changes.
    watch : callable, optional
        Called with the number of each batch that is queued.
    """

    def __init__(
        self, database: Database, settings: Settings, file: str | Path | None = None, watch: Callable[[int], None] | None = None
    ) -> None:
        self.database = database
        self.settings = settings
        self.queued = 0
        self._file = None if file is None else Path(file)
        self._file_state: tuple[int, int] | None = None
        self._watch = watch or (lambda number: None)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the loop. Safe from any thread or signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Tick until `stop`. A database that is gone for a while is waited for."""
        while not self._stopping.is_set():
            try:
                self.step()
            except DatabaseError as error:
                log.warning("%s Trying again.", error)
            self._stopping.wait(self.settings.poll_seconds)

    def step(self) -> None:
        """Look once: at the file, at the schedules, and at notices that are due."""
        self._read_file()
        for number in tick(self.database, self.settings):
            self.queued += 1
            self._watch(number)
        batches.tell(self.database)

    def _read_file(self) -> None:
        if self._file is None or not self._file.is_file():
            return
        status = self._file.stat()
        state = (status.st_mtime_ns, status.st_size)
        if state == self._file_state:
            return
        self._file_state = state
        try:
            sync(self.database, self.settings, self._file)
        except ScheduleError as error:
            log.warning("%s The schedules stay as they are.", error)


@contextmanager
def beside(scheduler: Scheduler) -> Iterator[Scheduler]:
    """Run a scheduler in a thread of its own while this block lasts."""
    thread = threading.Thread(target=scheduler.run, name="segkit-scheduler", daemon=True)
    thread.start()
    try:
        yield scheduler
    finally:
        scheduler.stop()
        thread.join()
