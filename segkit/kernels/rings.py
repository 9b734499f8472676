"""Outlines of labels along the edges of their pixels: exact, holes included, straight stretches as one step.

A ring runs along pixel edges with its object on the right, so that the outside of an object is clockwise on the screen and a
hole counter-clockwise. Pixels that touch only at a corner are not joined: an object of such pieces has several outer rings. No
ring passes a point twice, so each outer ring with the holes in it is a valid polygon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: A point is kept as one number, its row times this and its column.
WIDE = 2**32
#: Pixels that are looked at together.
STRETCH = 32
#: Row and column steps of the four headings: east, south, west, north. Turning right adds 1.
ROW_STEP = np.array([0, 1, 0, -1])
COLUMN_STEP = np.array([1, 0, -1, 0])
#: From a corner, the pixel ahead on the right and on the left of each heading, as row and column offsets.
RIGHT = np.array([[0, 0], [0, -1], [-1, -1], [-1, 0]])
LEFT = np.array([[-1, 0], [0, 0], [0, -1], [-1, -1]])


@dataclass(frozen=True)
class Rings:
    """Rings of every label, sorted by label; of one label's rings, each outer ring is followed by the holes in it."""

    corners: NDArray[np.int32]  #: (corners, 2) row and column of pixel corners; (0, 0) is the image's upper left corner
    starts: NDArray[np.int64]  #: (rings + 1,) where each ring starts in `corners`; its last corner is joined to its first
    labels: NDArray[np.int64]  #: (rings,) ascending
    areas: NDArray[np.int64]  #: (rings,) enclosed area in pixels; negative for a hole

    def of(self, ring: int) -> NDArray[np.int32]:
        """Corners of one ring."""
        return self.corners[self.starts[ring] : self.starts[ring + 1]]


