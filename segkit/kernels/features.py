"""What a pixel looks like at several scales: the numbers that a forest decides on.

Everything is computed from planes smoothed by `segkit.kernels.filters`, with sums in one fixed order, so that a pixel
farther than `reach` from a cut has the same features, to the last bit, however the image was cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.filters import gaussian_weights, smooth

#: Names of the features at one scale, in their order; the last two are left out unless asked for.
FEATURES = ("gaussian", "gradient", "ridge", "valley", "edge_strength", "corner_strength")
_PLAIN = 4

#: The structure tensor is averaged over a neighbourhood this much wider than the scale of the gradient.
_WIDER = 1.5


def feature_count(scales: int, structure: bool) -> int:
    """Return how many features a pixel has."""
    return scales * (len(FEATURES) if structure else _PLAIN)


def reach(sigmas: Sequence[float], structure: bool) -> int:
    """Return how far around a pixel its features look."""
    widest = max(sigmas)
    tensor = _radius(widest * _WIDER) if structure else 0
    return _radius(widest) + tensor + 1


def pixel_features(plane: NDArray[np.float32], mask: NDArray[np.bool_], sigmas: Sequence[float], structure: bool) -> NDArray[np.float32]:
    """Compute the features of the pixels in a mask.

    Parameters
    ----------
    plane : (rows, columns) uint8, uint16 or float32
    mask : (rows, columns) bool
        The pixels that are asked for.
    sigmas : sequence of float
        Scales, in pixels.
    structure : bool
        Whether the eigenvalues of the structure tensor are features too: they double the time.

    Returns
    -------
    (pixels in the mask, features) float32
        In raster order; scale by scale: the smoothed value, the size of its gradient, the larger and smaller eigenvalue
        of its second derivatives, and with `structure` the square roots of the eigenvalues of the structure tensor. Each
        is multiplied by the power of sigma that makes it comparable between scales.
    """
    per_scale = feature_count(1, structure)
    out = np.empty((int(np.count_nonzero(mask)), per_scale * len(sigmas)), np.float32)
    for i, sigma in enumerate(sigmas):
        smoothed = smooth(plane, gaussian_weights(sigma))
        first = i * per_scale
        _local_features(smoothed, mask, np.float32(sigma), out, first)
        if structure:
            weights = gaussian_weights(sigma * _WIDER)
            xx, xy, yy = _gradient_products(smoothed)
            tensor = (smooth(xx, weights), smooth(xy, weights), smooth(yy, weights))
            _tensor_features(*tensor, mask, np.float32(sigma), out, first + _PLAIN)
    return out


def _radius(sigma: float) -> int:
    return len(gaussian_weights(sigma)) - 1


@njit(nogil=True, cache=True)
def _local_features(plane: NDArray[np.float32], mask: NDArray[np.bool_], sigma: np.float32, out: NDArray[np.float32], first: int) -> None:
    rows, columns = plane.shape
    half, quarter, square = np.float32(0.5), np.float32(0.25), sigma * sigma
    at = 0
    for r in range(rows):
        above, line, below = plane[max(r - 1, 0)], plane[r], plane[min(r + 1, rows - 1)]
        for c in range(columns):
            if not mask[r, c]:
                continue
            west, east, here = max(c - 1, 0), min(c + 1, columns - 1), line[c]
            x, y = half * (line[east] - line[west]), half * (below[c] - above[c])
            xx, yy = line[east] - here - here + line[west], below[c] - here - here + above[c]
            xy = quarter * (below[east] - below[west] - above[east] + above[west])
            middle, apart = half * (xx + yy), np.sqrt(quarter * (xx - yy) * (xx - yy) + xy * xy)
            out[at, first] = here
            out[at, first + 1] = sigma * np.sqrt(x * x + y * y)
            out[at, first + 2] = square * (middle + apart)
            out[at, first + 3] = square * (middle - apart)
            at += 1


@njit(nogil=True, cache=True)
def _gradient_products(plane: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    rows, columns = plane.shape
    xx, xy, yy = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    half = np.float32(0.5)
    for r in range(rows):
        above, line, below = plane[max(r - 1, 0)], plane[r], plane[min(r + 1, rows - 1)]
        for c in range(columns):
            x, y = half * (line[min(c + 1, columns - 1)] - line[max(c - 1, 0)]), half * (below[c] - above[c])
            xx[r, c], xy[r, c], yy[r, c] = x * x, x * y, y * y
    return xx, xy, yy


@njit(nogil=True, cache=True)
def _tensor_features(
    xx: NDArray[np.float32],
    xy: NDArray[np.float32],
    yy: NDArray[np.float32],
    mask: NDArray[np.bool_],
    sigma: np.float32,
    out: NDArray[np.float32],
    first: int,
) -> None:
    rows, columns = mask.shape
    half, quarter, none = np.float32(0.5), np.float32(0.25), np.float32(0)
    at = 0
    for r in range(rows):
        for c in range(columns):
            if not mask[r, c]:
                continue
            one, other, mixed = xx[r, c], yy[r, c], xy[r, c]
            middle, apart = half * (one + other), np.sqrt(quarter * (one - other) * (one - other) + mixed * mixed)
            out[at, first] = sigma * np.sqrt(max(middle + apart, none))
            out[at, first + 1] = sigma * np.sqrt(max(middle - apart, none))
            at += 1


def warm() -> None:
    """Compile what this module holds."""
    plane, mask = np.zeros((3, 3), np.float32), np.ones((3, 3), dtype=bool)
    pixel_features(plane, mask, (1.0,), structure=True)
