"""Dashboards: time to first useful paint over 100,000 jobs, long tasks while scrolling, and memory after many opens and under many updates.

    python -m benchmarks.dashboards              500 opens, 10 minutes of 500 updates a second
    python -m benchmarks.dashboards --quick      fewer and shorter, under a minute
    python -m benchmarks.dashboards --json       the same, ending in one JSON line

The peer is `pn.widgets.Tabulator(df)` of the same table, on the same kind of server and in the same browser; it reads the jobs from the
database once and not for each page, and no more than 100,000 of them, which flatters it. Useful means that rows of jobs with their
states can be read. Times are the best of some opens, side by side. A long task is one that keeps the page's thread for more than 50 ms, as
browsers count it. Growth is measured after a first part that fills what is kept anyway.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

import segkit
from benchmarks.drawing import wait_until_drawn
from benchmarks.report import arguments, finish, show
from segkit import jobs
from segkit.kit import Kit
from tests.browser import chromium, free_port, wait_for
from tests.test_dashboards import SERVE, fill

JOBS, OPENS, SECONDS, UPDATES = 100_000, 500, 600, 500
QUICK_OPENS, QUICK_SECONDS = 10, 5
ROUNDS, QUICK_ROUNDS = 4, 2
OURS, PEER = ".sk-jobs-row .sk-state", ".tabulator-row"
MIB = 2**20
#: A page with nothing but Panel's own table of the same jobs.
PLAIN = """
import sys, pandas as pd, panel as pn, segkit
pn.extension("tabulator")
kit = segkit.open(sys.argv[1])
def table():
    rows, after, run = [], None, kit.run(int(sys.argv[3]))
    while True:
        found = run.jobs(limit=1000, after=after)
        rows += [(j.id, j.image_name, str(j.status), j.attempt, j.worker, j.finished_at, j.error) for j in found.items]
        after = found.next
        if after is None or len(rows) >= int(sys.argv[4]):
            break
    return pd.DataFrame(rows, columns=["job", "image", "state", "attempt", "worker", "ended", "reason"])
frame = table()
def page():
    return pn.widgets.Tabulator(frame, show_index=False, height=440, sizing_mode="stretch_width")
pn.serve({"plain": page}, port=int(sys.argv[2]), address="127.0.0.1", show=False)
"""
#: Scrolls the table from end to end and counts how long the page's thread was kept.
SCROLL = """async (name) => {
  const find = (root) => { for (const node of root.querySelectorAll("*")) { if (node.matches(name)) return node;
    const inside = node.shadowRoot && find(node.shadowRoot); if (inside) return inside; } return null; };
  const table = find(document), tasks = [];
  const watcher = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((each) => each.duration)));
  watcher.observe({ entryTypes: ["longtask"] });
  const frames = []; let before = performance.now();
  for (let step = 0; step < 120; step++) {
    table.scrollTop = step % 40 === 39 ? Math.random() * table.scrollHeight : table.scrollTop + 400;
    await new Promise((done) => requestAnimationFrame(done));
    frames.push(performance.now() - before); before = performance.now();
  }
  await new Promise((done) => setTimeout(done, 300));
  watcher.disconnect();
  frames.sort((one, other) => one - other);
  return { longest: Math.max(0, ...tasks), frame: frames[Math.floor(frames.length * 0.95)] };
}"""


@contextmanager
def served(program: str, ready: str, *given: str) -> Iterator[tuple[str, int]]:
    """Run a server, which is given the rest, with its port where that says PORT; gives its address and process number."""
    port = free_port()
    command = [sys.executable, "-c", program, *(each.replace("PORT", str(port)) for each in given)]
    with tempfile.NamedTemporaryFile("wb", suffix=".log") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
        try:
            wait_for(f"http://127.0.0.1:{port}{ready}", process, Path(log.name))
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait(20)


def memory_of(number: int) -> float:
    """Return what a process holds, in MiB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{number}/status").read_text())[0]) / 1024


def heap_of(page: Page) -> float:
    """Return what a page's scripts hold after a collection, in MiB."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"]) / MIB


def opened(browser: Browser, url: str, ready: str) -> tuple[float, Page]:
    """Open a page in a browser that has its scripts already; seconds until it is useful."""
    page = browser.contexts[0].new_page() if browser.contexts else browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    wait_until_drawn(page, ready)
    return time.perf_counter() - started, page


def measured(browser: Browser, url: str, ready: str, table: str, rounds: int) -> tuple[float, float, float, float]:
    """Return best seconds to useful, the longest task and the 95th frame while scrolling in ms, and the page's heap in MiB."""
    best, longest, frame, heap = 1e9, 0.0, 1e9, 0.0
    for _ in range(rounds):
        seconds, page = opened(browser, url, ready)
        page.wait_for_timeout(500)
        scrolled = page.evaluate(SCROLL, table)
        best, longest, frame, heap = min(best, seconds), max(longest, scrolled["longest"]), min(frame, scrolled["frame"]), heap_of(page)
        page.close()
    return best, longest, frame, heap


