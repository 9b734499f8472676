from __future__ import annotations

import doctest
import io
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage import draw
from skimage.measure import find_contours, regionprops
from skimage.morphology import convex_hull_image

import segkit.measure
from segkit.errors import InvalidPixelsError, PixelSizeError, SegkitError
from segkit.kernels import chords, hulls, measuring, outlines
from segkit.measure import measure, measure_region, merge_tables, summarise

DOCUMENT = Path(__file__).parents[1] / "docs" / "measurements.md"

#: Our column (without unit), scikit-image's property, and the power of the pixel size it scales with.
PLANE_COLUMNS = [
    ("area", "area", 2),
    ("perimeter", "perimeter_crofton", 1),
    ("equivalent_diameter", "equivalent_diameter_area", 1),
    ("feret_max", "feret_diameter_max", 1),
    ("axis_major", "axis_major_length", 1),
    ("solidity", "solidity", 0),
    ("extent", "extent", 0),
    ("eccentricity", "eccentricity", 0),
]
VOLUME_COLUMNS = [
    ("equivalent_diameter_um", "equivalent_diameter_area"),
    ("extent", "extent"),
    ("axis_major_um", "axis_major_length"),
]
INTENSITIES = ["mean", "min", "max", "std"]


def blobs(seed: int, shape: tuple[int, ...], objects: int = 6) -> np.ndarray:
    """Touching, ragged objects, some in several pieces, with a background between some of them."""
    noise = np.random.default_rng(seed).random((objects + 1, *shape))
    return np.argmax([ndimage.gaussian_filter(layer, 1.5) for layer in noise], axis=0)


def plane(rows: int, columns: int, *pieces: Any) -> np.ndarray:
    labels = np.zeros((rows, columns), dtype=np.int32)
    for label, piece in enumerate(pieces, start=1):
        labels[piece] = label
    return labels


def ring(radius: int) -> np.ndarray:
    labels = plane(2 * radius + 3, 2 * radius + 3, draw.disk((radius + 1, radius + 1), radius))
    labels[draw.disk((radius + 1, radius + 1), radius / 2)] = 0
    return labels


def c_shape() -> np.ndarray:
    labels = ring(12)
    labels[10:17, 12:] = 0
    return labels


SHAPES = {
    "one pixel": plane(1, 1, np.s_[0, 0]),
    "pixels at all corners": plane(3, 3, np.s_[0, 0], np.s_[0, 2], np.s_[2, 0], np.s_[2, 2]),
    "row": plane(5, 9, np.s_[2, 1:8]),
    "column": plane(9, 5, np.s_[1:8, 2]),
    "one pixel wide image": plane(12, 1, np.s_[2:5], np.s_[5:9]),
    "falling diagonal": plane(9, 9, draw.line(1, 1, 7, 7)),
    "rising diagonal": plane(9, 9, draw.line(7, 1, 1, 7)),
    "slanted line": plane(20, 50, draw.line(3, 4, 15, 45)),
    "two pixels": plane(4, 4, np.s_[1, 1:3]),
    "square": plane(8, 8, np.s_[2:6, 2:6]),
    "rectangle": plane(9, 20, np.s_[1:8, 3:17]),
    "disc": plane(41, 41, draw.disk((20, 20), 15.5)),
    "ellipse": plane(60, 60, draw.ellipse(30, 30, 9, 24, rotation=0.7)),
    "ring": ring(14),
    "c": c_shape(),
    "two parts far apart": plane(40, 60, ([2, 2, 35, 36], [3, 4, 50, 50])),
    "comb": plane(9, 21, np.s_[1:8, 1:20:2]),
    "chequers": plane(9, 9, np.nonzero(np.indices((9, 9)).sum(axis=0) % 2)),
    "touching squares": plane(10, 20, np.s_[2:8, 2:8], np.s_[2:8, 8:14], np.s_[8:9, 2:14]),
    "disc in ring": plane(40, 40, draw.disk((20, 20), 18), draw.disk((20, 20), 9)),
    "on every edge": plane(12, 12, np.s_[0, 3:9], np.s_[11, 3:9], np.s_[3:9, 0], np.s_[3:9, 11]),
    "whole image": plane(7, 11, np.s_[:, :]),
    "labels with gaps": blobs(5, (30, 30))[:, :] * 1001,
}


