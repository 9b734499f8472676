"""Dashboards in a real browser: pages of the service over 0, 10 and 100,000 jobs, live, with their buttons, and without a server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import tifffile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from sqlalchemy import insert, text

import segkit
from segkit import history, jobs
from segkit.boards import FailuresCard, JobsCard, QueueCard, RunsCard, board_of
from segkit.boards.board import Counted
from segkit.database import open_database, upgrade
from segkit.jobs import pace_of
from segkit.schema import ErrorKind, Image
from segkit.settings import load
from segkit.telemetry import METRICS
from tests.browser import STARTS_WITHIN, Watched, browser, free_port, wait_for, watch
from tests.conftest import PostgresqlServer
from tests.plates import QUICK, write_plate

__all__ = ["browser"]  # a fixture

ROOT = Path(__file__).parent.parent
SERIOUS = {"serious", "critical"}
ROW = ".sk-jobs-row .sk-state"
INSIDE = ("http://127.0.0.1:", "data:", "blob:")
#: Serves home folders on ports as `segkit serve` does; several in one process, which loads all that they share once.
SERVE = """
import asyncio, json, sys, uvicorn
from segkit.server.app import create_app
from segkit.settings import load
async def serve(port, settings):
    app = create_app(load(cluster="threads", **settings))
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")).serve()
async def main():
    await asyncio.gather(*(serve(each["port"], each["settings"]) for each in json.loads(sys.argv[1])))
