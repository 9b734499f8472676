"""One attempt of one batch: papermill runs the notebook in a kernel of its own, watched and able to be stopped at any moment.

The kernel starts a session, so everything that it starts (a local Dask cluster) belongs to its process group and is ended with it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from segkit import results
from segkit.batches.html import page_of
from segkit.batches.notebooks import absolute_home
from segkit.batches.records import Claim, Ended
from segkit.files import folder, is_local
from segkit.schema import ErrorKind
from segkit.settings import Settings, as_variables, process_environment

ENGINE = "segkit"
START_SECONDS = 60
NOTEBOOK, PAGE = "notebook.ipynb", "page.html"
#: Errors of a cell that may have nothing to do with the notebook: it is tried again.
PASSING = {
    "DatabaseError",
    "DatabaseBusyError",
    "OperationalError",
    "ClusterError",
    "ClusterLost",
    "ConnectionError",
    "ConnectionResetError",
}
PASSING |= {"ConnectionRefusedError", "TimeoutError", "BrokenPipeError"}

Report = Callable[[int, int], None]


@dataclass
class Watch:
    """What the outside may know of and do to a notebook that runs."""

    report: Report = lambda cell, cells: None
    cell: int = 0  #: cells that have ended
    cells: int = 0
    started: int = 0  #: code cells that were started, which is the N of the last one's "In [N]"
    stopped: str | None = None  #: why the outside ended it
    kernel: int | None = None  #: process id, which is that of its group too
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self, reason: str) -> None:
        """End the notebook's kernel and all that it started, at once."""
        with self.lock:
            self.stopped = self.stopped or reason
        self.kill()

    def kill(self) -> None:
        """End the kernel's process group."""
        if self.kernel is not None:
            try:
                os.killpg(self.kernel, signal.SIGKILL)
            except ProcessLookupError:
                return

    def began(self, cell: Any) -> None:
        """A cell starts."""
        self.started += cell.cell_type == "code" and bool(cell.source.strip())

    def ended(self, index: int) -> None:
        """A cell has ended."""
        self.cell = index + 1
        self.report(self.cell, self.cells)


class Client(PapermillNotebookClient):
    """Runs the cells, and tells its watch which kernel does."""

    watch: Watch = Watch()

    def create_kernel_manager(self) -> Any:
        """Encrypt what goes between the notebook and its kernel, where the kernel can: ports are open to all who use the machine."""
        manager = super().create_kernel_manager()
        if manager.has_trait("transport_encryption"):
            manager.transport_encryption = "auto"
        return manager

    def start_new_kernel(self, **arguments: Any) -> None:
        """Start the kernel, and end it again when it is not wanted any more."""
        super().start_new_kernel(**arguments)
        self.watch.kernel = self.km.provisioner.pid
        if self.watch.stopped:
            self.watch.kill()

    def execute_cell(self, cell: Any, cell_index: int, **arguments: Any) -> Any:
        """Run one cell."""
        self.watch.began(cell)
        done = super().execute_cell(cell, cell_index, **arguments)
        self.watch.ended(cell_index)
        return done