def axis_difference(one: float, other: float) -> float:
    """Difference of two axes' angles: pi/2 and -pi/2 are the same axis."""
    return abs((one - other + math.pi / 2) % math.pi - math.pi / 2)


def assert_plane_equals_scikit_image(labels: np.ndarray, pixel_size: float | None = None) -> None:
    rows = measure(labels, pixel_size_um=pixel_size).to_pylist()
    regions = regionprops(labels)
    assert [row["label"] for row in rows] == [region.label for region in regions]
    for row, region in zip(rows, regions, strict=True):
        for name, theirs, power in PLANE_COLUMNS:
            unit = f"_{'um' if pixel_size else 'px'}{'2' if power == 2 and pixel_size else ''}" if power else ""
            assert row[name + unit] == pytest.approx(region[theirs] * (pixel_size or 1) ** power, rel=1e-6, abs=1e-7), name
        edge = pixel_size or 1
        assert row["axis_minor_" + ("um" if pixel_size else "px")] == pytest.approx(region.axis_minor_length * edge, rel=1e-6, abs=1e-6)
        box = tuple(row[f"box_{axis}_{end}"] for end in ("min", "max") for axis in ("row", "column"))
        assert box == region.bbox
        assert (row["centroid_row"], row["centroid_column"]) == pytest.approx(region.centroid, rel=1e-12)
        low, high = np.linalg.eigvalsh(region.inertia_tensor)
        if high - low > 1e-9 * high:
            assert axis_difference(row["orientation"], region.orientation) < 1e-6
        else:
            assert abs(row["orientation"]) == math.pi / 4


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_measures_as_in_scikit_image(name: str) -> None:
    assert_plane_equals_scikit_image(SHAPES[name])


@pytest.mark.parametrize("name", ["disc", "c", "touching squares"])
def test_units_are_those_of_the_pixel_size(name: str) -> None:
    assert_plane_equals_scikit_image(SHAPES[name], pixel_size=0.325)


@st.composite
def speckles(draw: st.DrawFn, ndim: int, longest: int, labels: int) -> np.ndarray:
    """Labels drawn pixel by pixel: many objects of many pieces and holes, in a small image."""
    shape = draw(st.tuples(*[st.integers(1, longest)] * ndim))
    random = np.random.default_rng(draw(st.integers(0, 10**9)))
    return random.integers(1, labels + 1, shape) * (random.random(shape) < draw(st.floats(0.02, 1)))


@settings(max_examples=120, deadline=None)
@given(speckles(ndim=2, longest=16, labels=3))
def test_any_speckles_measure_as_in_scikit_image(labels: np.ndarray) -> None:
    assert_plane_equals_scikit_image(labels)


@settings(max_examples=120, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_any_small_labels_measure_as_in_scikit_image(labels: np.ndarray) -> None:
    assert_plane_equals_scikit_image(labels)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 50), st.integers(5, 50))
