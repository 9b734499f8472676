"""How high the background lies: a low level of every block of pixels, and the plane with what lies below it taken away.

A pixel's background depends on the blocks around it alone, at most `REACH` blocks away, so tiles that see those are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: How many blocks away a pixel's background is looked for.
REACH = 2


@njit(nogil=True, cache=True)
def block_levels(plane: NDArray[np.float32], block: int, share: float) -> NDArray[np.float32]:
    """Return the value below which a share of each block's pixels lies.

    Parameters
    ----------
    plane : (rows, columns) float32
    block : int
        Edge of a block in pixels; the last ones may be smaller.
    share : float
        From 0, the darkest pixel, to 1.

    Returns
    -------
    (block rows, block columns) float32
    """
    rows, columns = plane.shape
    out = np.empty((-(-rows // block), -(-columns // block)), np.float32)
    values = np.empty(block * block, np.float32)
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            count = 0
            for r in range(i * block, min((i + 1) * block, rows)):
                for c in range(k * block, min((k + 1) * block, columns)):
                    values[count] = plane[r, c]
                    count += 1
            out[i, k] = _ranked(values, count, int(share * (count - 1)))
    return out


@njit(nogil=True, cache=True)
def _ranked(values: NDArray[np.float32], count: int, rank: int) -> np.float32:
    """Return the value of a rank from 0; `values` are put in another order."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, k = low, high
        while i <= k:
            while values[i] < pivot:
                i += 1
            while values[k] > pivot:
                k -= 1
            if i <= k:
                values[i], values[k] = values[k], values[i]
                i += 1
                k -= 1
        if rank <= k:
            high = k
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]


@njit(nogil=True, cache=True)
def lowest_around(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the lowest level of each block and the blocks that touch it."""
    rows, columns = levels.shape
    out = np.empty_like(levels)
    for i in range(rows):
        for k in range(columns):
            least = levels[i, k]
            for y in range(max(i - 1, 0), min(i + 2, rows)):
                for x in range(max(k - 1, 0), min(k + 2, columns)):
                    least = min(least, levels[y, x])
            out[i, k] = least
    return out


@njit(nogil=True, cache=True)
def flatten(plane: NDArray[Any], surface: NDArray[np.float32], block: int, row: int, column: int) -> NDArray[np.float32]:
    """Take the background away: the levels of the blocks, blended in between their middles.

    Parameters
    ----------
    plane : (rows, columns) uint8, uint16 or float32
    surface : (block rows, block columns) float32
    block : int
        Edge of a block in pixels.
    row, column : int
        Where the plane's first pixel lies, counted from that of the surface's first block.

    Returns
    -------
    (rows, columns) float32
    """
    rows, columns = plane.shape
    out = np.empty((rows, columns), np.float32)
    lefts, rights, across = _neighbours(columns, column, block, surface.shape[1])
    uppers, lowers, along = _neighbours(rows, row, block, surface.shape[0])
    line = np.empty(surface.shape[1], np.float32)
    for r in range(rows):
        upper, lower, share = surface[uppers[r]], surface[lowers[r]], along[r]
        for k in range(len(line)):
            line[k] = upper[k] + (lower[k] - upper[k]) * share
        for c in range(columns):
            left = line[lefts[c]]
            out[r, c] = np.float32(plane[r, c]) - (left + (line[rights[c]] - left) * across[c])
    return out


@njit(nogil=True, cache=True)
def _neighbours(count: int, start: int, block: int, blocks: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return for each pixel along an axis the two blocks whose middles it lies between, and how far it is from the first."""
    first, second, share = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
    for i in range(count):
        twice = 2 * (start + i) + 1 - block
        first[i] = min(max(twice // (2 * block), 0), blocks - 1)
        second[i] = min(max(twice // (2 * block) + 1, 0), blocks - 1)
        share[i] = np.float32(twice % (2 * block)) / np.float32(2 * block)
    return first, second, share


def warm() -> None:
    """Compile what this module holds, for each type of pixels."""
    surface = lowest_around(block_levels(np.zeros((4, 4), np.float32), 2, 0.5))
    for dtype in (np.uint8, np.uint16, np.float32):
        flatten(np.zeros((4, 4), dtype), surface, 2, 0, 0)
        flatten(np.zeros((4, 4), dtype)[1:3, 1:3], surface, 2, 0, 0)
