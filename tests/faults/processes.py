"""Real processes of segkit and Dask, started for a fault, found in the process tree, killed and frozen.

    with Programs(settings, tmp_path) as programs:
        worker = programs.worker(CLUSTER="threads")
        worker.await_output("is working")
        worker.kill()

Whatever is left ends with the block, frozen or not, with all that it started.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from segkit.settings import Settings, as_variables
from tests.faults.forks import Forked

PATIENCE = 150.0
#: Short leases, so that what died is taken over within seconds, and little waiting.
HASTY = {
    "THREADS_PER_WORKER": "2",
    "WORKERS": "1",
    "LEASE_SECONDS": "3",
    "BEAT_SECONDS": "0.5",
    "POLL_SECONDS": "0.2",
    "RETRY_SECONDS": "0.1",
}
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess)


def until(true: Callable[[], Any], seconds: float = PATIENCE, *, what: str = "it") -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)
    return found


def free_port() -> int:
    """Find a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# What can be done to a process


def kill(process: int) -> bool:
    """SIGKILL; whether there was such a process."""
    return send(process, signal.SIGKILL)


def freeze(process: int) -> bool:
    """SIGSTOP; whether there was such a process."""
    return send(process, signal.SIGSTOP)


def thaw(process: int) -> bool:
    """SIGCONT; whether there was such a process."""
    return send(process, signal.SIGCONT)


def send(process: int, number: signal.Signals) -> bool:
    """Send a signal; whether there was a process to receive it."""
    try:
        if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return False
        os.kill(process, number)
    except (ProcessLookupError, *GONE):
        return False
    return True


def descendants(process: int) -> list[psutil.Process]:
    """All processes below one, which is not among them."""
    try:
        return psutil.Process(process).children(recursive=True)
    except GONE:
        return []


def role(process: psutil.Process) -> str:
    """What a process is: "nanny", "dask worker", "kernel", "worker", "server", "scheduler", "tracker" or "other"."""
    try:
        command = " ".join(process.cmdline())
    except GONE:
        return "other"
    for known, words in ROLES.items():
        if re.search(words, command):
            return known
    return "other"


ROLES = {
    "tracker": r"resource_tracker",
    "kernel": r"ipykernel_launcher|ipykernel",
    "nanny": r"run_module\('dask'|dask_worker|-m dask worker|dask worker",
    "scheduler": r"dask_scheduler|-m dask scheduler|dask scheduler",
    "dask worker": r"multiprocessing[. ]spawn|spawn_main|forkserver",
    "server": r"-m segkit serve",
    "worker": r"-m segkit worker",
}


@dataclass
class Program:
    """A process that a test started, in a session of its own."""

    name: str
    process: subprocess.Popen[bytes] | Forked
    log: Path
    address: str = ""  #: of a service or scheduler
    again: Callable[[], Program] | None = None  #: starts another one like it

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text("utf-8", "replace")

    def below(self, *roles: str) -> list[int]:
        """Ids of the processes below it that are one of these, or of all."""
        return [each.pid for each in descendants(self.pid) if not roles or role(each) in roles]

    def await_output(self, words: str, seconds: float = PATIENCE) -> None:
        """Wait until it has printed something."""
        until(lambda: words in self.output or not self.alive, seconds, what=f"{words!r} of {self.name}")
        if words not in self.output:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.output[-3000:]}")

    def kill(self) -> None:
        """SIGKILL this process alone; what it started is left to itself."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP this process alone."""
        freeze(self.pid)

    def thaw(self) -> None:
        """SIGCONT this process."""
        thaw(self.pid)

    def terminate(self, seconds: float = PATIENCE) -> int:
        """SIGTERM; returns how it ended."""
        self.process.terminate()
        return self.process.wait(seconds)

    def end(self) -> None:
        """Kill it and all that is below it, frozen or not."""
        tree = [*descendants(self.pid)]
        for each in (self.pid, *(child.pid for child in tree)):
            kill(each)
        self.process.wait()
        psutil.wait_procs(tree, timeout=10)


