"""Split components where a height drops between two summits and rises again by enough to matter.

Pixels are taken from the highest down. A pixel joins the summit that it touches; where two summits meet, the lower one
is swallowed when it rises less than `rise` above the meeting point, and else both stay objects of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segkit.kernels.components import find_boxes
from segkit.kernels.cutouts import OWN, cut_out, fill_holes, has_holes, largest_cutout, squared_distances, walls_of, write_parts


def split_by_persistence(
    components: NDArray[np.int32],
    evidence: NDArray[np.float32],
    walls: NDArray[np.bool_],
    *,
    inside: float,
    weight: float,
    rise: float,
    smallest: int,
    share: float = 0.0,
) -> NDArray[np.int32]:
    """Split components by how deep their pixels lie within the part that looks like the inside of an object.

    Parameters
    ----------
    components : (rows, columns) int32
        Components to split by their id > 0; 0 is background, -1 foreground of others.
    evidence : (rows, columns) float32
        From -1 on what looks like the edge of an object to 1 on what looks like its inside; read on components alone.
    walls : (4,) bool
        Whether the upper, left, lower and right side of the region are sides of the image itself.
    inside : float
        Depth is the distance to the nearest pixel whose evidence is lower than this.
    weight : float
        The height of a pixel is its depth, plus its evidence times this.
    rise : float
        Summits that rise less than this above the pass to a higher one are part of it.
    smallest : int
        Objects of fewer pixels are dropped.
    share : float
        Summits that rise less than this share of their own height are part of the higher one too: large objects have larger
        bumps that mean nothing.

    Returns
    -------
    (rows, columns) int32
        0 on background, 1..n on objects. Enclosed background belongs to its component.
    """
    boxes = find_boxes(components, int(components.max(initial=0)))
    limits = np.array([inside, weight, rise, share], dtype=np.float32)
    return _split(components, evidence, boxes, walls, limits, smallest)


@njit(nogil=True, cache=True)
def _split(
    components: NDArray[np.int32],
    evidence: NDArray[np.float32],
    boxes: NDArray[np.int32],
    walls: NDArray[np.bool_],
    limits: NDArray[np.float32],
    smallest: int,
) -> NDArray[np.int32]:
    rows, columns = components.shape
    labels = np.zeros((rows, columns), np.int32)
    room = largest_cutout(boxes)
    pieces, cores = np.empty(room, np.uint8), np.empty(room, np.uint8)
    scratch, depths, marks = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    likely, height, spare = np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.float32)
    count = 0
    for label in range(1, len(boxes)):
        box = boxes[label]
        if box[2] == 0:
            continue
        piece = cut_out(components, label, box, pieces)
        shape, size = piece.shape, piece.size
        own = likely[:size].reshape(shape)
        _read_evidence(evidence, piece, box, own)
        if has_holes(piece):
            fill_holes(piece, scratch)
        core = cores[:size].reshape(shape)
        _mark_core(piece, own, limits[0], core)
        fill_holes(core, scratch)
        depth = depths[:size].reshape(shape)
        squared_distances(core, walls_of(box, walls, rows, columns), scratch[:size].reshape(shape), depth)
        heights = height[:size].reshape(shape)
        _raise(piece, depth, own, limits[1], spare[:size].reshape(shape), heights)
        mark = marks[:size].reshape(shape)
        parts = _drain(piece, heights, limits[2], limits[3], scratch, mark)
        count = write_parts(mark, parts, smallest, box, labels, count)
    return labels


@njit(nogil=True, cache=True)
def _read_evidence(evidence: NDArray[np.float32], piece: NDArray[np.uint8], box: NDArray[np.int32], own: NDArray[np.float32]) -> None:
    own[:] = 0
    for r in range(box[2] - box[0]):
        for c in range(box[3] - box[1]):
            if piece[r + 1, c + 1] == OWN:
                own[r + 1, c + 1] = evidence[box[0] + r, box[1] + c]


@njit(nogil=True, cache=True)
def _mark_core(piece: NDArray[np.uint8], own: NDArray[np.float32], inside: np.float32, core: NDArray[np.uint8]) -> None:
    for r in range(piece.shape[0]):
        for c in range(piece.shape[1]):
            core[r, c] = OWN if piece[r, c] == OWN and own[r, c] >= inside else 0


@njit(nogil=True, cache=True)
def _raise(
    piece: NDArray[np.uint8],
    depth: NDArray[np.int32],
    own: NDArray[np.float32],
    weight: np.float32,
    spare: NDArray[np.float32],
    heights: NDArray[np.float32],
) -> None:
    rows, columns = piece.shape
    for r in range(rows):
        for c in range(columns):
            spare[r, c] = np.sqrt(np.float32(depth[r, c])) + weight * own[r, c]
    _smooth_five(spare, heights)


@njit(nogil=True, cache=True)
def _smooth_five(plane: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Smooth with the weights 1 4 6 4 1 along both axes; `plane` is used up. Beyond the rim there is nothing."""
    rows, columns = plane.shape
    one, four, six = np.float32(1 / 16), np.float32(4 / 16), np.float32(6 / 16)
    for r in range(rows):
        line, to = plane[r], out[r]
        for c in range(columns):
            to[c] = line[c] * six
        for c in range(1, columns):
            to[c] += line[c - 1] * four
            to[c - 1] += line[c] * four
        for c in range(2, columns):
            to[c] += line[c - 2] * one
            to[c - 2] += line[c] * one
    for r in range(rows):
        for c in range(columns):
            plane[r, c] = out[r, c]
    for r in range(rows):
        for c in range(columns):
            out[r, c] = plane[r, c] * six
        for step, share in ((1, four), (2, one)):
            if r >= step:
                for c in range(columns):
                    out[r, c] += plane[r - step, c] * share
            if r + step < rows:
                for c in range(columns):
                    out[r, c] += plane[r + step, c] * share


