"""The background of blocks, and planes at other sizes of pixels: parts of an image give what the whole gives, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.kernels.background import block_levels, flatten, lowest_around
from segkit.kernels.resampling import enlarge, shrink, shrink_mask


def plane(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(100, 20, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_levels_are_ranked_values_of_blocks(share: float) -> None:
    image = plane(70, 50)
    levels = block_levels(image, 32, share)
    assert levels.shape == (3, 2)
    corner = np.sort(image[64:, 32:].reshape(-1))
    assert levels[2, 1] == corner[int(share * (corner.size - 1))]


def test_a_flat_slope_is_taken_away() -> None:
    y, x = np.mgrid[:256, :256].astype(np.float32)
    slope = 100 + y + 2 * x
    surface = block_levels(slope, 32, 0.5)
    left = flatten(slope, surface, 32, 0, 0)
    assert np.ptp(slope[32:-32, 32:-32]) > 500
    assert np.abs(left[32:-32, 32:-32]).max() < 4


def test_a_part_is_flattened_as_the_whole() -> None:
    image = plane(200, 160)
    surface = lowest_around(block_levels(image, 32, 0.05))
    whole = flatten(image, surface, 32, 0, 0)
    np.testing.assert_array_equal(flatten(image[37:150, 51:], surface, 32, 37, 51), whole[37:150, 51:])


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("corner", [(0, 0), (7, 9)])
def test_sizes_of_pixels_follow_the_image_and_not_the_part(factor: int, corner: tuple[int, int]) -> None:
    image = plane(96, 104)
    small = shrink(image, factor, 0, 0)
    np.testing.assert_allclose(small, image.reshape(96 // factor, factor, -1, factor).mean(axis=(1, 3)), rtol=1e-5)
    part = image[corner[0] :, corner[1] :]
    inside = shrink(part, factor, *corner)
    skipped = (-(-corner[0] // factor), -(-corner[1] // factor))
    np.testing.assert_array_equal(inside[-small.shape[0] + skipped[0] :, -small.shape[1] + skipped[1] :], small[skipped[0] :, skipped[1] :])
    large, of_part = enlarge(small, factor, 0, 0, image.shape), enlarge(inside, factor, *corner, part.shape)
    beyond = 2 * factor
    np.testing.assert_array_equal(of_part[beyond:, beyond:], large[corner[0] + beyond :, corner[1] + beyond :])
    np.testing.assert_array_equal(
        shrink_mask(image > 150, factor, 0, 0), (image > 150).reshape(96 // factor, factor, -1, factor).any((1, 3))
    )


def test_enlarging_keeps_a_slope() -> None:
    line = np.arange(10, dtype=np.float32)
    large = enlarge(np.tile(line, (4, 1)), 2, 0, 0, (8, 20))
    np.testing.assert_allclose(large[3, 1:-1], (np.arange(1, 19) + 0.5) / 2 - 0.5, atol=1e-6)