@dataclass
class Programs:
    """Starts programs on one home and database, and ends them all with its block.

    Parameters
    ----------
    settings
        Name the home and database.
    folder
        Where the programs' output is kept.
    variables
        Settings for all of them, without `SEGKIT_`; those of `HASTY` unless given otherwise.
    forked
        Fork them from a warm process, which takes a tenth of the time; otherwise each is a fresh interpreter.
    """

    settings: Settings
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    forked: bool = True
    started: list[Program] = field(default_factory=list)
    orphans: set[int] = field(default_factory=set)  #: of programs that were killed alone

    def __enter__(self) -> Programs:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for program in self.started:
            program.end()
        for process in self.orphans:
            kill(process)
        if kind is not None:
            for program in self.started:
                if "Traceback" in program.output:
                    print(f"--- {program.name}\n{program.output[-4000:]}")

    def environment(self, **variables: str) -> dict[str, str]:
        """This process's environment with the settings of the programs."""
        own = {"SEGKIT_HOME": self.settings.home}
        if self.settings.database_url is not None:
            own["SEGKIT_DATABASE_URL"] = as_variables(self.settings)["SEGKIT_DATABASE_URL"]
        given = {f"SEGKIT_{name}": value for name, value in (HASTY | self.variables | variables).items()}
        return {**os.environ, **own, **given}

    def start(self, name: str, *command: str, again: Callable[[], Program] | None = None, address: str = "", **variables: str) -> Program:
        """Start a Python module with arguments, in a session of its own."""
        log = self.folder / f"{len(self.started):03d}-{name}.log"
        log.touch()
        environment = self.environment(**variables)
        process = Forked(command, environment, log) if self.forked else executed(command, environment, log)
        program = Program(name, process, log, address, again)
        self.started.append(program)
        return program

    def worker(self, **variables: str) -> Program:
        """Start `segkit worker`; `CLUSTER="threads"` starts quickest and has no processes below it."""
        return self.start("worker", "segkit", "worker", again=lambda: self.worker(**variables), **variables)

    def server(self, *options: str, port: int | None = None, wait: bool = True, **variables: str) -> Program:
        """Start `segkit serve` on a port, and wait until it answers."""
        number = port or free_port()
        address = f"http://127.0.0.1:{number}"
        server = self.start(
            "server",
            *("segkit", "serve", "--port", str(number), *options),
            again=lambda: self.server(*options, port=number, wait=wait, **variables),
            address=address,
            **variables,
        )
        if wait:
            until(lambda: answers(address) or not server.alive, what="the service")
            if not server.alive:
                raise AssertionError(f"the service ended with {server.process.returncode}:\n{server.output[-3000:]}")
        return server

    def scheduler(self, port: int | None = None) -> Program:
        """Start a Dask scheduler."""
        number = port or free_port()
        command = ("dask", "scheduler", "--host", "127.0.0.1", "--port", str(number), "--no-dashboard", "--no-show")
        program = self.start("scheduler", *command, again=lambda: self.scheduler(number), address=f"tcp://127.0.0.1:{number}")
        program.await_output("Scheduler at")
        return program

    def dask_worker(self, scheduler: str, *, nanny: bool = True, memory: str = "1GiB") -> Program:
        """Start a Dask worker of two threads, with or without its nanny."""
        how = "--nanny" if nanny else "--no-nanny"
        limits = ("--nthreads", "2", "--memory-limit", memory, "--local-directory", str(self.folder / "dask"))
        command = ("dask", "worker", scheduler, how, "--no-dashboard", "--host", "127.0.0.1", *limits)
        return self.start("dask-worker", *command, again=lambda: self.dask_worker(scheduler, nanny=nanny, memory=memory))

    def restart(self, program: Program) -> Program:
        """Start another one like a program that is dead, in its place."""
        assert program.again is not None
        return program.again()


def executed(command: Iterable[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a Python module in a fresh interpreter."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def answers(address: str) -> bool:
    """Whether a service answers at all."""
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address}/health", timeout=5).status_code < 500
    return False


@dataclass
class Disturber:
    """Kills and freezes processes at random moments, the same ones for the same seed as far as they run alike."""

    random: random.Random
    kills: int = 0
    freezes: int = 0
    frozen: dict[int, float] = field(default_factory=dict)  #: process, and when it goes on

    def kill(self, processes: Iterable[int]) -> int | None:
        """Kill one of these; returns which."""
        return self._one(processes, kill, "kills")

    def freeze(self, processes: Iterable[int], seconds: float) -> int | None:
        """Freeze one of these for so long; returns which. `thaw` lets it go on."""
        chosen = self._one((each for each in processes if each not in self.frozen), freeze, "freezes")
        if chosen is not None:
            self.frozen[chosen] = time.monotonic() + seconds
        return chosen

    def thaw(self, *, all_of_them: bool = False) -> None:
        """Let those go on whose time is over."""
        for process, moment in list(self.frozen.items()):
            if all_of_them or time.monotonic() >= moment:
                thaw(process)
                del self.frozen[process]

    def _one(self, processes: Iterable[int], act: Callable[[int], bool], counter: str) -> int | None:
        there = sorted(processes)
        self.random.shuffle(there)
        for chosen in there:
            if act(chosen):
                setattr(self, counter, getattr(self, counter) + 1)
                return chosen
        return None
