"""The hub of live events: what changed lately, in order, and who reads it how far."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson
from anyio import to_thread

from segkit import events
from segkit.errors import SegkitError
from segkit.events import Change, RunState
from segkit.kit import Kit
from segkit.schema import JobStatus
from segkit.server.messages import Written, joined, written_job, written_run
from segkit.server.zerocopy import text_frame

log = logging.getLogger(__name__)

WINDOW_SECONDS = 0.1
#: What belongs to one commit comes together; so long it is waited for when a job has ended.
GATHER_SECONDS = 0.001
#: The end of a job is sent at once, but not more often than so many times a second, which with the windows is under 20 messages.
URGENT_PER_SECOND, MOST_URGENT = 7.0, 3.0
#: After so many readers it is looked whether a job has ended meanwhile.
GIVEN_BETWEEN = 32
#: The database is looked at so often even when nobody says that something changed.
LOOK_SECONDS = 2.0
#: Changes that a reader who was away can catch up with; beyond that he gets the whole state.
MOST_KEPT = 10_000
#: What a publisher says of a job that is so, whatever comes after. An attempt that failed may be made again.
TRUSTED = set(JobStatus) - {JobStatus.FAILED}
#: Messages that are kept for other readers until the next change.
MOST_MADE = 2000


class Subscription(NamedTuple):
    """What a reader wants to hear of: these runs, jobs and projects together; None of all three means everything."""

    runs: frozenset[int] | None = None
    jobs: frozenset[int] | None = None
    projects: frozenset[int] | None = None


EVERYTHING = Subscription()


@dataclass(eq=False, slots=True)
class Reader:
    """One reader, and how far he has come."""

    subscription: Subscription
    since: str | None  #: id of the last message he saw
    #: gives him a frame at once, where that can be; tells whether it went
    push: Callable[[bytes], bool] | None = field(default=None, repr=False)
    waiting: asyncio.Future[None] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Entry:
    """The newest of one job or run."""

    number: int  #: of the flush that brought it
    job_id: int | None
    written: Written


@dataclass
class Fresh:
    """What is newer than a flush, by what readers subscribe to."""

    all: list[Entry] = field(default_factory=list)
    by_run: defaultdict[int, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    by_project: defaultdict[int | None, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    by_job: dict[int | None, Entry] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Sort an entry in."""
        self.all.append(entry)
        self.by_run[entry.written.run_id].append(entry)
        self.by_project[entry.written.project_id].append(entry)
        if entry.job_id is not None:
            self.by_job[entry.job_id] = entry

    def wanted(self, subscription: Subscription) -> Iterable[Entry]:
        """Return what a subscription is about, each once."""
        if subscription == EVERYTHING:
            return self.all
        found = [entry for run in subscription.runs or () for entry in self.by_run.get(run, ())]
        found += [entry for project in subscription.projects or () for entry in self.by_project.get(project, ())]
        found += [self.by_job[job] for job in subscription.jobs or () if job in self.by_job]
        return dict.fromkeys(found) if len(found) > 1 else found


