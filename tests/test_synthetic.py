"""Synthetic images: the same seed gives the same field, and the truth is the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from segkit.synthetic import nuclei_field


def test_a_seed_gives_the_same_field_and_another_seed_another() -> None:
    one, same, other = (nuclei_field((96, 128), 10, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image, same.image)
    np.testing.assert_array_equal(one.truth, same.truth)
    assert (one.truth != other.truth).any()
    assert (one.image.shape, one.image.dtype, one.truth.dtype) == ((96, 128), np.uint16, np.int32)


@pytest.mark.parametrize("touching", [0.0, 0.3, 1.0])
def test_truth_is_numbered_and_each_nucleus_is_one_piece(touching: float) -> None:
    truth = nuclei_field((256, 256), 30, touching=touching, seed=3).truth
    assert set(np.unique(truth)) == set(range(31))
    sizes = np.bincount(truth.ravel())[1:]
    assert np.pi / 4 * 22**2 * 0.3 < np.median(sizes) < np.pi / 4 * 22**2 * 2
    pieces = [ndimage.label(truth == label, np.ones((3, 3)))[1] for label in range(1, 31)]
    assert np.mean(np.array(pieces) == 1) > 0.9


def test_nuclei_are_brighter_than_their_background() -> None:
    field = nuclei_field((256, 256), 30, seed=4)
    assert np.median(field.image[field.truth > 0]) > 2 * np.median(field.image[field.truth == 0])


def test_touching_nuclei_touch() -> None:
    def neighbours(touching: float) -> int:
        truth = nuclei_field((256, 256), 40, touching=touching, seed=5).truth
        return ndimage.label(truth > 0)[1]

    assert neighbours(1.0) < neighbours(0.0)


def test_noise_is_as_strong_as_asked() -> None:
    clean, usual, loud = (nuclei_field((96, 96), 0, noise=noise, seed=6).image.astype(float) for noise in (0, 1, 4))
    assert clean.std() < usual.std() < loud.std()
    assert nuclei_field((96, 96), 0, seed=6).truth.max() == 0


def test_a_field_holds_no_more_than_fit() -> None:
    truth = nuclei_field((64, 64), 1000, seed=7).truth
    assert 4 <= truth.max() < 40
