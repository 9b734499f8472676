"""Measurements of a plane are scikit-image's: shapes, Feret diameters and intensities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import draw
from skimage.measure import find_contours, regionprops
from skimage.morphology import convex_hull_image

from segkit.kernels import chords, measuring
from segkit.measure import measure
from tests.labelled_shapes import INTENSITIES, blobs, plane, speckles

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
