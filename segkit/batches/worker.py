"""The loop that works batches off: claim within the cap, run each in a thread, keep its lease, commit how it ended, tell who asked.

One per process; `segkit worker` runs one beside the worker of jobs, since the notebook of a batch queues jobs and waits for them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from segkit.batches import notices, queue
from segkit.batches.execution import Watch, execute
from segkit.batches.records import Claim, Ended
from segkit.database import Database
from segkit.errors import DatabaseError
from segkit.schema import ErrorKind
from segkit.settings import Settings, cores
from segkit.worker import worker_name

log = logging.getLogger(__name__)

#: Progress is written no more often than this.
REPORT_SECONDS = 0.2
#: How long a stopped kernel may take to be gone.
END_SECONDS = 30
WITHDRAWN = "It was cancelled, or given to another worker."
STOPPED = "The worker was stopped."


@dataclass
class Flight:
    """A batch that runs in this process."""

    claim: Claim
    watch: Watch
    future: Future[Ended] = field(default_factory=Future)


class BatchWorker:
    """Works batches off until told to stop.

    Parameters
    ----------
    database, settings
        Where the batches are, and how to work.
    watch : callable, optional
        Called with the number of a batch whenever something happened to it.
    """

    def __init__(self, database: Database, settings: Settings, watch: Callable[[int], None] | None = None) -> None:
        self.database = database
        self.settings = settings
        self.name = f"{worker_name()}:batches"
        self.done = 0
        self.failed = 0
        self._watch = watch or (lambda number: None)
        self._most = settings.batches_at_once or max(1, cores() // 2)
        self._flights: list[Flight] = []
        self._stopping = threading.Event()
        self._beat_again = 0.0
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="segkit-batch")

    def stop(self) -> None:
        """Claim no more, end the kernels that run and give their batches back. Safe from any thread or signal handler."""
        self._stopping.set()

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Work until `stop`, or until `until` says so while nothing runs here."""
        try:
            while not self._stopping.is_set():
                self._step()
                if not self._flights and until is not None and until():
                    return
                self._pause()
        finally:
            self._wind_down()
            self._pool.shutdown()

    def _step(self) -> None:
        """Look after everything once. A database that is gone for a while is waited for."""
        try:
            self._land()
            self._claim()
            self._keep()
            notices.tell(self.database)
        except DatabaseError as error:
            log.warning("%s Trying again.", error)

    def _pause(self) -> None:
        """Wait until one has ended, or for the next look."""
        if self._flights:
            wait([flight.future for flight in self._flights], timeout=self.settings.poll_seconds, return_when="FIRST_COMPLETED")
        else:
            self._stopping.wait(self.settings.poll_seconds)

    def _claim(self) -> None:
        room = self._most - len(self._flights)
        if room < 1:
            return
        with self.database.read() as connection:
            if not queue.anything_to_do(connection):
                return
        with self.database.write() as connection:
            claims = queue.claim(connection, self.name, room, self.settings.lease_seconds, self._most)
        for claim in claims:
            flight = Flight(claim, Watch())
            flight.watch.report = Reporter(self.database, claim, self._watch)
            flight.future = self._pool.submit(execute, claim, self.settings, flight.watch)
            self._flights.append(flight)
            self._watch(claim.id)

    def _keep(self) -> None:
        """Renew the leases, and stop what is not ours any more."""
        claims = [flight.claim for flight in self._flights]
        if not claims:
            return
        with self.database.read() as connection:
            ours = queue.standing(connection, claims)
        for flight in self._flights:
            if flight.claim.id not in ours:
                flight.watch.stop(WITHDRAWN)
        if time.monotonic() >= self._beat_again:
            self._beat_again = time.monotonic() + self.settings.beat_seconds
            with self.database.write() as connection:
                queue.renew(connection, claims, self.settings.lease_seconds)

    def _land(self) -> None:
        """Commit how those ended that have."""
        for flight in [each for each in self._flights if each.future.done()]:
            ended = self._outcome(flight)
            with self.database.write() as connection:
                held = queue.finish(connection, flight.claim, ended, retry_seconds=self.settings.retry_seconds)
            self._flights.remove(flight)
            self.done += held and ended.reason is None
            self.failed += held and ended.reason is not None
            self._watch(flight.claim.id)

    def _outcome(self, flight: Flight) -> Ended:
        """Read how an attempt ended; what nobody foresaw may not happen again, and is tried again."""
        fault = flight.future.exception()
        if fault is None:
            return flight.future.result()
        log.error("Batch %d could not be run", flight.claim.id, exc_info=fault)
        return Ended(kind=ErrorKind.INFRASTRUCTURE, reason=f"The notebook could not be run: {type(fault).__name__}: {fault}")

    def _wind_down(self) -> None:
        """End the kernels that run and give their batches back: run again, they go on where they were."""
        running = [flight for flight in self._flights if not flight.future.done()]
        for flight in running:
            flight.watch.stop(STOPPED)
        wait([flight.future for flight in running], timeout=END_SECONDS)
        try:
            with self.database.write() as connection:
                queue.release(connection, [flight.claim for flight in running])
            self._flights = [flight for flight in self._flights if flight not in running]
            self._land()
            notices.tell(self.database)
        except DatabaseError as error:
            log.warning("Batches could not be given back (%s); they return when their leases run out", error)


class Reporter:
    """Writes how far a batch has come, not too often."""

    def __init__(self, database: Database, claim: Claim, watch: Callable[[int], None]) -> None:
        self._database = database
        self._claim = claim
        self._watch = watch
        self._again = 0.0

    def __call__(self, cell: int, cells: int) -> None:
        """Note the number of cells that have ended."""
        if time.monotonic() < self._again:
            return
        self._again = time.monotonic() + REPORT_SECONDS
        try:
            with self._database.write() as connection:
                queue.report(connection, self._claim, cell, cells)
        except DatabaseError as error:
            log.info("Progress of batch %d could not be written: %s", self._claim.id, error)
        self._watch(self._claim.id)


@contextmanager
def beside(worker: BatchWorker) -> Iterator[BatchWorker]:
    """Run a worker in a thread of its own while this block lasts."""
    thread = threading.Thread(target=worker.run, name="segkit-batches", daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()