@njit(nogil=True, cache=True)
def _drain(
    piece: NDArray[np.uint8],
    heights: NDArray[np.float32],
    rise: np.float32,
    share: np.float32,
    parents: NDArray[np.int32],
    marks: NDArray[np.int32],
) -> int:
    """Number the summits that rise enough, and mark every own pixel with the summit it drains to; return how many there are."""
    columns = piece.shape[1]
    own, height, mark = piece.reshape(-1), heights.reshape(-1), marks.reshape(-1)
    places = np.flatnonzero(own == OWN)
    order = places[np.argsort(-height[places], kind="mergesort")]
    for place in order:
        parents[place] = -1
    for place in order:
        parents[place] = place
        best = place
        for step in (-columns - 1, -columns, -columns + 1, -1, 1, columns - 1, columns, columns + 1):
            other = place + step
            if own[other] != OWN or parents[other] < 0:
                continue
            root = _root(parents, other)
            if root == best:
                continue
            if best == place:
                parents[place] = root
                best = root
                continue
            higher, lower = _ranked(height, best, root)
            if height[lower] - height[place] < max(rise, share * height[lower]):
                parents[lower] = higher
            best = higher
            if parents[place] != best:
                parents[place] = best
    mark[:] = 0
    count = 0
    for place in places:
        if _root(parents, place) == place:
            count += 1
            mark[place] = count
    for place in places:
        mark[place] = mark[_root(parents, place)]
    return count


@njit(nogil=True, cache=True)
def _ranked(height: NDArray[np.float32], one: int, other: int) -> tuple[int, int]:
    if height[one] > height[other] or (height[one] == height[other] and one < other):
        return one, other
    return other, one


@njit(nogil=True, cache=True)
def _root(parents: NDArray[np.int32], place: Any) -> Any:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


def warm() -> None:
    """Compile what this module holds."""
    components, evidence = np.ones((3, 3), np.int32), np.ones((3, 3), np.float32)
    split_by_persistence(components, evidence, np.ones(4, dtype=np.bool_), inside=0, weight=1, rise=1, smallest=1)
