"""Planes at other sizes of pixels, on a grid that starts at the image's own corner, so that tiles see the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True)
def shrink(plane: NDArray[np.float32], factor: int, row: int, column: int) -> NDArray[np.float32]:
    """Average a plane over squares of `factor` pixels.

    Parameters
    ----------
    plane : (rows, columns) float32
    factor : int
        Edge of a square.
    row, column : int
        Where the plane's first pixel lies in the image; squares start at multiples of `factor`.

    Returns
    -------
    (squares down, squares across) float32
        Of each square that the plane meets, the mean of what the plane has of it.
    """
    rows, columns = plane.shape
    first, left = row // factor, column // factor
    out = np.zeros(((row + rows - 1) // factor - first + 1, (column + columns - 1) // factor - left + 1), np.float32)
    for r in range(rows):
        line = out[(row + r) // factor - first]
        for c in range(columns):
            line[(column + c) // factor - left] += plane[r, c]
    for i in range(out.shape[0]):
        height = min((first + i + 1) * factor, row + rows) - max((first + i) * factor, row)
        for k in range(out.shape[1]):
            width = min((left + k + 1) * factor, column + columns) - max((left + k) * factor, column)
            out[i, k] /= np.float32(height * width)
    return out


@njit(nogil=True, cache=True)
def shrink_mask(mask: NDArray[np.bool_], factor: int, row: int, column: int) -> NDArray[np.bool_]:
    """Tell in which squares of `factor` pixels a mask has any pixel; as for `shrink`."""
    rows, columns = mask.shape
    first, left = row // factor, column // factor
    out = np.zeros(((row + rows - 1) // factor - first + 1, (column + columns - 1) // factor - left + 1), np.bool_)
    for r in range(rows):
        line = out[(row + r) // factor - first]
        for c in range(columns):
            if mask[r, c]:
                line[(column + c) // factor - left] = True
    return out


@njit(nogil=True, cache=True)
def enlarge(plane: NDArray[np.float32], factor: int, row: int, column: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Blend between the middles of pixels, `factor` new pixels to the edge of each.

    Parameters
    ----------
    plane : (rows, columns) float32
        From the pixel on in which the new plane starts.
    factor : int
    row, column : int
        Where the new plane's first pixel lies in the enlarged image.
    shape : (int, int)
        Rows and columns of the new plane.

    Returns
    -------
    shape, float32
    """
    uppers, lowers, along = _between(shape[0], row % factor, factor, plane.shape[0])
    lefts, rights, across = _between(shape[1], column % factor, factor, plane.shape[1])
    out = np.empty(shape, np.float32)
    line = np.empty(plane.shape[1], np.float32)
    for r in range(shape[0]):
        upper, lower, share = plane[uppers[r]], plane[lowers[r]], along[r]
        for k in range(len(line)):
            line[k] = upper[k] + (lower[k] - upper[k]) * share
        for c in range(shape[1]):
            left = line[lefts[c]]
            out[r, c] = left + (line[rights[c]] - left) * across[c]
    return out


@njit(nogil=True, cache=True)
def _between(count: int, start: int, factor: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    first, second, share = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
    for i in range(count):
        twice = 2 * (start + i) + 1 - factor
        first[i] = min(max(twice // (2 * factor), 0), most - 1)
        second[i] = min(max(twice // (2 * factor) + 1, 0), most - 1)
        share[i] = np.float32(twice % (2 * factor)) / np.float32(2 * factor)
    return first, second, share


def warm() -> None:
    """Compile what this module holds."""
    plane: NDArray[Any] = np.zeros((4, 4), np.float32)
    enlarge(shrink(plane, 2, 0, 0), 2, 0, 0, (4, 4))
    shrink_mask(plane > 0, 2, 0, 0)
