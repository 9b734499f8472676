"""Sizes, boxes, moments and intensities of objects, from their chords.

Coordinates are taken from each object's own box and summed in integers, and pixel values are summed in the raster order of
the object, so no figure depends on where in an image, or in which tile of it, the object lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.chords import Chords, Places, blocks, find_chords

#: Pixels are summed as one of these two types: small integers exactly, all others as floats.
SMALL, WIDE = np.uint16, np.float64

_EXACT = 1 << 62


@njit(nogil=True, cache=True)
def find_boxes(places: Places, owners: NDArray[np.int32], objects: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the half-open box and the size of every object.

    Returns
    -------
    (objects, 6) int64
        plane, row and column of the first corner, then plane, row and column after the last.
    (objects,) int64
        Number of pixels.
    """
    lines, starts, stops = places
    boxes = np.empty((objects, 6), dtype=np.int64)
    boxes[:, :3] = np.iinfo(np.int64).max
    boxes[:, 3:] = 0
    sizes = np.zeros(objects, dtype=np.int64)
    for k in range(len(lines)):
        box = boxes[owners[k]]
        plane, row = lines[k] // rows, lines[k] % rows
        box[0], box[1], box[2] = min(box[0], plane), min(box[1], row), min(box[2], starts[k])
        box[3], box[4], box[5] = max(box[3], plane + 1), max(box[4], row + 1), max(box[5], stops[k])
        sizes[owners[k]] += stops[k] - starts[k]
    return boxes, sizes