class Engine(NBClientEngine):
    """papermill's engine, with a watch."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, watch: Watch, env: dict[str, str], folder: str, **_: Any) -> None:
        """Run all cells in a new kernel."""
        client = Client(nb_man, kernel_name=kernel_name, startup_timeout=START_SECONDS, timeout=None)
        client.watch = watch
        watch.cells = len(nb_man.nb.cells)
        watch.report(0, watch.cells)
        client.execute(env=env, cwd=folder)


papermill_engines.register(ENGINE, Engine)


def execute(claim: Claim, settings: Settings, watch: Watch) -> Ended:
    """Run a batch's notebook; its notebook and page are kept whether it succeeds or not.

    Returns
    -------
    Ended
        Well, or why not.
    """
    with place_of(claim, settings) as place, event_loop(), time_limit(claim.time_limit_s, watch):
        ended = attempt(claim, settings, watch, place / NOTEBOOK)
        if (place / NOTEBOOK).is_file():
            notebook = nbformat.read(place / NOTEBOOK, as_version=4)
            (place / PAGE).write_text(page_of(notebook, claim.notebook), "utf-8")
    return ended


def attempt(claim: Claim, settings: Settings, watch: Watch, output: Path) -> Ended:
    """Run the notebook, and say in words how it ended."""
    try:
        papermill.execute_notebook(
            nbformat.reads(claim.source, as_version=4),
            output,
            claim.parameters,
            engine_name=ENGINE,
            kernel_name=claim.kernel,
            progress_bar=False,
            watch=watch,
            env=variables(settings, claim),
            folder=working_folder(claim, output),
        )
    except papermill.PapermillExecutionError as error:
        return failed_cell(error, watch)
    except (DeadKernelError, RuntimeError) as error:
        return dead_kernel(error, watch)
    except NoSuchKernel:
        return Ended(kind=ErrorKind.INPUT, reason=f'The kernel "{claim.kernel}" is not installed where the batch was run.')
    finally:
        watch.kill()
    return Ended()


def failed_cell(error: papermill.PapermillExecutionError, watch: Watch) -> Ended:
    """Say which cell failed, and how. What may have nothing to do with the notebook is tried again."""
    line = next(iter(error.source.strip().splitlines()), "")
    reason = f"In [{error.exec_count}] {line}: {error.ename}: {error.evalue}"
    if watch.stopped:
        return Ended(kind=ErrorKind.INPUT, reason=f"{watch.stopped} It was in In [{error.exec_count}] {line}", cell=error.exec_count)
    kind = ErrorKind.INFRASTRUCTURE if error.ename in PASSING else ErrorKind.INPUT
    return Ended(kind=kind, reason=reason, cell=error.exec_count)


def dead_kernel(error: Exception, watch: Watch) -> Ended:
    """Say that the kernel died; by our hand, or by itself, which another attempt may survive."""
    cell = watch.started or None
    where = f" in In [{cell}]" if cell else " before its first cell"
    if watch.stopped:
        return Ended(kind=ErrorKind.INPUT, reason=f"{watch.stopped} It was stopped{where}.", cell=cell)
    if not isinstance(error, DeadKernelError) and watch.kernel is not None and watch.started:
        return Ended(kind=ErrorKind.INFRASTRUCTURE, reason=f"The notebook could not be run on{where}: {error}", cell=cell)
    why = "It was killed, ran out of memory, or a library crashed."
    return Ended(kind=ErrorKind.CRASH, reason=f"The kernel died{where}. {why}", cell=cell)


def variables(settings: Settings, claim: Claim) -> dict[str, str]:
    """The kernel's environment: it opens the same database and home, whatever folder it works in."""
    return process_environment(**as_variables(settings) | {"SEGKIT_HOME": absolute_home(settings)})


def working_folder(claim: Claim, output: Path) -> str:
    """Where relative paths start: where the batch was asked for, or beside its output when this machine has no such folder."""
    return claim.folder if os.path.isdir(claim.folder) else str(output.parent)


@contextmanager
def place_of(claim: Claim, settings: Settings) -> Iterator[Path]:
    """Give a folder to write into, which ends up beside the results, on a store too."""
    final = results.locate(settings.home, claim.folder_name)
    if is_local(final):
        Path(final).mkdir(parents=True, exist_ok=True)
        yield Path(final)
        return
    with tempfile.TemporaryDirectory(prefix="segkit-batch-") as temporary:
        yield Path(temporary)
        for name in (NOTEBOOK, PAGE):
            if (Path(temporary) / name).is_file():
                folder(final).write(name, (Path(temporary) / name).read_bytes())


@contextmanager
def event_loop() -> Iterator[None]:
    """Have an event loop in this thread, and close it again: the notebook client would leave it open."""
    loop = ensure_event_loop()
    try:
        yield
    finally:
        loop.close()


@contextmanager
def time_limit(seconds: float | None, watch: Watch) -> Iterator[None]:
    """Stop the notebook when its time is over."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, watch.stop, [f"The time limit of {seconds:g} s was over."])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
