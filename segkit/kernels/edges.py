"""How much goes on around a pixel: the size of the gradient, averaged over its neighbourhood. High on edges and on texture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.filters import gaussian_weights, smooth

#: Width of the Gaussian under which the gradient is taken.
FINE_SIGMA = 1.0


def edge_energy(pixels: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """Compute the size of the gradient, averaged under a Gaussian of width `sigma`.

    Parameters
    ----------
    pixels : (rows, columns) uint8, uint16 or float32
    sigma : float

    Returns
    -------
    (rows, columns) float32
        In units of the pixels, per pixel; a pixel looks at most `energy_reach(sigma)` far.
    """
    return smooth(_gradient_size(smooth(pixels, gaussian_weights(FINE_SIGMA))), gaussian_weights(sigma))


def energy_reach(sigma: float) -> int:
    """Return how far around a pixel `edge_energy` looks."""
    return len(gaussian_weights(FINE_SIGMA)) + len(gaussian_weights(sigma)) - 1


@njit(nogil=True, cache=True)
def _gradient_size(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = plane.shape
    out = np.empty((rows, columns), np.float32)
    half = np.float32(0.5)
    for r in range(rows):
        above, line, below = plane[max(r - 1, 0)], plane[r], plane[min(r + 1, rows - 1)]
        for c in range(columns):
            x, y = half * (line[min(c + 1, columns - 1)] - line[max(c - 1, 0)]), half * (below[c] - above[c])
            out[r, c] = np.sqrt(x * x + y * y)
    return out


@njit(nogil=True, cache=True)
def block_means(plane: NDArray[Any], block: int) -> NDArray[np.float64]:
    """Average a plane over blocks, each summed row by row, so that a block's mean does not depend on the others.

    Returns
    -------
    (block rows, block columns, 2) float64
        Mean and standard deviation of each block.
    """
    rows, columns = plane.shape
    out = np.zeros((-(-rows // block), -(-columns // block), 2))
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            bottom, right = min((i + 1) * block, rows), min((k + 1) * block, columns)
            first = np.float64(plane[i * block, k * block])
            total, squares, count = 0.0, 0.0, 0
            for r in range(i * block, bottom):
                for c in range(k * block, right):
                    value = np.float64(plane[r, c]) - first
                    total += value
                    squares += value * value
                    count += 1
            mean = total / count
            out[i, k, 0] = first + mean
            out[i, k, 1] = np.sqrt(max(squares / count - mean * mean, 0.0))
    return out


@njit(nogil=True, cache=True)
def differs(plane: NDArray[np.float32], surface: NDArray[np.float64], top: int, left: int, limit: float) -> NDArray[np.bool_]:
    """Tell where a plane differs from a quadratic surface by more than `limit`.

    Parameters
    ----------
    plane : (rows, columns) float32
    surface : (6,) float64
        Factors of 1, row, column, row squared, row times column, column squared; rows and columns of the whole image.
    top, left : int
        Where the plane's first pixel lies in the image.
    limit : float

    Returns
    -------
    (rows, columns) bool
    """
    rows, columns = plane.shape
    out = np.empty((rows, columns), np.bool_)
    for r in range(rows):
        y = np.float64(r + top)
        for c in range(columns):
            x = np.float64(c + left)
            level = surface[0] + surface[1] * y + surface[2] * x + surface[3] * y * y + surface[4] * y * x + surface[5] * x * x
            out[r, c] = abs(np.float64(plane[r, c]) - level) > limit
    return out


def warm() -> None:
    """Compile what this module holds, for each type of pixels."""
    for dtype in (np.uint8, np.uint16, np.float32):
        pixels = np.zeros((4, 4), dtype=dtype)
        block_means(pixels, 2)
        edge_energy(pixels, 1.0)
    differs(np.zeros((4, 4), np.float32), np.zeros(6), 0, 0, 1.0)
