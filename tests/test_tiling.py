"""Tiled equals untiled, pixel for pixel and row for row, whatever the tiles, the order and the accidents on the way."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
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
from segkit.images import Selection, open_image
from segkit.kernels.splitting import split_at_distance_peaks
from segkit.labels import LabelWriter, open_labels
from segkit.measure import measure, with_confidence
from segkit.objects import ObjectWriter, read
from segkit.segmenters import Parameters, Recipe, Segmenter, Survey
from segkit.segmenters.recipe import walls
from segkit.synthetic import nuclei_field
from segkit.tiling import Tiled, choose_edges, in_turn, segment_large

BLOCK = 4


class Plain(Parameters):
    """What the plain segmenter of these tests can be told."""

    spacing: int = 0
    fill: bool = True
    smallest: int = 0


@dataclass(frozen=True)
class Plan:
    shape: tuple[int, int]
    parameters: Plain


def survey_nothing(pixels: NDArray[Any], row: int, column: int, parameters: Plain, margins: tuple[int, ...]) -> Survey:
    rows, columns = (-(-size // BLOCK) for size in pixels.shape)
    return Survey(np.zeros((1, 0), np.int64), 0, np.zeros((rows, columns, 0)), (row // BLOCK, column // BLOCK), pixels.dtype.name)


def settle(survey: Survey, shape: tuple[int, int], parameters: Plain, pixel_size_um: float | None) -> Plan:
    return Plan(shape, parameters)


def above_zero(pixels: NDArray[Any], plan: Plan, row: int, column: int) -> NDArray[np.bool_]:
    return pixels > 0


def split(pixels: NDArray[Any], components: NDArray[np.int32], plan: Plan, row: int, column: int) -> NDArray[np.int32]:
    sides = walls(components.shape, row, column, plan.shape)
    return split_at_distance_peaks(components, sides, plan.parameters.spacing, plan.parameters.smallest, plan.parameters.fill)


def no_halo(plan: Plan) -> int:
    return 1


def plain(connectivity: int = 2) -> Segmenter:
    recipe = Recipe(BLOCK, survey_nothing, settle, no_halo, above_zero, split, connectivity)
    return Segmenter("plain", "1", "Everything above zero.", Plain, False, recipe.apply, recipe)


def shuffled(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    pieces = list(arguments)
    random.Random(len(pieces)).shuffle(pieces)
    return in_turn(function, pieces)


def eight_threads(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    with ThreadPoolExecutor(8) as pool:
        for each in as_completed([pool.submit(function, *one) for one in arguments]):
            yield each.result()


@dataclass
class Labels:
    """A label image in memory that lets every pixel be written once, in whole chunks."""

    pixels: NDArray[np.int32]
    chunk: tuple[int, ...]
    path: str = field(default_factory=lambda: uuid.uuid4().hex)
    writes: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...], *chunk: int) -> Labels:
        return cls(np.full(shape, -1, np.int32), chunk)

    def write(self, labels: NDArray[np.int32], origin: tuple[int, ...]) -> None:
        for start, size, edge, end in zip(origin, labels.shape, self.chunk, self.pixels.shape, strict=True):
            assert start % edge == 0
            assert (start + size) % edge == 0 or start + size == end
        place = tuple(slice(start, start + size) for start, size in zip(origin, labels.shape, strict=True))
        assert (self.pixels[place] == -1).all()
        self.pixels[place] = labels
        self.writes += 1

    @property
    def found(self) -> NDArray[np.int32]:
        """What was written; regions that were left out are background."""
        return np.maximum(self.pixels, 0)


@dataclass
class Objects:
    tables: list[pa.Table] = field(default_factory=list)

    def write(self, table: pa.Table) -> None:
        self.tables.append(table)

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self.tables).combine_chunks()


def save(folder: Path, pixels: NDArray[Any], name: str = "image.tif") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / name, pixels)
    return str(folder / name)


def check(folder: Path, uri: str, pixels: NDArray[Any], segmenter: Segmenter, parameters: Parameters, **options: Any) -> Tiled:
    """Segment an image in tiles and compare with the whole."""
    chunk = options.pop("chunk", (16, 16))
    labels, objects = Labels.of(pixels.shape[:2], *chunk), Objects()
    scratch = str(folder / f"scratch-{uuid.uuid4().hex}")
    tiled = segment_large(uri, segmenter, parameters, folder=scratch, labels=labels, objects=objects, **options)
    whole, confidence, _ = segmenter.apply(segmenter.prepare(pixels), parameters, options.get("pixel_size_um"))
    np.testing.assert_array_equal(labels.found, whole)
    channels = ("red", "green", "blue") if segmenter.colour else None
    expected = with_confidence(measure(whole, pixels, channels=channels, pixel_size_um=options.get("pixel_size_um")), confidence)
    assert tiled.objects == whole.max(initial=0) == objects.table.num_rows
    assert objects.table.equals(expected, check_metadata=True)
    return tiled


# Shapes that are hard to cut


def spiral(size: int) -> NDArray[np.uint8]:
    """One line, a pixel wide, that winds from the corner to the middle."""
    pixels = np.zeros((size, size), np.uint8)
    for inset in range(0, size // 2 - 1, 2):
        stop = size - inset - 1
        pixels[inset, inset : stop + 1] = pixels[stop, inset : stop + 1] = 1
        pixels[inset : stop + 1, inset] = pixels[inset : stop + 1, stop] = 1
        pixels[inset + 1, inset] = 0
        pixels[inset + 2, inset + 1] = 1
    return pixels


def rings(size: int, gap: int = 3) -> NDArray[np.uint8]:
    """Square frames within frames, none touching another."""
    pixels = np.zeros((size, size), np.uint8)
    for number, inset in enumerate(range(0, size // 2, gap)):
        pixels[inset : size - inset, inset : size - inset] = number % 2 == 0
    return pixels


def corners(size: int) -> NDArray[np.uint8]:
    """Squares that touch at their corners alone, as the fields of one colour on a chessboard."""
    row, column = np.indices((size, size)) // BLOCK
    return ((row + column) % 2 == 0).astype(np.uint8)


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Images up to 60 pixels wide with blobs, frames, lines and noise, in each other and across each other."""
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    pixels = np.zeros(shape, np.uint8)
    rows, columns = np.indices(shape)
    for _ in range(draw(st.integers(0, 8))):
        row, column = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        reach = draw(st.integers(0, 30))
        distance = draw(st.sampled_from([lambda a, b: np.hypot(a, b), lambda a, b: np.maximum(abs(a), abs(b)), lambda a, b: abs(a - b)]))
        pixels[distance(rows - row, columns - column) <= reach] = draw(st.sampled_from([0, 1, 1, 200]))
    if draw(st.booleans()):
        noise = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape)
        pixels[noise < draw(st.sampled_from([0.02, 0.3]))] ^= 1
    return pixels


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pixels=masks(),
    tile=st.sampled_from([8, 12, 20, 36, 64]),
    chunk=st.sampled_from([2, 8, 16, 30]),
    connectivity=st.sampled_from([1, 2]),
    parameters=st.builds(Plain, spacing=st.sampled_from([0, 2, 5]), fill=st.booleans(), smallest=st.sampled_from([0, 3, 20])),
)
@example(spiral(61), 8, 16, 1, Plain())
@example(spiral(61), 12, 16, 2, Plain(spacing=2, fill=False))
@example(rings(66), 12, 8, 2, Plain())
@example(rings(66), 20, 16, 1, Plain(fill=False))
@example(rings(66, gap=4), 8, 16, 2, Plain(smallest=150))
@example(corners(40), 4, 16, 1, Plain())
@example(corners(40), 8, 16, 2, Plain(fill=False))
@example(np.ones((70, 1), np.uint8), 4, 8, 2, Plain())
@example(np.zeros((30, 50), np.uint8), 8, 16, 2, Plain())
@example(np.ones((50, 30), np.uint8), 8, 16, 2, Plain())
def test_any_mask_in_any_tiles(
    tmp_path: Path, pixels: NDArray[np.uint8], tile: int, chunk: int, connectivity: int, parameters: Plain
) -> None:
    uri = save(tmp_path, pixels)
    check(tmp_path, uri, pixels, plain(connectivity), parameters, tile=tile, chunk=(chunk, chunk), executor=shuffled)


