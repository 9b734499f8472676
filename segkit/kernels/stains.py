"""From colours to the density of stains: by tables, one entry per value of a channel, so that a pixel costs three look-ups."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: A colour histogram has this many steps per channel.
STEPS = 32
#: Bins of `colour_counts`: all colours in steps, then each channel's 256 values.
COLOUR_BINS = STEPS**3 + 3 * 256


@njit(nogil=True, cache=True)
def colour_counts(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the colours of an image.

    Parameters
    ----------
    pixels : (rows, columns, 3) uint8

    Returns
    -------
    (1, COLOUR_BINS) int64
        First the colours in 32 steps per channel, red slowest; then the 256 values of red, of green, and of blue.
    """
    counts = np.zeros((1, COLOUR_BINS), np.int64)
    line = counts[0]
    rows, columns, _ = pixels.shape
    fine = STEPS**3
    for r in range(rows):
        for c in range(columns):
            red, green, blue = np.int64(pixels[r, c, 0]), np.int64(pixels[r, c, 1]), np.int64(pixels[r, c, 2])
            line[((red >> 3) * STEPS + (green >> 3)) * STEPS + (blue >> 3)] += 1
            line[fine + red] += 1
            line[fine + 256 + green] += 1
            line[fine + 512 + blue] += 1
    return counts


@njit(nogil=True, cache=True)
def block_ranges(pixels: NDArray[np.uint8], block: int, around: int, margins: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """Return the lowest and highest value of each channel in blocks and what lies around them.

    Parameters
    ----------
    pixels : (rows, columns, 3) uint8
    block : int
        Edge of a block in pixels; the last ones may be smaller.
    around : int
        How many pixels around a block belong to it.
    margins : four ints
        How many rows and columns at the upper, left, lower and right side are in no block of their own.

    Returns
    -------
    (block rows, block columns, 6) float64
        Lowest and highest red, green, and blue.
    """
    bottom, right = pixels.shape[0] - margins[2], pixels.shape[1] - margins[3]
    out = np.empty((-(-(bottom - margins[0]) // block), -(-(right - margins[1]) // block), 6))
    for i in range(out.shape[0]):
        top = margins[0] + i * block
        rows = max(top - around, 0), min(min(top + block, bottom) + around, pixels.shape[0])
        for k in range(out.shape[1]):
            left = margins[1] + k * block
            columns = max(left - around, 0), min(min(left + block, right) + around, pixels.shape[1])
            for channel in range(3):
                low, high = np.uint8(255), np.uint8(0)
                for r in range(rows[0], rows[1]):
                    for c in range(columns[0], columns[1]):
                        low, high = min(low, pixels[r, c, channel]), max(high, pixels[r, c, channel])
                out[i, k, 2 * channel], out[i, k, 2 * channel + 1] = low, high
    return out


@njit(nogil=True, cache=True)
def stain_planes(pixels: NDArray[np.uint8], tables: NDArray[np.float32]) -> NDArray[np.float32]:
    """Look up the density of each stain.

    Parameters
    ----------
    pixels : (rows, columns, 3) uint8
    tables : (stains, 3, 256) float32
        What each value of each channel adds to the density of each stain.

    Returns
    -------
    (stains, rows, columns) float32
    """
    rows, columns, _ = pixels.shape
    out = np.empty((len(tables), rows, columns), np.float32)
    for k in range(len(tables)):
        red, green, blue = tables[k, 0], tables[k, 1], tables[k, 2]
        for r in range(rows):
            for c in range(columns):
                out[k, r, c] = red[pixels[r, c, 0]] + green[pixels[r, c, 1]] + blue[pixels[r, c, 2]]
    return out


def warm() -> None:
    """Compile what this module holds."""
    pixels = np.zeros((2, 2, 3), np.uint8)
    colour_counts(pixels)
    stain_planes(pixels, np.zeros((1, 3, 256), np.float32))
