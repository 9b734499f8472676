"""Chords: maximal stretches of one label along one row. A label image as chords is small, and every shape can be measured from it.

A row of a volume is numbered through, `line = plane * rows + row`. Columns of a chord are half-open, `start <= column < stop`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Arrays are looked at this many pixels at a time, so that a change of type costs a block that stays in the processor's cache.
BLOCK_PIXELS = 1 << 18

#: Labels up to this many times the number of chords are counted in a table; sparser ones are sorted.
_SPARSE = 8


#: `lines`, `starts` and `stops` of `Chords`.
Places: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class Chords:
    """The chords of all objects of a label image.

    What is computed from an object's own chords in their order is the same in any region that holds the whole object.
    """

    labels: NDArray[np.int64]  #: (objects,) the labels, ascending
    lines: NDArray[np.int32]  #: (chords,) the line each lies on, in raster order
    starts: NDArray[np.int32]  #: (chords,) its first column
    stops: NDArray[np.int32]  #: (chords,) the column after its last
    owners: NDArray[np.int32]  #: (chords,) the position of its label in `labels`
    order: NDArray[np.int32]  #: (chords,) the chords object by object, each object's in raster order
    offsets: NDArray[np.int64]  #: (objects + 1,) where in `order` each object begins

    @property
    def places(self) -> Places:
        """Where the chords lie, as the compiled loops take it."""
        return self.lines, self.starts, self.stops


def blocks(pixels: NDArray[Any], dtype: type[np.generic]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Cut (planes, rows, columns) pixels of any strides and type into contiguous blocks of whole lines of one type.

    Loops are compiled for such blocks alone: read-only or strided arrays, too, would each be compiled for anew.

    Yields
    ------
    int
        The block's first line.
    (lines, columns) array of `dtype`
        Its pixels; a view where they are contiguous, writable and of that type already.
    """
    planes, rows, columns = pixels.shape
    height = max(1, BLOCK_PIXELS // max(columns, 1))
    for plane in range(planes):
        for row in range(0, rows, height):
            yield plane * rows + row, np.require(pixels[plane, row : row + height], dtype, ["C", "A", "W"])


def find_chords(labels: NDArray[np.integer[Any]]) -> Chords:
    """Describe a label image by its chords.

    Parameters
    ----------
    labels : (planes, rows, columns) integers
        0 on background.

    Raises
    ------
    ValueError
        If a label is negative, or larger than an int64 can hold.

    Examples
    --------
    >>> find_chords(np.array([[[0, 7, 7], [5, 5, 7]]])).labels.tolist()
    [5, 7]
    """
    dtype = np.int32 if np.can_cast(labels.dtype, np.int32) else np.int64
    scratch = np.empty((4, min(labels.size, max(BLOCK_PIXELS, labels.shape[2]))), dtype=np.int64)
    found = [_scan_block(first, block, scratch) for first, block in blocks(labels, dtype)]
    lines, starts, stops, values = np.concatenate(found, axis=1) if found else np.empty((4, 0), dtype=np.int64)
    numbers, owners = _number(values)
    order, offsets = _group(owners, len(numbers))
    return Chords(numbers, lines.astype(np.int32), starts.astype(np.int32), stops.astype(np.int32), owners, order, offsets)


def _scan_block(first_line: int, labels: NDArray[Any], scratch: NDArray[np.int64]) -> NDArray[np.int64]:
    count = _scan(labels, first_line, scratch)
    if count < 0:
        raise ValueError("labels must be from 0 to 2**63 - 1")
    return scratch[:, :count].copy()


def _number(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the distinct labels, ascending, and the position of each chord's label among them."""
    if values.max(initial=0) > max(_SPARSE * len(values), 1 << 16):
        numbers, owners = np.unique(values, return_inverse=True)
        return numbers, owners.astype(np.int32)
    present = np.bincount(values) > 0
    return np.flatnonzero(present), (np.cumsum(present, dtype=np.int32) - 1)[values]


@njit(nogil=True, cache=True)
def _scan(labels: NDArray[Any], first_line: int, chords: NDArray[np.int64]) -> int:
    """Write (line, start, stop, label) of each chord; return their number, or -1 at a negative label."""
    rows, columns = labels.shape
    count = 0
    for r in range(rows):
        row = labels[r]
        c = 0
        while c < columns:
            value = row[c]
            start = c
            c += 1
            if value == 0:
                continue
            if value < 0:
                return -1
            while c < columns and row[c] == value:
                c += 1
            chords[0, count] = first_line + r
            chords[1, count] = start
            chords[2, count] = c
            chords[3, count] = value
            count += 1
    return count


@njit(nogil=True, cache=True)
def _group(owners: NDArray[np.int32], objects: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Sort chords by owner, keeping their order otherwise."""
    offsets = np.zeros(objects + 1, dtype=np.int64)
    for owner in owners:
        offsets[owner + 1] += 1
    for o in range(objects):
        offsets[o + 1] += offsets[o]
    order = np.empty(len(owners), dtype=np.int32)
    following = offsets.copy()
    for k in range(len(owners)):
        order[following[owners[k]]] = k
        following[owners[k]] += 1
    return order, offsets


@njit(nogil=True, cache=True)
def index_lines(lines: NDArray[np.int32], members: NDArray[np.int32], rows: int, box: NDArray[np.int64], index: NDArray[np.int64]) -> None:
    """Index one object's chords by the lines of its box: those of line i are `members[index[i]:index[i + 1]]`.

    Lines of a box are numbered `(plane - plane_min) * height + (row - row_min)`; `box` is that of `measuring.find_boxes`,
    `rows` the height of a whole plane.
    """
    height = box[4] - box[1]
    wanted = (box[3] - box[0]) * height
    k = 0
    for i in range(wanted):
        line = (box[0] + i // height) * rows + box[1] + i % height
        index[i] = k
        while k < len(members) and lines[members[k]] == line:
            k += 1
    index[wanted] = k


def warm() -> None:
    """Compile what this module holds."""
    for dtype in (np.int32, np.int64):
        chords = find_chords(np.ones((1, 1, 1), dtype=dtype))
    index_lines(chords.lines, chords.order, 1, np.array([0, 0, 0, 1, 1, 1]), np.empty(2, dtype=np.int64))
