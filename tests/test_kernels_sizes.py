"""Counts of opened planes: exact in parts, and telling how large discs are at a threshold that is chosen afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.kernels.sizes import DIAMETERS, size_counts, value_of
from segkit.segmenters.sizes import estimate_diameter
from segkit.synthetic import nuclei_field

NOTHING = np.zeros((1, 1), np.float32)
SIDE = 512


def discs(diameter: float, height: float = 1000.0) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    pitch = diameter * 1.6
    return np.where(np.hypot(y % pitch - pitch / 2, x % pitch - pitch / 2) < diameter / 2, height, 10).astype(np.float32)


def counted(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = size_counts(image, NOTHING, SIDE, (0, 0), (0, 0), image.shape)
    bins = np.arange(counts.shape[1] + 1)
    return counts, (value_of(bins[:-1]) + value_of(bins[1:])) / 2


@pytest.mark.parametrize("diameter", [8, 14, 22, 40, 80])
def test_the_size_of_discs_is_found(diameter: int) -> None:
    counts, values = counted(discs(diameter))
    found = estimate_diameter(counts, values, 300.0)
    assert found is not None
    assert 0.75 < found / diameter < 1.35


def test_a_threshold_chosen_later_chooses_the_objects() -> None:
    image = discs(12)
    image[:, SIDE // 4 :] = discs(60, 200)[:, SIDE // 4 :]
    counts, values = counted(image)
    dim, bright = estimate_diameter(counts, values, 120.0), estimate_diameter(counts, values, 600.0)
    assert dim is not None
    assert bright is not None
    assert dim > 2 * bright


def test_nothing_above_the_threshold_has_no_size() -> None:
    counts, values = counted(discs(20))
    assert estimate_diameter(counts, values, 5000.0) is None
    assert estimate_diameter(*counted(np.full((SIDE, SIDE), 1000, np.float32)), 500.0) is None


def test_parts_with_their_margins_add_up_to_the_whole() -> None:
    image = nuclei_field((320, 300), 60, seed=1).image.astype(np.float32)
    surface = np.array([[300, 320], [310, 350]], np.float32)
    whole = size_counts(image, surface, 256, (0, 0), (0, 0), image.shape)
    total = np.zeros_like(whole)
    for top in (0, 128, 256):
        for left in (0, 128, 256):
            first = max(top - 112, 0), max(left - 112, 0)
            last = min(top + 128 + 112, 320), min(left + 128 + 112, 300)
            part = image[first[0] : last[0], first[1] : last[1]]
            size = min(128, 320 - top), min(128, 300 - left)
            total += size_counts(part, surface, 256, first, (top - first[0], left - first[1]), size)
    np.testing.assert_array_equal(total, whole)
    assert whole.shape[0] == 1 + len(DIAMETERS)
