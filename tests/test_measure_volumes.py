"""Measurements of volumes are scikit-image's, and regions of larger images give the same bits as the whole."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops

import segkit.measure
from segkit.errors import InvalidPixelsError
from segkit.measure import measure, measure_region, merge_tables
from tests.labelled_shapes import INTENSITIES, blobs, plane, speckles

VOLUME_COLUMNS = [
    ("equivalent_diameter_um", "equivalent_diameter_area"),
    ("extent", "extent"),
    ("axis_major_um", "axis_major_length"),
]


# Volumes


def assert_volume_equals_scikit_image(labels: np.ndarray, spacing: tuple[float, float, float]) -> None:
    image = np.random.default_rng(0).normal(size=labels.shape)
    rows = measure(labels, image, pixel_size_um=spacing[1], z_step_um=spacing[0]).to_pylist()
    for row, region in zip(rows, regionprops(labels, image, spacing=spacing), strict=True):
        assert row["label"] == region.label
        assert row["volume_um3"] == pytest.approx(region.area, rel=1e-9)
        for ours, theirs in VOLUME_COLUMNS:
            assert row[ours] == pytest.approx(region[theirs], rel=1e-6, abs=1e-6), ours
        assert row["axis_minor_um"] == pytest.approx(region.axis_minor_length, rel=1e-6, abs=1e-6)
        assert tuple(row[f"box_{axis}_{end}"] for end in ("min", "max") for axis in ("plane", "row", "column")) == region.bbox
        assert tuple(row[f"centroid_{axis}_um"] for axis in "zyx") == pytest.approx(region.centroid, rel=1e-9)
        for name in INTENSITIES:
            assert row[f"intensity_{name}"] == pytest.approx(float(region[f"intensity_{name}"]), rel=1e-6, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(speckles(ndim=3, longest=7, labels=3), st.floats(0.05, 5), st.floats(0.05, 5))
def test_any_small_volume_measures_as_in_scikit_image(labels: np.ndarray, z_step: float, pixel_size: float) -> None:
    assert_volume_equals_scikit_image(labels, (z_step, pixel_size, pixel_size))


def test_blobs_in_a_volume_measure_as_in_scikit_image() -> None:
    assert_volume_equals_scikit_image(blobs(1, (12, 25, 30)), (2.0, 0.3, 0.3))


def ball(radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    half = [math.ceil(radius / step) + 1 for step in spacing]
    axes = np.ogrid[tuple(slice(-size, size + 1) for size in half)]
    squares = sum(((axis + 0.2) * step / radius) ** 2 for axis, step in zip(axes, spacing, strict=True))
    return np.asarray(squares <= 1, dtype=np.uint8)


@pytest.mark.parametrize(("spacing", "tolerance"), [((1, 1, 1), 0.02), ((3, 1, 1), 0.03), ((0.5, 1, 1), 0.02)])
def test_the_surface_of_a_ball(spacing: tuple[float, float, float], tolerance: float) -> None:
    row = measure(ball(12, spacing), pixel_size_um=spacing[1], z_step_um=spacing[0]).to_pylist()[0]
    assert row["surface_um2"] == pytest.approx(4 * math.pi * 12**2, rel=tolerance)
    assert row["volume_um3"] == pytest.approx(4 / 3 * math.pi * 12**3, rel=0.03)
    assert 0.96 < row["sphericity"] <= 1
    for axis in ("major", "middle", "minor"):
        assert row[f"axis_{axis}_um"] == pytest.approx(24, rel=0.04)


def test_the_surface_of_touching_and_hollow_bodies_counts_all_of_their_own_faces() -> None:
    labels = np.zeros((30, 30, 60), dtype=np.int32)
    labels[5:25, 5:25, 10:30], labels[5:25, 5:25, 30:50] = 1, 2
    solid = measure(labels)["surface_px"].to_pylist()
    assert solid[0] == solid[1] == pytest.approx(6 * 20**2, rel=0.1)
    labels[10:20, 10:20, 15:25] = 0
    assert measure(labels)["surface_px"][0].as_py() == pytest.approx(solid[0] + 6 * 10**2, rel=0.1)


def test_directions_of_cubic_voxels_have_the_known_weights() -> None:
    weights = segkit.measure._direction_weights((1.0, 1.0, 1.0))
    distances = [1, math.sqrt(2), 1, math.sqrt(2), *[math.sqrt(3), math.sqrt(2), math.sqrt(3)], *[math.sqrt(2), 1, math.sqrt(2)]]
    published = {1: 0.04577789120476 * 2, math.sqrt(2): 0.03698062787608 * 2, math.sqrt(3): 0.03519563978232 * 2}
    np.testing.assert_allclose(weights[:10], [4 * published[d] / d for d in distances], rtol=1e-9)


def test_a_plane_and_a_volume_of_one_plane_agree() -> None:
    labels = blobs(2, (40, 50))
    flat, volume = measure(labels, pixel_size_um=0.5), measure(labels[None], pixel_size_um=0.5, z_step_um=2)
    np.testing.assert_allclose(volume["volume_um3"].to_numpy(), 2 * flat["area_um2"].to_numpy())
    for name in ("centroid_y_um", "box_row_max", "extent"):
        assert volume[name].equals(flat[name])
    assert set(volume["touches_edge"].to_pylist()) == {True}


# Regions of larger images


def bits(table: pa.Table) -> list[bytes]:
    return [np.ascontiguousarray(column.to_numpy()).tobytes() for column in table.itercolumns()]


def rows_of(table: pa.Table, labels: list[int]) -> pa.Table:
    return table.filter(pa.array(np.isin(table["label"].to_numpy(), labels)))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 10**6), st.sampled_from([np.uint16, np.float32, np.float64, np.int32]))
def test_a_crop_gives_the_same_bits_as_the_whole_image(data: st.DataObject, seed: int, dtype: Any) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((90, 110)), 2)
    labels, _ = ndimage.label(noise > np.quantile(noise, 0.6))
    image = (np.random.default_rng(seed).normal(1000, 200, (*labels.shape, 2)) * 10).astype(dtype)
    row, column = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 50))
    stop_row, stop_column = data.draw(st.integers(row + 20, 90)), data.draw(st.integers(column + 20, 110))
    crop = np.s_[row:stop_row, column:stop_column]
    inside = labels[crop]
    whole = [k for k in np.unique(inside[inside > 0]).tolist() if (inside == k).sum() == (labels == k).sum()]
    arguments: dict[str, Any] = {"channels": ["a", "b"], "pixel_size_um": 0.3271}
    expected = rows_of(measure(labels, image, **arguments), whole)
    got = measure_region(inside, image[crop], origin=(row, column), image_shape=labels.shape, **arguments)
    assert bits(rows_of(got, whole)) == bits(expected)


def test_a_crop_of_a_volume_gives_the_same_bits() -> None:
    labels = np.zeros((20, 40, 40), dtype=np.int32)
    image = np.random.default_rng(0).normal(size=labels.shape)
    for k, corner in enumerate([(3, 5, 7), (3, 20, 22), (11, 4, 21)], start=1):
        body = ball(3, (1, 0.5, 0.5))[1:-1]
        here = tuple(slice(first, first + size) for first, size in zip(corner, body.shape, strict=True))
        labels[here][body > 0] = k
    sizes: dict[str, Any] = {"pixel_size_um": 0.11, "z_step_um": 0.35}
    expected = measure(labels, image, **sizes)
    crop = np.s_[2:19, 3:37, 5:39]
    assert bits(measure_region(labels[crop], image[crop], origin=(2, 3, 5), image_shape=labels.shape, **sizes)) == bits(expected)


def test_tiles_put_together_are_the_whole() -> None:
    labels = np.kron(np.arange(1, 17, dtype=np.int32).reshape(4, 4), np.pad(np.ones((6, 6), dtype=np.int32), 2))
    image = np.random.default_rng(0).random(labels.shape)
    tiles = [
        measure_region(labels[r : r + 20, c : c + 20], image[r : r + 20, c : c + 20], origin=(r, c), image_shape=labels.shape)
        for c in (20, 0)
        for r in (0, 20)
    ]
    merged = merge_tables(tiles)
    assert merged.equals(measure(labels, image), check_metadata=True)
    with pytest.raises(InvalidPixelsError, match="Object 1 was measured in two"):
        merge_tables([*tiles, tiles[2]])


def test_touching_the_edge_means_the_edge_of_the_whole_image() -> None:
    labels = plane(10, 10, np.s_[0:2, 4:6], np.s_[4:6, 4:6], np.s_[9, 9])
    assert measure(labels)["touches_edge"].to_pylist() == [True, False, True]
    inner = measure_region(labels, origin=(5, 5), image_shape=(40, 40))
    assert inner["touches_edge"].to_pylist() == [False, False, False]


def test_threads_measure_the_same() -> None:
    labels, image = blobs(1, (200, 200)), np.random.default_rng(0).random((200, 200))
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: measure(labels, image), range(16)))
    assert all(bits(table) == bits(tables[0]) for table in tables)