def test_any_blobs_measure_as_in_scikit_image(seed: int, rows: int, columns: int) -> None:
    assert_plane_equals_scikit_image(blobs(seed, (rows, columns)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4", ">u2"])
def test_labels_of_every_integer_type_measure_the_same(dtype: Any) -> None:
    labels = blobs(2, (40, 50))
    assert measure(labels.astype(dtype)).equals(measure(labels))


def test_large_and_sparse_labels_keep_their_numbers() -> None:
    labels = blobs(2, (40, 50)).astype(np.uint64)
    large = np.where(labels > 0, labels * np.uint64(10**17), 0)
    table = measure(large)
    assert table["label"].to_pylist() == [k * 10**17 for k in range(1, 7)]
    assert table.drop_columns("label").equals(measure(labels).drop_columns("label"))


def test_strided_and_read_only_arrays_are_measured_without_a_compilation_of_their_own() -> None:
    labels, image = blobs(2, (40, 50)), np.random.default_rng(0).random((40, 50))
    whole, thinned = measure(labels, image), measure(np.ascontiguousarray(labels.T[::2]), np.ascontiguousarray(image.T[::2]))
    compiled = len(chords._scan.signatures), len(measuring.add_intensities.signatures)
    labels.flags.writeable = image.flags.writeable = False
    assert measure(labels, image).equals(whole)
    assert measure(labels.T[::2], image.T[::2]).equals(thinned)
    assert (len(chords._scan.signatures), len(measuring.add_intensities.signatures)) == compiled


def test_a_hundred_thousand_tiny_objects() -> None:
    labels = np.zeros((4 * 200, 4 * 500), dtype=np.int32)
    numbers = np.arange(1, 100_001).reshape(200, 500)
    labels[1::4, 1::4] = labels[1::4, 2::4] = labels[2::4, 1::4] = numbers
    table = measure(labels)
    assert table["label"].to_pylist() == numbers.ravel().tolist()
    assert set(table["area_px"].to_pylist()) == {3}
    assert len(set(table["perimeter_px"].to_pylist())) == 1
    np.testing.assert_allclose(table["centroid_row"].to_numpy().reshape(200, 500)[:, 0], np.arange(200) * 4 + 4 / 3)


def test_an_object_larger_than_a_block_of_pixels() -> None:
    labels = np.zeros((1200, 700), dtype=np.uint8)
    labels[draw.ellipse(600, 350, 580, 300, rotation=0.2)] = 9
    image = np.arange(labels.size, dtype=np.uint32).reshape(labels.shape)
    row = measure(labels, image).to_pylist()[0]
    assert row["area_px"] == (labels == 9).sum()
    assert row["intensity_sum"] == image[labels == 9].sum()
    assert row["intensity_std"] == pytest.approx(image[labels == 9].std(), rel=1e-12)
    assert_plane_equals_scikit_image(labels)


# Feret diameters and roundness


def narrowest(labels: np.ndarray) -> float:
    """Width over every direction through two of the outline's points; the narrowest is along an edge of its hull."""
    outline = np.vstack(find_contours(np.pad(convex_hull_image(labels > 0), 2), 0.5, fully_connected="high"))
    points = np.unique(outline, axis=0)
    along = (points[:, None] - points[None]).reshape(-1, 2)
    along = along[np.hypot(*along.T) > 0]
    normals = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
    return float(np.ptp(points @ normals.T, axis=0).min())


@pytest.mark.parametrize("name", [name for name, labels in SHAPES.items() if labels.max() == 1])
def test_the_smallest_feret_diameter_is_the_narrowest_of_all_directions(name: str) -> None:
    assert measure(SHAPES[name])["feret_min_px"][0].as_py() == pytest.approx(narrowest(SHAPES[name]), rel=1e-9)


@settings(max_examples=120, deadline=None)
@given(speckles(ndim=2, longest=14, labels=1))
def test_the_smallest_feret_diameter_of_any_shape(labels: np.ndarray) -> None:
    for row in measure(labels).to_pylist():
        assert row["feret_min_px"] == pytest.approx(narrowest(labels), rel=1e-9)
        assert row["feret_min_px"] <= row["feret_max_px"]


def test_feret_diameters_of_a_rectangle_are_its_sides_and_diagonal() -> None:
    row = measure(plane(30, 30, np.s_[5:9, 5:25])).to_pylist()[0]
    assert row["feret_min_px"] == 4
    assert row["feret_max_px"] == pytest.approx(math.hypot(20, 3))


def test_circularity_is_near_one_for_a_disc_never_above_and_small_for_a_line() -> None:
    disc, pixel, line = (
        measure(labels)["circularity"][0].as_py()
        for labels in (plane(210, 210, draw.disk((105, 105), 100)), SHAPES["one pixel"], plane(3, 100, np.s_[1, :]))
    )
    assert 0.98 < disc <= 1
    assert pixel == 1
    assert line < 0.2


@pytest.mark.parametrize("angle", [0, 0.3, math.pi / 4, 1.2])
def test_the_perimeter_has_no_staircase_bias(angle: float) -> None:
    labels = plane(300, 300)
    turned = angle + np.arange(4) * math.pi / 2
    labels[draw.polygon(150 + 100 * np.sin(turned), 150 + 100 * np.cos(turned))] = 1
    assert measure(labels)["perimeter_px"][0].as_py() == pytest.approx(400 * math.sqrt(2), rel=0.06)


def test_round_and_square_objects_have_no_longer_axis() -> None:
    for name in ("one pixel", "square", "disc", "ring"):
        row = measure(SHAPES[name]).to_pylist()[0]
        assert row["eccentricity"] == 0
        assert row["orientation"] == -math.pi / 4


# Intensities


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">u2"])
def test_intensities_are_those_of_scikit_image(dtype: str) -> None:
    kind = np.dtype(dtype)
    noise = np.random.default_rng(1).normal(size=(40, 50))
    image = (noise * 50 if kind.kind in "if" else abs(noise) * 50 if kind.kind == "u" else noise > 0).astype(kind)
    labels = blobs(3, image.shape)
    exact = image.astype(np.float64) if kind.kind == "f" else image
    for row, region in zip(measure(labels, image).to_pylist(), regionprops(labels, exact), strict=True):
        for name in INTENSITIES:
            assert row[f"intensity_{name}"] == pytest.approx(float(region[f"intensity_{name}"]), rel=1e-9, abs=1e-12), name
        assert row["intensity_sum"] == pytest.approx(float(exact[labels == region.label].sum(dtype=np.float64)), abs=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e6, -3e8])
