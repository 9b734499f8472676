"""A real browser for the tests: Debian's Chromium, headless, and Voila and JupyterLab on ports of their own.

Servers and browser start once in a session. Nothing outside this machine is reached: what a page asks of others is refused
and remembered. Pictures of the pages are kept in `artefacts/`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

ROOT = Path(__file__).parent.parent
ARTEFACTS = ROOT / "artefacts"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--enable-precise-memory-info",
]  # fmt: skip
STARTS_WITHIN = 60
#: A page that is not there after so many milliseconds never will be.
PATIENCE = 60_000
#: For JupyterLab and Voila: no news, no shared settings, no token.
QUIET = {"ServerApp.token": "", "ServerApp.password": "", "ServerApp.open_browser": False, "ServerApp.allow_root": True}


#: Extensions of JupyterLab that Voila's page would load and cannot use.
NOT_FOR_VOILA = (
    "@jupyterlab/scheduler", "@jupyterhub/jupyter-server-proxy", "@pyviz/jupyterlab_pyviz", "@bokeh/jupyter_bokeh", "dask-labextension",
)  # fmt: skip


def free_port() -> int:
    """Find a free port below those that systems give out by themselves: one of these could be taken before the server has it."""
    while True:
        port = random.randint(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Server:
    """A running server with the notebooks of one folder."""

    url: str
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, cells: list[str] | Path, **parameters: Any) -> str:
        """Store a notebook there, of cells or a copy with other parameters; return its name."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]) if isinstance(cells, list) else None
        notebook = notebook or nbformat.read(cells, as_version=4)
        if parameters:
            place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
            given = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
            notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(notebook, self.folder / f"{name}.ipynb")
        return f"{name}.ipynb"


@contextmanager
def serving(command: list[str], folder: Path, port: int, ready: str) -> Iterator[Server]:
    """Run a server until the block ends."""
    places = {name: str(folder / f".{name.lower()}") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    settings = {"SEGKIT_CLUSTER": "threads", "SEGKIT_THREADS_PER_WORKER": "2", "SEGKIT_POLL_SECONDS": "0.1"}
    environment = os.environ | places | settings | {"PYTHONPATH": str(ROOT), "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings")}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, stdout=log, stderr=log, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}{ready}", process, folder / "server.log")
        yield Server(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{url} did not answer: {log.read_text()[-2000:]}")


def voila(folder: Path) -> Any:
    """Serve a folder's notebooks with Voila; kernels whose page has gone end soon."""
    port = free_port()
    culling = ["--MappingKernelManager.cull_idle_timeout=60", "--MappingKernelManager.cull_interval=20"]
    plain = [f"--VoilaConfiguration.extension_denylist={name}" for name in NOT_FOR_VOILA]
    command = ["voila", str(folder), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1", *culling, *plain]
    return serving(command, folder, port, "/")


def lab(folder: Path) -> Any:
    """Serve a folder with JupyterLab."""
    port = free_port()
    arguments = [f"--{name}={value}" for name, value in QUIET.items()] + [f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1"]
    news = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    return serving(["jupyterlab", f"--port={port}", "--no-browser", *arguments, *news], folder, port, "/api")


@pytest.fixture(scope="session")
def voila_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with voila(tmp_path_factory.mktemp("voila")) as server:
        yield server


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with lab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium; skips the test where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("skipped: no chromium (apt install chromium)")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@dataclass
class Watched:
    """A page, what went wrong on it, and what it wanted from outside."""

    page: Page
    faults: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    received: int = 0  #: bytes that came over web sockets

    def keep(self, name: str) -> Path:
        """Keep a picture of the page."""
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path


def watch(browser: Browser, **options: Any) -> Watched:
    """Open a page that is watched."""
    context = browser.new_context(viewport={"width": 1280, "height": 960}, **options)
    watched = Watched(context.new_page())
    watched.page.set_default_timeout(PATIENCE)

    def decide(route: Route) -> None:
        if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            route.continue_()
        else:
            watched.outside.append(route.request.url)
            route.abort()

    def count(payload: str | bytes) -> None:
        watched.received += len(payload)

    watched.page.route("**/*", decide)
    watched.page.on("pageerror", lambda error: watched.faults.append(str(error)))
    watched.page.on("websocket", lambda socket: socket.on("framereceived", count))
    return watched


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    opened = watch(browser)
    yield opened
    opened.page.context.close()


@pytest.fixture
def dark(browser: Browser) -> Iterator[Watched]:
    """The same for a person who likes it dark."""
    opened = watch(browser, color_scheme="dark")
    yield opened
    opened.page.context.close()