asyncio.run(main())
"""
TOKEN = "a-long-master-token"
#: As JupyterHub or a reverse proxy shows it.
PREFIX = "/lab/segkit"


@dataclass
class Services:
    """One process that serves several home folders, each on its port."""

    log: Path
    settings: dict[str, dict[str, str]]  #: by name
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        given = json.dumps([{"port": self.ports[name], "settings": settings} for name, settings in self.settings.items()])
        with self.log.open("ab") as out:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-c", SERVE, given]
            self.process = subprocess.Popen(command, cwd=self.log.parent, stdout=out, stderr=out, env=environment)
        for name in self.settings:
            wait_for(f"{self.url(name)}/health", self.process, self.log)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(STARTS_WITHIN)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}{self.settings[name].get('server_root_path', '')}"

    def page(self, watched: Watched, home: str, name: str = "queue_status", ready: str = ROW, **query: Any) -> Page:
        asked = "&".join(f"{key}={value}" for key, value in query.items())
        watched.page.goto(f"{self.url(home)}/dashboards/{name}?{asked}")
        watched.page.wait_for_selector(ready)
        return watched.page


@dataclass
class Site:
    """What the pages show: nothing, ten images with results of nine, and 100,000 jobs; a service that asks for a token, and one

    on PostgreSQL under a path prefix.
    """

    services: Services
    real: segkit.Kit
    large: segkit.Kit
    shared: segkit.Kit
    reader: str  #: a token that may read from the guarded service


def fill(kit: segkit.Kit, name: str, number: int) -> segkit.Run:
    """Make a project of so many images that lie nowhere, and queue them; fast, whatever their number."""
    project = kit.project(name, create=True)
    rows = [
        {"project_id": project.record.id, "content_hash": f"sha256:{name}{n}", "uri": f"file:///nowhere/{n}.tif", "name": well_name(n)}
        for n in range(number)
    ]
    known = {"format": "tiff", "axes": "YX", "shape": [64, 64], "dtype": "uint8", "bytes": 4096}
    with kit.database.write() as connection:
        connection.execute(insert(Image.__table__).values(known | {"created_at": jobs.statements.now()}), rows)
        connection.execute(text("UPDATE project SET images = :number WHERE id = :id"), {"number": number, "id": project.record.id})
    return project.segment("threshold")


def well_name(number: int) -> str:
    return f"plate7_{'ABCDEFGH'[number % 8]}{number // 8 % 12 + 1:02d}_f{number // 96:04d}.tif"


def end_some(kit: segkit.Kit, count: int, reason: str | None = None) -> None:
    """Work some jobs off as a worker does, but without images; with a reason they fail."""
    with kit.database.write() as connection:
        claims = jobs.claim(connection, "worker-of-tests", count, 60)
        done = [] if reason else [jobs.Finished(each.job_id, each.attempt, 3) for each in claims]
        failed = [jobs.Failed(each.job_id, each.attempt, ErrorKind.INPUT, reason) for each in claims] if reason else []
        jobs.finish(connection, done, failed)


def ten_images(folder: Path, kit: segkit.Kit) -> None:
    """Segment nine images of a plate, and one that is none."""
    project = kit.project("<b>plate</b>", create=True)
    for number in range(10):
        plate = write_plate(folder, [number % 5 + 1], first=number)
        (plate / f"{number:03d}.tif").rename(plate / well_name(number))
    project.add(folder, pixel_size_um=0.5)
    run = project.segment("threshold")
    (folder / well_name(7)).write_bytes(b"II*\0")
    kit.work_off([run])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgresql_server: PostgresqlServer) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    settings = {name: {"home": str(folder / name)} for name in ("empty", "real", "large", "guarded", "shared")}
    settings["guarded"]["token"] = TOKEN
    settings["shared"] |= {"database_url": postgresql_server.create(), "server_root_path": PREFIX}
    with open_database(load(**settings["shared"]), check=False) as database:
        upgrade(database)
    with ExitStack() as opened:
        kits = {name: opened.enter_context(segkit.open(**QUICK | each)) for name, each in settings.items()}
        ten_images(folder / "images", kits["real"])
        fill(kits["large"], "screen", 100_000)
        fill(kits["guarded"], "plate", 3)
        ten_images(folder / "shared-images", kits["shared"])
        _, reader = kits["guarded"].new_token("reader", "read")
        services = Services(folder / "services.log", settings, {name: free_port() for name in settings})
        services.start()
        yield Site(services, kits["real"], kits["large"], kits["shared"], reader)
        services.stop()


def observed(browser: Browser, **options: Any) -> Watched:
    """Open a page in a browser that keeps what it fetched; requests to the outside are noted."""
    opened = watch(browser, **options)
    opened.page.unroute("**/*")
    note = opened.outside.append
    opened.page.on("request", lambda request: None if request.url.startswith(INSIDE) else note(request.url))
    return opened


@pytest.fixture(scope="module")
def one_page(browser: Browser) -> Iterator[Watched]:
    opened = observed(browser)
    yield opened
    opened.page.context.close()


@pytest.fixture
def watched(one_page: Watched) -> Watched:
    one_page.faults.clear()
    one_page.outside.clear()
    one_page.received = 0
    return one_page


def sound(watched: Watched) -> None:
    """Nothing failed on the page, and nothing was asked of the outside."""
    assert watched.faults == []
    assert watched.outside == []


#: Words of the charts' drawings that lie over others, and how many words there are.
OVERLAPPING = """() => {
  const inside = (node) => node.matches("svg") ? [node] : node.shadowRoot ? drawings(node.shadowRoot) : [];
  const drawings = (root) => [...root.querySelectorAll("*")].flatMap(inside);
  let words = 0;
  const over = drawings(document).flatMap((drawing) => {
    const boxes = [...drawing.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    words += boxes.length;
    const meet = (one, other) => one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
    const others = (one, n) => boxes.slice(n + 1).filter((other) => meet(one[1], other[1]));
    return boxes.flatMap((one, n) => others(one, n).map((other) => `${one[0]} | ${other[0]}`));
  });
  return { words, over };
}"""


def findings(page: Page) -> list[str]:
    """Return what axe finds that keeps people out."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['help']} ({each['nodes'][0]['html'][:200]})" for each in found if each["impact"] in SERIOUS]


# What cards say


def test_time_left_is_not_known_before_enough_has_ended() -> None:
    assert pace_of([(0.0, 0), (5.0, 100)]) is None, "too short a time"
    assert pace_of([(0.0, 0), (60.0, 2)]) is None, "too few"
    even, uneven = pace_of([(10.0 * n, 20 * n) for n in range(10)]), pace_of([(10.0 * n, 20 * n + 15 * (n % 2)) for n in range(10)])
    assert even is not None
    assert uneven is not None
    assert even.per_second == pytest.approx(2.0)
    assert even.low < 2 < even.high
    assert uneven.high - uneven.low > even.high - even.low, "the less even it goes, the wider the range"
    assert pace_of([(0.0, 0), (90.0, 0), (100.0, 5)]).time_left(10)[1] is None  # type: ignore[union-attr]