@njit(nogil=True, cache=True)
def sum_moments(
    places: Places, owners: NDArray[np.int32], rows: int, boxes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum the coordinates of every object's pixels, counted from the corner of its box, and their products.

    Returns
    -------
    (objects, 3) int64
        Sums of plane, row, column.
    (objects, 6) int64
        Sums of plane², row², column², plane·row, plane·column, row·column.
    """
    lines, starts, stops = places
    first = np.zeros((len(boxes), 3), dtype=np.int64)
    second = np.zeros((len(boxes), 6), dtype=np.int64)
    for k in range(len(lines)):
        o = owners[k]
        plane, row = lines[k] // rows - boxes[o, 0], lines[k] % rows - boxes[o, 1]
        start, stop = starts[k] - boxes[o, 2], stops[k] - boxes[o, 2]
        length = stop - start
        columns = length * (start + stop - 1) // 2
        first[o, 0] += plane * length
        first[o, 1] += row * length
        first[o, 2] += columns
        second[o, 0] += plane * plane * length
        second[o, 1] += row * row * length
        second[o, 2] += _squares_below(stop) - _squares_below(start)
        second[o, 3] += plane * row * length
        second[o, 4] += plane * columns
        second[o, 5] += row * columns
    return first, second


@njit(nogil=True, cache=True)
def _squares_below(number: int) -> int:
    return (number - 1) * number * (2 * number - 1) // 6


@njit(nogil=True, cache=True)
def covariances(sizes: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn the sums of `sum_moments` into variances and covariances of the coordinates.

    Returns
    -------
    (objects, 6) float64
        Variances of plane, row, column; covariances of plane and row, plane and column, row and column; in pixels squared.
    """
    out = np.empty(second.shape, dtype=np.float64)
    for o in range(len(sizes)):
        for k, (one, other) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
            out[o, k] = _covariance(sizes[o], second[o, k], first[o, one], first[o, other])
    return out


@njit(nogil=True, cache=True)
def _covariance(size: int, product: int, one: int, other: int) -> float:
    """Covariance from integer sums: rounded once, so that round and square objects have exactly equal variances.

    Objects too large for that lose nothing but this last bit: their sums are taken about the whole number below the mean.
    """
    middle_one, middle_other = one // size, other // size
    product += size * middle_one * middle_other - middle_one * other - middle_other * one
    one -= size * middle_one
    other -= size * middle_other
    if abs(product) < _EXACT // size:
        return float(size * product - one * other) / (float(size) * float(size))
    return (float(product) - float(one) * (float(other) / size)) / size


@njit(nogil=True, cache=True)
def orientations(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle in radians between the row axis and each object's longer axis, from -pi/2 to pi/2, counter-clockwise.

    An object without a longer axis gets -pi/4 (pi/4 if its covariance leans that way), as in scikit-image.
    """
    out = np.empty(len(covariance), dtype=np.float64)
    for o in range(len(covariance)):
        rows, columns, both = covariance[o, 1], covariance[o, 2], covariance[o, 5]
        if rows == columns:
            out[o] = np.pi / 4 if both > 0 else -np.pi / 4
        else:
            out[o] = 0.5 * np.arctan2(2 * both, rows - columns)
    return out


@njit(nogil=True, cache=True)
def cube_roots(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cube roots, taken one by one: numpy's own may differ in the last bit with the place in the array."""
    out = np.empty(len(numbers), dtype=np.float64)
    for k in range(len(numbers)):
        out[k] = numbers[k] ** (1 / 3)
    return out


@njit(nogil=True, cache=True)
def add_intensities(
    pixels: NDArray[Any],
    first_line: int,
    chord_range: tuple[int, int],
    places: Places,
    owners: NDArray[np.int32],
    beginnings: NDArray[np.int32],
    sums: NDArray[Any],
) -> None:
    """Add a block of pixels to the sums of the objects it belongs to.

    Deviations are taken from each object's first pixel, which keeps the variance sound where the values are far from zero.

    Parameters
    ----------
    pixels : (lines, columns) SMALL or WIDE
        The block.
    first_line : int
        The line of its first row.
    chord_range : (int, int)
        The chords that lie in it.
    places, owners
        Those of `Chords`.
    beginnings : (objects,) int32
        The first chord of each object.
    sums : (7, objects) int64 or float64
        Added to in place: first value, sum, sum of deviations, sum of their squares, lowest, highest, number of NaN.
    """
    lines, starts, stops = places
    for k in range(chord_range[0], chord_range[1]):
        o = owners[k]
        row = pixels[lines[k] - first_line]
        if beginnings[o] == k:
            sums[0, o] = sums[4, o] = sums[5, o] = row[starts[k]]
        reference, lowest, highest = sums[0, o], sums[4, o], sums[5, o]
        zero = sums.dtype.type(0)
        total = deviations = squares = holes = zero
        for c in range(starts[k], stops[k]):
            value = row[c] + zero
            deviation = value - reference
            total += value
            deviations += deviation
            squares += deviation * deviation
            lowest = min(lowest, value)
            highest = max(highest, value)
            holes += value != value  # true for NaN alone
        sums[1, o] += total
        sums[2, o] += deviations
        sums[3, o] += squares
        sums[4, o], sums[5, o] = lowest, highest
        sums[6, o] += holes


def sum_intensities(pixels: NDArray[Any], found: Chords, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Measure the pixel values of every object.

    Parameters
    ----------
    pixels : (planes, rows, columns) bool, integers or floats
        One channel.
    found : Chords
        The objects, of a label image of the same shape.
    sizes : (objects,) int64
        How many pixels each has.

    Returns
    -------
    (5, objects) float64
        mean, minimum, maximum, standard deviation (of the population), sum. All NaN where an object holds a NaN.
    """
    small = np.can_cast(pixels.dtype, SMALL)
    sums = np.zeros((7, len(found.labels)), dtype=np.int64 if small else np.float64)
    beginnings = found.order[found.offsets[:-1]]
    for first_line, block in blocks(pixels, SMALL if small else WIDE):
        low, high = np.searchsorted(found.lines, np.array([first_line, first_line + len(block)], dtype=np.int32))
        add_intensities(block, first_line, (int(low), int(high)), found.places, found.owners, beginnings, sums)
    return _statistics(sums.astype(np.float64, copy=False), sizes)


def _statistics(sums: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    _, totals, deviations, squares, lowest, highest, holes = sums
    with np.errstate(invalid="ignore", over="ignore"):
        variances = (squares - deviations * (deviations / sizes)) / sizes
        out = np.stack([totals / sizes, lowest, highest, np.sqrt(np.maximum(variances, 0)), totals])
    out[:, holes > 0] = np.nan
    return out


def warm() -> None:
    """Compile what this module holds, for both types of pixels."""
    found = find_chords(np.ones((1, 1, 1), dtype=np.int32))
    boxes, sizes = find_boxes(found.places, found.owners, 1, 1)
    orientations(covariances(sizes, *sum_moments(found.places, found.owners, 1, boxes)))
    cube_roots(np.ones(1))
    for dtype in (SMALL, WIDE):
        sum_intensities(np.ones((1, 1, 1), dtype=dtype), found, sizes)
