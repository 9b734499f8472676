"""Claim, compute on Dask, commit: the loop that works a queue off, and the owner of the commit transaction.

Many workers on many machines may share one database. Each claims a few jobs per thread of its cluster, renews its leases
from a thread of its own, and commits what comes back under its attempt numbers. Whatever dies, the lease runs out and
another attempt is made; a worker that was given up for dead can commit nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from segkit import __version__, cluster, history, jobs, kernels, logs, results, upkeep
from segkit.database import Database
from segkit.errors import ClusterError, DatabaseError, DatabaseReadOnlyError, DiskFullError, SegkitError
from segkit.images import Limits, Selection
from segkit.large import perform_large
from segkit.meter import Meter
from segkit.schema import ErrorKind
from segkit.settings import Settings
from segkit.tasks import Done, Failed, Large, Pace, Task, perform, reason_of

log = logging.getLogger(__name__)

#: A bundle of small images should keep a thread busy about this long, so that Dask's cost per task does not show.
BUNDLE_SECONDS = 1.0
#: Of bundles that a process does in turn it has so many, so that the next is there when one is done.
AT_HAND = 2
#: Finished tasks that arrive within this time of each other are committed together.
GATHER_SECONDS = 0.01
#: How long SIGTERM lets running tasks finish before they are given back.
GRACE_SECONDS = 30
#: Longest wait between two tries to reach a database or a cluster that is gone.
LONGEST_WAIT = 30
#: Least time between two looks for what dead attempts left.
TIDY_SECONDS = 600


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, for whoever watches."""

    job_id: int
    run_id: int
    image: str
    status: str  #: "done", "failed" (this attempt), "lost"
    detail: str = ""


@dataclass
class Bundle:
    """Jobs that fly to Dask as one task."""

    claims: list[jobs.Claim]
    future: Any = None  #: of Dask, or of the thread that a large image has
    in_turn: bool = False  #: its process does no other such bundle meanwhile
    staging: list[str] = field(default_factory=list)  #: where its attempts write
    cluster: cluster.Cluster | None = None  #: where it flies


DIED = "The worker process died while this image was in it: it ran out of memory (SEGKIT_WORKER_MEMORY), or a library crashed."


