"""Runs: asked for twice and done once, growing, cut short, failing, repeated, looked at and exported."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from plates import QUICK, squares, write_plate
from test_kit import open_kit
from test_previews import Reader

import segkit
from segkit.errors import (
    NoResultError,
    OutputExistsError,
    RunFailedError,
    UnknownExportError,
    UnknownJobError,
    UnknownStatusError,
    WaitTimeout,
)
from segkit.kit import Kit, Project, Run
from segkit.schema import JobStatus
from segkit.settings import Settings

PLAIN = {"split": False, "sigma": 0}


@pytest.fixture
def kit(database_settings: Settings) -> Iterator[Kit]:
    """A kit, once for each engine."""
    with open_kit(database_settings) as kit:
        yield kit


@pytest.fixture
def project(kit: Kit, tmp_path: Path) -> Project:
    project = kit.project("plate", create=True)
    project.add(write_plate(tmp_path / "plate", [1, 2, 3]), pixel_size_um=0.5)
    return project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of five images, of which one failed; for tests that change nothing."""
    folder = tmp_path_factory.mktemp("finished")
    with segkit.open(folder / "home", **QUICK) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(folder / "plate", [3, 3, 0, 3, 9]), pixel_size_um=0.5)
        (folder / "plate" / "003.tif").unlink()
        run = project.segment("threshold", **PLAIN)
        run.wait()
        yield run


def test_a_run_is_asked_for_twice_and_done_once_and_grows_with_its_project(kit: Kit, project: Project, tmp_path: Path) -> None:
    run = project.segment("threshold", **PLAIN)
    assert project.segment("threshold", **PLAIN).number == run.number
    assert (run.progress().queued, kit.queue().runs) == (3, 1)
    waited = run.wait(work=True)
    assert (waited.record.done, waited.record.objects, waited.progress().left) == (3, 6, 0)

    write_plate(tmp_path / "plate", [1] * 10, first=3)
    assert project.add(tmp_path / "plate", pixel_size_um=0.5).added == 10
    assert run.progress().left == 0, "a run does not grow by itself"
    again = project.segment("threshold", **PLAIN)
    assert (again.number, again.progress().queued, again.progress().done) == (run.number, 10, 3)
    again.wait(work=True)
    assert {job.attempt for job in run.jobs().items} == {1}, "what was done was not done again"
    assert (run.progress().done, run.progress().objects) == (13, 16)

    table = run.objects().to_pandas()
    assert list(table.columns[:3]) == ["image_id", "image", "label"]
    assert table.groupby("image").size()["002.tif"] == 3
    assert set(table["area_um2"]) == {36.0}
    assert run.dataset().count_rows() == 16
    written = run.export("coco", tmp_path / "out")
    assert len(json.loads(Path(written).read_text())["annotations"]) == 16


def test_other_parameters_images_or_pixels_are_another_run(kit: Kit, project: Project) -> None:
    images = list(project)
    same = project.segment("threshold", images=images[:2], sigma=2)
    runs = [
        project.segment("threshold", images=[images[1].id, images[0].id, images[0].id], sigma=2),
        project.segment("threshold", images=images[:1], sigma=2),
        project.segment("threshold", images=images[:2], sigma=3),
        project.segment("threshold", images=images[:2], sigma=2, z=0),
        project.segment("threshold", sigma=2),
    ]
    assert runs[0].number == same.number
    assert len({run.number for run in runs}) == kit.queue().runs == 5
    assert [run.progress().queued for run in runs] == [2, 1, 2, 2, 3]
    assert [each.id for each in project.runs(2).items] == [runs[-1].number, runs[-2].number]
    assert project.runs(2, after=project.runs(2).next).items == project.runs(2, offset=2).items


def test_the_most_urgent_run_is_done_first(kit: Kit, project: Project) -> None:
    project.segment("threshold", sigma=1)
    urgent = project.segment("threshold", sigma=2, priority=10)
    done: list[int] = []
    with open_kit(kit.settings, threads_per_worker=1, prefetch=1) as narrow:
        narrow.work_off(watch=lambda event: done.append(event.run_id))
    assert done[:3] == [urgent.number] * 3
    assert len(done) == 6


def test_waiting_ends_in_time_and_the_run_goes_on(project: Project) -> None:
    run = project.segment("threshold")
    with pytest.raises(WaitTimeout, match="goes on"):
        run.wait(0.3, work=False)
    assert run.progress().queued == 3
    if run.kit.database.dialect == "postgresql":
        with pytest.raises(WaitTimeout):
            run.wait(0.3)


def test_waiting_for_somebody_elses_worker(kit: Kit, project: Project) -> None:
    run = project.segment("threshold")
    worker = kit.worker()
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert run.wait(60, work=False).record.done == 3
        assert sum(holder.jobs for holder in kit.workers()) == 0
    finally:
        worker.stop()
        thread.join()


