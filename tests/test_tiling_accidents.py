"""Tiles that cannot be done are named, and accidents on the way cost no pixel and nothing twice."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.typing import NDArray

from segkit import segmenters
from segkit.errors import (
    ComponentTooLargeError,
    DiskFullError,
    InvalidPixelsError,
    MissingExtraError,
    NotTileExactError,
    TileFailedError,
    UnknownSegmenterError,
)
from segkit.labels import LabelWriter, open_labels
from segkit.measure import measure
from segkit.objects import ObjectWriter, read
from segkit.segmenters import Segmenter
from segkit.synthetic import nuclei_field
from segkit.tiling import Tiled, segment_large
from tests.tiles_and_whole import Labels, Objects, Plain, Plan, above_zero, check, plain, rings, save

# What cannot be done


def test_component_too_large(tmp_path: Path) -> None:
    pixels = np.zeros((400, 400), np.uint8)
    pixels[20:350, 30:40] = pixels[20:30, 30:390] = 1
    with pytest.raises(ComponentTooLargeError, match=r"rows 20 to 349, columns 30 to 389.*SEGKIT_WORKER_MEMORY"):
        check(tmp_path, save(tmp_path, pixels), pixels, plain(), Plain(), tile=64, memory_bytes=10 * 2**20)


def whole_only(pixels: NDArray[Any], parameters: Plain, pixel_size_um: float | None) -> NDArray[np.int32]:
    return plain().function(pixels, parameters, pixel_size_um)


def test_not_exact_is_done_whole_or_refused(tmp_path: Path) -> None:
    segmenter = Segmenter("whole", "1", "Not exact.", Plain, False, whole_only)
    pixels = rings(200)
    uri = save(tmp_path, pixels)
    assert check(tmp_path, uri, pixels, segmenter, Plain(), tile=64).tiles == 16
    with pytest.raises(NotTileExactError, match=r'"whole" cannot be tiled.*SEGKIT_WORKER_MEMORY'):
        check(tmp_path, uri, pixels, segmenter, Plain(), tile=64, memory_bytes=2**20)


def fails_at(place: tuple[int, int], error: Exception, times: int) -> Segmenter:
    """A segmenter that fails so many times at one tile."""
    segmenter = plain()
    left = [times]

    def foreground(pixels: NDArray[Any], plan: Plan, row: int, column: int) -> NDArray[np.bool_]:
        if (row, column) == place and left[0]:
            left[0] -= 1
            raise error
        return above_zero(pixels, plan, row, column)

    assert segmenter.recipe is not None
    return replace(segmenter, recipe=replace(segmenter.recipe, foreground=foreground))


def test_a_tile_that_fails_is_tried_again_then_named(tmp_path: Path) -> None:
    pixels = rings(40)
    uri = save(tmp_path, pixels)
    check(tmp_path, uri, pixels, fails_at((15, 31), OSError("share is gone"), 2), Plain(), tile=16)
    with pytest.raises(TileFailedError, match=r"rows 16 to 31, columns 32 to 39 failed 3 times: OSError: share is gone"):
        check(tmp_path, uri, pixels, fails_at((15, 31), OSError("share is gone"), 3), Plain(), tile=16)
    with pytest.raises(InvalidPixelsError, match=r"7 pixels are NaN.*rows 16 to 31, columns 32 to 39"):
        check(tmp_path, uri, pixels, fails_at((15, 31), InvalidPixelsError("7 pixels are NaN."), 1), Plain(), tile=16)


def test_errors_come_back_from_workers_as_they_were() -> None:
    for error in (
        UnknownSegmenterError("nucleus", ["nuclei"]),
        MissingExtraError("This", "onnx"),
        TileFailedError(),
        DiskFullError("Full."),
    ):
        same = pickle.loads(pickle.dumps(error))
        assert (type(same), str(same)) == (type(error), str(error))


# Accidents


def run_once(folder: Path, uri: str, segmenter: Segmenter, pixels: NDArray[Any], labels: Labels | None = None) -> Tiled:
    labels, objects = labels or Labels.of(pixels.shape, 64, 64), Objects()
    tiled = segment_large(uri, segmenter, segmenter.parameters(), folder=str(folder), labels=labels, objects=objects, tile=64)
    np.testing.assert_array_equal(labels.found, segmenter.function(pixels, segmenter.parameters(), None))
    assert objects.table.equals(measure(labels.found, pixels))
    return tiled


def test_a_second_attempt_does_nothing_twice(tmp_path: Path) -> None:
    pixels = nuclei_field((300, 280), 60, seed=7).image
    uri = save(tmp_path, pixels)
    segmenter = segmenters.get("threshold")
    labels = Labels.of(pixels.shape, 64, 64)
    first = run_once(tmp_path / "scratch", uri, segmenter, pixels, labels)
    second = run_once(tmp_path / "scratch", uri, segmenter, pixels, labels)
    assert (second.done, second.found_done) == (0, first.done)


@pytest.mark.parametrize("part", ["tiles/1-1", "survey/0-2", "clusters/0"])
@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_damaged_leftovers_are_done_again(tmp_path: Path, part: str, damage: str) -> None:
    pixels = nuclei_field((300, 280), 60, seed=7).image
    uri = save(tmp_path, pixels)
    segmenter = segmenters.get("threshold")
    labels = Labels.of(pixels.shape, 64, 64)
    first = run_once(tmp_path / "scratch", uri, segmenter, pixels, labels)
    path = tmp_path / "scratch" / part
    data = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 8
        path.write_bytes(data)
    second = run_once(tmp_path / "scratch", uri, segmenter, pixels)
    assert second.done == labels.writes + 1
    assert second.found_done == first.done - labels.writes - 1


def test_leftovers_of_other_work_are_not_used(tmp_path: Path) -> None:
    pixels = nuclei_field((300, 280), 60, seed=7).image
    segmenter = segmenters.get("threshold")
    run_once(tmp_path / "scratch", save(tmp_path, pixels), segmenter, pixels)
    other = np.ascontiguousarray(pixels[::-1])
    assert run_once(tmp_path / "scratch", save(tmp_path, other), segmenter, other).found_done == 0


ATTEMPT = """
import sys
from segkit import segmenters
from segkit.labels import LabelWriter
from segkit.objects import ObjectWriter
from segkit.tiling import segment_large

