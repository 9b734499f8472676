"""How often lines through an object's pixels cross its outline: what Crofton's formula makes perimeters and surfaces of."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.chords import Places, find_chords, index_lines

#: (plane, row) steps to the neighbouring lines, each pair of lines once.
STEPS_2D = np.array([[0, 1]])
STEPS_3D = np.array([[0, 1], [1, -1], [1, 0], [1, 1]])


@njit(nogil=True, cache=True)
def count_crossings(
    places: Places,
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    rows: int,
    boxes: NDArray[np.int64],
    steps: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Count, for every object and direction, how often the lattice lines of that direction enter it.

    Parameters
    ----------
    places, order, offsets
        Those of `Chords`.
    rows : int
        Height of a plane.
    boxes : (objects, 6) int64
        Those of `measuring.find_boxes`.
    steps : (n, 2) int64
        `STEPS_2D` or `STEPS_3D`.

    Returns
    -------
    (objects, 1 + 3 n) int64
        Entries along the direction (0, 0, 1), then along (plane, row, -1), (plane, row, 0), (plane, row, 1) for each step.
    """
    lines, starts, stops = places
    objects = len(boxes)
    out = np.zeros((objects, 1 + 3 * len(steps)), dtype=np.int64)
    index = np.empty(_most_lines(boxes) + 1, dtype=np.int64)
    for o in range(objects):
        members = order[offsets[o] : offsets[o + 1]]
        index_lines(lines, members, rows, boxes[o], index)
        size = 0
        for k in members:
            size += stops[k] - starts[k]
        out[o, 0] = len(members)
        out[o, 1:] = size
        _subtract_pairs(starts, stops, members, index, boxes[o], steps, out[o, 1:])
    return out


@njit(nogil=True, cache=True)
def _most_lines(boxes: NDArray[np.int64]) -> int:
    most = 0
    for box in boxes:
        most = max(most, (box[3] - box[0]) * (box[4] - box[1]))
    return most


@njit(nogil=True, cache=True)
def _subtract_pairs(
    starts: NDArray[np.int32],
    stops: NDArray[np.int32],
    members: NDArray[np.int32],
    index: NDArray[np.int64],
    box: NDArray[np.int64],
    steps: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Take from `counts` the pixels that have a neighbour in the same object in each direction."""
    depth, height = box[3] - box[0], box[4] - box[1]
    for plane in range(depth):
        for row in range(height):
            line = plane * height + row
            for s in range(len(steps)):
                there_plane, there_row = plane + steps[s, 0], row + steps[s, 1]
                if there_plane < depth and 0 <= there_row < height:
                    there = there_plane * height + there_row
                    here_members = members[index[line] : index[line + 1]]
                    there_members = members[index[there] : index[there + 1]]
                    _subtract_overlaps(starts, stops, here_members, there_members, counts[3 * s : 3 * s + 3])


@njit(nogil=True, cache=True)
def _subtract_overlaps(
    starts: NDArray[np.int32],
    stops: NDArray[np.int32],
    here: NDArray[np.int32],
    there: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """Take off the pixels of `here` that lie beside one of `there` shifted by -1, 0 and 1 columns."""
    first = 0
    for k in here:
        start, stop = starts[k], stops[k]
        while first < len(there) and stops[there[first]] < start:
            first += 1
        following = first
        while following < len(there) and starts[there[following]] <= stop:
            other_start, other_stop = starts[there[following]], stops[there[following]]
            for shift in range(-1, 2):
                overlap = min(stop, other_stop - shift) - max(start, other_start - shift)
                counts[shift + 1] -= max(overlap, 0)
            following += 1


def warm() -> None:
    """Compile what this module holds."""
    found = find_chords(np.ones((1, 1, 1), dtype=np.int32))
    count_crossings(found.places, found.order, found.offsets, 1, np.array([[0, 0, 0, 1, 1, 1]]), STEPS_2D)