def test_a_run_in_which_every_image_failed_says_so_and_only_what_failed_is_repeated(kit: Kit, project: Project, tmp_path: Path) -> None:
    kept = {path: path.read_bytes() for path in (tmp_path / "plate").iterdir()}
    for path in kept:
        path.unlink()
    run = project.segment("threshold", **PLAIN)
    with pytest.raises(RunFailedError, match=r"Every image of run 1 failed. First: 000.tif: gave up after 3 attempts"):
        run.wait(work=True)
    assert [(job.status, job.attempt) for job in run.failures().items] == [(JobStatus.FAILED, 3)] * 3
    first, *_ = kept
    first.write_bytes(kept[first])
    assert run.retry() == 3
    run.wait(work=True)
    assert (run.progress().done, run.progress().failed) == (1, 2)
    for path, data in kept.items():
        path.write_bytes(data)
    job = run.failures().items[0]
    assert (run.retry(job.id), run.retry(job.id)) == (1, 0)
    assert run.cancel(job.id) == 1
    assert (run.progress().failed, run.progress().cancelled) == (1, 1)
    assert run.retry() == 2
    run.wait(work=True)
    assert (run.progress().done, run.progress().objects) == (3, 6)
    assert run.retry() == 0


def test_cancelled_work_is_not_done_and_can_be_taken_up_again(project: Project) -> None:
    run = project.segment("threshold", **PLAIN)
    assert run.cancel() == 3
    assert run.cancel() == 0
    assert run.wait(work=True).record.cancelled == 3
    assert list(run.results()) == []
    with pytest.raises(NoResultError, match="no results yet"):
        run.export("csv", "out")
    assert run.retry() == 3


def test_a_job_of_another_run_is_refused(project: Project) -> None:
    one, two = project.segment("threshold", sigma=1), project.segment("threshold", sigma=2)
    job = two.jobs().items[0]
    for order in (one.retry, one.cancel):
        with pytest.raises(UnknownJobError, match=f"Run {one.number} has no job {job.id}"):
            order(job.id)
    with pytest.raises(UnknownJobError):
        one.cancel(999)
    assert two.progress().queued == 3


def test_a_damaged_result_is_noticed_and_made_again(project: Project) -> None:
    run = project.segment("threshold", **PLAIN)
    run.wait(work=True)
    result = next(run.results())
    chunk = Path(result.path) / "labels.ome.zarr" / "0" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(segkit.errors.ResultCorruptError, match="segkit retry"):
        result.labels()
    assert run.retry() == 0
    assert run.retry(result.record.job_id, done_too=True) == 1
    run.wait(work=True)
    assert run.labels(result.record.image_id).max() == 1
    assert (run.progress().done, run.progress().objects) == (3, 6)


def test_jobs_list_by_status_in_pages(finished: Run) -> None:
    first = finished.jobs(limit=2)
    assert [job.image_name for job in first.items] == ["000.tif", "001.tif"]
    assert (first.total, finished.jobs(limit=2, after=first.next).items) == (5, finished.jobs(limit=2, offset=2).items)
    assert [job.image_name for job in finished.jobs("failed").items] == ["003.tif"]
    with pytest.raises(UnknownStatusError, match='Did you mean "failed"'):
        finished.jobs("faild")


def test_results_are_read_back(finished: Run) -> None:
    found = {result.record.image: result for result in finished.results()}
    assert {name: result.objects for name, result in found.items()} == {"000.tif": 3, "001.tif": 3, "002.tif": 0, "004.tif": 9}
    nine = found["004.tif"]
    assert (nine.labels().dtype, nine.labels().shape, nine.labels().max()) == (np.int32, (64, 64), 9)
    assert nine.table()["label"].to_pylist() == list(range(1, 10))
    assert nine.summary["objects"] == 9
    assert nine.image.name == "004.tif"
    assert nine.seconds > 0
    np.testing.assert_array_equal(finished.labels(nine.image), nine.labels())
    failed = finished.failures().items[0]
    with pytest.raises(NoResultError):
        finished.result(failed.image_id)


def test_provenance_is_complete(finished: Run) -> None:
    result = next(finished.results())
    document = json.loads((Path(result.path) / "provenance.json").read_text())["provenance"]
    assert document["segmenter"] == "threshold"
    assert document["parameters"]["split"] is False
    assert document["content_hash"] == result.image.record.content_hash
    assert document["segkit"] == segkit.__version__
    assert {"version", "selection", "notebook", "uri", "run"} <= set(document)