def test_jobs_that_are_queued_again_are_no_negative_pace() -> None:
    counted = Counted()
    for second in range(0, 60, 2):
        counted.add(float(second), 10 * second)
    assert counted.pace() is not None
    counted.add(61.0, 100)
    assert counted.pace() is None


def test_cards_of_an_empty_kit(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        facts = QueueCard(kit).facts()
        assert (facts["counts"]["total"], facts["pace"], facts["fault"]) == (0, None, None)
        assert RunsCard(kit).facts()["runs"] == []
        assert FailuresCard(kit).facts()["failures"] == []
        assert JobsCard(kit).facts()["run"] is None


def test_any_row_of_a_large_run_is_found_by_its_place(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        run = fill(kit, "screen", 1000)
        card = JobsCard(kit, run.number)
        ask = card.answers()
        rows = ask["rows"]({"run": run.number, "status": "", "first": 700, "count": 20})
        assert rows["total"] == 1000
        assert [row[2] for row in rows["rows"]] == [well_name(n) for n in range(700, 720)]
        assert ask["rows"]({"run": run.number, "status": "queued", "first": 995, "count": 20})["rows"][-1][2] == well_name(999)
        assert ask["rows"]({"run": run.number, "status": "", "first": 5000, "count": 20})["rows"] == []
        assert ask["find"]({"run": run.number, "image": rows["rows"][0][1]})["row"] == 700
        assert ask["find"]({"run": run.number, "image": 10**9})["row"] is None


def test_a_board_tells_of_what_another_process_commits(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit, segkit.open(tmp_path / "home", **QUICK) as other:
        run = fill(kit, "plate", 20)
        told: list[int] = []
        stop = board_of(kit).follow(lambda snapshot: told.append(snapshot.summary.failed))
        end_some(other, 2, "It ends early.")
        deadline = time.monotonic() + 5
        while 2 not in told and time.monotonic() < deadline:
            time.sleep(0.02)
        assert 2 in told
        stop()
        assert board_of(kit).followers() == 0
        failure = FailuresCard(kit).facts()["failures"][0]
        assert (failure["run"], failure["reason"]) == (run.number, "It ends early.")


def test_grafana_asks_for_metrics_that_there_are() -> None:
    drawn = json.loads((ROOT / "conf" / "grafana" / "segkit.json").read_text())
    known = {metric.name for metric in METRICS.values()}
    asked = {name for panel in drawn["panels"] for name in re.findall(r"segkit_\w+", panel["targets"][0]["expr"])}
    assert {name.removesuffix("_bucket") for name in asked} <= known


# Pages


def test_nothing_is_shown_well_too(site: Site, watched: Watched) -> None:
    for name, words in (("queue_status", "No run yet"), ("results", "No run has results yet"), ("performance", "Nothing measured")):
        site.services.page(watched, "empty", name, f"text={words} >> visible=true")
        watched.keep(f"dashboard-{name}-0")
    sound(watched)


def test_results_are_shown_with_plate_gallery_and_linked_selection(site: Site, watched: Watched) -> None:
    page = site.services.page(watched, "real", "results", ".sk-gallery img")
    assert page.locator(".sk-well", has_text=re.compile(r"[0-9]")).count() == 9
    page.locator("p", has_text=re.compile("All [0-9]+ objects")).wait_for()
    watched.keep("dashboard-results-10")
    page.locator(".sk-exports button", has_text="csv").click()
    link = page.locator(".sk-exports a")
    link.wait_for()
    answer = page.request.get(link.evaluate("node => node.href"))
    assert answer.status == 200
    assert answer.text().startswith('"image_id"')
    assert findings(page) == []
    sound(watched)


def test_performance_is_drawn_from_the_history_that_the_database_keeps(site: Site, watched: Watched) -> None:
    moment = datetime.now(UTC)
    with site.real.database.write() as connection:
        for minute in range(30):
            worker = {"images.nuclei_total": 120.0, "seconds.nuclei_total": 60.0, "peak_memory_bytes": 2.0**30}
            at = moment - timedelta(minutes=minute)
            history.record(connection, "worker lab", worker, at=at)
            history.record(connection, "server lab", {"p50_seconds": 0.004, "p95_seconds": 0.02, "p99_seconds": 0.05}, at=at)
    page = site.services.page(watched, "real", "performance", ".sk-plot svg")
    charts = page.locator(".sk-chart", has=page.locator("svg"))
    assert charts.count() > 5
    for shown in charts.all_inner_texts():
        assert re.search(r", (per second|ms|s per image|MiB|GiB|jobs|number|%)$", shown.partition("\n")[0])
        assert "last hour, a point a minute" in shown
    assert "nuclei 2" in page.locator(".sk-chart", has_text="Images by segmenter").inner_text(), "120 a minute are 2 a second"
    assert "nuclei 0.5" in page.locator(".sk-chart", has_text="Computing by segmenter").inner_text()
    page.locator("[data-card=charts] select").select_option("day")
    page.locator(".sk-chart", has_text="last 24 hours").first.wait_for()
    watched.keep("dashboard-performance-10")
    drawn = page.evaluate(OVERLAPPING)
    assert drawn["words"] > 20
    assert drawn["over"] == [], "times below a chart run into each other"
    assert findings(page) == []
    sound(watched)


def test_pages_are_readable_on_a_phone_and_in_the_dark(site: Site, browser: Browser) -> None:
    opened = observed(browser, color_scheme="dark")
    opened.page.set_viewport_size({"width": 390, "height": 800})
    for name, ready in (("queue_status", ROW), ("performance", ".sk-figures td"), ("results", ".sk-gallery img")):
        page = site.services.page(opened, "real", name, ready)
        if name == "results":
            page.locator("p", has_text=re.compile("All [0-9]+ objects")).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
        opened.keep(f"dashboard-{name}-phone-dark")
        assert findings(page) == []
    page.locator("#theme").select_option("light")
    assert page.evaluate("document.documentElement.dataset.dark") == "false"
    sound(opened)
    opened.page.context.close()


def test_ten_jobs_are_shown_with_reason_log_and_picture_and_buttons_ask_and_work(site: Site, watched: Watched) -> None:
    kit, page = site.real, site.services.page(watched, "real")
    assert page.locator(".sk-tile.sk-done .sk-number").inner_text() == "9"
    assert page.locator(".sk-failures li").count() == 1
    assert "<b>plate</b>" in page.locator(".sk-what").first.inner_text(), "a name is text"
    page.locator(".sk-failures .sk-link").click()
    detail = page.locator(".sk-detail")
    detail.locator(".sk-reason").wait_for()
    assert "again" in detail.locator(".sk-reason").inner_text()
    assert "attempt 1" in detail.locator(".sk-log pre").inner_text()
    page.locator("[data-card=jobs] select").select_option("done")
    page.locator(".sk-jobs-row", has_text="A01").first.click()
    page.locator(".sk-detail img").wait_for()
    watched.keep("dashboard-queue-10")
    assert findings(page) == []
    page.locator("[data-card=runs] [data-do=retry]").first.click()
    dialog = page.locator("dialog[open]")
    assert "1 failed or cancelled job will be queued again" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert kit.queue().failed == 1, "nothing happens without a yes"
    said, yes = page.locator("[data-card=runs] .sk-said"), dialog.locator("button.sk-main")
    for what, words in (("retry", "1 job queued again"), ("raise", "priority 10"), ("cancel", "1 job cancelled")):
        page.locator(f"[data-card=runs] [data-do={what}]").first.click()
        yes.click()
        said.filter(has_text=words).wait_for()
        assert what != "retry" or kit.queue().queued == 1
    assert kit.queue().cancelled == 1
    sound(watched)


def test_a_hundred_thousand_jobs_and_a_failure_within_a_second(site: Site, watched: Watched) -> None:
    page = site.services.page(watched, "large")
    assert page.locator(".sk-jobs-row").count() < 60, "only the rows in view exist"
    grid = page.locator(".sk-jobs-view")
    assert grid.get_attribute("aria-rowcount") == "100001"
    grid.focus()
    page.keyboard.press("End")
    page.locator(".sk-jobs-row.sk-active", has_text=well_name(99_999)).wait_for()
    page.get_by_label("Go to image number").fill("50001")
    page.keyboard.press("Enter")
    page.locator(".sk-jobs-row.sk-active", has_text=well_name(50_000)).wait_for()
    page.keyboard.press("Enter")
    page.locator(".sk-detail h3", has_text="Job 50001").wait_for()
    watched.keep("dashboard-queue-100000")
    assert watched.received < 2_000_000
    assert findings(page) == []
    page.evaluate(WATCH_FAILURES, "strips")
    end_some(site.large, 1, "The file ends early: 5 of 12 strips are there.")
    failed_at = 1000 * time.time()
    page.wait_for_function("() => window.failedAt")
    assert page.evaluate("window.failedAt") - failed_at < 1000
    assert "strips" in page.locator(".sk-failures .sk-reason").first.inner_text()
    site.services.page(watched, "large", "results", "text=No run has results yet >> visible=true")
    site.services.page(watched, "large", "performance", ".sk-figures td")
    sound(watched)


def test_pages_are_the_same_on_postgresql_and_under_a_path_prefix(site: Site, watched: Watched) -> None:
    """A real worker fails here: between processes PostgreSQL tells of nothing that nobody publishes."""
    run = site.shared.project("<b>plate</b>").segment("threshold", sigma=2.0)
    replaced = next(image for image in site.shared.project("<b>plate</b>") if image.record.name == well_name(3))
    tifffile.imwrite(unquote(urlsplit(replaced.record.uri).path), np.zeros((8, 8), np.uint8))
    page = site.services.page(watched, "shared")
    assert page.locator(".sk-tile.sk-done .sk-number").inner_text() == "9"
    page.evaluate(WATCH_FAILURES, "changed")
    failed_at: list[float] = []
    site.shared.work_off([run], watch=lambda event: failed_at.append(1000 * time.time()) if "changed" in event.detail else None)
    page.wait_for_function("() => window.failedAt")
    assert page.evaluate("window.failedAt") - failed_at[0] < 1000
    page.locator("nav a", has_text="Results").click()
    page.wait_for_selector(".sk-gallery img")
    assert PREFIX in page.url
    page.locator("nav a", has_text="Performance").click()
    page.wait_for_selector(".sk-figures td")
    watched.keep("dashboard-performance-prefix")
    sound(watched)


#: Notes when a word first stands among the failures.
WATCH_FAILURES = """(word) => {
  const look = (root) => {
    for (const node of root.querySelectorAll("*")) if (node.shadowRoot) look(node.shadowRoot);
    for (const list of root.querySelectorAll(".sk-failures")) {
      const note = () => { if (list.textContent.includes(word)) window.failedAt ??= Date.now(); };
      new MutationObserver(note).observe(list, { childList: true, subtree: true, characterData: true });
    }
  };
  look(document);
}"""


def test_a_token_that_may_read_gets_no_buttons_and_no_answer_to_them(site: Site, watched: Watched) -> None:
    services, request = site.services, watched.page.request
    assert request.get(f"{services.url('guarded')}/dashboards/queue_status").status == 401
    assert request.get(f"{services.url('guarded')}/static/js/bokeh.min.js").status == 401
    page = services.page(watched, "guarded", token=site.reader)
    assert page.locator(".sk-run").count() == 1
    assert page.locator("[data-do]:visible").count() == 0
    page = services.page(watched, "guarded", token=TOKEN)
    assert page.locator("[data-do=cancel]:visible").count() == 1


@pytest.mark.slow
def test_a_page_says_that_its_server_is_gone_and_comes_back(site: Site, watched: Watched) -> None:
    page = site.services.page(watched, "real", run=1)
    site.services.stop()
    page.locator("#away", has_text="not reachable").wait_for()
    watched.keep("dashboard-away")
    site.services.start()
    page.locator("#away").wait_for(state="hidden")
    page.wait_for_selector(ROW)
    page.locator("#live", has_text="live").wait_for()
    assert "run=1" in page.url