class Hub:
    """Hears what changes, collects it in windows, and makes the messages. Used on the event loop."""

    def __init__(self, kit: Kit) -> None:
        self.is_closed = False
        self.flushes = 0
        self.readers = 0  #: who wait for news now
        self._kit = kit
        self._epoch = secrets.token_hex(4)
        self._number = 0  #: of the last flush that brought something
        self._horizon = 0  #: flushes up to here are not kept whole
        self._entries: OrderedDict[tuple[str, int], Entry] = OrderedDict()
        self._pending: dict[tuple[int, int | None], Change] = {}
        self._looker = events.Looker()
        self._some, self._urgent = asyncio.Event(), asyncio.Event()
        self._waiting: dict[Subscription, dict[Reader, None]] = {}  #: in the order in which they came
        self._fresh: dict[int, Fresh] = {}
        self._made: dict[tuple[Subscription, int], str | None] = {}
        self._frames: dict[tuple[Subscription, int], bytes | None] = {}
        self._states: dict[tuple[Subscription, int], asyncio.Task[str]] = {}
        self._heard: deque[list[Change]] = deque()  #: from other threads
        self._ends: list[Change] = []  #: that are told at once
        self._tokens, self._refilled, self._flushed = MOST_URGENT, 0.0, 0.0
        self._closers: list[Callable[[], None]] = []

    # Opening and closing

    async def open(self) -> None:
        """Begin to hear."""
        self._loop = asyncio.get_running_loop()
        self._closers.append(self._kit.events.listen(self._deliver))
        follower = await to_thread.run_sync(events.follow, self._kit.settings, self._kit.database, self._deliver)
        self._closers.append(follower.close)
        self._flushing = asyncio.create_task(self._flush_for_ever())

    async def close(self) -> None:
        """Hear no more, and let readers go. Looks at the database are waited for: a thread cannot be cancelled."""
        self.is_closed = True
        self._some.set()
        self._urgent.set()
        self._wake()
        await asyncio.gather(self._flushing, *self._states.values(), return_exceptions=True)
        for close in self._closers:
            await to_thread.run_sync(close)

    # Hearing

    def _deliver(self, changes: list[Change]) -> None:
        """Take changes from whatever thread hears of them."""
        if not self.is_closed:
            self._heard.append(changes)
            with suppress(RuntimeError):  # the loop may have ended
                self._loop.call_soon_threadsafe(self._take_heard)

    def _take_heard(self) -> None:
        while self._heard:
            for change in self._heard.popleft():
                self._pending.pop(change.key, None)
                self._pending[change.key] = change
                if change.is_urgent:
                    self._hurry(change)
            self._some.set()

    def _hurry(self, change: Change) -> None:
        """Tell of a job that ended as soon as what came with it is here; without a look at the database where none is needed."""
        if change.job_id is None or change.status not in TRUSTED or self._looker.project_of(change.run_id) is None:
            self._urgent.set()
        elif self._ends or self._may_hurry():
            if not self._ends:
                self._loop.call_soon(self._tell_ends)  # what ended together was published together
            self._ends.append(change)

    def _tell_ends(self) -> None:
        if self._keep_ends():
            self._wake()

    def _keep_ends(self) -> bool:
        """Make one number of the ends that are told at once; tell whether anything of it is new."""
        ends, self._ends = self._ends, []
        for change in ends:
            self._keep_job(self._number + 1, change)
        return self._count(self._number + 1)

    async def _flush_for_ever(self) -> None:
        while not self.is_closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._some.wait(), LOOK_SECONDS)
            await self._window()
            await self._flush()

    async def _window(self) -> None:
        """Wait until the window ends, or a job has ended and may be told at once."""
        end = self._flushed + WINDOW_SECONDS
        while (left := end - self._loop.time()) > 0 and not self.is_closed:
            if self._urgent.is_set():
                if not self._may_hurry():
                    await asyncio.sleep(left)
                    return
                await asyncio.sleep(GATHER_SECONDS)
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), left)

    def _may_hurry(self) -> bool:
        now = self._loop.time()
        self._tokens = min(MOST_URGENT, self._tokens + (now - self._refilled) * URGENT_PER_SECOND)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def _flush(self) -> None:
        """Make one number of everything that is new, and wake who waits."""
        changes, self._pending = list(self._pending.values()), {}
        self._some.clear()
        self._urgent.clear()
        self._flushed = self._loop.time()
        try:
            states, found = await to_thread.run_sync(self._look_at_database, changes)
        except SegkitError as error:
            log.warning("Live events cannot look at the database: %s", error)
            return
        number = self._number + 1
        for change in found:
            newer = self._pending.get(change.key)  # an end that came meanwhile, and may have been told already
            if newer is None or not newer.is_urgent:
                self._keep_job(number, change)
            elif newer.status in TRUSTED:
                self._keep_job(number, newer)  # it is counted in what is told of its run
        for state in states:
            self._keep(number, None, written_run(state))
        if self._count(number):
            self._wake()

    def _count(self, number: int) -> bool:
        """Go on to a number, if something was kept under it."""
        if not self._entries or next(reversed(self._entries.values())).number != number:
            return False
        self.flushes += 1
        self._number = number
        self._fresh.clear()
        self._made.clear()
        self._states = {key: task for key, task in self._states.items() if not task.done()}
        return True

    def _look_at_database(self, changes: list[Change]) -> tuple[list[RunState], list[Change]]:
        """In a thread: read the counts of runs that changed, and what became of jobs. Attempts that failed may be tried again."""
        failed = [change.job_id for change in changes if change.status == JobStatus.FAILED and change.job_id is not None]
        with self._kit.database.read() as connection:
            states, found = self._looker.look(connection, {change.run_id for change in changes})
            known = {change.job_id for change in found}
            found += events.named(connection, [number for number in failed if number not in known])
        told = [change for change in changes if change.job_id is not None and change.status in TRUSTED]
        return states, [*told, *found]

    def _keep_job(self, number: int, change: Change) -> None:
        assert change.job_id is not None
        known = self._entries.get(("job", change.job_id))
        if known is None or known.written.status != change.status:
            self._keep(number, change.job_id, written_job(change, self._looker.project_of(change.run_id)))

    def _keep(self, number: int, job_id: int | None, written: Written) -> None:
        key = ("run", written.run_id) if job_id is None else ("job", job_id)
        self._entries[key] = Entry(number, job_id, written)
        self._entries.move_to_end(key)
        if len(self._entries) > MOST_KEPT:
            self._horizon = self._entries.popitem(last=False)[1].number

    def _wake(self) -> None:
        """Give those who wait what is new: at once where that can be, without waking their tasks, which costs more than all the rest."""
        finished = False
        while not finished:
            left: list[Reader] = []
            finished = all(self._give(subscription, readers, left) for subscription, readers in self._waiting.items())
            self._frames.clear()
            for reader in left:
                self._release(reader)

    def _give(self, subscription: Subscription, readers: Iterable[Reader], left: list[Reader]) -> bool:
        """Give readers of one subscription what is new. When a job ends meanwhile, stop: all are gone through again from the first,
        and who was not told yet hears of both at once.
        """
        now = self._identity(self._number)
        since: str | None = None
        place: int | None = None
        frame: bytes | None = None
        for index, reader in enumerate(readers):
            if index % GIVEN_BETWEEN == 0 and self._heard and self._is_overtaken():
                return False
            if reader.push is None or self.is_closed:
                left.append(reader)
                continue
            if place is None or reader.since is not since:  # nearly all have come as far, and were told so by the same string
                since, place = reader.since, self._place(reader.since)
                frame = None if place is None else self._frame(subscription, place)
            if place is not None and (frame is None or reader.push(frame)):
                reader.since = now
            else:
                left.append(reader)
        return True

    def _is_overtaken(self) -> bool:
        """Take what was heard while readers were given something older; tell whether an end is among it."""
        self._take_heard()
        return bool(self._ends) and self._keep_ends()

    def _frame(self, subscription: Subscription, place: int) -> bytes | None:
        """Make the frame of what is newer than a flush, once for all who are as far; None when nothing is."""
        key = subscription, place
        if key not in self._frames:
            text = self._message(subscription, place)
            self._frames[key] = None if text is None else text_frame(text.encode())
        return self._frames[key]

    # Reading

    def subscribe(self, reader: Reader, subscription: Subscription) -> None:
        """Change what a reader hears of; he gets the whole state of it next."""
        self._release(reader)
        reader.subscription, reader.since = subscription, None

    async def now(self, reader: Reader) -> str:
        """Return what is new for a reader, perhaps nothing, without waiting."""
        place = self._place(reader.since)
        if place is None:
            return await self._whole_state(reader.subscription)
        return self._message(reader.subscription, place) or self._nothing()

    async def next(self, reader: Reader) -> tuple[str, str]:
        """Wait for what is new for a reader; return the message's id and the message."""
        while not self.is_closed:
            number, place = self._number, self._place(reader.since)
            if place is None:
                text = await self._whole_state(reader.subscription)
            elif place == number:
                await self._news(reader)
                continue
            else:
                text = self._message(reader.subscription, place) or ""
            reader.since = self._identity(number)
            if text:
                return reader.since, text
        return self._identity(self._number), self._nothing()

    async def _news(self, reader: Reader) -> None:
        reader.waiting = self._loop.create_future()
        self._waiting.setdefault(reader.subscription, {})[reader] = None
        self.readers += 1
        try:
            await reader.waiting
        finally:
            self.readers -= 1
            self._release(reader)

    def _release(self, reader: Reader) -> None:
        """Have a reader wait no longer, if he does."""
        waiting, reader.waiting = reader.waiting, None
        if waiting is None:
            return
        readers = self._waiting[reader.subscription]
        del readers[reader]
        if not readers:
            del self._waiting[reader.subscription]
        if not waiting.done():
            waiting.set_result(None)

    def _place(self, since: str | None) -> int | None:
        """Return the flush that an id names; None when it cannot be continued from there."""
        epoch, _, number = (since or "").partition("-")
        if epoch != self._epoch or not number.isdecimal() or len(number) > 18:
            return None
        return int(number) if self._horizon <= int(number) <= self._number else None

    def _identity(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    def _nothing(self) -> str:
        return orjson.dumps({"id": self._identity(self._number), "events": []}).decode()

    def _message(self, subscription: Subscription, place: int) -> str | None:
        """Make the message of what is newer than a flush, once for all who are as far; None when nothing is."""
        key = subscription, place
        if key not in self._made:
            if len(self._made) >= MOST_MADE:
                self._made.clear()
            wanted = [entry.written for entry in self._fresher(place).wanted(subscription)]
            head = f'{{"id":"{self._identity(self._number)}","events":'.encode()
            self._made[key] = (head + joined(wanted) + b"}").decode() if wanted else None
        return self._made[key]

    def _fresher(self, place: int) -> Fresh:
        if place not in self._fresh:
            newer = []
            for entry in reversed(self._entries.values()):
                if entry.number <= place:
                    break
                newer.append(entry)
            fresh = self._fresh[place] = Fresh()
            for entry in reversed(newer):
                fresh.add(entry)
        return self._fresh[place]

    async def _whole_state(self, subscription: Subscription) -> str:
        """Make the state, once for all who ask for the same before something changes."""
        key = subscription, self._number
        task = self._states.get(key)
        if task is None:
            task = self._states[key] = asyncio.create_task(to_thread.run_sync(self._read_state, *key))
        return await asyncio.shield(task)

    def _read_state(self, subscription: Subscription, number: int) -> str:
        wanted = subscription if subscription.jobs is None else EVERYTHING
        with self._kit.database.read() as connection:
            runs = events.overview(connection, wanted.runs, wanted.projects)
            running = events.running(connection, [state.run_id for state in runs])
            if subscription.jobs is not None:
                running = events.named(connection, sorted(subscription.jobs))
                involved = {change.run_id for change in running} | (subscription.runs or set())
                runs = events.overview(connection, involved, subscription.projects)
        projects = {state.run_id: state.project_id for state in runs}
        jobs = (written_job(each, projects.get(each.run_id)) for each in running)
        head = f'{{"id":"{self._identity(number)}","state":{{"runs":'.encode()
        return (head + joined(map(written_run, runs)) + b',"jobs":' + joined(jobs) + b"}}").decode()