@pytest.fixture(scope="module")
def field_of_nuclei(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, NDArray[np.uint16]]:
    tile = nuclei_field((640, 640), 420, seed=3).image
    pixels = np.tile(tile, (2, 3))[:1170, :1730]
    return save(tmp_path_factory.mktemp("nuclei"), pixels), pixels


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_flat_images_have_no_objects(tmp_path: Path, value: int) -> None:
    pixels = np.full((200, 130), value, np.uint16)
    segmenter = segmenters.get("threshold")
    assert check(tmp_path, save(tmp_path, pixels), pixels, segmenter, segmenter.parameters(), tile=64).objects == 0


@pytest.mark.parametrize(
    ("tile", "executor"), [(512, in_turn), (512, eight_threads), (1024, shuffled), (2048, in_turn), (2048, eight_threads), (192, shuffled)]
)
def test_nuclei_in_any_tiles(tmp_path: Path, field_of_nuclei: tuple[str, NDArray[np.uint16]], tile: int, executor: Any) -> None:
    uri, pixels = field_of_nuclei
    segmenter = segmenters.get("threshold")
    tiled = check(
        tmp_path, uri, pixels, segmenter, segmenter.parameters(), tile=tile, executor=executor, chunk=(1024, 1024), pixel_size_um=0.5
    )
    assert tiled.objects > 1000


