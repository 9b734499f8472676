"""Batches: what a batch costs beside plain papermill, which keeps no record, cap, lease or page.

    python -m benchmarks.batches            nine rounds
    python -m benchmarks.batches --quick    three rounds, under a minute
    python -m benchmarks.batches --json     the same, ending in one JSON line

The notebook does almost nothing, so that what is left is the kernel's start, which both have, and our own part. Three ways to run it,
interleaved; each ratio is formed within a round and the medians are quoted:

- papermill: `papermill.execute_notebook` in this process, into a folder
- batch: queued and worked off by a worker that is up, checked, recorded, with progress by cell, its notebook and its page of HTML
- papermill and page: papermill, and then nbconvert's page of the same notebook, which is the like of what a batch leaves

Overhead is a batch's time less papermill's. The worker looks for batches every 0.1 s here, of which the mean wait is part.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter

import segkit
from benchmarks import report
from segkit import batches

POLL_SECONDS = 0.1
WAYS = ("papermill", "papermill and page", "batch")


def write_notebook(folder: Path) -> Path:
    """Write a notebook of six cells that do almost nothing."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells.append(nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(f"print(x + {number})") for number in range(5)]
    folder.mkdir()
    path = folder / "nothing.ipynb"
    nbformat.write(notebook, path)
    return path


def timed(run: Callable[[], object]) -> float:
    """Seconds that something takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def plain(path: Path, out: Path) -> None:
    papermill.execute_notebook(path, out / "plain.ipynb", {"x": 2}, progress_bar=False)


def plain_with_page(path: Path, out: Path) -> None:
    plain(path, out)
    page, _ = HTMLExporter().from_filename(str(out / "plain.ipynb"))
    (out / "plain.html").write_text(page)


def batch(kit: segkit.Kit, path: Path) -> None:
    queued = kit.batch(path, {"x": 2})
    done = queued.wait(60, work=False)
    if "3" not in Path(done.notebook).read_text() or not Path(done.page).is_file():
        raise AssertionError("the batch left nothing")


def measure(rounds: int) -> dict[str, list[float]]:
    """Time the three ways in turn."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = write_notebook(folder / "notebooks")
        chosen = {"poll_seconds": POLL_SECONDS, "notebook_folders": str(folder / "notebooks")}
        with segkit.open(folder / "home", **chosen) as kit, batches.beside(kit.batch_worker()):
            for number in range(rounds + 1):
                taken = {
                    "papermill": timed(lambda: plain(path, folder)),
                    "papermill and page": timed(lambda: plain_with_page(path, folder)),
                    "batch": timed(lambda: batch(kit, path)),
                }
                for way in WAYS if number else ():  # the first round loads what is used
                    seconds[way].append(taken[way])
    return seconds


def main() -> None:
    arguments = report.arguments(__doc__).parse_args()
    seconds = measure(3 if arguments.quick else 9)
    plain_times = seconds["papermill"]
    ratios = {way: statistics.median(one / other for one, other in zip(seconds[way], plain_times, strict=True)) for way in WAYS}
    overhead = statistics.median(one - other for one, other in zip(seconds["batch"], plain_times, strict=True))
    rows = [(way, statistics.median(seconds[way]), min(seconds[way]), ratios[way]) for way in WAYS]
    report.show("One notebook of six cells", ("", "median s", "best s", "times papermill"), rows)
    figures = {"batch_s": statistics.median(seconds["batch"]), "papermill_s": statistics.median(plain_times), "overhead_s": overhead}
    figures |= {"batch_over_papermill": ratios["batch"], "page_over_papermill": ratios["papermill and page"]}
    report.finish(figures, arguments.json)


if __name__ == "__main__":
    main()
