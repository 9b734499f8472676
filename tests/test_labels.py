"""Label images: read by independent readers, never silently holed, written by many hands."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import ImageLabel

from segkit.errors import InvalidPixelsError, ResultCorruptError, SelectionError
from segkit.labels import CHUNK, LabelWriter, choose_chunk, open_labels
from tests.disks import mounted


def checkered(shape: tuple[int, ...], edge: int = 37) -> NDArray[np.int32]:
    """Labels in blocks, with background between them."""
    index = [np.arange(size) // edge for size in shape]
    grid = np.add.outer(index[-2] * (shape[-1] // edge + 1), index[-1]) + 1
    grid[::edge] = 0
    return np.broadcast_to(grid.astype(np.int32), shape).copy()


def write(path: Path, labels: NDArray[np.int32], axes: str = "YX", **options: object) -> str:
    writer = LabelWriter.create(str(path), labels.shape, axes, **options)  # type: ignore[arg-type]
    writer.write(labels)
    return writer.finish()


@pytest.mark.parametrize(
    ("axes", "shape"), [("YX", (50, 70)), ("YX", (2100, 1500)), ("TYX", (5, 300, 200)), ("ZYX", (3, 64, 1100)), ("TZYX", (2, 3, 40, 50))]
)
def test_independent_readers_read_the_same(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    labels = checkered(shape)
    write(tmp_path / "labels.ome.zarr", labels, axes, pixel_size_um=0.325, z_step_um=2.0, time_step_s=60.0)
    assert np.array_equal(open_labels(str(tmp_path / "labels.ome.zarr")).read(), labels)
    assert np.array_equal(zarr.open_group(tmp_path / "labels.ome.zarr", mode="r")["0"][...], labels)
    location = parse_url(str(tmp_path / "labels.ome.zarr"), mode="r")
    assert location is not None
    (node,) = Reader(location)()
    assert np.array_equal(np.asarray(node.data[0]), labels)
    assert {type(spec).__name__ for spec in node.specs} == {"Label", "Multiscales"}
    sizes = {"t": 60.0, "z": 2.0, "y": 0.325, "x": 0.325}
    assert node.metadata["coordinateTransformations"][0] == [{"type": "scale", "scale": [sizes[axis] for axis in axes.lower()]}]
    units = {axis["name"]: axis["unit"] for axis in node.metadata["axes"]}
    assert units == {axis: "second" if axis == "t" else "micrometer" for axis in axes.lower()}


def test_metadata_follow_the_specification(tmp_path: Path) -> None:
    write(tmp_path / "labels.ome.zarr", checkered((1500, 1200)), pixel_size_um=0.5)
    model = ImageLabel.from_zarr(zarr.open_group(tmp_path / "labels.ome.zarr", mode="r"))
    assert model.ome_attributes.version == "0.5"
    codecs = zarr.open_array(tmp_path / "labels.ome.zarr" / "1", mode="r").metadata.to_dict()["codecs"]
    assert {"name": "zstd", "configuration": {"level": 3, "checksum": True}} in codecs


def test_levels_pick_pixels_and_never_mix_labels(tmp_path: Path) -> None:
    labels = checkered((3000, 2100))
    write(tmp_path / "labels", labels)
    reader = open_labels(str(tmp_path / "labels"))
    assert reader.layout.levels == 3
    assert np.array_equal(reader.read(1), labels[::2, ::2])
    assert np.array_equal(reader.read(2), labels[::4, ::4])
    assert np.array_equal(zarr.open_group(tmp_path / "labels", mode="r")["2"][...], labels[::4, ::4])
    assert reader.read(2).max() <= labels.max()


def test_without_a_pixel_size_no_unit_is_claimed(tmp_path: Path) -> None:
    write(tmp_path / "labels", checkered((20, 20)))
    (scale,) = json.loads((tmp_path / "labels" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert scale["axes"] == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    assert scale["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 1.0]}]


def test_a_small_image_is_few_files(tmp_path: Path) -> None:
    write(tmp_path / "labels", checkered((512, 512)))
    assert sum(len(names) for _, _, names in os.walk(tmp_path)) == 3


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=13), elements=st.integers(0, 2**31 - 1)),
    st.integers(1, 4),
    st.data(),
)
def test_any_image_and_region_comes_back(
    tmp_path_factory: pytest.TempPathFactory, labels: NDArray[np.int32], half: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("any")
    chunk = (1,) * (labels.ndim - 2) + (2 * half, 2 * half)
    write(path / "labels", labels, "YX" if labels.ndim == 2 else "ZYX", chunk=chunk)
    reader = open_labels(str(path / "labels"))
    assert np.array_equal(reader.read(), labels)
    starts = [data.draw(st.integers(0, size - 1)) for size in labels.shape]
    region = tuple(slice(start, data.draw(st.integers(start + 1, size))) for start, size in zip(starts, labels.shape, strict=True))
    assert np.array_equal(reader.read(0, region), labels[region])
    assert np.array_equal(zarr.open_group(path / "labels", mode="r")["0"][region], labels[region])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([16, 32, 64]))
def test_a_pyramid_of_any_shape_is_every_second_pixel(tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, edge: int) -> None:
    labels = np.arange(1, rows * columns + 1, dtype=np.int32).reshape(rows, columns)
    path = str(tmp_path_factory.mktemp("pyramid") / "labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.labels.layout.CHUNK", edge)
        write(Path(path), labels)
        reader = open_labels(path)
        assert max(reader.layout.shape_at(reader.layout.levels - 1)) <= edge
        for level in range(reader.layout.levels):
            assert np.array_equal(reader.read(level), labels[:: 2**level, :: 2**level])


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_many_hands_write_one_image(tmp_path: Path, pool: type[ThreadPoolExecutor] | type[ProcessPoolExecutor]) -> None:
    labels = checkered((200, 1000))
    writer = LabelWriter.create(str(tmp_path / "labels"), labels.shape, "YX", chunk=(64, 64))
    options = {"mp_context": multiprocessing.get_context("spawn")} if pool is ProcessPoolExecutor else {}
    with pool(2, **options) as hands:  # type: ignore[arg-type]
        parts = [hands.submit(writer.write, labels[:, column : column + 128], (0, column)) for column in range(0, 1000, 128)]
        for part in parts:
            part.result()
    assert np.array_equal(pickle.loads(pickle.dumps(writer)).read(), labels)
    writer.finish(threads=2)
    assert np.array_equal(open_labels(str(tmp_path / "labels")).read(), labels)


def test_writing_goes_on_where_a_dead_process_stopped(tmp_path: Path) -> None:
    labels = checkered((128, 128))
    LabelWriter.create(str(tmp_path / "labels"), labels.shape, "YX", chunk=(64, 64)).write(labels[:64], (0, 0))
    again = LabelWriter.create(str(tmp_path / "labels"), labels.shape, "YX", chunk=(64, 64))
    assert np.array_equal(again.read((slice(0, 64), slice(0, 128))), labels[:64])
    again.write(labels[64:], (64, 0))
    again.finish()
    assert np.array_equal(open_labels(str(tmp_path / "labels")).read(), labels)


def test_writing_nothing_over_something_leaves_nothing(tmp_path: Path) -> None:
    writer = LabelWriter.create(str(tmp_path / "labels"), (64, 64), "YX")
    writer.write(np.ones((64, 64), dtype=np.int32))
    writer.write(np.zeros((64, 64), dtype=np.int32))
    writer.finish()
    assert not open_labels(str(tmp_path / "labels")).read().any()


def test_an_unfinished_image_cannot_be_read(tmp_path: Path) -> None:
    LabelWriter.create(str(tmp_path / "labels"), (64, 64), "YX").write(np.ones((64, 64), dtype=np.int32))
    with pytest.raises(ResultCorruptError, match=r"zarr\.json is missing"):
        open_labels(str(tmp_path / "labels"))


def test_a_lost_chunk_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    write(tmp_path / "labels", checkered((300, 300)), chunk=(128, 128))
    reader = open_labels(str(tmp_path / "labels"))
    (tmp_path / "labels" / "0" / "c" / "1" / "1").unlink()
    with pytest.raises(ResultCorruptError, match=r"0/c/1/1 is missing.*segkit retry"):
        reader.read()
    with pytest.raises(ResultCorruptError):
        reader.verify()
    assert reader.read(0, (slice(0, 128), slice(0, 128))).any()


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    check = write(tmp_path / "labels", checkered((60, 60), 11))
    rng = np.random.default_rng(0)
    names = [os.path.join(place, name) for place, _, files in os.walk(tmp_path / "labels") for name in files]
    for name in names:
        whole = Path(name).read_bytes()
        for bit in rng.choice(8 * len(whole), min(60, 8 * len(whole)), replace=False):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << (bit % 8)
            Path(name).write_bytes(damaged)
            with pytest.raises(ResultCorruptError):
                open_labels(str(tmp_path / "labels"), check).verify()
        Path(name).write_bytes(whole)
    open_labels(str(tmp_path / "labels"), check).verify()


@pytest.mark.parametrize("size", [0, 10])
def test_a_chunk_cut_short_is_noticed(tmp_path: Path, size: int) -> None:
    write(tmp_path / "labels", checkered((60, 60)))
    os.truncate(tmp_path / "labels" / "0" / "c" / "0" / "0", size)
    with pytest.raises(ResultCorruptError, match="damaged"):
        open_labels(str(tmp_path / "labels")).read()


def test_a_chunk_damaged_before_the_end_stops_the_writing(tmp_path: Path) -> None:
    writer = LabelWriter.create(str(tmp_path / "labels"), (64, 64), "YX")
    writer.write(np.ones((64, 64), dtype=np.int32))
    os.truncate(tmp_path / "labels" / "0" / "c" / "0" / "0", 7)
    with pytest.raises(ResultCorruptError):
        writer.finish()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.zeros((8, 8)), "integers"),
        (np.full((8, 8), -1), "from 0"),
        (np.full((8, 8), 2**31, dtype=np.int64), "from 0"),
        (np.zeros((8, 8), dtype=bool), "integers"),
    ],
)
def test_what_is_no_label_image_is_refused(tmp_path: Path, labels: NDArray[np.generic], reason: str) -> None:
    writer = LabelWriter.create(str(tmp_path / "labels"), (8, 8), "YX")
    with pytest.raises(InvalidPixelsError, match=reason):
        writer.write(labels)


@pytest.mark.parametrize(
    ("axes", "shape", "chunk"),
    [
        ("XY", (8, 8), None),
        ("YX", (8, 8, 8), None),
        ("YX", (0, 8), None),
        ("YX", (8, 8), (3, 4)),
        ("YX", (8, 8), (0, 4)),
        ("CYX", (1, 8, 8), None),
    ],
)
def test_a_layout_that_cannot_be_is_refused(tmp_path: Path, axes: str, shape: tuple[int, ...], chunk: tuple[int, ...] | None) -> None:
    with pytest.raises(InvalidPixelsError):
        LabelWriter.create(str(tmp_path / "labels"), shape, axes, chunk=chunk)


@pytest.mark.parametrize(("origin", "shape"), [((1, 0), (64, 64)), ((0, 0), (63, 64)), ((64, 64), (64, 65)), ((-64, 0), (64, 64))])
def test_a_region_that_shares_a_chunk_is_refused(tmp_path: Path, origin: tuple[int, int], shape: tuple[int, int]) -> None:
    writer = LabelWriter.create(str(tmp_path / "labels"), (200, 128), "YX", chunk=(64, 64))
    with pytest.raises(InvalidPixelsError, match="whole chunks"):
        writer.write(np.ones(shape, dtype=np.int32), origin)
    writer.write(np.ones((8, 128), dtype=np.int32), (192, 0))


@pytest.mark.parametrize(
    "region", [(slice(0, 5),), (slice(0, 5, 2), slice(0, 5)), (slice(9, 9), slice(0, 5)), (slice(90, 99), slice(0, 5))]
)
def test_a_region_that_is_not_there_is_refused(tmp_path: Path, region: tuple[slice, ...]) -> None:
    write(tmp_path / "labels", checkered((20, 20)))
    reader = open_labels(str(tmp_path / "labels"))
    with pytest.raises(SelectionError):
        reader.read(0, region)
    with pytest.raises(SelectionError, match="levels 0 to 0"):
        reader.read(1)


def test_a_store_is_as_good_as_a_disk(tmp_path: Path) -> None:
    labels = checkered((300, 300))
    url = f"memory://{tmp_path}/labels"
    writer = LabelWriter.create(url, labels.shape, "YX", chunk=(128, 128))
    writer.write(labels)
    writer.finish()
    assert np.array_equal(open_labels(url).read(), labels)
    assert np.array_equal(zarr.open_group(url, mode="r")["0"][...], labels)


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2**31, (512, 512), dtype=np.int32)
    with mounted(tmp_path / "small", "size=512k") as small, pytest.raises(OSError, match="disk is full"):
        write(small / "labels", labels)


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """A pyramid of 16 chunks takes what one of 4 takes: a few chunks."""

    def peak(edge: int) -> int:
        writer = LabelWriter.create(str(tmp_path / str(edge)), (edge, edge), "YX", chunk=(256, 256))
        block = checkered((256, 256))
        for row in range(0, edge, 256):
            for column in range(0, edge, 256):
                writer.write(block, (row, column))
        tracemalloc.start()
        writer.finish()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(2048) < 1.2 * peak(1280) + 2**18


def test_chunks_fit_the_image() -> None:
    assert choose_chunk((512, 512)) == (512, 512)
    assert choose_chunk((5000, 300)) == (CHUNK, 300)
    assert choose_chunk((100, 256, 256)) == (16, 256, 256)
    assert choose_chunk((4, 100, 2048, 2048)) == (1, 1, CHUNK, CHUNK)
