"""A small lab of real processes under load, whose dead members are started again, as systemd, Docker or a batch system do.

Workers of every kind of cluster, Dask's scheduler and its workers, a service that is read from, batches with their kernels.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx
import psutil

from segkit.errors import SegkitError
from segkit.kit import Kit
from segkit.runs import Run
from tests.faults.processes import PATIENCE, Disturber, Program, Programs, descendants, free_port, role, until
from tests.notebook_files import write_notebook
from tests.plates import write_plate
from tests.plugins import SLOW, install

#: Images of each run, and how few jobs may be left before the next run is queued.
IMAGES, FEW = 100, 60
#: What a batch of the fleet does: opens segkit, looks at the queue, waits.
CELLS = ("import time\nimport segkit", "kit = segkit.open()\nprint(kit.queue())", "time.sleep(seconds)")
READ = ("/api/queue", "/api/projects", "/api/runs", "/health")


@dataclass
class Fleet:
    """Processes by what they are, on one home and database.

    Parameters
    ----------
    kit
        Queues the work.
    programs
        Starts the processes.
    folder
        For images and notebooks.
    """

    kit: Kit
    programs: Programs
    folder: Path
    members: dict[str, Program] = field(default_factory=dict)
    makers: dict[str, Callable[[], Program]] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)  #: processes that were killed on purpose
    strange: list[str] = field(default_factory=list)  #: ends that nobody brought about
    runs: list[Run] = field(default_factory=list)
    starts: Counter[str] = field(default_factory=Counter)

    def found(self) -> None:
        """Write images and a notebook, and start everything."""
        self.project = self.kit.project("storm", create=True)
        self.project.add(write_plate(self.folder / "plate", [number % 9 + 1 for number in range(IMAGES)]))
        self.notebook = write_notebook(self.folder / "notebooks" / "look.ipynb", *CELLS, parameters="seconds: float = 1.0")
        self.feed()
        scheduler, port = self.programs.scheduler(), free_port()
        self.makers = {
            "scheduler": lambda: self.programs.restart(scheduler),
            "dask worker 1": lambda: self.programs.dask_worker(scheduler.address, nanny=False),
            "dask worker 2": lambda: self.programs.dask_worker(scheduler.address, nanny=True),
            "worker of a scheduler": lambda: self.programs.worker(CLUSTER=scheduler.address),
            "worker with threads 1": lambda: self.programs.worker(CLUSTER="threads"),
            "worker with threads 2": lambda: self.programs.worker(CLUSTER="threads"),
            "worker with processes": lambda: self.programs.worker(CLUSTER="local"),
            "server": lambda: self.programs.server("--no-work", port=port, wait=False),
        }
        self.members = {"scheduler": scheduler} | {name: make() for name, make in self.makers.items() if name != "scheduler"}

    def feed(self) -> None:
        """Queue another run when few jobs are left, and a batch when there is none."""
        if self.kit.queue().left < FEW:
            self.runs.append(self.project.segment("slow", seconds=0.1 + 0.0001 * len(self.runs)))
        if not self.kit.batches_left():
            self.kit.batch(self.notebook, {"seconds": 1.0}, max_attempts=100, folder=self.folder)

    def mend(self) -> None:
        """Start again who is dead; note who died without being killed."""
        for name, program in self.members.items():
            if program.alive:
                continue
            if program.pid not in self.killed and not name.startswith("dask"):  # Dask's workers end when their scheduler does
                self.strange.append(f"{name} ended with {program.process.returncode}: {program.output[-3000:]}")
            self.starts[name] += 1
            self.members[name] = self.makers[name]()

    def victims(self, what: str) -> list[int]:
        """Process ids of one kind: of members, without their numbers, or of what is below them: "nanny", "local dask worker", "kernel"."""
        if what in ("nanny", "local dask worker"):
            below = descendants(self.members["worker with processes"].pid)
            return [each.pid for each in below if role(each) == what.removeprefix("local ")]
        if what == "kernel":
            return [each.pid for program in self.members.values() for each in descendants(program.pid) if role(each) == "kernel"]
        return [program.pid for name, program in self.members.items() if name.rstrip(" 12") == what and program.alive]

    def disturb(self, disturber: Disturber, what: str, *, freeze_for: float | None = None) -> bool:
        """Kill or freeze one process of a kind; whether there was one."""
        if freeze_for is not None:
            return disturber.freeze(self.victims(what), freeze_for) is not None
        victim = disturber.kill(self.victims(what))
        if victim is not None:
            self.killed.add(victim)
        return victim is not None

    def drain(self, seconds: float) -> None:
        """Wait until all is done that was queued, mending what is dead."""

        def drained() -> bool:
            self.mend()
            return not self.kit.queue().left and not self.kit.batches_left()

        until(drained, seconds, what=f"draining of {self.kit.queue()}")

    def stop(self) -> dict[str, int]:
        """Ask all to end, workers first; returns how each ended."""
        workers = {name: program for name, program in self.members.items() if name.startswith("worker")}
        for program in workers.values():
            program.process.terminate()  # once: a second SIGTERM ends a worker at once
        ends = {name: program.process.wait(PATIENCE) for name, program in workers.items()}
        return ends | {name: program.terminate() for name, program in self.members.items() if name not in workers}


@dataclass
class Readers:
    """Read from a service all the time, from threads of their own, and note every answer.

    Parameters
    ----------
    address
        Of the service.
    number
        Of threads.
    """

    address: str
    number: int = 2
    answers: Counter[str] = field(default_factory=Counter)  #: by status, or "none" when there was no service
    faults: list[str] = field(default_factory=list)  #: answers that should not be
    extra: tuple[str, ...] = ()  #: more to read
    pause: float = 0.1

    def __enter__(self) -> Readers:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(self.number)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _read(self) -> None:
        with httpx.Client(base_url=self.address, timeout=30) as client:
            while not self._over.wait(self.pause):
                for path in (*READ, *self.extra):
                    try:
                        answer = client.get(path)
                    except httpx.HTTPError:
                        self.answers["none"] += 1
                        continue
                    self.answers[str(answer.status_code)] += 1
                    if answer.status_code >= 500 and answer.status_code != 503:
                        self.faults.append(f"{path}: {answer.status_code} {answer.text[:500]}")


def memory_of(process: int) -> tuple[float, int]:
    """Resident MiB and open files of a process."""
    found = psutil.Process(process)
    return found.memory_info().rss / 2**20, found.num_fds()


def settled(act: Callable[[], object], seconds: float = 60) -> None:
    """Repeat something until the database answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            act()
        except SegkitError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def site_with_slow(folder: Path) -> Path:
    """Install the segmenter that waits into a folder for the path."""
    install(folder, "slow", SLOW)
    return folder
