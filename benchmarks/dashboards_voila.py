"""The dashboards that are notebooks, in Voila: how soon one opens warm, and what server and kernels hold after many opens.

    python -m benchmarks.dashboards_voila              500 opens
    python -m benchmarks.dashboards_voila --quick      8 opens, under two minutes
    python -m benchmarks.dashboards_voila --json       the same, ending in one JSON line

`segkit voila` with its own configuration, over 100,000 jobs. An open is warm when a kernel waits for it that has the library already
(`conf/voila.json` keeps two), and the browser was here before: it has a profile on disk, as people's browsers have, in which scripts are
kept compiled. Useful means that rows of jobs with their states can be read. The peer is a notebook of one line that shows
a label, on the same server in the same way: what Voila itself needs. Each page is left as a person leaves it, so that it can tell Voila to
end its kernel. Memory is the proportional share (PSS) of the server and of all kernels, once those of left pages have gone; growth is
measured over the second half of the opens.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from playwright.sync_api import BrowserContext, sync_playwright

import segkit
from benchmarks.dashboards import JOBS, OURS, told
from benchmarks.drawing import wait_until_drawn
from benchmarks.report import arguments, finish, show
from segkit.cli.dashboards import command_of
from tests.browser import ARGUMENTS, free_port, wait_for
from tests.test_dashboards import fill

OPENS, QUICK_OPENS, TIMED, QUICK_TIMED = 500, 8, 10, 3
#: Until a page that was left has told so, its kernel has gone, and another is warm.
SETTLED_SECONDS, MOST_SECONDS = 3.0, 60.0
#: Opens of each page that are not counted: a browser compiles scripts for good when it has run them a few times.
FIRST = 3
POOL = json.loads((Path(__file__).parent.parent / "conf/voila.json").read_text())["VoilaKernelManager"]["kernel_pools_config"]["default"]
PLAIN = "import ipywidgets\nipywidgets.HTML('<b class=\"plain\">here</b>')"


@dataclass(frozen=True)
class Server:
    """A running Voila."""

    url: str
    process: psutil.Process
    warm: int  #: kernels that wait for a page

    def kernels(self) -> list[psutil.Process]:
        """Return the kernels that run."""
        found = []
        for each in self.process.children(recursive=True):
            with suppress(psutil.Error):  # it ended meanwhile
                if "ipykernel_launcher" in " ".join(each.cmdline()):
                    found.append(each)
        return found

    def work(self) -> dict[int, float]:
        """Return the seconds that each kernel has computed."""
        found = {}
        for each in self.kernels():
            with suppress(psutil.Error):
                found[each.pid] = sum(each.cpu_times()[:2])
        return found

    def settle(self) -> None:
        """Wait until no kernel runs but those that are kept warm, and these have nothing more to do."""
        until = time.monotonic() + MOST_SECONDS
        while time.monotonic() < until:
            before = self.work()
            time.sleep(0.5)
            after = self.work()
            if len(after) == self.warm and before.keys() == after.keys() and all(after[n] - before[n] < 0.05 for n in after):
                return

    def memory(self) -> float:
        """Return the MiB that the server and its kernels hold."""
        return sum(shared_part(each.pid) for each in (self.process, *self.process.children(recursive=True)))


def shared_part(number: int) -> float:
    """Return the proportional share of memory of a process, in MiB."""
    try:
        return int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{number}/smaps_rollup").read_text(), re.MULTILINE)[0]) / 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


@contextmanager
def served(home: str, folder: Path) -> Iterator[Server]:
    """Run what `segkit voila` runs, over copies of the dashboards and the plain notebook."""
    port = free_port()
    command = command_of(port, show=False)
    own = Path(command[3])
    for notebook in own.glob("*.ipynb"):
        shutil.copy(notebook, folder)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PLAIN)]), folder / "plain.ipynb")
    command[3] = str(folder)
    root = own.parent
    conf = str(root / "conf")
    environment = os.environ | {"SEGKIT_HOME": home, "JUPYTER_CONFIG_PATH": conf, "JUPYTER_PATH": conf}
    with tempfile.NamedTemporaryFile("wb", suffix=".log") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/", process, Path(log.name))
            yield Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid), POOL["pool_size"] * len(list(folder.glob("*.ipynb"))))
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def browsing(profile: Path) -> Iterator[BrowserContext]:
    """Run Debian's Chromium with a profile on disk."""
    with sync_playwright() as playwright:
        place = shutil.which("chromium")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=place, args=ARGUMENTS, viewport={"width": 1280, "height": 900}
        )
        yield context
        context.close()


def opened(browser: BrowserContext, server: Server, name: str, ready: str) -> float:
    """Open a page, and leave it; seconds until it was useful."""
    page = browser.new_page()
    started = time.perf_counter()
    page.goto(f"{server.url}/voila/render/{name}.ipynb", wait_until="commit")
    wait_until_drawn(page, ready)
    seconds = time.perf_counter() - started
    page.goto("about:blank")
    page.close()
    return seconds


def timed(browser: BrowserContext, server: Server, rounds: int) -> dict[str, list[float]]:
    """Open the pages in turn, each warm."""
    pages = {"queue_status": OURS, "performance": ".sk-chart", "plain": ".plain"}
    seconds: dict[str, list[float]] = {name: [] for name in pages}
    for number in range(rounds + FIRST):
        for name, ready in pages.items():
            server.settle()
            taken = opened(browser, server, name, ready)
            if number >= FIRST:
                seconds[name].append(taken)
    return seconds


def grown(browser: BrowserContext, server: Server, opens: int) -> tuple[float, float]:
    """Open the queue so often; MiB held at the end, and how many more than half-way."""
    held = []
    for part in (opens // 2, opens - opens // 2):
        for _ in range(part):
            opened(browser, server, "queue_status", OURS)
        server.settle()
        time.sleep(SETTLED_SECONDS)
        held.append(server.memory())
        told(f"held after {part} opens, MiB", held[-1])
    return held[1], held[1] - held[0]


def main() -> None:
    """Measure, and print the figures."""
    options = arguments(__doc__).parse_args()
    opens, rounds = (QUICK_OPENS, QUICK_TIMED) if options.quick else (OPENS, TIMED)
    with tempfile.TemporaryDirectory() as folder:
        home, notebooks = f"{folder}/home", Path(folder) / "notebooks"
        notebooks.mkdir()
        with segkit.open(home) as kit:
            fill(kit, "screen", JOBS)
        with served(home, notebooks) as server, browsing(Path(folder) / "profile") as browser:
            seconds = timed(browser, server, rounds)
            told("seconds until useful", seconds)
            held, growth = grown(browser, server, opens)
            left = len(server.kernels())
    rows = [(name, statistics.median(taken), min(taken), max(taken)) for name, taken in seconds.items()]
    show(f"Opening in Voila, {JOBS:,} jobs", ["page", "median, s", "best, s", "worst, s"], rows)
    finish(
        {
            "warm_open_s": statistics.median(seconds["queue_status"]),
            "warm_open_performance_s": statistics.median(seconds["performance"]),
            "warm_open_plain_s": statistics.median(seconds["plain"]),
            "warm_open_vs_plain": statistics.median(seconds["queue_status"]) / statistics.median(seconds["plain"]),
            "opens": opens,
            "held_mib": held,
            "growth_opens_mib": growth,
            "kernels_left": left,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
