"""Programs forked from a warm process, because Python needs seconds of a core to load segkit, and a storm starts hundreds of them.

A forked program runs the same command as `python -m segkit worker` does, in a session, environment and log of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dask

ROOT = Path(__file__).parent.parent.parent
#: Loaded before the first fork, and with them what they import.
WARM = ("segkit.cli", "segkit.kit", "segkit.server.serving", "segkit.batches", "segkit.segmenters.threshold", "distributed.cli.dask_worker")
COMMANDS = {"segkit": "segkit.cli", "dask scheduler": "distributed.cli.dask_scheduler", "dask worker": "distributed.cli.dask_worker"}


class Forked:
    """A forked program, with the part of `subprocess.Popen` that is needed here."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._process: BaseProcess = context().Process(target=run, args=(tuple(command), dict(environment), str(log), os.getcwd()))
        with importable():
            self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it has not."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """How it ended; None while it has not."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises
        ------
        subprocess.TimeoutExpired
            It took longer.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()


def context() -> ForkServerContext:
    """Return what starts forks; its server starts with the first of them."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.faults.forks_warm"])
    return made


@contextmanager
def importable() -> Any:
    """Let the server of the forks find this package when it starts; it looks nowhere but in its environment."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def run(command: Sequence[str], environment: Mapping[str, str], log: str, folder: str) -> None:
    """Become a program: runs in the fork."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    dask.config.refresh()  # it was read when Dask was loaded, before this environment
    os.chdir(folder)
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place and place not in sys.path]
    name = next(each for each in COMMANDS if " ".join(command).startswith(each))
    sys.argv = [name, *command[len(name.split()) :]]
    import_module(COMMANDS[name]).main()