def test_an_overlay_outlines_what_was_found(finished: Run) -> None:
    result = finished.result(next(iter(finished.kit.project("plate"))).id)
    drawn = result.overlay()
    assert (drawn.shape, drawn.dtype) == ((64, 64, 3), np.uint8)
    coloured = drawn.max(axis=2) != drawn.min(axis=2)
    labels = result.labels()
    assert coloured.any()
    assert (labels[coloured] > 0).all()
    assert set(np.unique(labels[coloured])) == set(range(1, 10))
    np.testing.assert_array_equal(result.preview(64), drawn)
    assert result.preview(32).shape == (32, 32, 3)


def test_the_worst_are_shown_first(finished: Run) -> None:
    tiles = finished.worst(4).tiles
    assert [tile.title for tile in tiles[:3]] == ["003.tif", "002.tif", "004.tif"]
    assert "There is no file" in tiles[0].note
    assert tiles[0].picture is None
    assert (tiles[1].note, tiles[1].picture is not None) == ("0 objects", True)
    assert len(tiles) == 4
    assert len(finished.worst(100).tiles) == 5
    assert [tile.title for tile in finished.worst(1).tiles] == ["003.tif"]


def test_a_notebook_shows_a_run(finished: Run) -> None:
    page = Reader(finished._repr_html_())
    assert len(page.sources) == 1
    for expected in ("threshold", "split=False", "4 of 5", "003.tif", "There is no file"):
        assert expected in page.text
    assert repr(finished) == "<run 1 threshold: 4 done, 1 failed, 0 to do, 15 objects>"


@pytest.mark.parametrize("format", ["coco", "coco-polygons", "geojson", "yolo", "imagej", "csv", "excel", "tiff", "ome-zarr"])
def test_every_format_is_exported(finished: Run, tmp_path: Path, format: str) -> None:
    told: list[str] = []
    written = finished.export(format, tmp_path / "out", progress=lambda steps, name: told.append(name))
    assert written.exists()
    assert told == ["000.tif", "001.tif", "002.tif", "004.tif"]
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        finished.export(format, tmp_path / "out")
    finished.export(format, tmp_path / "out", overwrite=True)


def test_an_unknown_format_is_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(UnknownExportError, match='Did you mean "coco"'):
        finished.export("coca", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_channels_stacks_and_films_through_the_queue(tmp_path: Path) -> None:
    """Selections by name, number and projection, all in one go; what each gives in detail is in test_tasks.py."""
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(
        folder / "channels.ome.tif", np.stack([squares(1), squares(3)]), metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    )
    tifffile.imwrite(folder / "film.tif", np.stack([squares(2), squares(5)]), imagej=True, metadata={"axes": "TYX"})
    planes = [np.where(squares(number + 1) > squares(number), np.uint8(180), np.uint8(5)) for number in range(4)]
    tifffile.imwrite(folder / "stack.tif", np.stack(planes), imagej=True, metadata={"axes": "ZYX", "spacing": 2})
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("p", create=True)
        project.add(folder)
        images = {image.name: image for image in project}
        runs = {
            (name, choice): project.segment("threshold", images=[images[name]], **{axis: choice}, **PLAIN)
            for name, axis, choices in (
                ("channels.ome.tif", "channel", ("DAPI", "gfp", 1, "Cy5")),
                ("stack.tif", "z", (0, "max", "mean")),
                ("film.tif", "z", (None,)),
            )
            for choice in choices
        }
        kit.work_off()
        objects = {key: run.progress().objects for key, run in runs.items()}
        assert objects == {
            ("channels.ome.tif", "DAPI"): 1,
            ("channels.ome.tif", "gfp"): 3,
            ("channels.ome.tif", 1): 3,
            ("channels.ome.tif", "Cy5"): 0,
            ("stack.tif", 0): 1,
            ("stack.tif", "max"): 4,
            ("stack.tif", "mean"): 4,
            ("film.tif", None): 7,
        }
        assert "There is no channel" in (runs["channels.ome.tif", "Cy5"].failures().items[0].error or "")
        film = next(runs["film.tif", None].results())
        assert (film.labels().shape, film.table()["time"].to_pylist()) == ((2, 64, 64), [0, 0, 1, 1, 1, 1, 1])
        assert [np.unique(film.labels()[time]).size - 1 for time in (0, 1)] == [2, 5]
        second = film.overlay(time=1)
        outlined = (second.max(axis=2) != second.min(axis=2)) & (film.labels()[1] > 0)
        assert set(np.unique(film.labels()[1][outlined])) == {1, 2, 3, 4, 5}
        for name, choice in (("channels.ome.tif", "gfp"), ("stack.tif", "mean")):
            assert next(runs[name, choice].results()).overlay().shape == (64, 64, 3)
        table = runs["channels.ome.tif", "gfp"].objects()
        assert {"intensity_mean_DAPI", "intensity_mean_GFP"} <= set(table.column_names)
