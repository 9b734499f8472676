"""Smoothing whose every pixel depends on its neighbourhood alone, to the last bit.

Sums run over the weights in one fixed order, and no instruction is fused or reordered, so a pixel gets the same bits
wherever in a region it lies and whatever the region's shape. That is what makes tiles exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Bins of a histogram over smoothed values, as a power of two: of integer pixels in even steps, of floats in steps of their bits.
INTEGER_BITS, FLOAT_BITS = 20, 22


def gaussian_weights(sigma: float) -> NDArray[np.float32]:
    """Return the weights of a Gaussian from its centre outwards, cut off at four sigma, both sides together summing to 1."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return np.ones(1, dtype=np.float32)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    return (weights / (2 * weights.sum() - weights[0])).astype(np.float32)


@njit(nogil=True, cache=True, error_model="numpy")
def smooth_row(pixels: NDArray[Any], row: int, weights: NDArray[np.float32], padded: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Smooth one row of a plane into `out`; `padded` is scratch of (columns + 2 * radius) float32. Edges are repeated outwards."""
    rows, columns = pixels.shape
    radius = len(weights) - 1
    middle = padded[radius : radius + columns]
    for c in range(columns):
        middle[c] = np.float32(pixels[row, c]) * weights[0]
    for k in range(1, radius + 1):
        above, below = max(row - k, 0), min(row + k, rows - 1)
        for c in range(columns):
            middle[c] += (np.float32(pixels[above, c]) + np.float32(pixels[below, c])) * weights[k]
    for c in range(radius):
        padded[c] = middle[0]
        padded[radius + columns + c] = middle[columns - 1]
    for c in range(columns):
        out[c] = middle[c] * weights[0]
    for k in range(1, radius + 1):
        left, right = padded[radius - k :], padded[radius + k :]
        for c in range(columns):
            out[c] += (left[c] + right[c]) * weights[k]


@njit(nogil=True, cache=True)
def smooth(pixels: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth a plane with a separable kernel given by `gaussian_weights`. Edges are repeated outwards.

    Parameters
    ----------
    pixels : (rows, columns) uint8, uint16 or float32
    weights : (radius + 1,) float32

    Returns
    -------
    (rows, columns) float32
    """
    rows, columns = pixels.shape
    out = np.empty((rows, columns), np.float32)
    padded = np.empty(columns + 2 * len(weights) - 2, np.float32)
    for r in range(rows):
        smooth_row(pixels, r, weights, padded, out[r])
    return out


@njit(nogil=True, cache=True)
def smooth_above(pixels: NDArray[Any], weights: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return where the smoothed plane is greater than `threshold`, without ever holding the smoothed plane."""
    rows, columns = pixels.shape
    out = np.empty((rows, columns), np.bool_)
    padded = np.empty(columns + 2 * len(weights) - 2, np.float32)
    line = np.empty(columns, np.float32)
    limit = np.float32(threshold)
    for r in range(rows):
        smooth_row(pixels, r, weights, padded, line)
        for c in range(columns):
            out[r, c] = line[c] > limit
    return out


def smoothed_counts(
    pixels: NDArray[Any], weights: NDArray[np.float32], margins: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> NDArray[np.uint32]:
    """Count the smoothed values of a plane in fine bins, whose values `bin_values` gives.

    Parameters
    ----------
    pixels : (rows, columns) uint8, uint16 or float32
    weights : (radius + 1,) float32
    margins : four ints
        How many rows and columns at the upper, left, lower and right side are looked at, but not counted.

    Returns
    -------
    (1, bins) uint32
    """
    bits = FLOAT_BITS if pixels.dtype.kind == "f" else INTEGER_BITS
    counts = np.zeros((1, 1 << bits), np.uint32)
    _count_smoothed(pixels, weights, margins, _steps(pixels.dtype), counts[0])
    return counts


def bin_values(bins: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Return the value at the middle of bins of a histogram that `smoothed_counts` made of pixels of this type."""
    if dtype.kind != "f":
        return (np.asarray(bins) + 0.5) / _steps(dtype)
    shift = 32 - FLOAT_BITS
    middle = (np.asarray(bins, dtype=np.uint64) << shift) + (1 << (shift - 1))
    flipped = np.where(middle >> 31, middle ^ 0x80000000, middle ^ 0xFFFFFFFF)
    return flipped.astype(np.uint32).view(np.float32).astype(np.float64)


def _steps(dtype: np.dtype[Any]) -> int:
    """Return into how many bins one unit of an integer type is divided; 0 for floats, which are binned by their bits."""
    return 0 if dtype.kind == "f" else 1 << (INTEGER_BITS - 8 * dtype.itemsize)


@njit(nogil=True, cache=True)
def _count_smoothed(
    pixels: NDArray[Any], weights: NDArray[np.float32], margins: tuple[int, int, int, int], steps: int, counts: NDArray[np.uint32]
) -> None:
    rows, columns = pixels.shape
    padded = np.empty(columns + 2 * len(weights) - 2, np.float32)
    line = np.empty(columns, np.float32)
    bits, scale = line.view(np.uint32), np.float32(steps)
    last = np.int32(len(counts) - 1)
    for r in range(margins[0], rows - margins[2]):
        smooth_row(pixels, r, weights, padded, line)
        if steps:
            for c in range(margins[1], columns - margins[3]):
                counts[min(np.int32(line[c] * scale), last)] += 1
        else:
            for c in range(margins[1], columns - margins[3]):
                counts[_order(bits[c]) >> np.uint32(32 - FLOAT_BITS)] += 1


@njit(nogil=True, cache=True, inline="always")
def _order(bits: np.uint32) -> np.uint32:
    # Floats order like their bits, once negative ones are flipped and positive ones lifted above them.
    return bits ^ (np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000))


def warm() -> None:
    """Compile what this module holds, for each type of pixels."""
    weights = gaussian_weights(1.0)
    for dtype in (np.uint8, np.uint16, np.float32):
        pixels = np.zeros((4, 4), dtype=dtype)
        smooth(pixels, weights)
        smooth_above(pixels, weights, 0.0)
        smoothed_counts(pixels, weights)
