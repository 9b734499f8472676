"""The registry, the input rules, the plain recipe beside scikit-image, and the kernels it stands on."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import feature, filters, segmentation
from skimage.measure import label

from segkit import errors, kernels, segmenters
from segkit.kernels.components import label_components
from segkit.kernels.cutouts import squared_distances
from segkit.kernels.filters import gaussian_weights, smooth
from segkit.kernels.freshness import drop_stale_cache
from segkit.scoring import score
from segkit.segmenters.recipe import merge
from segkit.segmenters.threshold import RECIPE, ThresholdParameters, otsu
from segkit.synthetic import nuclei_field


@pytest.fixture(scope="module")
def field():
    return nuclei_field((300, 420), 120, diameter=18, touching=0.5, seed=3)


def plain(image):
    smoothed = filters.gaussian(image, 1.0, preserve_range=True)
    mask = ndimage.binary_fill_holes(smoothed > filters.threshold_otsu(smoothed))
    depth = ndimage.distance_transform_edt(mask)
    peaks = feature.peak_local_max(depth, min_distance=7, labels=label(mask), exclude_border=False)
    seeds = np.zeros(image.shape, dtype=int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return segmentation.watershed(-depth, seeds, mask=mask)


def test_the_plain_recipe_gives_what_scikit_image_gives(field):
    expected = plain(field.image)
    found = segmenters.segment(field.image, "threshold")
    assert found.dtype == np.int32
    assert score(expected, found, thresholds=(0.9,)).at(0.9).recall >= 0.99
    assert np.array_equal(found > 0, expected > 0)


def test_labels_run_in_raster_order_of_their_first_pixel(field):
    found = segmenters.segment(field.image, "threshold")
    numbers, first = np.unique(found, return_index=True)
    first = first[numbers > 0]
    assert list(numbers[numbers > 0]) == list(range(1, len(first) + 1))
    assert (np.diff(first) > 0).all()


def test_otsu_is_scikit_images(field):
    values, counts = np.unique(field.image, return_counts=True)
    assert otsu(counts, values.astype(float)) == pytest.approx(filters.threshold_otsu(field.image.astype(float)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_smoothing_does_not_see_where_a_region_is_cut(dtype):
    image = (np.random.default_rng(0).random((90, 131)) * 250).astype(dtype)
    weights = gaussian_weights(1.7)
    halo = len(weights) - 1
    whole = smooth(image, weights)
    assert whole == pytest.approx(ndimage.gaussian_filter(image.astype(float), 1.7, mode="nearest"), rel=1e-5, abs=1e-4)
    for row, column, rows, columns in ((0, 0, 50, 60), (13, 7, 40, 33), (31, 60, 59, 71)):
        part = smooth(image[row : row + rows, column : column + columns], weights)
        inside = (slice(halo, rows - halo), slice(halo, columns - halo))
        assert np.array_equal(part[inside], whole[row : row + rows, column : column + columns][inside])


@pytest.mark.parametrize("connectivity", [1, 2])
def test_components_are_scikit_images(connectivity):
    mask = np.random.default_rng(1).random((70, 83)) < 0.5
    found, count = label_components(mask, connectivity)
    assert np.array_equal(found, label(mask, connectivity=connectivity))
    assert count == found.max()


def test_distances_are_exact():
    piece = np.pad((ndimage.gaussian_filter(np.random.default_rng(2).random((60, 40)), 3) > 0.5).astype(np.uint8), 1)
    out, scratch = np.zeros(piece.shape, np.int32), np.zeros(piece.shape, np.int32)
    largest = squared_distances(piece, np.zeros(4, dtype=bool), scratch, out)
    expected = np.rint(ndimage.distance_transform_edt(piece) ** 2)
    assert np.array_equal(out, expected)
    assert largest == expected.max()


def test_parts_of_a_survey_merge_to_the_whole_in_any_order(field):
    parameters, image = ThresholdParameters(), field.image
    halo = RECIPE.survey_halo(parameters)
    parts = []
    for top in range(0, image.shape[0], 128):
        for left in range(0, image.shape[1], 128):
            bottom, right = min(top + 128, image.shape[0]), min(left + 128, image.shape[1])
            margins = (min(top, halo), min(left, halo), min(image.shape[0] - bottom, halo), min(image.shape[1] - right, halo))
            view = image[top - margins[0] : bottom + margins[2], left - margins[1] : right + margins[3]]
            parts.append(RECIPE.survey(view, top, left, parameters, margins))
    whole = RECIPE.plan(image, parameters)
    folded = merge([parts[-1], merge(parts[:-1][::-1], image.shape, RECIPE.block)], image.shape, RECIPE.block)
    assert RECIPE.settle(folded, image.shape, parameters, None) == whole
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_a_component_is_split_the_same_alone_and_among_others(field):
    plan = RECIPE.plan(field.image, ThresholdParameters())
    components, count = label_components(RECIPE.foreground(field.image, plan, 0, 0))
    everything = RECIPE.split(field.image, components, plan, 0, 0)
    for number in range(1, count + 1, 7):
        alone = np.where(components == number, 1, np.where(components > 0, -1, 0)).astype(np.int32)
        part = RECIPE.split(field.image, alone, plan, 0, 0)
        pairs = np.unique(np.stack([part[part > 0], everything[part > 0]]), axis=1)
        assert pairs.shape[1] == part.max() == len(np.unique(pairs[1]))


def test_holes_are_filled_and_nested_objects_kept():
    image = np.zeros((40, 40))
    image[5:35, 5:35] = 1
    image[10:30, 10:30] = 0
    filled = segmenters.segment(image, "threshold", sigma=0, split=False)
    assert filled[20, 20] == 1
    assert segmenters.segment(image, "threshold", sigma=0, split=False, fill_holes=False)[20, 20] == 0
    image[18:22, 18:22] = 1
    assert segmenters.segment(image, "threshold", sigma=0, split=False).max() == 2


@pytest.mark.parametrize("method", ["threshold", "nuclei"])
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 50), dtype=np.uint8),
        np.full((40, 50), 65535, dtype=np.uint16),
        np.full((3, 3), -7, dtype=np.int8),
        np.zeros((1, 60), dtype=np.float64),
        np.ones((60, 1), dtype=bool),
    ],
    ids=["zero", "saturated", "negative", "one row", "one column"],
)
def test_a_flat_image_holds_nothing(method, image):
    found = segmenters.segment(image, method)
    assert found.shape == image.shape
    assert found.dtype == np.int32
    assert found.max() == 0


@pytest.mark.parametrize("dtype", [bool, "int8", ">u2", "int64", "float16", "float64"])
def test_every_real_type_is_taken(dtype):
    image = np.zeros((40, 60), dtype=dtype)
    image[5:15, 5:15] = image[20:32, 30:42] = 1 if dtype is bool else 100
    assert segmenters.segment(image, "threshold").max() == 2


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((0, 0)), "no pixels"),
        (np.zeros(5), "one plane"),
        (np.zeros((5, 5, 3), dtype=np.uint8), "colour"),
        (np.full((5, 5), np.nan), "NaN"),
        (np.array([[1.0, np.inf]]), "infinite"),
        (np.zeros((5, 5), dtype=complex), "real numbers"),
    ],
)
def test_what_cannot_be_segmented_says_why(image, says):
    with pytest.raises(errors.InvalidPixelsError, match=says):
        segmenters.segment(image, "threshold")


def test_sizes_in_micrometres_need_a_pixel_size(field):
    by_pixels = segmenters.segment(field.image, "threshold", diameter=30)
    assert np.array_equal(by_pixels, segmenters.segment(field.image, "threshold", diameter_um=15, pixel_size_um=0.5))
    with pytest.raises(errors.InvalidParameterError, match="pixel size"):
        segmenters.segment(field.image, "threshold", diameter_um=15)
    with pytest.raises(errors.InvalidParameterError, match="not both"):
        segmenters.segment(field.image, "threshold", diameter=3, diameter_um=15)
    with pytest.raises(errors.PixelSizeError):
        segmenters.segment(field.image, "threshold", pixel_size_um=-1)


def test_wrong_names_and_values_are_named():
    with pytest.raises(errors.UnknownSegmenterError, match="nuclei"):
        segmenters.get("nucleus")
    with pytest.raises(errors.UnknownParameterError, match="sigma"):
        segmenters.segment(np.zeros((5, 5)), "threshold", sigme=1)
    with pytest.raises(errors.InvalidParameterError, match="sigma"):
        segmenters.segment(np.zeros((5, 5)), "threshold", sigma=-1)


def test_every_parameter_can_be_shown_to_a_person():
    for name in segmenters.names():
        if name in ("nuclei", "threshold", "tissue", "spheroid"):
            for field_name, shown in segmenters.get(name).parameters.model_json_schema()["properties"].items():
                assert shown["description"], field_name
                assert "unit" in shown, field_name


def test_a_kernel_whose_callee_changed_is_forgotten(tmp_path: Path):
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "inner.py").write_text("")
    (tmp_path / "outer.py").write_text("from segkit.kernels.inner import something\n")
    cached = tmp_path / "__pycache__" / "outer.run-1.py311.nbi"
    cached.write_text("")
    assert drop_stale_cache(tmp_path) == []
    later = time.time() + 10
    os.utime(tmp_path / "inner.py", (later, later))
    assert drop_stale_cache(tmp_path) == ["outer"]
    assert not cached.exists()


def test_warming_up_tells_each_module():
    told: list[str] = []
    kernels.warm(told.append)
    assert {"components", "filters", "splitting"} <= set(told)


def test_the_allocator_can_be_settled_twice():
    assert kernels.settle_allocator() == kernels.settle_allocator()
