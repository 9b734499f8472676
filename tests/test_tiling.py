"""Tiled equals untiled, pixel for pixel and row for row, whatever the image, the tiles and their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit import segmenters
from segkit.images import Selection, open_image
from segkit.labels import LabelWriter, open_labels
from segkit.measure import measure
from segkit.objects import ObjectWriter, read
from segkit.synthetic import nuclei_field
from segkit.tiling import choose_edges, in_turn, segment_large
from tests.tiles_and_whole import BLOCK, Labels, Objects, Plain, check, eight_threads, plain, rings, save, shuffled

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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
