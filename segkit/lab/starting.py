"""Start JupyterLab as a child process, and look after schedules and batches beside it for as long as it is up."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from segkit import batches, kit, schedule
from segkit.cluster import local_workers
from segkit.settings import Settings, as_variables, process_environment, shared_folder

NOTEBOOKS = "notebooks"
#: How long JupyterLab may take to end its kernels once it was told to stop.
END_SECONDS = 10


def place_notebooks(folder: Path) -> list[Path]:
    """Copy segkit's notebooks into `notebooks/` of a folder, where a person may change them; those that are there stay as they are.

    Returns
    -------
    list of Path
        What was copied.
    """
    own, place = shared_folder(NOTEBOOKS), folder / NOTEBOOKS
    place.mkdir(parents=True, exist_ok=True)
    new = [path for path in sorted(own.glob("*.ipynb")) if not (place / path.name).exists()]
    return [Path(shutil.copyfile(path, place / path.name)) for path in new]


def command(settings: Settings, folder: Path, *, port: int | None, show: bool) -> list[str]:
    """Write JupyterLab's command line: our configuration, this folder as its root, this machine alone as its audience."""
    given = [
        f"--config={shared_folder('conf') / 'jupyter_server_config.py'}",
        f"--ServerApp.root_dir={folder.resolve()}",
        "--ServerApp.ip=127.0.0.1",
        f"--LabApp.default_url=/lab/tree/{NOTEBOOKS}/segment_images.ipynb",
    ]
    if "://" not in settings.home:
        given.append(f"--SchedulerApp.db_url=sqlite:///{Path(settings.home).expanduser().resolve() / 'notebook_jobs.db'}")
    if os.geteuid() == 0:
        given.append("--allow-root")  # in containers everybody is root; strangers still need the token
    given += [f"--ServerApp.port={port}"] if port is not None else []
    return [sys.executable, "-m", "jupyterlab", *given, *([] if show else ["--no-browser"])]


def environment(settings: Settings) -> dict[str, str]:
    """Hand every setting to the kernels, and to Dask's panels where its dashboards are."""
    home = settings.home if "://" in settings.home else str(Path(settings.home).expanduser().resolve())
    variables = as_variables(settings) | {"SEGKIT_HOME": home, "DASK_DISTRIBUTED__DASHBOARD__LINK": "/proxy/{port}/status"}
    if importlib.util.find_spec("dask_labextension") is not None:
        variables |= dask_panel(settings)
    return process_environment(**variables)


def dask_panel(settings: Settings) -> dict[str, str]:
    """Tell dask-labextension which cluster its "new" button makes: one like ours."""
    prefix = "DASK_LABEXTENSION__FACTORY"
    size = {
        "n_workers": local_workers(settings),
        "threads_per_worker": settings.threads_per_worker,
        "memory_limit": settings.worker_memory,
    }
    return {f"{prefix}__MODULE": "dask.distributed", f"{prefix}__CLASS": "LocalCluster", f"{prefix}__KWARGS": json.dumps(size)}


def run(opened: kit.Kit, folder: Path, *, port: int | None, show: bool, work: bool | None, file: Path, tell: Callable[[str], Any]) -> int:
    """Run JupyterLab until it ends or this process is told to; returns its exit code.

    Parameters
    ----------
    work : bool, optional
        Also work batches off here. Default: yes with the embedded database, no with PostgreSQL, where `segkit worker` does.
    file
        Schedules to look after.
    """
    placed = place_notebooks(folder)
    if placed:
        tell(f"{len(placed)} notebooks are in {folder / NOTEBOOKS}; they are yours to change.")
    with ExitStack() as stack:
        stack.enter_context(schedule.beside(opened.scheduler(file)))
        if opened.database.dialect == "sqlite" if work is None else work:
            stack.enter_context(batches.beside(opened.batch_worker()))
        child = subprocess.Popen(command(opened.settings, folder, port=port, show=show), env=environment(opened.settings))
        with ended_by_signals(child):
            return child.wait()


@contextmanager
def ended_by_signals(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM on; leave Ctrl-C to JupyterLab, which gets it too and asks. Whatever ends this block ends the child."""

    def stop(number: int, frame: FrameType | None) -> None:
        child.terminate()
        # It would wait for notebook jobs that still run; they go on without it, and their batches with them.
        impatient.start()

    impatient = threading.Timer(END_SECONDS, child.kill)
    previous: dict[int, Any] = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, stop),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    try:
        yield
    finally:
        impatient.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