uri, out, pause = sys.argv[1:]

def report(stage, done, total):
    if f"{stage}-{done}" == pause:
        print("here", flush=True)
        sys.stdin.read()

segmenter = segmenters.get("threshold")
labels = LabelWriter.create(out + "/labels.ome.zarr", (600, 520), "YX", chunk=(128, 128))
with ObjectWriter(out + "/objects.parquet") as objects:
    segment_large(uri, segmenter, segmenter.parameters(), folder=out + "/scratch", labels=labels, objects=objects,
                  tile=128, progress=report)
"""


def kill_at(uri: str, out: Path, point: str) -> None:
    """Make an attempt in a process of its own, and kill it when it has come to a point."""
    command = [sys.executable, "-c", ATTEMPT, uri, str(out), point]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "here\n"
        os.kill(victim.pid, signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL


def attempt(uri: str, out: Path) -> tuple[Tiled, str]:
    segmenter = segmenters.get("threshold")
    labels = LabelWriter.create(str(out / "labels.ome.zarr"), (600, 520), "YX", chunk=(128, 128))
    with ObjectWriter(str(out / "objects.parquet")) as objects:
        tiled = segment_large(uri, segmenter, segmenter.parameters(), folder=str(out / "scratch"), labels=labels, objects=objects, tile=128)
    return tiled, labels.finish()


@pytest.mark.parametrize("point", ["segment-7", "write-11"])
def test_a_killed_attempt_is_gone_on_from(tmp_path: Path, point: str) -> None:
    """What was finished is not done again, and the files are, byte for byte, those of an attempt that nothing disturbed."""
    uri = save(tmp_path, nuclei_field((600, 520), 250, seed=9).image)
    undisturbed, checksum = attempt(uri, tmp_path / "undisturbed")
    kill_at(uri, tmp_path / "out", point)
    tiles, regions = 5 * 5, 5 * 5
    after = {"segment-7": undisturbed.done - tiles - 7, "write-11": regions - 11}[point]
    second, same = attempt(uri, tmp_path / "out")
    assert same == checksum
    assert (second.done, second.found_done) == (after, undisturbed.done - after)
    assert read(str(tmp_path / "out" / "objects.parquet")).equals(read(str(tmp_path / "undisturbed" / "objects.parquet")))


def deadly(places: dict[tuple[int, int], str]) -> Segmenter:
    """A segmenter that kills its process at the named tiles: always, or once for each file that is named."""
    segmenter = plain()

    def foreground(pixels: NDArray[Any], plan: Plan, row: int, column: int) -> NDArray[np.bool_]:
        mark = places.get((row, column))
        if mark is not None and not (mark and os.path.exists(mark)):
            if mark:
                Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return above_zero(pixels, plan, row, column)

    assert segmenter.recipe is not None
    return replace(segmenter, recipe=replace(segmenter.recipe, foreground=foreground))


@pytest.mark.slow
def test_a_tile_that_kills_its_worker_is_tried_again_then_named(tmp_path: Path) -> None:
    from segkit import cluster
    from segkit.settings import load

    for module in (__name__, plain.__module__):
        cloudpickle.register_pickle_by_value(sys.modules[module])
    pixels = rings(40)
    uri = save(tmp_path, pixels)
    with cluster.connect(load(home=str(tmp_path), workers=1, threads_per_worker=2)) as dask:

        def run(places: dict[tuple[int, int], str], name: str) -> NDArray[np.int32]:
            labels = LabelWriter.create(str(tmp_path / name / "labels.ome.zarr"), pixels.shape, "YX", chunk=(16, 16))
            segment_large(
                uri, deadly(places), Plain(), folder=str(tmp_path / name / "scratch"), labels=labels, objects=Objects(), tile=16,
                executor=dask.map, worker_died=(cluster.WorkerDied,),
            )  # fmt: skip
            labels.finish()
            return open_labels(labels.path).read()

        np.testing.assert_array_equal(run({(15, 15): str(tmp_path / "died")}, "once"), plain().function(pixels, Plain(), None))
        assert (tmp_path / "died").exists()
        with pytest.raises(TileFailedError, match=r"rows 16 to 31, columns 32 to 39 took its worker down 3 times"):
            run({(15, 31): ""}, "always")