@pytest.mark.parametrize(("name", "told"), [("nuclei", {}), ("nuclei", {"recipe": "classical"}), ("spheroid", {})])
@pytest.mark.parametrize(("tile", "executor"), [(128, eight_threads), (192, shuffled)])
def test_other_segmenters_in_tiles(tmp_path: Path, name: str, told: dict[str, Any], tile: int, executor: Any) -> None:
    pixels = nuclei_field((330, 400), 90, seed=6, touching=0.6).image
    segmenter = segmenters.get(name)
    tiled = check(
        tmp_path, save(tmp_path, pixels), pixels, segmenter, segmenter.parameters(**told), tile=tile, executor=executor, chunk=(128, 128)
    )
    assert tiled.objects > 20


def test_stained_tissue_in_tiles(tmp_path: Path) -> None:
    segmenter = segmenters.get("tissue")
    pixels = stained(nuclei_field((300, 400), 90, seed=5).truth)
    tiled = check(
        tmp_path, save(tmp_path, pixels), pixels, segmenter, segmenter.parameters(), tile=128, executor=shuffled, chunk=(128, 128)
    )
    assert tiled.objects > 50


def stained(truth: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Dark violet nuclei on pink."""
    pixels = np.where((truth > 0)[..., None], (90, 50, 130), (225, 170, 205))
    return (pixels + np.random.default_rng(1).integers(-8, 9, pixels.shape)).astype(np.uint8)


def write_striped(path: Path, pixels: NDArray[Any]) -> str:
    tifffile.imwrite(path, pixels, rowsperstrip=16, compression="zlib")
    return str(path)


def write_tiled(path: Path, pixels: NDArray[Any]) -> str:
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="zlib")
    return str(path)


def write_ome_zarr(path: Path, pixels: NDArray[Any]) -> str:
    axes = [{"name": name, "type": "space"} for name in "yx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}
    group = zarr.create_group(
        path, attributes={"ome": {"version": "0.5", "multiscales": [{"name": "", "axes": axes, "datasets": [level]}]}}
    )
    group.create_array("0", data=pixels, chunks=(100, 130))
    return str(path)


@pytest.mark.parametrize("write", [write_striped, write_tiled, write_ome_zarr])
def test_formats(tmp_path: Path, write: Callable[[Path, NDArray[Any]], str]) -> None:
    pixels = nuclei_field((500, 620), 200, seed=4).image
    suffix = "ome.zarr" if write is write_ome_zarr else "tif"
    uri = write(tmp_path / f"image.{suffix}", pixels)
    segmenter = segmenters.get("threshold")
    check(tmp_path, uri, pixels, segmenter, segmenter.parameters(), tile=192, executor=shuffled, chunk=(128, 128))


def test_every_channel_is_measured(tmp_path: Path) -> None:
    channels = np.stack([nuclei_field((300, 320), 60, seed=seed).image for seed in (5, 6)])
    tifffile.imwrite(tmp_path / "two.ome.tif", channels, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "FITC"]}})
    segmenter = segmenters.get("threshold")
    labels, objects = Labels.of((300, 320), 64, 64), Objects()
    segment_large(
        str(tmp_path / "two.ome.tif"), segmenter, segmenter.parameters(), selection=Selection(channel="FITC"), tile=128,
        folder=str(tmp_path / "scratch"), labels=labels, objects=objects,
    )  # fmt: skip
    whole = segmenter.function(channels[1], segmenter.parameters(), None)
    np.testing.assert_array_equal(labels.found, whole)
    assert objects.table.equals(measure(whole, np.moveaxis(channels, 0, -1), channels=["DAPI", "FITC"]))


def test_gray_of_a_colour_image(tmp_path: Path) -> None:
    pixels = 255 - stained(nuclei_field((200, 230), 40, seed=5).truth)
    uri = save(tmp_path, pixels)
    segmenter = segmenters.get("threshold")
    labels, objects = Labels.of((200, 230), 64, 64), Objects()
    segment_large(uri, segmenter, segmenter.parameters(), tile=64, folder=str(tmp_path / "scratch"), labels=labels, objects=objects)
    with open_image(uri) as image:
        gray = image.plane(Selection(channel="gray"))
    whole = segmenter.function(gray, segmenter.parameters(), None)
    np.testing.assert_array_equal(labels.found, whole)
    assert objects.table.equals(measure(whole, pixels, channels=["red", "green", "blue"]))


def test_empty_tiles_are_not_read_again(tmp_path: Path) -> None:
    pixels = np.full((640, 640), 100, np.uint16)
    pixels[70:180, 140:300] += nuclei_field((110, 160), 20, seed=2).image
    segmenter = segmenters.get("threshold")
    looked_at = []

    def foreground(pixels: NDArray[Any], plan: Any, row: int, column: int) -> NDArray[np.bool_]:
        looked_at.append((row, column))
        return segmenter.recipe.foreground(pixels, plan, row, column)

    watched = replace(segmenter, recipe=replace(segmenter.recipe, foreground=foreground))
    labels = Labels.of(pixels.shape, 64, 64)
    segment_large(
        save(tmp_path, pixels), watched, segmenter.parameters(), folder=str(tmp_path / "scratch"), labels=labels, objects=Objects(), tile=64
    )
    np.testing.assert_array_equal(labels.found, segmenter.function(pixels, segmenter.parameters(), None))
    assert len(looked_at) <= 3 * 4
    assert labels.writes <= 3 * 4


def test_strips_are_not_decoded_for_every_tile() -> None:
    assert choose_edges((32768, 32768), (8, 32768), 2048, 64) == (2048, (128, 32768))
    assert choose_edges((32768, 32768), (256, 256), 2048, 64) == (2048, (2048, 2048))
    assert choose_edges((32768, 1000), (8, 1000), 2048, 64) == (2048, (2048, 2048))
    assert choose_edges((100, 100), (100, 100), 30, 64) == (64, (64, 64))
    assert choose_edges((500, 200_000), (8, 200_000), 2048, 64) == (2048, (2048, 2048))


def test_result_files_are_the_same_for_any_tiles(tmp_path: Path, field_of_nuclei: tuple[str, NDArray[np.uint16]]) -> None:
    """Through the real writers: every chunk of every pyramid level, and the table."""
    uri, pixels = field_of_nuclei
    segmenter = segmenters.get("threshold")
    outcomes = []
    for tile in (512, 2048):
        out = tmp_path / str(tile)
        labels = LabelWriter.create(str(out / "labels.ome.zarr"), pixels.shape, "YX")
        with ObjectWriter(str(out / "objects.parquet")) as objects:
            segment_large(uri, segmenter, segmenter.parameters(), folder=str(out / "scratch"), labels=labels, objects=objects, tile=tile)
        outcomes.append((labels.finish(), open_labels(labels.path), read(str(out / "objects.parquet"))))
    (one, labels, table), (other, _, same_table) = outcomes
    assert one == other
    assert table.equals(same_table)
    np.testing.assert_array_equal(labels.read(), segmenter.function(pixels, segmenter.parameters(), None))
    assert labels.layout.levels == 2


def test_time_series(tmp_path: Path) -> None:
    moments = np.stack([nuclei_field((150, 170), 20, seed=seed).image for seed in (1, 2)])
    tifffile.imwrite(tmp_path / "series.ome.tif", moments, metadata={"axes": "TYX"})
    segmenter = segmenters.get("threshold")
    labels = Labels.of(moments.shape, 1, 64, 64)
    for moment, pixels in enumerate(moments):
        objects = Objects()
        segment_large(
            str(tmp_path / "series.ome.tif"), segmenter, segmenter.parameters(), time=moment, tile=64,
            folder=str(tmp_path / f"scratch-{moment}"), labels=labels, objects=objects,
        )  # fmt: skip
        whole = segmenter.function(pixels, segmenter.parameters(), None)
        np.testing.assert_array_equal(labels.found[moment], whole)
        assert objects.table.equals(measure(whole, pixels))


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


def test_on_dask(tmp_path: Path, field_of_nuclei: tuple[str, NDArray[np.uint16]]) -> None:
    """A worker process with eight threads, through `segkit.cluster`; what is sent to it is small."""
    from segkit import cluster
    from segkit.settings import load

    uri, pixels = field_of_nuclei
    segmenter = segmenters.get("threshold")
    out = tmp_path / "dask"
    labels = LabelWriter.create(str(out / "labels.ome.zarr"), pixels.shape, "YX", chunk=(512, 512))
    with (
        cluster.connect(load(home=str(tmp_path), workers=1, threads_per_worker=8)) as dask,
        ObjectWriter(str(out / "objects.parquet")) as objects,
    ):
        segment_large(
            uri, segmenter, segmenter.parameters(), folder=str(out / "scratch"), labels=labels, objects=objects, tile=512, executor=dask.map
        )
    labels.finish()
    whole = segmenter.function(pixels, segmenter.parameters(), None)
    np.testing.assert_array_equal(open_labels(labels.path).read(), whole)
    assert read(str(out / "objects.parquet")).equals(measure(whole, pixels))


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

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
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
