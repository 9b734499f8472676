"""Split touching objects: each connected component by itself, all of them in one compiled loop."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.components import find_boxes
from segkit.kernels.cutouts import (
    OWN,
    choose_peaks,
    cut_out,
    fill_holes,
    flood,
    has_holes,
    largest_cutout,
    mark_peaks,
    squared_distances,
    walls_of,
    write_parts,
)


def split_at_distance_peaks(
    components: NDArray[np.int32], walls: NDArray[np.bool_], spacing: int, smallest: int, fill: bool = True
) -> NDArray[np.int32]:
    """Split components by a watershed on the distance to their edge, seeded at the peaks of that distance.

    Parameters
    ----------
    components : (rows, columns) int32
        Components to split by their id > 0; 0 is background, -1 foreground of others.
    walls : (4,) bool
        Whether the upper, left, lower and right side of the region are sides of the image itself.
    spacing : int
        Peaks nearer than this many rows and columns are one object; 0 leaves components whole.
    smallest : int
        Objects of fewer pixels are dropped.
    fill : bool
        Whether enclosed background becomes part of the component first.

    Returns
    -------
    (rows, columns) int32
        0 on background, 1..n on objects.
    """
    boxes = find_boxes(components, int(components.max(initial=0)))
    return _split(components, boxes, walls, spacing, smallest, fill)


@njit(nogil=True, cache=True)
def _split(
    components: NDArray[np.int32], boxes: NDArray[np.int32], walls: NDArray[np.bool_], spacing: int, smallest: int, fill: bool
) -> NDArray[np.int32]:
    rows, columns = components.shape
    labels = np.zeros((rows, columns), np.int32)
    room = largest_cutout(boxes)
    pieces, peak_room = np.empty(room, np.uint8), np.empty(room, np.uint8)
    depth_room, other_room, mark_room = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    count = 0
    for label in range(1, len(boxes)):
        box = boxes[label]
        if box[2] == 0:
            continue
        piece = cut_out(components, label, box, pieces)
        shape, size = piece.shape, piece.size
        if fill and has_holes(piece):
            fill_holes(piece, other_room)
        marks = mark_room[:size].reshape(shape)
        parts = 1
        if spacing > 0:
            depths, scratch = depth_room[:size].reshape(shape), other_room[:size].reshape(shape)
            deepest = squared_distances(piece, walls_of(box, walls, rows, columns), scratch, depths)
            peaks = peak_room[:size].reshape(shape)
            found = mark_peaks(depths, spacing, scratch, peaks)
            if found > 1:
                seeds = choose_peaks(depths, peaks, found, spacing)
                parts = len(seeds)
                if parts > 1:
                    flood(piece, depths, deepest, seeds, other_room, marks)
        if parts == 1:
            _mark_own(piece, marks)
        count = write_parts(marks, parts, smallest, box, labels, count)
    return labels


@njit(nogil=True, cache=True)
def _mark_own(piece: NDArray[np.uint8], marks: NDArray[np.int32]) -> None:
    own, mark = piece.reshape(-1), marks.reshape(-1)
    for i in range(len(own)):
        mark[i] = own[i] == OWN


def warm() -> None:
    """Compile what this module holds."""
    split_at_distance_peaks(np.ones((3, 3), dtype=np.int32), np.ones(4, dtype=np.bool_), 1, 0)