def test_the_standard_deviation_is_sound_far_from_zero(offset: float) -> None:
    image = np.random.default_rng(2).normal(offset, 0.5, size=(60, 60))
    labels = np.ones(image.shape, dtype=np.uint8)
    assert measure(labels, image)["intensity_std"][0].as_py() == pytest.approx(image.std(), rel=1e-6)
    saturated = np.full(image.shape, 65535, dtype=np.uint16)
    assert measure(labels, saturated)["intensity_std"][0].as_py() == 0


@pytest.mark.parametrize("where", [0, 5])
def test_a_nan_spoils_the_intensities_of_its_own_object_alone(where: int) -> None:
    labels = plane(1, 20, np.s_[0, 0:8], np.s_[0, 10:18])
    image = np.arange(20.0)[None]
    image[0, where] = np.nan
    first, second = measure(labels, image).to_pylist()
    assert all(math.isnan(first[f"intensity_{name}"]) for name in [*INTENSITIES, "sum"])
    assert second["intensity_mean"] == 13.5
    assert (first["area_px"], first["centroid_column"]) == (8, 3.5)


def test_infinite_pixels_give_infinite_means() -> None:
    image = np.array([[1.0, np.inf, 2.0, -np.inf]])
    first, second = measure(np.array([[1, 1, 2, 2]]), image).to_pylist()
    assert (first["intensity_mean"], first["intensity_max"], first["intensity_min"]) == (math.inf, math.inf, 1)
    assert (second["intensity_mean"], second["intensity_min"]) == (-math.inf, -math.inf)
    assert math.isnan(first["intensity_std"])


