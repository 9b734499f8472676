"""The queue as it is now, looked at once for all who watch: only when something was committed, and a few times a second at most.

A look costs a handful of short statements over counters, whatever the number of jobs; nobody reads the table of jobs to see how
far it is. While nobody watches, nothing is looked at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise

from segkit import events, jobs
from segkit.boards.cards import PATIENCE_SECONDS, Stop, lookers, within
from segkit.errors import DatabaseLateError, SegkitError
from segkit.jobs.records import Counts
from segkit.kit import Kit

log = logging.getLogger(__name__)

#: Least time between two looks, so that thousands of updates a second cost no more than four.
LOOK_SECONDS = 0.25
#: Longest time between two looks: leases run out without a commit, and rates fall.
LONGEST_SECONDS = 5.0
#: After a failed look the next one waits so long.
PAUSE_SECONDS = 1.0
LATEST_RUNS, LATEST_FAILURES, MOST_ACTIVE = 20, 50, 100
#: The sparkline: so many points, of so many seconds each.
POINTS, POINT_SECONDS = 60, 10.0
#: Counts of a run that are kept for its pace.
MOST_COUNTED = 400


@dataclass(frozen=True)
class Snapshot:
    """The queue at one moment."""

    at: datetime
    summary: jobs.Summary
    runs: tuple[jobs.Run, ...] = ()  #: those with jobs left in the order they are worked off, then the latest others
    workers: tuple[jobs.Holder, ...] = ()
    failures: tuple[jobs.Job, ...] = ()  #: the latest first
    pace: jobs.Pace | None = None  #: of the whole queue
    paces: dict[int, jobs.Pace | None] = field(default_factory=dict)  #: by run
    ended: tuple[int, ...] = ()  #: jobs that ended in each of the last spans of `POINT_SECONDS`, the present one last
    fault: str | None = None  #: why this is not the present


EMPTY = jobs.Summary(queued=0, running=0, done=0, failed=0, cancelled=0, objects=0, runs=0, active=0)


def ended_of(counts: Counts) -> int:
    """Count the jobs that a worker ended; cancelling is no work."""
    return counts.done + counts.failed


class Counted:
    """How many jobs had ended at which moments, thinned so that the last minutes fit."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque(maxlen=MOST_COUNTED)

    def add(self, when: float, ended: int) -> None:
        """Note a count. Jobs that are queued again lower it: then what was counted says nothing any more."""
        if self._counts and ended < self._counts[-1][1]:
            self._counts.clear()
        if len(self._counts) > 1 and when - self._counts[-2][0] < 1.0:
            self._counts.pop()
        self._counts.append((when, ended))

    def seed(self, when: float, now: datetime, ended: int, times: list[datetime]) -> None:
        """Note what had ended before anybody watched, from the times of the last jobs that ended."""
        for place, moment in enumerate(times):
            self.add(when - (now - moment).total_seconds(), ended - len(times) + place)

    def pace(self) -> jobs.Pace | None:
        """Tell the pace of the last minutes."""
        return jobs.pace_of(list(self._counts)) if self._counts else None


