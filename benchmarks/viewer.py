"""Viewer and queue widget in a real browser: bytes sent and time to the first picture, and what 100,000 jobs cost the page.

    python -m benchmarks.viewer             16384 squared with 100,000 objects; 100,000 jobs; a minute or two
    python -m benchmarks.viewer --quick     4096 squared, 10,000 jobs
    python -m benchmarks.viewer --json      the same, ending in one JSON line

The widgets run in Voila; the browser is Debian's Chromium, headless, without a graphics card. A button on the page makes the widget:
the clock starts when it is pressed, so that reading headers, contrast and object table count, and stops when everything in view is
drawn. Bytes are all that came over the page's web socket meanwhile, the widget's own program included. The image is a tiled TIFF with
a pyramid, and, in a second row, one without: that has to be read whole before anything of it can be shown.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from playwright.sync_api import Browser, CDPSession, Page
from sqlalchemy import insert

import segkit
from benchmarks import report
from benchmarks.drawing import wait_until_drawn
from segkit import jobs, results
from segkit.database import now_sql
from segkit.measure import measure_region, merge_tables
from segkit.schema import Base, JobStatus
from tests.browser import Server, Watched, chromium, voila, watch

FULL, QUICK = (16384, 100_000), (4096, 10_000)
PIXEL_SIZE_UM = 0.5
#: Of the tiles of the TIFF, and of the squares on which one object lies.
TILE = 512

CELL = """
import ipywidgets
import segkit
from segkit import widgets
kit = segkit.open({home!r})
button = ipywidgets.Button(description="Open")
box = ipywidgets.VBox([button])
button.on_click(lambda _: setattr(box, "children", (button, {widget})))
box
"""
VIEWER = "widgets.Viewer(kit.image({image}), kit.run({run}))"
QUEUE = "widgets.Queue(kit, kit.run({run}))"


@dataclass(frozen=True)
class Looked:
    """What the first picture took."""

    seconds: float
    mib: float


# What is looked at


def draw_plane(size: int, objects: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Draw discs on a noisy background, one to a square: the image, and its labels."""
    across = round(objects**0.5)
    step = size // across
    random = np.random.default_rng(0)
    image = random.integers(10, 40, (size, size), dtype=np.uint8)
    labels = np.zeros((size, size), np.int32)
    row, column = np.mgrid[:step, :step] - step / 2
    for number in range(across * across):
        down, left = divmod(number, across)
        disc = np.hypot(row, column) < step * random.uniform(0.25, 0.45)
        place = np.s_[down * step : (down + 1) * step, left * step : (left + 1) * step]
        labels[place][disc] = number + 1
        image[place][disc] += np.uint8(random.integers(80, 200))
    return image, labels


def write_tiff(path: Path, image: NDArray[np.uint8], *, pyramid: bool) -> None:
    """Write a tiled TIFF, with every second pixel's average below it or not."""
    options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "minisblack"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        levels = list(halves(image)) if pyramid else []
        file.write(image, subifds=len(levels), **options)
        for level in levels:
            file.write(level, subfiletype=1, **options)


