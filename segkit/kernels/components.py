"""Connected components: which pixels hang together, where they are, and in which order they are numbered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


def label_components(mask: NDArray[np.bool_], connectivity: int = 2) -> tuple[NDArray[np.int32], int]:
    """Number the connected components of a mask.

    Parameters
    ----------
    mask : (rows, columns) bool
        True on foreground.
    connectivity : 1 or 2
        1: pixels are joined by edges; 2: by corners too.

    Returns
    -------
    (rows, columns) int32
        0 on background, 1..n on components, numbered in raster order of their first pixel.
    int
        n

    Examples
    --------
    >>> label_components(np.array([[True, False, True], [False, True, False]]))[1]
    1
    """
    return _label(mask, 1 if connectivity == 2 else 0)


@njit(nogil=True, cache=True)
def _find(parents: NDArray[np.int32], run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = parents[run]
    return run


@njit(nogil=True, cache=True)
def _join(parents: NDArray[np.int32], one: int, other: int) -> None:
    one, other = _find(parents, one), _find(parents, other)
    if one < other:
        parents[other] = one
    else:
        parents[one] = other


@njit(nogil=True, cache=True)
def _count_runs(mask: NDArray[np.bool_]) -> int:
    rows, columns = mask.shape
    runs = 0
    for r in range(rows):
        runs += np.int64(mask[r, 0])
        for c in range(1, columns):
            runs += np.int64(mask[r, c] and not mask[r, c - 1])
    return runs


@njit(nogil=True, cache=True)
def _label(mask: NDArray[np.bool_], reach: int) -> tuple[NDArray[np.int32], int]:
    # Works on runs of foreground along the rows: there are some fifty times fewer of them than pixels.
    rows, columns = mask.shape
    labels = np.zeros((rows, columns), np.int32)
    room = _count_runs(mask)
    starts, stops = np.empty(room, np.int32), np.empty(room, np.int32)
    parents = np.empty(room, np.int32)
    row_first = np.empty(rows + 1, np.int64)
    runs = 0
    for r in range(rows):
        row_first[r] = runs
        above = row_first[r - 1] if r else 0
        above_stop = runs
        c = 0
        while c < columns:
            if not mask[r, c]:
                c += 1
                continue
            start = c
            while c < columns and mask[r, c]:
                c += 1
            starts[runs], stops[runs], parents[runs] = start, c, runs
            while above < above_stop and stops[above] + reach <= start:
                above += 1
            other = above
            while other < above_stop and starts[other] < c + reach:
                _join(parents, other, runs)
                other += 1
            runs += 1
    row_first[rows] = runs
    count = 0
    for run in range(runs):
        if parents[run] == run:
            count += 1
            parents[run] = -count
        else:
            # The parent comes earlier, so it holds its number already.
            parents[run] = parents[parents[run]]
    for r in range(rows):
        for run in range(row_first[r], row_first[r + 1]):
            labels[r, starts[run] : stops[run]] = -parents[run]
    return labels, count


@njit(nogil=True, cache=True)
def find_boxes(labels: NDArray[Any], count: int) -> NDArray[np.int32]:
    """Find the bounding box of every label from 1 to `count`; other values are passed over.

    Returns
    -------
    (count + 1, 4) int32
        First row, first column, row after the last, column after the last. A label that does not occur has a box without
        rows: its stop is 0.
    """
    rows, columns = labels.shape
    boxes = np.zeros((count + 1, 4), np.int32)
    boxes[:, 0] = rows
    boxes[:, 1] = columns
    for r in range(rows):
        c = 0
        while c < columns:
            label = labels[r, c]
            if label <= 0 or label > count:
                c += 1
                continue
            start = c
            while c < columns and labels[r, c] == label:
                c += 1
            boxes[label, 0] = min(boxes[label, 0], r)
            boxes[label, 1] = min(boxes[label, 1], start)
            boxes[label, 2] = r + 1
            boxes[label, 3] = max(boxes[label, 3], c)
    return boxes


@njit(nogil=True, cache=True)
def number_in_raster_order(labels: NDArray[np.int32]) -> int:
    """Renumber labels in place as 1..n, in raster order of their first pixel, and return n."""
    rows, columns = labels.shape
    largest = 0
    for r in range(rows):
        for c in range(columns):
            largest = max(largest, labels[r, c])
    numbers = np.zeros(largest + 1, np.int32)
    count = 0
    for r in range(rows):
        for c in range(columns):
            label = labels[r, c]
            if label > 0:
                if numbers[label] == 0:
                    count += 1
                    numbers[label] = count
                labels[r, c] = numbers[label]
    return count


def warm() -> None:
    """Compile what this module holds."""
    labels, count = label_components(np.eye(3, dtype=bool))
    find_boxes(labels, count)
    number_in_raster_order(labels)
