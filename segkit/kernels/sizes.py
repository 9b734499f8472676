"""How much of a plane survives openings with discs of rising size, at every brightness at once.

What is left of the pixels above a threshold when everything narrower than a disc is taken away tells how large objects are. An opening
and a threshold give the same in either order, so the counted values of opened planes answer for every threshold that is chosen later.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.background import flatten

#: Discs in pixels of a plane that is halved again and again: five sizes of pixels, two discs each.
DISCS, LEVELS = (5, 7), 5
#: Diameters of the discs in pixels of the plane itself.
DIAMETERS = tuple(disc * 2**level for level in range(LEVELS) for disc in DISCS)
#: Edge of the largest pixels: regions must start at multiples of it.
ALIGNED = 2 ** (LEVELS - 1)
#: How far an opening looks, rounded up to whole pixels of the largest kind.
REACH = max(DIAMETERS)

#: A value is counted by the leading bits of its float: its exponent and the first 8 of its mantissa, so in steps of 0.4 %.
_DROPPED = 15
BINS = 1 << (31 - _DROPPED)
#: The bits of the largest number; above are infinity and what is none.
_LARGEST = np.uint32(0x7F7FFFFF)


def size_counts(
    plane: NDArray[np.float32],
    surface: NDArray[np.float32],
    block: int,
    corner: tuple[int, int],
    counted: tuple[int, int],
    shape: tuple[int, int],
) -> NDArray[np.int64]:
    """Count how far the values of a part of a plane, and those of its openings, lie above the background.

    Parameters
    ----------
    plane : (rows, columns) float32
        It starts at a multiple of `ALIGNED` in the image.
    surface, block
        The background, as for `segkit.kernels.background.flatten`.
    corner : (int, int)
        Where the plane's first pixel lies, counted from that of the surface's first block.
    counted : (int, int)
        Where in the plane the part that is counted starts, multiples of `ALIGNED`.
    shape : (int, int)
        Rows and columns of that part: multiples of `ALIGNED`, except where the image ends.

    Returns
    -------
    (1 + openings, BINS) int64
        Pixels per value, whose lower bound `value_of` gives; what is not above the background counts as 0.
    """
    counts = np.zeros((1 + len(DIAMETERS), BINS), dtype=np.int64)
    top, left = counted
    for level in range(LEVELS):
        size = 2**level
        part = np.s_[top // size : (top + shape[0] - 1) // size + 1, left // size : (left + shape[1] - 1) // size + 1]
        row, column = (corner[0] + top) // size, (corner[1] + left) // size
        if level == 0:
            _count(flatten(plane[part], surface, block, row, column), 1, counts[0])
        else:
            plane = _halved(plane)
        for number, disc in enumerate(DISCS, start=1 + len(DISCS) * level):
            opened = cv2.morphologyEx(plane, cv2.MORPH_OPEN, _disc(disc))[part]
            _count(flatten(opened, surface, block // size, row, column), size * size, counts[number])
    return counts


def value_of(bins: NDArray[Any]) -> NDArray[np.float64]:
    """Return the lower bound of bins; the upper bound is that of the next."""
    bits = np.asarray(bins, dtype=np.uint32) << _DROPPED
    return np.minimum(bits, _LARGEST).view(np.float32).astype(np.float64)


def _disc(diameter: int) -> NDArray[np.uint8]:
    from_middle = np.arange(diameter) - (diameter - 1) / 2
    return np.asarray(np.hypot(from_middle[:, None], from_middle) <= diameter / 2, dtype=np.uint8)


@njit(nogil=True, cache=True)
def _halved(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = plane.shape
    out = np.empty((-(-rows // 2), -(-columns // 2)), np.float32)
    quarter = np.float32(0.25)
    for r in range(out.shape[0]):
        upper, lower = plane[2 * r], plane[min(2 * r + 1, rows - 1)]
        for c in range(out.shape[1]):
            right = min(2 * c + 1, columns - 1)
            out[r, c] = quarter * ((upper[2 * c] + upper[right]) + (lower[2 * c] + lower[right]))
    return out


@njit(nogil=True, cache=True)
def _count(plane: NDArray[np.float32], worth: int, counts: NDArray[np.int64]) -> None:
    bits = plane.view(np.uint32)
    for r in range(plane.shape[0]):
        for c in range(plane.shape[1]):
            counts[(bits[r, c] >> np.uint32(_DROPPED)) if plane[r, c] > 0 else np.uint32(0)] += worth


def warm() -> None:
    """Compile what this module holds."""
    size_counts(np.zeros((32, 32), np.float32), np.zeros((1, 1), np.float32), 32, (0, 0), (0, 0), (32, 32))