def trace(labels: NDArray[Any]) -> Rings:
    """Trace the outlines of every label in one pass.

    Parameters
    ----------
    labels : (rows, columns) integers
        0 on background. Objects may have holes and be in several pieces.

    Returns
    -------
    Rings
        The sum of a label's areas is its number of pixels.

    Examples
    --------
    >>> labels = np.zeros((4, 5), dtype=np.int32)
    >>> labels[1:3, 1:4] = 7
    >>> trace(labels).of(0).tolist()
    [[1, 1], [1, 4], [3, 4], [3, 1]]
    """
    points, starts, found, pinched = _trace(np.ascontiguousarray(labels, dtype=np.int32))
    if pinched.any():
        points, starts, found = _split(points, starts, found, _earlier_visits(points, starts))
    corners = np.column_stack([points // WIDE, points % WIDE]).astype(np.int32)
    areas = _areas(corners, starts)
    owners = _owners(corners, starts, found, areas, np.argsort(found, kind="stable"))
    order = np.lexsort((areas < 0, owners, found))
    sizes = np.diff(starts)[order]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(len(corners)) + np.repeat(starts[:-1][order] - ends[:-1], sizes)
    return Rings(corners[places], ends, found[order], areas[order])


@njit(nogil=True, cache=True)
def _trace(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Follow every ring from the first of its upper pixel edges. A ring marked as pinched may pass a point twice."""
    rows, columns = labels.shape
    seen = np.zeros((rows, columns), dtype=np.uint8)
    points = np.empty(1024, dtype=np.int64)
    starts, found, pinched = np.zeros(256, dtype=np.int64), np.empty(256, dtype=np.int64), np.empty(256, dtype=np.int64)
    rings, size = 0, 0
    above = np.zeros(columns, dtype=np.int32)
    upper = np.empty(columns, dtype=np.int64)
    for r in range(rows):
        line = labels[r]
        for k in range(_mark_upper_edges(line, above, upper)):
            c = upper[k]
            label = line[c]
            if seen[r, c]:
                continue
            if rings + 1 == len(starts):
                starts, found, pinched = _grown(starts), _grown(found), _grown(pinched)
            points, size, pinches = _follow(labels, seen, r, c, points, size)
            found[rings], pinched[rings] = label, pinches
            rings += 1
            starts[rings] = size
        above = line
    return points[:size], starts[: rings + 1], found[:rings], pinched[:rings]


@njit(nogil=True, cache=True)
def _mark_upper_edges(line: NDArray[np.int32], above: NDArray[np.int32], upper: NDArray[np.int64]) -> int:
    """List the pixels of a row that differ from the one above; most stretches have none and are passed as one vector."""
    size = 0
    for start in range(0, len(line), STRETCH):
        stop = min(start + STRETCH, len(line))
        differ = np.int32(0)
        for c in range(start, stop):
            differ |= line[c] ^ above[c]
        if differ:
            for c in range(start, stop):
                if line[c] != 0 and line[c] != above[c]:
                    upper[size] = c
                    size += 1
    return size


@njit(nogil=True, cache=True)
def _grown(values: NDArray[np.int64]) -> NDArray[np.int64]:
    larger = np.empty(2 * len(values), dtype=np.int64)
    larger[: len(values)] = values
    return larger


@njit(nogil=True, cache=True)
def _is(labels: NDArray[np.int32], row: int, column: int, label: int) -> bool:
    return 0 <= row < labels.shape[0] and 0 <= column < labels.shape[1] and labels[row, column] == label


@njit(nogil=True, cache=True)
def _follow(
    labels: NDArray[np.int32], seen: NDArray[np.uint8], row: int, column: int, points: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], int, int]:
    """Walk one ring, starting east along the upper edge of a pixel, and note the points where it turns.

    At a point where two pixels of the object touch by their corners alone it turns right, and so stays on its own pixel; how
    often that was so is the third thing returned.
    """
    label = labels[row, column]
    r, c, heading = row, column, 0
    pinches = 0
    while heading != 0 or seen[r, c] == 0:
        if heading == 0:
            seen[r, c] = 1
        r, c = r + ROW_STEP[heading], c + COLUMN_STEP[heading]
        left = _is(labels, r + LEFT[heading, 0], c + LEFT[heading, 1], label)
        right = _is(labels, r + RIGHT[heading, 0], c + RIGHT[heading, 1], label)
        if right and not left:
            continue
        pinches += left and not right
        heading = (heading + (3 if right else 1)) % 4
        if size == len(points):
            points = _grown(points)
        points[size] = r * WIDE + c
        size += 1
    return points, size, pinches


def _earlier_visits(points: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each point of a ring, where the ring was there before, or -1. A point has four edges, so is passed at most twice."""
    rings = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((points, rings))
    again = (points[order[1:]] == points[order[:-1]]) & (rings[order[1:]] == rings[order[:-1]])
    earlier = np.full(len(points), -1, dtype=np.int64)
    earlier[order[1:][again]] = order[:-1][again]
    return earlier


@njit(nogil=True, cache=True)
def _split(
    points: NDArray[np.int64], starts: NDArray[np.int64], found: NDArray[np.int64], earlier: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut rings that pass points twice into rings that do not: whenever a point comes back, what lies between is a ring."""
    out, place, kept = np.empty_like(points), np.empty_like(points), np.empty_like(points)
    most = len(found) + np.sum(earlier >= 0)
    ends, labels = np.zeros(most + 1, dtype=np.int64), np.empty(most, dtype=np.int64)
    rings, size = 0, 0
    for ring in range(len(found)):
        depth = 0
        for k in range(starts[ring], starts[ring + 1] + 1):
            closing = k == starts[ring + 1]
            base = 0 if closing else (place[earlier[k]] if earlier[k] >= 0 else depth)
            if closing or (base < depth and kept[base] == earlier[k]):
                for i in range(base, depth):
                    out[size] = points[kept[i]]
                    size += 1
                labels[rings] = found[ring]
                rings += 1
                ends[rings] = size
                depth = base
            if not closing:
                place[k] = depth
                kept[depth] = k
                depth += 1
    return out[:size], ends[: rings + 1], labels[:rings]


def _areas(corners: NDArray[np.int32], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Signed area of each ring: the length of each horizontal edge times its row, eastward ones negative."""
    if len(starts) == 1:
        return np.zeros(0, dtype=np.int64)
    before = np.arange(-1, len(corners) - 1)
    before[starts[:-1]] = starts[1:] - 1
    columns = corners[:, 1].astype(np.int64)
    return np.add.reduceat(corners[:, 0] * (columns[before] - columns), starts[:-1])


@njit(nogil=True, cache=True)
def _owners(
    corners: NDArray[np.int32], starts: NDArray[np.int64], found: NDArray[np.int64], areas: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each hole the outer ring that it lies in, for each outer ring itself. `order` sorts rings by label.

    It is the smallest outer ring of the label around the pixel that lies beside the hole's first edge, on the object's side.
    """
    owners = np.arange(len(found))
    first = 0
    for place in range(len(order)):
        ring = order[place]
        if found[order[first]] != found[ring]:
            first = place
        if areas[ring] > 0:
            continue
        a, b = corners[starts[ring]], corners[starts[ring] + 1]
        row = min(a[0], b[0]) - (1 if a[0] == b[0] and b[1] < a[1] else 0)
        column = min(a[1], b[1]) - (1 if a[1] == b[1] and b[0] > a[0] else 0)
        best = -1
        k = first
        while k < len(order) and found[order[k]] == found[ring]:
            outer = order[k]
            if areas[outer] > 0 and (best < 0 or areas[outer] < areas[best]) and _holds(corners, starts, outer, row, column):
                best = outer
            k += 1
        owners[ring] = best
    return owners


@njit(nogil=True, cache=True)
def _holds(corners: NDArray[np.int32], starts: NDArray[np.int64], ring: int, row: int, column: int) -> bool:
    """Tell whether a pixel lies inside a ring: a line from its middle to the left crosses the ring an odd number of times."""
    inside = False
    before = starts[ring + 1] - 1
    for k in range(starts[ring], starts[ring + 1]):
        if corners[k, 1] <= column and (corners[k, 0] > row) != (corners[before, 0] > row):
            inside = not inside
        before = k
    return inside


def warm() -> None:
    """Compile what this module holds."""
    trace(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=np.int32))