def growth_of_opens(browser: Browser, url: str, process: int, number: int) -> float:
    """Open and close a page so often; MiB that the server grew by in the second half, made out for `OPENS`."""

    def some(count: int) -> None:
        for _ in range(count):
            opened(browser, url, OURS)[1].close()
        time.sleep(UNUSED_SECONDS)

    some(number // 2)
    before = memory_of(process)
    some(number - number // 2)
    return memory_of(process) - before


#: Until a session without a browser is let go of.
UNUSED_SECONDS = 3.0


def updates(kit: Kit, over: threading.Event, each: int = 25) -> int:
    """Claim and finish jobs at `UPDATES` a second; when none is left, queue them again. Returns how many."""
    done = 0
    while not over.is_set():
        started = time.perf_counter()
        with kit.database.write() as connection:
            claims = jobs.claim(connection, "benchmark", each, 60)
            jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, 1) for claim in claims])
        done += 2 * len(claims)
        if not claims:
            return done
        over.wait(max(0.0, 2 * each / UPDATES - (time.perf_counter() - started)))
    return done


def growth_of_updates(browser: Browser, url: str, process: int, kit: Kit, seconds: float) -> tuple[float, float, float]:
    """Keep a page open under updates; MiB that page and server grew by in the second half, and updates a second."""
    page = opened(browser, url, OURS)[1]
    over, counts = threading.Event(), []
    thread = threading.Thread(target=lambda: counts.append(updates(kit, over)))
    started = time.perf_counter()
    thread.start()
    page.wait_for_timeout(1000 * seconds / 2)
    before = heap_of(page), memory_of(process)
    page.wait_for_timeout(1000 * seconds / 2)
    after = heap_of(page), memory_of(process)
    over.set()
    thread.join()
    rate = counts[0] / (time.perf_counter() - started)
    page.close()
    return after[0] - before[0], after[1] - before[1], rate


def told(what: str, found: object) -> None:
    """Tell what has been measured so far: the whole takes half an hour."""
    print(f"{time.strftime('%H:%M:%S')} {what}: {found}", flush=True)


def main() -> None:
    options = arguments(__doc__).parse_args()
    opens, seconds, rounds = (QUICK_OPENS, QUICK_SECONDS, QUICK_ROUNDS) if options.quick else (OPENS, SECONDS, ROUNDS)
    with tempfile.TemporaryDirectory() as folder, segkit.open(f"{folder}/home") as kit, chromium() as browser:
        run = fill(kit, "screen", JOBS if options.quick else 3 * JOBS)
        with served(PLAIN, "/", f"{folder}/home", "PORT", str(run.number), str(JOBS)) as (url, _):
            peer = measured(browser, f"{url}/plain", PEER, ".tabulator-tableholder", rounds)
        told("the plain table", peer)
        with served(SERVE, "/health", f'[{{"port": PORT, "settings": {{"home": "{folder}/home"}}}}]') as (url, process):
            page = f"{url}/dashboards/queue_status"
            first, opened_first = opened(browser, page, OURS)
            opened_first.close()
            ours = measured(browser, page, OURS, ".sk-jobs-view", rounds)
            told("ours", ours)
            grown = growth_of_opens(browser, page, process, opens)
            told(f"growth of the server after {opens} opens, MiB", grown)
            page_growth, server_growth, rate = growth_of_updates(browser, page, process, kit, seconds)
    rows = [["ours", *ours], ["Tabulator(df)", *peer]]
    show(f"{JOBS:,} jobs", ["page", "useful after, s", "longest task, ms", "95th frame, ms", "page holds, MiB"], rows)
    finish(
        {
            "first_paint_of_a_new_server_s": first,
            "first_paint_s": ours[0],
            "first_paint_vs_tabulator": peer[0] / ours[0],
            "long_task_ms": ours[1],
            "long_task_tabulator_ms": peer[1],
            "page_mib": ours[3],
            "page_tabulator_mib": peer[3],
            "opens": opens,
            "server_growth_opens_mib": grown,
            "updates_per_s": rate,
            "page_growth_updates_mib": page_growth,
            "server_growth_updates_mib": server_growth,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
