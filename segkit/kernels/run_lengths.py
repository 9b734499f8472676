"""Run lengths of labels down the columns, as COCO's compressed strings hold them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


def encode(
    labels: NDArray[Any], ids: NDArray[np.int64], boxes: NDArray[np.int64], origin: tuple[int, int], rows: int, columns: int
) -> list[bytes]:
    """Encode the mask of each object as a COCO run-length string.

    Parameters
    ----------
    labels : (band rows, band columns) integers
        A part of the image that holds the objects whole.
    ids : (objects,) int64
        Which labels to encode.
    boxes : (objects, 4) int64
        First row, first column, and the row and column after the last, within `labels`.
    origin : (row, column)
        Where `labels` lies in the image.
    rows, columns : int
        Size of the whole image.

    Returns
    -------
    list of bytes
        One string per object, for a mask of the whole image.

    Examples
    --------
    >>> encode(np.array([[0, 5], [0, 5]]), np.array([5]), np.array([[0, 1, 2, 2]]), (0, 0), 2, 2)
    [b'22']
    """
    ids, boxes = np.asarray(ids, dtype=np.int64), np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
    data, ends = _encode(np.ascontiguousarray(labels, dtype=np.int32), ids, boxes, *origin, rows, columns)
    text = data.tobytes()
    return [text[start:end] for start, end in pairwise([0, *ends.tolist()])]


@njit(nogil=True, cache=True)
def _encode(
    labels: NDArray[np.int32], ids: NDArray[np.int64], boxes: NDArray[np.int64], row: int, column: int, rows: int, columns: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = np.empty(4096, dtype=np.uint8)
    ends = np.empty(len(ids), dtype=np.int64)
    size = 0
    for o in range(len(ids)):
        top, left, bottom, right = boxes[o]
        counts = np.empty(2 * ((bottom - top) // 2 + 1) * (right - left) + 2, dtype=np.int64)
        runs, reached = 0, 0
        for c in range(left, right):
            base = (c + column) * rows + row
            r = top
            while r < bottom:
                if labels[r, c] != ids[o]:
                    r += 1
                    continue
                start = r
                while r < bottom and labels[r, c] == ids[o]:
                    r += 1
                if runs and base + start == reached:
                    counts[runs - 1] += r - start
                else:
                    counts[runs] = base + start - reached
                    counts[runs + 1] = r - start
                    runs += 2
                reached = base + r
        if reached < rows * columns:
            counts[runs] = rows * columns - reached
            runs += 1
        if size + 13 * runs > len(data):
            data = _grown(data, 2 * (size + 13 * runs))
        size = _put(counts, runs, data, size)
        ends[o] = size
    return data[:size], ends


@njit(nogil=True, cache=True)
def _grown(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    larger = np.empty(size, dtype=np.uint8)
    larger[: len(data)] = data
    return larger


@njit(nogil=True, cache=True)
def _put(counts: NDArray[np.int64], runs: int, data: NDArray[np.uint8], size: int) -> int:
    """Append counts as text: from the fourth on as the difference to the one two before, five bits a letter, low bits first."""
    for i in range(runs):
        rest = counts[i] - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            data[size] = bits + (32 if more else 0) + 48
            size += 1
    return size


def warm() -> None:
    """Compile what this module holds."""
    encode(np.ones((1, 1), dtype=np.int32), np.ones(1, dtype=np.int64), np.array([[0, 0, 1, 1]]), (0, 0), 1, 1)