def test_each_channel_has_its_own_columns() -> None:
    labels, image = blobs(4, (30, 30)), np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    names = measure(labels, image, channels=["DAPI", "Alexa 488", "α-tubulin"]).column_names
    assert {"intensity_mean_DAPI", "intensity_sum_Alexa_488", "intensity_std_α_tubulin"} <= set(names)
    numbered = measure(labels, image)
    for channel in range(3):
        alone = measure(labels, image[..., channel])
        for name in [*INTENSITIES, "sum"]:
            assert numbered[f"intensity_{name}_{channel}"].equals(alone[f"intensity_{name}"])
    assert "intensity_mean" in measure(labels, image[..., :1]).column_names
    assert "intensity_mean_DAPI" in measure(labels, image[..., 0], channels=["DAPI"]).column_names


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


# Input that cannot be measured


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.ones((4, 4)), "must be integers"),
        (np.ones((4, 4), dtype=bool), "Number the objects"),
        (np.array([[0, -1]]), "counted from 1"),
        (np.array([[0, 2**64 - 1]], dtype=np.uint64), "2\\*\\*63"),
        (np.zeros(4, dtype=int), "not of shape"),
        (np.zeros((1, 2, 3, 4), dtype=int), "time points one by one"),
    ],
)
def test_labels_that_are_not_labels_are_refused(labels: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidPixelsError, match=words):
        measure(labels)


@pytest.mark.parametrize(
    ("image", "channels", "words"),
    [
        (np.zeros((4, 5)), None, "same pixels"),
        (np.zeros((3, 4, 4)), None, "moveaxis"),
        (np.zeros((4, 4), dtype=complex), None, "complex"),
        (np.full((4, 4), "a"), None, "numbers"),
        (np.zeros((4, 4, 3)), ["one", "two"], "3 channels, but 2"),
        (np.zeros((4, 4, 2)), ["a b", "a-b"], "must differ"),
    ],
)
def test_images_that_do_not_fit_are_refused(image: np.ndarray, channels: list[str] | None, words: str) -> None:
    with pytest.raises(InvalidPixelsError, match=words):
        measure(np.ones((4, 4), dtype=int), image, channels=channels)


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf, "0.3", True])
def test_a_pixel_size_that_is_not_a_positive_number_is_refused(size: Any) -> None:
    labels = np.ones((2, 4, 4), dtype=int)
    with pytest.raises(PixelSizeError, match="pixel_size_um must be a positive"):
        measure(labels[0], pixel_size_um=size)
    with pytest.raises(PixelSizeError, match="z_step_um must be a positive"):
        measure(labels, pixel_size_um=1, z_step_um=size)


def test_a_volume_with_one_of_two_sizes_is_refused_and_a_plane_needs_no_step() -> None:
    labels = np.ones((2, 4, 4), dtype=int)
    halves: list[dict[str, Any]] = [{"pixel_size_um": 0.5}, {"z_step_um": 0.5}]
    for sizes in halves:
        with pytest.raises(PixelSizeError, match="both"):
            measure(labels, **sizes)
    assert measure(labels[0], pixel_size_um=0.5, z_step_um=3)["area_um2"].to_pylist() == [4.0]


