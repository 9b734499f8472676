import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import hessian_matrix_eigvals

from segkit.kernels.features import feature_count, pixel_features, reach

SIGMAS = (0.7, 2.0, 5.0)


def features(plane, structure=True):
    return pixel_features(plane, np.ones(plane.shape, dtype=bool), SIGMAS, structure).reshape(*plane.shape, -1)


@pytest.mark.parametrize("structure", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_cut_image_has_the_same_features_to_the_last_bit(structure, dtype):
    plane = np.random.default_rng(0).integers(0, 255, (170, 190)).astype(dtype)
    whole, margin = features(plane, structure), reach(SIGMAS, structure)
    top, left = 97 - margin, 83 - margin
    part = features(np.ascontiguousarray(plane[top:150, left:]), structure)
    np.testing.assert_array_equal(part[margin : 150 - top - margin, margin:], whole[97 : 150 - margin, 83:])


def test_they_are_what_they_are_called():
    plane = np.random.default_rng(1).normal(0, 50, (60, 70)).astype(np.float32)
    here = features(plane, structure=False)
    for i, sigma in enumerate(SIGMAS):
        smooth = ndimage.gaussian_filter(plane.astype(float), sigma, mode="nearest")
        dy, dx = np.gradient(smooth)
        inner = np.s_[2:-2, 2:-2]
        np.testing.assert_allclose(here[..., 4 * i][inner], smooth[inner], atol=1e-2)
        np.testing.assert_allclose(here[..., 4 * i + 1][inner], sigma * np.hypot(dx, dy)[inner], rtol=1e-3, atol=1e-2)
        yy, xx = (np.diff(smooth, 2, axis=axis) for axis in (0, 1))
        laplacian = yy[:, 1:-1] + xx[1:-1]
        total = here[1:-1, 1:-1, 4 * i + 2] + here[1:-1, 1:-1, 4 * i + 3]
        np.testing.assert_allclose(total, sigma**2 * laplacian, rtol=1e-2, atol=0.2)
        mixed = (smooth[2:, 2:] - smooth[2:, :-2] - smooth[:-2, 2:] + smooth[:-2, :-2]) / 4
        values = hessian_matrix_eigvals([yy[:, 1:-1], mixed, xx[1:-1]])
        np.testing.assert_allclose(here[1:-1, 1:-1, 4 * i + 2], sigma**2 * values[0], rtol=1e-2, atol=0.2)


def test_only_the_pixels_that_are_asked_for_are_given():
    plane = np.random.default_rng(2).random((40, 50)).astype(np.float32)
    mask = plane > 0.7
    np.testing.assert_array_equal(pixel_features(plane, mask, SIGMAS, True), features(plane)[mask])
    assert pixel_features(plane, mask, SIGMAS, True).shape == (mask.sum(), feature_count(3, True))


def test_structure_is_that_of_edges_and_corners():
    step = np.zeros((40, 40), dtype=np.float32)
    step[:, 20:] = 100
    edge = features(step)[20, 20, 4:6]
    corner = step.copy()
    corner[20:] = 0
    assert edge[1] < 1e-3 < edge[0]
    assert features(corner)[20, 20, 5] > 1