def halves(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the levels of a pyramid below full size."""
    while max(image.shape) > 2 * TILE:
        image = np.asarray(cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA), np.uint8)
        yield image


def store(kit: segkit.Kit, image: segkit.Image, run: int, labels: NDArray[np.int32]) -> None:
    """Commit a result of the known labels, as a worker would."""
    claim = next(iter(claims(kit)))
    staging = results.staging(kit.settings.home, run, image.id, claim.attempt)
    height = 8 * (labels.shape[0] // round(int(labels.max()) ** 0.5))  # whole squares: no object lies in two bands
    bands = [slice(top, top + height) for top in range(0, labels.shape[0], height)]
    tables = [rows for band in bands if len(rows := whole_objects(labels, band))]
    written = results.write(staging, labels, merge_tables(tables), axes="YX", pixel_size_um=PIXEL_SIZE_UM, provenance={"made": "benchmark"})
    new = results.NewResult(claim.job_id, run, image.id, claim.attempt, "", written.checksum, written.objects, {}, written.bytes, 0.0)
    with kit.database.write() as connection:
        (path,) = results.publish_all(kit.settings.home, [(staging, run, image.id)])
        results.insert(connection, [results.NewResult(**{**vars(new), "path": path})])
        jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, written.objects)])


def whole_objects(labels: NDArray[np.int32], band: slice) -> Any:
    """Measure the objects of a band of rows; none of them lies in two."""
    part = labels[band]
    return measure_region(part, origin=(band.start, 0), image_shape=labels.shape, pixel_size_um=PIXEL_SIZE_UM)


def claims(kit: segkit.Kit) -> list[jobs.Claim]:
    with kit.database.write() as connection:
        return list(jobs.claim(connection, "benchmark", 1, 600))


def queue_of(kit: segkit.Kit, count: int) -> int:
    """Make a run of so many jobs, in every status, without images to read."""
    project = kit.project("queue", create=True)
    image, job, run = (Base.metadata.tables[name] for name in ("image", "job", "run"))
    with kit.database.write() as connection:
        asked: dict[str, Any] = {"segmenter": "nuclei", "version": "1", "parameters": {}, "selection": {}, "segkit_version": "1"}
        counters = {"queued": 0, "running": 0, "done": count, "failed": 0, "cancelled": 0, "objects": 0, "priority": 0}
        row = insert(run).values(project_id=project.record.id, fingerprint="f", created_at=now_sql(), **asked, **counters)
        number = connection.execute(row.returning(run.c.id)).scalar_one()
        start = connection.execute(
            insert(image).values(**image_row(project.record.id, 0), created_at=now_sql()).returning(image.c.id)
        ).scalar_one()
        connection.execute(insert(image).values(created_at=now_sql()), [image_row(project.record.id, each) for each in range(1, count)])
        connection.execute(
            insert(job).values(created_at=now_sql(), not_before=now_sql(), started_at=now_sql(), finished_at=now_sql()),
            [
                {"run_id": number, "image_id": start + each, "status": JobStatus.DONE, "attempt": 1, "max_attempts": 3, "priority": 0}
                for each in range(count)
            ],
        )
    return int(number)


def image_row(project: int, number: int) -> dict[str, Any]:
    name = f"plate7_{number:06}.tif"
    return {"project_id": project, "content_hash": f"{number:040x}", "uri": f"/plate/{name}", "name": name, "bytes": 1}


# Looking


def opened(watched: Watched, server: Server, name: str, home: str, widget: str) -> Page:
    """Open a page with a button that makes a widget, ready to be pressed."""
    stored = server.put(name, [CELL.format(home=home, widget=widget)])
    watched.page.goto(f"{server.url}/voila/render/{stored}", wait_until="commit")
    watched.page.get_by_role("button", name="Open").wait_for()
    return watched.page


def look(browser: Browser, server: Server, name: str, home: str, widget: str) -> Looked:
    """Make a viewer and wait until everything in view is drawn."""
    watched = watch(browser)
    page = opened(watched, server, name, home, widget)
    before, started = watched.received, time.perf_counter()
    page.get_by_role("button", name="Open").click()
    wait_until_drawn(page, ".sk[data-drawn]")
    looked = Looked(time.perf_counter() - started, (watched.received - before) / 2**20)
    page.context.close()
    return looked


def heap(session: CDPSession) -> float:
    """MiB of JavaScript objects in a page, after what can be freed was."""
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"]
    return float(used) / 2**20


def list_jobs(browser: Browser, server: Server, home: str, widget: str) -> dict[str, float]:
    """Make a queue widget: time until rows are drawn, memory of the page, rows that exist, time to the far end."""
    watched = watch(browser)
    page = opened(watched, server, "queue", home, widget)
    session = page.context.new_cdp_session(page)
    before, started = heap(session), time.perf_counter()
    page.get_by_role("button", name="Open").click()
    wait_until_drawn(page, "[data-job]")
    drawn = time.perf_counter() - started
    jump = to_the_end(page)
    page.wait_for_timeout(500)
    figures = {"queue_drawn_s": drawn, "queue_jump_s": jump, "queue_rows": page.locator("[data-job]").count()}
    figures |= {"queue_page_mib": heap(session), "queue_own_mib": heap(session) - before}
    page.context.close()
    return figures


def to_the_end(page: Page) -> float:
    """Scroll to the last job; seconds until it is there."""
    last = page.evaluate("Number(document.querySelector('.sk').dataset.total)")
    started = time.perf_counter()
    page.evaluate("document.querySelector('.sk-scroll').scrollTop = 1e9")
    wait_until_drawn(page, f"[title='plate7_{int(last) - 1:06}.tif']")
    return time.perf_counter() - started


def main() -> None:
    given = report.arguments(__doc__).parse_args()
    size, count = QUICK if given.quick else FULL
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, voila(Path(folder)) as server, chromium() as browser:
        home = f"{folder}/home"
        image, labels = draw_plane(size, count)
        with segkit.open(home) as kit:
            made = []
            for pyramid in (True, False):
                path = Path(folder) / f"{'pyramid' if pyramid else 'flat'}.tif"
                write_tiff(path, image if pyramid else image + np.uint8(1), pyramid=pyramid)
                project = kit.project(path.stem, create=True)
                project.add(path, pixel_size_um=PIXEL_SIZE_UM)
                registered = next(iter(project))
                run = project.segment("threshold")
                store(kit, registered, run.number, labels)
                made.append((path.stem, run.number, registered.id))
            queue = queue_of(kit, count)
        rows = []
        for name, run_number, image_number in made:
            looked = look(browser, server, name, home, VIEWER.format(run=run_number, image=image_number))
            figures |= {f"{name}_s": looked.seconds, f"{name}_mib": looked.mib}
            rows.append((name, size, looked.seconds, looked.mib))
        report.show(f"First picture with {count:,} objects", ["image", "edge", "s", "MiB sent"], rows)
        figures |= list_jobs(browser, server, home, QUEUE.format(run=queue))
    report.finish(figures, given.json)


if __name__ == "__main__":
    main()