@pytest.mark.parametrize(
    ("origin", "shape"), [((0, 0), (3, 9)), ((-1, 0), (9, 9)), ((0, 6), (9, 9)), ((0, 0, 0), (9, 9, 9)), ((0,), (9, 9))]
)
def test_a_region_outside_its_image_is_refused(origin: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(SegkitError, match="not inside an image"):
        measure_region(np.ones((4, 4), dtype=int), origin=origin, image_shape=shape)


@pytest.mark.parametrize("shape", [(20, 30), (0, 0), (0, 5), (1, 1), (3, 20, 30), (0, 4, 4)])
def test_an_image_with_nothing_in_it_has_a_table_with_all_columns(shape: tuple[int, ...]) -> None:
    sizes: dict[str, Any] = {"pixel_size_um": 0.5, "z_step_um": 1.0}
    table = measure(np.zeros(shape, dtype=np.int32), np.zeros(shape), **sizes)
    full = measure(np.ones((3,) * len(shape), dtype=np.int32), np.zeros((3,) * len(shape)), **sizes)
    assert table.num_rows == 0
    assert table.schema.equals(full.schema)
    assert summarise(table)["objects"] == 0


# Summaries


def test_the_summary_counts_and_describes_and_survives_parquet_and_json() -> None:
    labels = plane(100, 200, np.s_[0:10, 0:10], np.s_[50:60, 50:60], np.s_[50:70, 100:120])
    table = measure(labels, labels, pixel_size_um=2)
    file = io.BytesIO()
    pq.write_table(table, file)
    summary = json.loads(json.dumps(summarise(pq.read_table(file)), allow_nan=False))
    assert summary == json.loads(json.dumps(summarise(table)))
    assert summary["objects"] == 3
    assert summary["touching_edge"] == pytest.approx(1 / 3)
    assert summary["density_per_mm2"] == pytest.approx(3 / (0.2 * 0.4))
    assert summary["coverage"] == pytest.approx(600 / 20000)
    areas = summary["area_um2"]
    assert (areas["min"], areas["median"], areas["mean"], areas["max"]) == (400, 400, 800, 1600)
    assert areas["q95"] == pytest.approx(np.quantile([400, 400, 1600], 0.95))
    assert summary["intensity_mean"]["mean"] == 2
    assert summary["circularity"]["max"] <= 1
    assert summary["equivalent_diameter_um"]["std"] > 0


def test_the_summary_says_none_where_there_is_nothing_to_tell() -> None:
    image = np.full((4, 4), np.nan)
    table = measure(np.ones((4, 4), dtype=int), image)
    summary = json.loads(json.dumps(summarise(table), allow_nan=False))
    assert summary["density_per_mm2"] is None
    assert summary["intensity_mean"]["median"] is None
    assert summary["coverage"] == 1
    nothing = json.loads(json.dumps(summarise(table.slice(0, 0).replace_schema_metadata(None)), allow_nan=False))
    assert (nothing["objects"], nothing["touching_edge"], nothing["coverage"], nothing["area_px"]["mean"]) == (0, None, None, None)


def test_the_summary_of_a_volume_is_per_cubic_millimetre() -> None:
    summary = summarise(measure(np.ones((2, 4, 4), dtype=int), pixel_size_um=5, z_step_um=10))
    assert summary["density_per_mm3"] == pytest.approx(1 / (0.02 * 0.02 * 0.02))
    assert summary["volume_um3"]["mean"] == 8000


# Documents


def test_the_document_defines_every_column_and_no_other() -> None:
    first_cells = re.findall(r"^\| (`[^|]+) \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    documented = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    labels = np.ones((2, 3, 3), dtype=int)
    measured: set[str] = set()
    known: list[dict[str, Any]] = [{}, {"pixel_size_um": 0.5, "z_step_um": 1.0}]
    for sizes in known:
        measured |= {*measure(labels, labels, **sizes).column_names, *measure(labels[0], labels[0], **sizes).column_names}
    assert measured == documented


@pytest.mark.parametrize("module", [segkit.measure, chords, hulls, measuring, outlines])
def test_examples_run(module: Any) -> None:
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("module", [chords, hulls, measuring, outlines])
def test_warming_compiles_all_there_is_to_compile(module: Any) -> None:
    for kernel in (chords, measuring, outlines, hulls):
        kernel.warm()
    loops = [loop for loop in vars(module).values() if hasattr(loop, "signatures")]
    before = [len(loop.signatures) for loop in loops]
    assert loops
    for dtype in (np.uint8, np.int32, np.int64, np.uint64):
        for pixels in (np.uint8, np.uint16, np.int32, np.float32, np.float64):
            labels = blobs(0, (4, 20, 20)).astype(dtype)
            measure(labels, labels.astype(pixels))
            measure(labels[0], labels[0].astype(pixels))
    assert [len(loop.signatures) for loop in loops] == before
