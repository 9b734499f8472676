"""`segkit demo`: the whole path on real images, and what it left to look at."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from skimage import data, io

from segkit import kernels, kit, overlays, scoring
from segkit.synthetic import nuclei_field

PROJECT = "demo"
#: The synthetic plate: two rows of three wells, more crowded from left to right.
WELLS = {f"synthetic_{row}{column}": 60 * column + 30 * index for index, row in enumerate("AB") for column in (1, 2, 3)}
SYNTHETIC_PIXEL_SIZE_UM = 0.5
MOST_TILES = 12
#: So many unreadable and failed images are named; `segkit list` names all of them.
MOST_NAMED = 10
#: Of a folder's path, so much of its end goes into its project's name.
LONGEST_PLACE = 150


@dataclass(frozen=True)
class Exhibit:
    """Some images and the segmenter that suits them."""

    title: str
    segmenter: str
    files: list[Path]
    parameters: dict[str, Any] = field(default_factory=dict)
    pixel_size_um: float | None = None
    truth: dict[str, NDArray[np.int32]] = field(default_factory=dict)  #: by file name, where it is known


@dataclass(frozen=True)
class Row:
    """One line of the table that the demonstration ends with."""

    image: str
    method: str
    objects: int
    seconds: float
    f1: float | None


def show(out: Path, *, folder: Path | None, segmenter: str, pixel_size_um: float | None, console: Console) -> list[Row]:
    """Run the demonstration.

    Parameters
    ----------
    out : path
        Folder for everything it makes. Run again on the same folder, finished work is not repeated.
    folder : path, optional
        A person's own images; default: real images that scikit-image carries, and a synthetic plate with known truth.
    segmenter, pixel_size_um
        For a person's own images.
    console
        Where to print.

    Returns
    -------
    list of Row
        What the table shows.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    warm(console)
    exhibits = sample_exhibits(out / "images") if folder is None else [Exhibit("your images", segmenter, [folder], {}, pixel_size_um)]
    with kit.open(out / "segkit-data") as opened:
        project = opened.project(project_name(folder), create=True)
        runs = [queue(project, exhibit, console, whole=folder is not None) for exhibit in exhibits]
        work_off(opened, runs, console)
        rows = [row for exhibit, run in zip(exhibits, runs, strict=True) for row in rows_of(run, exhibit)]
        console.print(table_of(rows))
        report_failures(runs, console)
        left = leave(out, runs, console)
    console.print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at:")
    for path in left:
        console.print(f"  {path}", highlight=False)
    console.print("\nNext, try:")
    for command in next_commands(out, runs, folder):
        console.print(f"  [bold]{escape(command)}[/]", highlight=False, soft_wrap=True)
    return rows


def warm(console: Console) -> None:
    """Compile the kernels where that has not been done on this machine, and say so."""
    with console.status("Compiling segkit's kernels (once per machine)"):
        kernels.warm()


def sample_exhibits(folder: Path) -> list[Exhibit]:
    """Lay out the sample images as files, as a person's would be."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number, (name, count) in enumerate(WELLS.items()):
        synthetic = nuclei_field(count=count, seed=number)
        truth[f"{name}.tif"] = synthetic.truth
        keep(folder / f"{name}.tif", synthetic.image)
    real = {"immunohistochemistry.png": data.immunohistochemistry, "coins.png": data.coins, "cell.png": data.cell}
    for file, load in real.items():
        keep(folder / file, load())
    plate = [folder / f"{name}.tif" for name in WELLS]
    return [
        Exhibit("synthetic fluorescence plate", "nuclei", plate, {}, SYNTHETIC_PIXEL_SIZE_UM, truth),
        Exhibit("stained tissue", "tissue", [folder / "immunohistochemistry.png"]),
        Exhibit(
            "coins, the classic test of a plain threshold",
            "threshold",
            [folder / "coins.png"],
            {"diameter": 60, "sigma": 2, "min_area": 500},
        ),
        Exhibit("one large cell", "spheroid", [folder / "cell.png"]),
    ]


def keep(path: Path, pixels: NDArray[Any]) -> None:
    """Write a sample image unless it is there, so that a second demonstration finds the same files."""
    if path.exists():
        return
    if path.suffix == ".tif":
        per_cm = 1e4 / SYNTHETIC_PIXEL_SIZE_UM
        tifffile.imwrite(path, pixels, compression="zlib", resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    else:
        io.imsave(path, pixels, check_contrast=False)


def project_name(folder: Path | None) -> str:
    """One project for the samples, and one for each folder of a person's own, whose run grows with it."""
    if folder is None:
        return PROJECT
    place = "".join(character if character.isprintable() else "_" for character in str(folder.resolve()))
    return f"{PROJECT} {place[-LONGEST_PLACE:]}"


