"""`segkit demo`: the whole path on real images, what it prints, what it leaves, and that nothing is done twice."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from plates import write_plate
from rich.console import Console

from segkit import demo, kit
from segkit.errors import NothingToAddError, NothingToRunError
from segkit.schema import JobStatus


@dataclass(frozen=True)
class Show:
    """One demonstration: its rows, what it printed, and where it left things."""

    rows: list[demo.Row]
    text: str
    out: Path


def show(out: Path, folder: Path | None = None, segmenter: str = "threshold", pixel_size_um: float | None = None) -> Show:
    """Run the demonstration, on threads of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKIT_CLUSTER", "threads")
        patch.setenv("SEGKIT_THREADS_PER_WORKER", "2")
        patch.setenv("SEGKIT_POLL_SECONDS", "0.1")
        patch.setenv("SEGKIT_RETRY_SECONDS", "0")
        page = io.StringIO()
        console = Console(file=page, width=140)
        rows = demo.show(out, folder=folder, segmenter=segmenter, pixel_size_um=pixel_size_um, console=console)
    return Show(rows, page.getvalue(), out)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Show:
    return show(tmp_path_factory.mktemp("demo") / "segkit-demo")


def jobs_of(out: Path) -> list[tuple[str, JobStatus, int, object]]:
    """Image, status, attempts and end of every job."""
    with kit.open(out / "segkit-data") as opened:
        return [
            (job.image_name, job.status, job.attempt, job.finished_at)
            for record in opened.runs().items
            for job in opened.run(record.id).jobs(limit=1000).items
        ]


def test_every_image_has_its_row(shown: Show) -> None:
    methods = {row.image: row.method for row in shown.rows}
    assert methods.pop("immunohistochemistry.png") == "tissue"
    assert methods.pop("coins.png") == "threshold"
    assert methods.pop("cell.png") == "spheroid"
    assert methods == dict.fromkeys((f"{name}.tif" for name in demo.WELLS), "nuclei")
    assert all(name.startswith("synthetic") for name in demo.WELLS), "what is synthetic is named so"


def test_what_is_found_is_what_is_there(shown: Show) -> None:
    plate = [row for row in shown.rows if row.method == "nuclei"]
    assert all(row.f1 is not None and row.f1 >= 0.8 for row in plate), plate
    assert all(abs(row.objects - demo.WELLS[row.image.removesuffix(".tif")]) <= 0.25 * row.objects for row in plate)
    objects = {row.image: row.objects for row in shown.rows}
    assert 20 <= objects["coins.png"] <= 28, "there are 24; a plain threshold takes the bright corner for one more"
    assert objects["cell.png"] == 1
    assert objects["immunohistochemistry.png"] > 50
    assert all(row.f1 is None for row in shown.rows if row.method != "nuclei"), "no score where no truth is known"


def test_the_table_and_the_next_commands_are_printed(shown: Show) -> None:
    for expected in ("What was found", "image", "method", "objects", "seconds", "F1 at IoU 0.5", "contact_sheet.png", "Next, try:"):
        assert expected in shown.text
    assert shown.text.partition("Next, try:")[2].count("segkit ") == 3
    assert "failed" not in shown.text


def test_a_contact_sheet_is_left_that_shows_something(shown: Show) -> None:
    with Image.open(shown.out / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert min(pixels.shape[:2]) > 500
    coloured = pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 60
    assert coloured.mean() > 0.01, "outlines in colour"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_tables_and_exports_are_left(shown: Show) -> None:
    places = sorted(shown.out.glob("run_*"))
    assert len(places) == 4
    counted = 0
    for place in places:
        with (place / "csv" / "objects.csv").open() as file:
            rows = list(csv.DictReader(file))
        annotations = json.loads((place / "coco" / "annotations.json").read_text())["annotations"]
        features = [feature for path in (place / "geojson").glob("*.geojson") for feature in json.loads(path.read_text())["features"]]
        assert len(rows) == len(annotations) == len(features) > 0
        counted += len(rows)
    assert counted == sum(row.objects for row in shown.rows)
    with (shown.out / "run_1_nuclei" / "csv" / "objects.csv").open() as file:
        assert "area_um2" in next(csv.reader(file))


def test_a_second_time_no_finished_work_is_repeated(shown: Show) -> None:
    before = jobs_of(shown.out)
    again = show(shown.out)
    assert jobs_of(shown.out) == before
    assert {attempt for _, _, attempt, _ in before} == {1}
    assert [(row.image, row.objects, row.f1) for row in again.rows] == [(row.image, row.objects, row.f1) for row in shown.rows]


def test_a_persons_own_folder(tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "my [own] images", [1, 2, 4])
    (folder / "broken.tif").write_text("no image")
    own = show(tmp_path / "out", folder, pixel_size_um=0.5)
    assert {row.image: row.objects for row in own.rows} == {"000.tif": 1, "001.tif": 2, "002.tif": 4}
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    assert (tmp_path / "out" / "run_1_threshold" / "csv" / "objects.csv").is_file()
    assert "broken.tif" in own.text, "what cannot be read is named"
    assert len(list(folder.iterdir())) == 4


def test_a_folder_that_grew_is_taken_up_where_it_was_left(tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "images", [1, 2])
    show(tmp_path / "out", folder)
    before = jobs_of(tmp_path / "out")
    write_plate(folder, [3], first=2)
    damaged = folder / "003.tif"
    tifffile.imwrite(damaged, np.full((64, 64), np.nan, np.float32))
    (folder / "000.tif").unlink()
    own = show(tmp_path / "out", folder)
    assert {row.image: row.objects for row in own.rows} == {"000.tif": 1, "001.tif": 2, "002.tif": 3}
    assert "failed 003.tif" in own.text
    assert jobs_of(tmp_path / "out")[:2] == before, "what was done was not done again"


def test_a_folder_without_images_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToAddError):
        show(tmp_path / "out", tmp_path / "empty")
    with pytest.raises(NothingToRunError):
        show(tmp_path / "out", tmp_path / "nowhere")