def worker_name() -> str:
    """Name this worker so that a person finds it: machine, process, and something that no other process had."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"


class Worker:
    """Works jobs off until told to stop. One per process; it owns the only thread that commits.

    Parameters
    ----------
    database, settings
        Where the jobs are, and how to work.
    watch : callable, optional
        Called with each `Event`, from the thread that runs the worker.
    """

    def __init__(self, database: Database, settings: Settings, watch: Callable[[Event], None] | None = None) -> None:
        self.database = database
        self.settings = settings
        self.name = worker_name()
        self.done = 0
        self.failed = 0
        self._meter = Meter(settings.home)
        self._watch = watch or (lambda event: None)
        self._held = jobs.Held()
        self._waiting: list[jobs.Claim] = []
        self._flying: dict[int, Bundle] = {}
        self._arrived: SimpleQueue[Bundle] = SimpleQueue()
        self._pace: defaultdict[int, Pace] = defaultdict(Pace)
        self._stopping = threading.Event()
        self._cluster: cluster.Cluster | None = None
        self._look_again = 0.0
        self._published: dict[str, str] = {}
        self._tidy_again = 0.0
        self._large = ThreadPoolExecutor(1, thread_name_prefix="segkit-large")

    def stop(self) -> None:
        """Claim no more; finish what runs, or give it back after a grace period. Safe from any thread or signal handler."""
        self._stopping.set()

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Work until `stop`, or until `until` says so while nothing is held.

        Parameters
        ----------
        until : callable, optional
            Asked whenever nothing is left to claim; `segkit worker` gives none and runs for good.
        """
        sampler = history.Sampler(self.database, f"worker {self.name}", self._measured)
        with (
            logs.about(worker=self.name),
            logs.kept(self.settings.home, self.name),
            jobs.Heartbeat(self.database, self.settings, self.name, self._held),
            upkeep.Keeper(self.database, self.settings),
        ):
            try:
                if self.settings.enable_performance_monitoring:
                    sampler.start()
                while not self._stopping.is_set():
                    self._top_up()
                    if not self._held.all():
                        self._tidy()
                        if until is not None and self._patiently(until):
                            return
                    self._launch()
                    self._commit(self._gather(self.settings.poll_seconds))
                self._wind_down()
            finally:
                sampler.close()
                self._give_back(self._held.all())
                self._disconnect()
                self._large.shutdown(wait=False, cancel_futures=True)

    # Claiming

    def _top_up(self) -> None:
        """Claim a batch when less than a batch is held; commits claim too, so this is for the start and for an empty queue."""
        room = self._room()
        if room == 0 or time.monotonic() < self._look_again:
            return
        claims = self._patiently(self._claim, room)
        if not claims:
            self._look_again = time.monotonic() + self.settings.poll_seconds
        self._held.add(claims)
        self._waiting.extend(claims)

    def _room(self, leaving: int = 0) -> int:
        """How many jobs to claim now: a batch when less than one is held; none when stopping, or while a suspect waits to be alone."""
        batch = self._threads() * self.settings.prefetch
        if self._stopping.is_set() or len(self._held.all()) - leaving > batch or any(claim.suspect for claim in self._waiting):
            return 0
        return batch

    def _claim(self, limit: int) -> list[jobs.Claim]:
        with self.database.write() as connection:
            return jobs.claim(connection, self.name, limit, self.settings.lease_seconds)

    def _threads(self) -> int:
        if self._cluster is not None:
            return self._cluster.threads
        return self.settings.threads_per_worker * cluster.local_workers(self.settings)

    # Computing

    def _launch(self) -> None:
        """Send what waits to Dask, small images in bundles; a job that may have killed a worker flies alone."""
        calm = [claim for claim in self._waiting if not claim.suspect]
        suspects = [claim for claim in self._waiting if claim.suspect]
        if suspects and not calm and not self._flying:
            calm, suspects = suspects[:1], suspects[1:]
        self._waiting = suspects
        by_run: dict[int, list[jobs.Claim]] = {}
        for claim in calm:
            by_run.setdefault(claim.run_id, []).append(claim)
        for run_id, claims in by_run.items():
            self._launch_run(claims, self._pace[run_id])

    def _launch_run(self, claims: list[jobs.Claim], pace: Pace) -> None:
        """Send claims of one run in bundles of as many images as keep a thread busy for `BUNDLE_SECONDS`.

        Images that take long are all sent, and queue at Dask. Quick ones are done in turn by each process, and of those whose
        pace is not known yet each thread gets one; the rest waits here.
        """
        hands = self._connected().processes if pace.in_turn else self._threads()
        places = min(AT_HAND * hands, self._threads())
        flying = sum(bool(bundle.staging) for bundle in self._flying.values())  # large images are spread by threads of ours
        free = places - flying if pace.in_turn or pace == Pace() else len(claims)
        size = max(1, min(-(-len(claims) // hands), int(BUNDLE_SECONDS / pace.seconds)))
        for number, start in enumerate(range(0, len(claims), size)):
            bundle = claims[start : start + size]
            if number < free:
                self._fly(Bundle(bundle, in_turn=pace.in_turn))
            else:
                self._waiting.extend(bundle)

    def _fly(self, bundle: Bundle) -> None:
        tasks = [self._task(claim) for claim in bundle.claims]
        bundle.staging = [task.staging for task in tasks]
        bundle.cluster = self._connected()
        self._flying[id(bundle)] = bundle
        try:
            bundle.future = bundle.cluster.submit(partial(perform, in_turn=bundle.in_turn), tasks, done=lambda _: self._arrived.put(bundle))
        except cluster.ClusterLost as error:
            self._flying.pop(id(bundle))
            self._lose(bundle, error)

    def _fly_large(self, claim: jobs.Claim) -> None:
        """Spread one large image over the cluster, from a thread of its own; large images take turns."""
        connected = self._connected()
        bundle = Bundle([claim], cluster=connected)
        scratch = results.scratch(self.settings.home, claim.run_id, claim.image_id)
        self._flying[id(bundle)] = bundle
        bundle.future = self._large.submit(
            perform_large,
            self._task(claim),
            scratch,
            connected.map,
            tile=self.settings.tile,
            memory_bytes=self.settings.worker_memory // self.settings.threads_per_worker,
        )
        bundle.future.add_done_callback(lambda _: self._arrived.put(bundle))

    def _task(self, claim: jobs.Claim) -> Task:
        return Task(
            job_id=claim.job_id,
            attempt=claim.attempt,
            uri=claim.uri,
            name=claim.name,
            content_hash=claim.content_hash,
            segmenter=claim.segmenter,
            parameters=claim.parameters,
            selection=Selection(**claim.selection),
            pixel_size_um=claim.pixel_size_um,
            z_step_um=claim.z_step_um,
            staging=results.staging(self.settings.home, claim.run_id, claim.image_id, claim.attempt),
            most_pixels=self.settings.tile_above,
            compression_level=self.settings.compression_level,
            limits=Limits(max_pixels=self.settings.max_pixels, max_decoded_pixels=self.settings.max_decoded_pixels),
            provenance={
                "image": claim.name,
                "uri": claim.uri,
                "content_hash": claim.content_hash,
                "run": claim.run_id,
                "segmenter": claim.segmenter,
                "version": claim.version,
                "parameters": claim.parameters,
                "selection": claim.selection,
                "segkit": __version__,
                "notebook": claim.notebook,
            },
        )

    def _connected(self) -> cluster.Cluster:
        """Return the cluster, connecting to it first or again."""
        if self._cluster is not None and self._cluster.lost:
            self._disconnect()
        if self._cluster is None:
            kernels.ready()
            self._cluster = self._patiently(cluster.connect, self.settings)
        return self._cluster

    def _disconnect(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    # Committing

    def _gather(self, patience: float) -> list[Bundle]:
        """Wait for a bundle to come back, then take along whatever comes right after it."""
        bundles: list[Bundle] = []
        try:
            bundles.append(self._arrived.get(timeout=patience))
            while len(bundles) < self.settings.prefetch:
                bundles.append(self._arrived.get(timeout=GATHER_SECONDS))
        except Empty:
            pass
        return bundles

    def _commit(self, bundles: list[Bundle]) -> None:
        """Record what came back, many jobs in one transaction."""
        outcomes: list[Done | Failed] = []
        for bundle in bundles:
            self._flying.pop(id(bundle), None)
            for outcome in self._outcomes(bundle):
                if isinstance(outcome, Large):
                    self._fly_large(next(claim for claim in bundle.claims if claim.job_id == outcome.job_id))
                else:
                    outcomes.append(outcome)
        if outcomes:
            accepted, more = self._patiently(self._record, outcomes)
            self._report(outcomes, accepted)
            self._held.drop(outcomes)
            self._published.clear()
            self._held.add(more)
            self._waiting.extend(more)

    def _outcomes(self, bundle: Bundle) -> list[Done | Failed | Large]:
        """Read what a bundle brought; a bundle that died with its worker makes each of its jobs a suspect."""
        try:
            outcomes: list[Done | Failed | Large] = bundle.future.result(timeout=LONGEST_WAIT)
        except cluster.WorkerDied:
            # Images of the bundle that were finished before it died are on disk already, where none would look for them.
            for place in bundle.staging:
                results.discard(place)
            return [Failed(claim.job_id, claim.attempt, ErrorKind.CRASH, DIED) for claim in bundle.claims]
        except cluster.ClusterLost as error:
            self._lose(bundle, error)
            return []
        except RuntimeError as error:  # the event loop of its client has ended, as an earlier bundle of the same cluster saw to
            if bundle.cluster is self._cluster and not (self._cluster and self._cluster.lost):
                raise
            self._lose(bundle, error)
            return []
        run_id = bundle.claims[0].run_id
        self._pace[run_id] = self._pace[run_id].after(outcomes, in_turn=bundle.in_turn)
        return outcomes

    def _lose(self, bundle: Bundle, error: BaseException) -> None:
        """Give back the jobs of a bundle whose cluster is gone; a cluster that was connected to since is left alone."""
        log.warning("The Dask cluster was lost (%s); its jobs go back to the queue", error or type(error).__name__)
        if bundle.cluster is self._cluster:
            self._disconnect()
        self._give_back(bundle.claims)

    def _record(self, outcomes: list[Done | Failed]) -> tuple[list[Done], list[jobs.Claim]]:
        """Commit: finish the jobs whose lease still holds, put their files in place, list their results, claim more. All or nothing."""
        done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
        failed = [jobs.Failed(each.job_id, each.attempt, each.kind, each.reason) for each in outcomes if isinstance(each, Failed)]
        with self.database.write() as connection:
            held = {(row.id, row.attempt) for row in jobs.hold(connection, [*done, *failed])}
            kept = [each for each in done if (each.job_id, each.attempt) in held]
            spoilt = self._publish([(each.written.path, self._held.of(each)) for each in kept])
            kept = [each for each in kept if each.written.path not in spoilt]
            rows = [self._row(self._held.of(each), each) for each in kept]
            finished = [jobs.Finished(each.job_id, each.attempt, each.written.objects) for each in kept]
            accepted, more = jobs.exchange(
                connection,
                self.name,
                self._room(len(outcomes)),
                self.settings.lease_seconds,
                finished,
                [*failed, *spoilt.values()],
                retry_seconds=self.settings.retry_seconds,
                along=results.insertion(connection, rows) if rows else None,
            )
        kept = [each for each in kept if each.job_id in accepted]
        for each in done:
            if each not in kept:
                results.discard(each.written.path)
        return kept, more

    def _publish(self, written: list[tuple[str, jobs.Claim]]) -> dict[str, jobs.Failed]:
        """Move results to their final places; return, by place, the failures of those that somebody deleted or that cannot be moved.

        The jobs' rows are locked, so no other attempt can do the same. When the commit fails after the move, the transaction is
        repeated, but the move is not.
        """
        spoilt: dict[str, jobs.Failed] = {}
        while left := {path: claim for path, claim in written if path not in self._published and path not in spoilt}:
            try:
                results.publish_all(
                    self.settings.home, [(path, claim.run_id, claim.image_id) for path, claim in left.items()], self._published
                )
            except DiskFullError:
                raise
            except OSError as error:
                path = next((path for path in left if path not in self._published), None)
                if path is None:
                    raise
                reason = f"Its result could not be put in place. {reason_of(error)}"
                spoilt[path] = jobs.Failed(left[path].job_id, left[path].attempt, ErrorKind.INFRASTRUCTURE, reason)
        return spoilt

    def _row(self, claim: jobs.Claim, done: Done) -> results.NewResult:
        return results.NewResult(
            job_id=claim.job_id,
            run_id=claim.run_id,
            image_id=claim.image_id,
            attempt=claim.attempt,
            path=self._published[done.written.path],
            checksum=done.written.checksum,
            objects=done.written.objects,
            summary=done.summary,
            bytes=done.written.bytes,
            seconds=done.seconds,
        )

    def _report(self, outcomes: list[Done | Failed], accepted: list[Done]) -> None:
        for outcome in outcomes:
            claim = self._held.of(outcome)
            if isinstance(outcome, Failed):
                self.failed += 1
                event = Event(claim.job_id, claim.run_id, claim.name, "failed", outcome.reason)
            elif outcome in accepted:
                self.done += 1
                self._meter.add(claim.segmenter, outcome.seconds)
                event = Event(claim.job_id, claim.run_id, claim.name, "done", f"{outcome.written.objects} objects")
            else:
                event = Event(claim.job_id, claim.run_id, claim.name, "lost")
            with logs.about(run=claim.run_id, job=claim.job_id, attempt=claim.attempt):
                said = (claim.job_id, claim.run_id, claim.attempt, claim.name, event.status, event.detail)
                logs.record.info("job %d, run %d, attempt %d, %s: %s %s", *said)
            self._watch(event)

    def _measured(self) -> dict[str, float]:
        """Measure the last minute, for the history."""
        connected = self._cluster
        return self._meter.minute(connected.loads() if connected else [])

    # Ending

    def _tidy(self) -> None:
        """Delete what dead attempts left, when there is nothing else to do; seldom, because every folder is looked at."""
        if time.monotonic() < self._tidy_again:
            return
        self._tidy_again = time.monotonic() + max(TIDY_SECONDS, 2 * self.settings.lease_seconds)
        try:
            swept = upkeep.sweep(self.database, self.settings)
        except (SegkitError, OSError) as error:
            log.warning("What dead attempts left was not looked for: %s", error)
            return
        if swept:
            log.info("Deleted what %d dead attempts left", len(swept))

    def _wind_down(self) -> None:
        """Let running tasks finish within the grace period; what is left over is given back by `run`."""
        self._give_back(self._waiting)
        self._waiting = []
        deadline = time.monotonic() + GRACE_SECONDS
        while self._flying and time.monotonic() < deadline:
            self._commit(self._gather(GATHER_SECONDS))

    def _give_back(self, claims: Sequence[jobs.Claim]) -> None:
        """Put claims back into the queue; if even that fails, their leases run out."""
        if not claims:
            return
        try:
            with self.database.write() as connection:
                jobs.release(connection, claims)
        except (DatabaseError, DiskFullError) as error:
            log.warning("%d jobs could not be given back (%s); they return when their leases run out", len(claims), error)
        self._held.drop(claims)

    def _patiently(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Repeat something that needs the database, its disk or the cluster until it works, or until told to stop."""
        wait = 0.2
        while True:
            try:
                return act(*arguments)
            except DatabaseReadOnlyError:
                raise
            except (DatabaseError, ClusterError, DiskFullError) as error:
                if self._stopping.wait(wait):
                    raise
                log.warning("%s Trying again.", error)
                wait = min(2 * wait, LONGEST_WAIT)


@contextmanager
def stopped_by_signals(worker: Worker) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the worker in order; a second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, previous[number])
        worker.stop()

    previous: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
