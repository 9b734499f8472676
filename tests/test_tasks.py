"""Tasks: one image in, one whole result out; every dimension an image can have, and every failure in words."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from corpus import write_ome_zarr
from numpy.typing import NDArray
from plates import squares
from plugins import install

from segkit import results, tasks
from segkit.errors import DiskFullError, ImageMissingError, ImageReadError, NotWritableError, SelectionError
from segkit.images import Limits, Selection, probe
from segkit.schema import ErrorKind
from segkit.tasks import Done, Failed, Pace, Task, attempt, perform

BROKEN = """
from segkit.segmenters import Parameters, Segmenter

class BrokenParameters(Parameters):
    pass

def fail(pixels, parameters, pixel_size_um):
    if pixels.max() > 200:
        raise MemoryError
    raise ZeroDivisionError("a fault of the plug-in's own")

SEGMENTER = Segmenter("broken", "1", "Always fails", BrokenParameters, colour=False, function=fail)
"""

MakeTask = Callable[..., Task]


@pytest.fixture
def make(tmp_path: Path) -> MakeTask:
    """Make the task of one image, as the worker would."""

    def task(path: Path, segmenter: str = "threshold", parameters: dict[str, Any] | None = None, **changes: Any) -> Task:
        info = probe(str(path))
        values: dict[str, Any] = {
            "job_id": 1,
            "attempt": 1,
            "uri": info.uri,
            "name": info.name,
            "content_hash": info.content_hash,
            "segmenter": segmenter,
            "parameters": {"split": False, "sigma": 0} if parameters is None else parameters,
            "selection": Selection(),
            "pixel_size_um": info.pixel_size_um,
            "z_step_um": info.z_step_um,
            "staging": str(tmp_path / "staging"),
            "most_pixels": 10**6,
            "compression_level": 3,
            "limits": Limits(),
            "provenance": {"image": info.name},
        }
        return Task(**(values | changes))

    return task


def done(task: Task) -> tuple[Done, results.Result]:
    """Work a task off that must succeed; returns what it says and what it wrote."""
    outcome = attempt(task)
    assert isinstance(outcome, Done), outcome
    return outcome, results.verify(outcome.written.path, outcome.written.checksum)


def failed(task: Task) -> Failed:
    """Work a task off that must fail; nothing of it may be left."""
    outcome = attempt(task)
    assert isinstance(outcome, Failed), outcome
    assert not Path(task.staging).exists()
    return outcome


def write(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


def imagej(path: Path, planes: Sequence[Any], axes: str, **metadata: Any) -> Path:
    return write(path, np.array(planes), imagej=True, metadata={"axes": axes, **metadata}, resolution=(2, 2))


def test_a_plane_becomes_labels_objects_and_provenance(tmp_path: Path, make: MakeTask) -> None:
    outcome, result = done(make(write(tmp_path / "a.tif", squares(4)), pixel_size_um=0.5))
    assert outcome.written.objects == result.objects == 4
    assert outcome.summary["objects"] == 4
    labels, table = result.labels.read(), result.read_objects()
    assert labels.shape == (64, 64)
    assert sorted(np.unique(labels)) == [0, *table["label"].to_pylist()]
    assert table["area_um2"].to_pylist() == [36.0] * 4
    assert table["intensity_mean"].to_pylist() == [180.0] * 4
    assert result.pixel_size_um == 0.5
    assert result.provenance == {"image": "a.tif"}


def test_a_bundle_gives_each_image_its_own_outcome(tmp_path: Path, make: MakeTask) -> None:
    good = write(tmp_path / "good.tif", squares(2))
    gone = make(write(tmp_path / "gone.tif", squares(3)), job_id=2, staging=str(tmp_path / "second"))
    (tmp_path / "gone.tif").unlink()
    outcomes = perform([make(good), gone])
    assert [type(outcome) for outcome in outcomes] == [Done, Failed]
    assert [outcome.job_id for outcome in outcomes] == [1, 2]


@pytest.mark.parametrize(("channel", "objects"), [("DAPI", 1), ("gfp", 3), (1, 3), (None, 1), ("-1", 3)])
def test_a_channel_is_chosen_by_name_or_number_and_all_are_measured(
    tmp_path: Path, make: MakeTask, channel: str | int | None, objects: int
) -> None:
    path = tmp_path / "two.ome.tif"
    tifffile.imwrite(path, np.stack([squares(1), squares(3)]), metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}})
    _, result = done(make(path, selection=Selection(channel=channel)))
    assert result.objects == objects
    columns = result.read_schema().names
    assert {"intensity_mean_DAPI", "intensity_mean_GFP"} <= set(columns)
    first = result.read_objects().to_pylist()[0]
    assert (first["intensity_mean_DAPI"], first["intensity_mean_GFP"]) == (180, 180), "the first square is in both channels"


def test_a_channel_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, make: MakeTask) -> None:
    path = tmp_path / "two.ome.tif"
    tifffile.imwrite(path, np.stack([squares(1), squares(3)]), metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}})
    outcome = failed(make(path, selection=Selection(channel="DABI")))
    assert outcome.kind is ErrorKind.INPUT
    assert 'Did you mean "DAPI"' in outcome.reason or "DAPI" in outcome.reason


def stack() -> list[NDArray[np.uint8]]:
    """Three planes, each with one square at a place of its own."""
    return [np.where(squares(number + 1) > squares(number), np.uint8(180), np.uint8(5)) for number in range(3)]


@pytest.mark.parametrize(("z", "objects"), [(0, 1), ("2", 1), (-1, 1), ("max", 3), ("mean", 3), (None, 3)])
def test_a_plane_or_projection_of_a_stack_is_chosen(tmp_path: Path, make: MakeTask, z: int | str | None, objects: int) -> None:
    path = imagej(tmp_path / "stack.tif", stack(), "ZYX", spacing=2.0, unit="um")
    _, result = done(make(path, selection=Selection(z=z)))
    assert (result.objects, result.axes, result.shape) == (objects, "YX", (64, 64))
    if z == "2":
        assert result.read_objects()["centroid_column"].to_pylist() == [49.5]


@pytest.mark.parametrize("z", [3, "middle"])
def test_a_plane_that_is_not_there_is_named(tmp_path: Path, make: MakeTask, z: int | str) -> None:
    outcome = failed(make(imagej(tmp_path / "stack.tif", stack(), "ZYX"), selection=Selection(z=z)))
    assert outcome.kind is ErrorKind.INPUT
    assert str(z) in outcome.reason


def test_every_time_point_is_its_own_plane(tmp_path: Path, make: MakeTask) -> None:
    frames = [squares(1), squares(0), squares(4)]
    outcome, result = done(make(imagej(tmp_path / "film.tif", frames, "TYX", finterval=30.0), pixel_size_um=0.5))
    assert (result.axes, result.shape) == ("TYX", (3, 64, 64))
    table = result.read_objects()
    assert table["time"].to_pylist() == [0, 2, 2, 2, 2]
    assert table["label"].to_pylist() == [1, 1, 2, 3, 4]
    labels = result.labels.read()
    assert [len(np.unique(frame)) - 1 for frame in labels] == [1, 0, 4]
    alone = attempt(make(write(tmp_path / "last.tif", frames[2]), pixel_size_um=0.5, staging=str(tmp_path / "alone")))
    assert isinstance(alone, Done)
    np.testing.assert_array_equal(labels[2], results.read_labels(alone.written.path))
    assert outcome.summary["objects"] == 5
    assert outcome.summary["coverage"] == pytest.approx(5 * 144 / (3 * 64 * 64))
    assert outcome.summary["density_per_mm2"] == pytest.approx(5 / (3 * (64 * 0.5e-3) ** 2))


def test_a_film_of_stacks_is_projected_frame_by_frame(tmp_path: Path, make: MakeTask) -> None:
    path = imagej(tmp_path / "film of stacks.tif", [stack(), [squares(0)] * 3], "TZYX")
    _, result = done(make(path))
    assert (result.axes, result.shape, result.read_objects()["time"].to_pylist()) == ("TYX", (2, 64, 64), [0, 0, 0])


def test_colour_is_seen_as_brightness_and_measured_in_each_colour(tmp_path: Path, make: MakeTask) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = squares(2)
    _, result = done(make(write(tmp_path / "red.tif", red, photometric="rgb")))
    first = result.read_objects().to_pylist()[0]
    assert result.objects == 2
    assert (first["intensity_mean_red"], first["intensity_mean_green"]) == (180, 0)


def test_sizes_at_a_pyramid_level_are_in_micrometres_of_the_specimen(tmp_path: Path, make: MakeTask) -> None:
    path = write_ome_zarr(tmp_path / "pyramid.ome.zarr", squares(4, edge=65), "yx", levels=2, pixel_size=0.5)
    (tmp_path / "a").mkdir()
    _, full = done(make(path, staging=str(tmp_path / "a" / "full")))
    _, half = done(make(path, selection=Selection(level=1), staging=str(tmp_path / "a" / "half")))
    assert (full.shape, half.shape) == ((65, 65), (33, 33))
    assert (full.pixel_size_um, half.pixel_size_um) == (0.5, 1.0)
    assert full.read_objects()["area_um2"].to_pylist() == half.read_objects()["area_um2"].to_pylist() == [36.0] * 4
    outcome = failed(make(path, selection=Selection(level=2)))
    assert "level 2" in outcome.reason


def test_a_file_that_changed_since_it_was_registered_is_not_segmented(tmp_path: Path, make: MakeTask) -> None:
    path = write(tmp_path / "a.tif", squares(4))
    task = make(path)
    write(path, squares(5))
    outcome = failed(task)
    assert (outcome.kind, "changed" in outcome.reason) == (ErrorKind.INPUT, True)


def test_nan_is_refused_in_words(tmp_path: Path, make: MakeTask) -> None:
    pixels = squares(2).astype(np.float32)
    pixels[0, 0] = np.nan
    outcome = failed(make(write(tmp_path / "nan.tif", pixels)))
    assert (outcome.kind, "NaN" in outcome.reason) == (ErrorKind.INPUT, True)


def test_faults_of_a_plugin_are_the_images_own(tmp_path: Path, make: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "broken", BROKEN)))
    outcome = failed(make(write(tmp_path / "a.tif", squares(1)), "broken", {}))
    assert outcome.kind is ErrorKind.INPUT
    assert outcome.reason == 'Segmenter "broken" failed: ZeroDivisionError: a fault of the plug-in\'s own'
    outcome = failed(make(write(tmp_path / "b.tif", squares(1) + np.uint8(70)), "broken", {}))
    assert outcome.kind is ErrorKind.RESOURCE
    assert "SEGKIT_WORKER_MEMORY" in outcome.reason


def test_a_segmenter_that_is_not_installed_on_the_worker_is_named(tmp_path: Path, make: MakeTask) -> None:
    outcome = failed(make(write(tmp_path / "a.tif", squares(1)), "nucleus", {}))
    assert (outcome.kind, "nucleus" in outcome.reason) == (ErrorKind.INPUT, True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), ErrorKind.RESOURCE),
        (DiskFullError(), ErrorKind.RESOURCE),
        (ImageMissingError(), ErrorKind.INFRASTRUCTURE),
        (NotWritableError(), ErrorKind.INFRASTRUCTURE),
        (OSError(errno.EIO, "Input/output error"), ErrorKind.INFRASTRUCTURE),
        (ImageReadError(), ErrorKind.INPUT),
        (SelectionError(), ErrorKind.INPUT),
    ],
)
def test_only_what_another_attempt_can_mend_is_tried_again(error: Exception, kind: ErrorKind) -> None:
    assert tasks.kind_of(error) is kind
    assert tasks.reason_of(error)


def test_only_images_that_compute_shortly_and_do_not_wait_go_in_turn() -> None:
    def done(seconds: float, busy: float) -> list[Done]:
        return [Done(1, 1, results.Written("", 0, 0, ""), {}, seconds, busy)]

    assert not Pace().in_turn
    quick = Pace().after(done(0.2, 0.05), in_turn=False)  # threads in each other's way
    assert quick.in_turn
    assert quick.after(done(0.06, 0.05), in_turn=True).in_turn
    assert quick.after(done(0.2, 0.05), in_turn=False).in_turn, "one that set out with the first"
    assert quick.after([*done(0.4, 0.05), *done(0.06, 0.05), *done(0.06, 0.05)], in_turn=True).in_turn, "its first ran beside those"
    assert quick.after([Failed(1, 1, ErrorKind.INPUT, "")], in_turn=True) == quick
    waiting = quick.after(done(0.2, 0.05), in_turn=True)  # nobody was in its way
    assert not waiting.in_turn
    assert not waiting.after(done(0.05, 0.05), in_turn=False).in_turn
    assert not Pace().after(done(2.0, 1.9), in_turn=False).in_turn