class Board:
    """The queue of one kit, live. Several may follow it; each is called from the board's thread after every look that found news."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._snapshot = Snapshot(datetime.now(UTC), EMPTY)
        self._looked = 0.0
        self._listeners: dict[int, Callable[[Snapshot], None]] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._aside: Future[Snapshot] | None = None  #: a look that somebody waits for
        self._late = False
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._counted: dict[int, Counted] = {}
        self._all = Counted()
        self._points: deque[tuple[float, int]] = deque(maxlen=POINTS + 1)

    @property
    def kit(self) -> Kit:
        """What it looks at."""
        return self._kit

    def snapshot(self) -> Snapshot:
        """Return the queue as it was at the last look, which was just now or is made now.

        A database that does not answer is waited for once, for `PATIENCE_SECONDS`; meanwhile that is the fault of what was seen last.
        """
        if time.monotonic() - self._looked <= LOOK_SECONDS:
            return self._snapshot
        looking, patience = self._look_aside()
        try:
            return within(patience, looking)
        except DatabaseLateError as error:
            if patience:
                looking.add_done_callback(lambda done: self.wake())
            self._late = True
            return replace(self._snapshot, fault=str(error))

    def _look_aside(self) -> tuple[Future[Snapshot], float]:
        """Look in another thread, unless one does already; with how long that is worth waiting for."""
        with self._lock:
            if self._aside is None or self._aside.done():
                self._aside, self._late = lookers().submit(self.look), False
            return self._aside, 0.0 if self._late else PATIENCE_SECONDS

    def follow(self, listener: Callable[[Snapshot], None]) -> Stop:
        """Call somebody after each look that found news, until the returned function is called."""
        with self._lock:
            self._number += 1
            number = self._number
            self._listeners[number] = listener
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="segkit-board", daemon=True)
                self._thread.start()
        return lambda: self._leave(number)

    def wake(self) -> None:
        """Look soon: somebody knows that there is news."""
        self._woken.set()

    def followers(self) -> int:
        """How many follow."""
        with self._lock:
            return len(self._listeners)

    def look(self) -> Snapshot:
        """Look at the database now; a fault is part of what is seen, beside what was seen last."""
        with self._looking:
            try:
                self._snapshot = self._read()
            except SegkitError as error:
                self._snapshot = replace(self._snapshot, fault=str(error))
            self._looked = time.monotonic()
            return self._snapshot

    def _leave(self, number: int) -> None:
        with self._lock:
            self._listeners.pop(number, None)
            if not self._listeners:
                self._woken.set()

    def _read(self) -> Snapshot:
        with self._kit.database.read() as connection:
            summary = jobs.summary(connection)
            active = jobs.active_runs(connection, MOST_ACTIVE) if summary.active else []
            known = {run.id for run in active}
            runs = (*active, *(run for run in jobs.runs(connection, LATEST_RUNS).items if run.id not in known))
            workers = tuple(jobs.workers(connection)) if summary.running else ()
            failing = [run.id for run in runs if run.failed]
            failures = tuple(jobs.latest_failures(connection, failing, LATEST_FAILURES))
            seeds = {run.id: jobs.ended_lately(connection, run.id) for run in active if run.id not in self._counted}
        now, when = datetime.now(UTC), time.monotonic()
        self._count(runs, seeds, now, when)
        self._all.add(when, ended_of(summary))
        paces = {run.id: self._counted[run.id].pace() for run in active}
        return Snapshot(
            now, summary, runs, workers, failures, self._whole_pace(summary, paces), paces, self._spark(when, ended_of(summary))
        )

    def _count(self, runs: tuple[jobs.Run, ...], seeds: dict[int, list[datetime]], now: datetime, when: float) -> None:
        """Note how far each run is."""
        self._counted = {run.id: self._counted.get(run.id, Counted()) for run in runs if run.left}
        for run in runs:
            if run.left:
                if run.id in seeds:
                    self._counted[run.id].seed(when, now, ended_of(run), seeds[run.id])
                self._counted[run.id].add(when, ended_of(run))

    def _whole_pace(self, summary: jobs.Summary, paces: dict[int, jobs.Pace | None]) -> jobs.Pace | None:
        """Tell the pace of everything; of a single run that is the run's own, which may reach back to before anybody watched."""
        if summary.active == 1:
            return next(iter(paces.values()))
        return self._all.pace() if summary.active else None

    def _spark(self, when: float, ended: int) -> tuple[int, ...]:
        """Return how many jobs ended in each of the last spans of time."""
        span = int(when / POINT_SECONDS)
        if not self._points or span - self._points[-1][0] > POINTS:
            self._points.clear()
            self._points.append((span - 1, ended))
        if self._points[-1][0] == span:
            self._points.pop()
        while self._points[-1][0] < span - 1:
            self._points.append((self._points[-1][0] + 1, self._points[-1][1]))
        self._points.append((span, ended))
        counts = [count for _, count in self._points]
        return tuple(max(0, after - before) for before, after in pairwise(counts))

    def _watch(self) -> None:
        """Wait for news and look, until nobody follows any more."""
        follower = events.follow(self._kit.settings, self._kit.database, lambda changes: self._woken.set())
        try:
            while self._anybody():
                self._woken.wait(PAUSE_SECONDS if self._snapshot.fault else LONGEST_SECONDS)
                self._woken.clear()
                self._tell(self.look())
                time.sleep(LOOK_SECONDS)
        finally:
            follower.close()

    def _anybody(self) -> bool:
        with self._lock:
            if not self._listeners:
                self._thread = None
            return self._thread is not None

    def _tell(self, snapshot: Snapshot) -> None:
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            try:
                listener(snapshot)
            except RuntimeError as error:  # its page or kernel is going down at this moment
                log.debug("A follower could not be told: %s", error)


_making = threading.Lock()


def board_of(kit: Kit) -> Board:
    """Return the one board of a kit, which lives as long as the kit."""
    with _making:
        board: Board = vars(kit).setdefault("_board", None) or Board(kit)
        vars(kit)["_board"] = board
        return board
