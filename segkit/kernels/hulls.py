"""Convex hulls of objects: their area in pixels, and the largest and smallest distance between parallel tangents.

A pixel is the diamond of the midpoints of its four edges. Coordinates are doubled, so that these are whole numbers and every
decision is exact. The hull's left side is traced from the leftmost pixel of each row; the right side is the left one mirrored.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.chords import Places, find_chords

#: In place of a column: this row of the box holds no pixel of the object.
_NOTHING = 1 << 40


@njit(nogil=True, cache=True)
def measure_hulls(
    places: Places,
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    boxes: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Measure the convex hull of every object of one plane.

    Parameters
    ----------
    places, order, offsets
        Those of `Chords`.
    boxes : (objects, 6) int64
        Those of `measuring.find_boxes`.

    Returns
    -------
    (objects,) int64
        Pixels whose centre lies in the hull or on its edge.
    (objects,) float64
        Largest distance between two edge midpoints of these pixels, in pixels.
    (objects,) float64
        Smallest distance between two parallel lines with all of these midpoints between them, in pixels.
    """
    objects = len(boxes)
    areas = np.empty(objects, dtype=np.int64)
    longest = np.empty(objects, dtype=np.float64)
    narrowest = np.empty(objects, dtype=np.float64)
    tallest = 1
    for box in boxes:
        tallest = max(tallest, box[4] - box[1])
    sides = np.empty((2, tallest), dtype=np.int64)
    corners = np.empty((4 * tallest + 2, 2), dtype=np.int64)
    mirrored = np.empty((2 * tallest + 1, 2), dtype=np.int64)
    for o in range(objects):
        here = sides[:, : boxes[o, 4] - boxes[o, 1]]
        _find_sides(places, order[offsets[o] : offsets[o + 1]], boxes[o], here)
        areas[o] = _fill_hull(here, corners)
        longest[o], narrowest[o] = _calipers(corners, _polygon(here, corners, mirrored))
    return areas, longest, narrowest


@njit(nogil=True, cache=True)
def _find_sides(places: Places, members: NDArray[np.int32], box: NDArray[np.int64], sides: NDArray[np.int64]) -> None:
    """Write the first column of each row, and the last column mirrored (negated)."""
    lines, starts, stops = places
    sides.fill(_NOTHING)
    for k in members:
        row = lines[k] - box[1]
        sides[0, row] = min(sides[0, row], starts[k] - box[2])
        sides[1, row] = min(sides[1, row], box[2] + 1 - stops[k])


@njit(nogil=True, cache=True)
def _fill_hull(sides: NDArray[np.int64], corners: NDArray[np.int64]) -> int:
    """Widen each row to the pixels in the hull; return how many they are."""
    area = 0
    for side in sides:
        _trace(side, corners)
        _straighten(side, corners)
    for row in range(sides.shape[1]):
        area += 1 - sides[0, row] - sides[1, row]
    return area


@njit(nogil=True, cache=True)
def _trace(side: NDArray[np.int64], corners: NDArray[np.int64]) -> int:
    """Write the corners (x, y) of the hull's left side from top to bottom; return how many they are."""
    height = len(side)
    count = 0
    for y in range(-1, 2 * height):
        x = 2 * side[y // 2] - 1 if y % 2 == 0 else 2 * min(side[max(y // 2, 0)], side[min(y // 2 + 1, height - 1)])
        if x >= _NOTHING:
            continue
        while count > 1 and not _left_of(corners[count - 1], corners[count - 2], x, y):
            count -= 1
        corners[count, 0], corners[count, 1] = x, y
        count += 1
    return count


@njit(nogil=True, cache=True)
def _left_of(point: NDArray[np.int64], above: NDArray[np.int64], x: int, y: int) -> bool:
    """Tell whether a point lies left of the line from the corner above to (x, y)."""
    return (point[0] - above[0]) * (y - above[1]) < (x - above[0]) * (point[1] - above[1])


@njit(nogil=True, cache=True)
def _straighten(side: NDArray[np.int64], corners: NDArray[np.int64]) -> None:
    """Write the first pixel of each row whose centre is on the line of corners or right of it."""
    k = 0
    for row in range(len(side)):
        while corners[k + 1, 1] < 2 * row:
            k += 1
        x, y = corners[k]
        run, rise = corners[k + 1, 0] - x, corners[k + 1, 1] - y
        side[row] = -((-(x * rise + run * (2 * row - y))) // (2 * rise))


@njit(nogil=True, cache=True)
def _polygon(sides: NDArray[np.int64], corners: NDArray[np.int64], mirrored: NDArray[np.int64]) -> int:
    """Write the corners of the whole hull: down its left side, up its right side; return how many they are."""
    count = _trace(sides[0], corners)
    for k in range(_trace(sides[1], mirrored) - 1, -1, -1):
        x, y = -mirrored[k, 0], mirrored[k, 1]
        if not _is_at(corners[count - 1], x, y) and not _is_at(corners[0], x, y):
            corners[count, 0], corners[count, 1] = x, y
            count += 1
    return count


@njit(nogil=True, cache=True)
def _is_at(corner: NDArray[np.int64], x: int, y: int) -> bool:
    return corner[0] == x and corner[1] == y


@njit(nogil=True, cache=True)
def _calipers(corners: NDArray[np.int64], count: int) -> tuple[float, float]:
    """Turn a pair of parallel tangents once around a convex polygon; return the largest and smallest distance, in pixels."""
    farthest, narrowest = 0, np.inf
    opposite = 1
    for k in range(count):
        here, there = corners[k], corners[(k + 1) % count]
        reach = _reach(here, there, corners[opposite])
        while True:
            farthest = max(farthest, _squared(here, corners[opposite]), _squared(there, corners[opposite]))
            further = _reach(here, there, corners[(opposite + 1) % count])
            if further < reach:
                break
            reach, opposite = further, (opposite + 1) % count
        narrowest = min(narrowest, reach / np.sqrt(_squared(here, there)))
    return np.sqrt(farthest) / 2, narrowest / 2


@njit(nogil=True, cache=True)
def _reach(here: NDArray[np.int64], there: NDArray[np.int64], point: NDArray[np.int64]) -> int:
    """Twice the area of the triangle over an edge: the point's distance from it times its length."""
    return (there[1] - here[1]) * (point[0] - here[0]) - (there[0] - here[0]) * (point[1] - here[1])


@njit(nogil=True, cache=True)
def _squared(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    return (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2


def warm() -> None:
    """Compile what this module holds."""
    found = find_chords(np.ones((1, 1, 1), dtype=np.int32))
    measure_hulls(found.places, found.order, found.offsets, np.array([[0, 0, 0, 1, 1, 1]]))