def queue(project: kit.Project, exhibit: Exhibit, console: Console, *, whole: bool) -> kit.Run:
    """Register an exhibit's images and queue its run, over the whole project or over these images alone."""
    added = project.add(exhibit.files, pixel_size_um=exhibit.pixel_size_um)
    for image in project.images(MOST_NAMED, unreadable=True).items:
        console.print(f"[yellow]cannot be read[/] {escape(image.name)}: {escape(image.error or '')}", highlight=False)
    run = project.segment(exhibit.segmenter, images=None if whole else added.image_ids, **exhibit.parameters)
    count = run.progress().total
    console.print(f"{escape(exhibit.title)}: {count} images, run {run.number} with [bold]{exhibit.segmenter}[/]", highlight=False)
    return run


def work_off(opened: kit.Kit, runs: Sequence[kit.Run], console: Console) -> None:
    """Work the queue off on a local Dask cluster, with a live bar for each run."""
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console) as bars:
        tasks = {}
        for run in runs:
            state = run.progress()
            tasks[run.number] = bars.add_task(f"run {run.number} {run.segmenter}", total=state.total, completed=state.total - state.left)

        def advance(event: kit.Event) -> None:
            if event.run_id in tasks and event.status != "lost":
                state = opened.run(event.run_id).progress()
                bars.update(tasks[event.run_id], completed=state.total - state.left)

        opened.work_off(runs, watch=advance)


def rows_of(run: kit.Run, exhibit: Exhibit) -> Iterator[Row]:
    """One row per image of a run, scored where the truth is known."""
    for result in run.results():
        truth = exhibit.truth.get(result.record.image)
        f1 = None if truth is None else scoring.score(truth, result.labels()).at(0.5).f1
        yield Row(result.record.image, run.segmenter, result.objects, result.seconds, f1)


def table_of(rows: Sequence[Row]) -> Table:
    """Lay the rows out."""
    table = Table(title="What was found", title_justify="left")
    for name in ("image", "method", "objects", "seconds", "F1 at IoU 0.5"):
        table.add_column(name, justify="left" if name in {"image", "method"} else "right")
    for row in rows:
        table.add_row(escape(row.image), row.method, str(row.objects), f"{row.seconds:.2f}", "" if row.f1 is None else f"{row.f1:.2f}")
    return table


def report_failures(runs: Sequence[kit.Run], console: Console) -> None:
    """Name what failed, with its reason."""
    for run in runs:
        for job in run.failures(MOST_NAMED).items:
            console.print(f"[red]failed[/] {escape(job.image_name)}: {escape(job.error or '')}", highlight=False)


def leave(out: Path, runs: Sequence[kit.Run], console: Console) -> list[Path]:
    """Write overlays in one contact sheet, object tables, and COCO and GeoJSON exports."""
    left = []
    with console.status("Drawing and exporting"):
        drawn = [result.tile() for run in runs for result in islice(run.results(), MOST_TILES)][:MOST_TILES]
        tiles = [(tile.title, tile.picture) for tile in drawn if tile.picture is not None]
        if tiles:
            left.append(overlays.contact_sheet(out / "contact_sheet.png", tiles))
        for run in runs:
            if run.progress().done:
                place = out / f"run_{run.number}_{run.segmenter}"
                left += [run.export(format, place / format, overwrite=True) for format in ("csv", "coco", "geojson")]
    return left


def next_commands(out: Path, runs: Sequence[kit.Run], folder: Path | None) -> list[str]:
    """Three commands that lead on from here."""
    home, rois = shlex.quote(str(out / "segkit-data")), shlex.quote(str(out / "rois"))
    again = f"segkit run {shlex.quote(project_name(folder))} nuclei -p diameter=20 --home {home}"
    own = "segkit demo FOLDER --pixel-size 0.325" if folder is None else again
    return [
        own,
        f"segkit list jobs --run {runs[0].number} --home {home}",
        f"segkit export {runs[0].number} imagej {rois} --home {home}",
    ]
