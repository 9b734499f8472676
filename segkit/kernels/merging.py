"""Joining what was labelled apart: union-find over the borders of tiles, and the relabelling that follows from it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True)
def _find(parents: NDArray[np.int32], node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@njit(nogil=True, cache=True)
def _join(parents: NDArray[np.int32], one: int, other: int) -> None:
    one, other = _find(parents, one), _find(parents, other)
    if one < other:
        parents[other] = one
    elif other < one:
        parents[one] = other


@njit(nogil=True, cache=True)
def join_lines(parents: NDArray[np.int32], one: NDArray[np.int32], other: NDArray[np.int32], reach: int) -> None:
    """Join the nodes that face each other across a border, in place.

    Parameters
    ----------
    parents : (nodes,) int32
        The forest; every node's parent has a number no larger than its own, so a root is the smallest of its group.
    one, other : (length,) int32
        Node of each pixel on either side of the border, -1 where there is none.
    reach : int
        0: only pixels straight across are neighbours (connectivity 1); 1: diagonal ones too (connectivity 2).
    """
    length = one.shape[0]
    for i in range(length):
        if one[i] < 0:
            continue
        for k in range(max(i - reach, 0), min(i + reach + 1, length)):
            if other[k] >= 0:
                _join(parents, one[i], other[k])


@njit(nogil=True, cache=True)
def number_groups(parents: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Return the group of every node, counted from 0 in the order of their smallest node, and how many groups there are."""
    groups = np.empty(parents.shape[0], np.int32)
    count = 0
    for node in range(parents.shape[0]):
        root = _find(parents, node)
        if root == node:
            groups[node] = count
            count += 1
        else:
            groups[node] = groups[root]
    return groups, count


@njit(nogil=True, cache=True)
def join_nested(boxes: NDArray[np.int32], parents: NDArray[np.int32]) -> None:
    """Join every box with those that lie inside it, in place.

    Parameters
    ----------
    boxes : (n, 4) int32
        First row, first column, row after the last, column after the last; rising by first row.
    parents : (n,) int32
        The forest.
    """
    for outer in range(boxes.shape[0]):
        top, left, bottom, right = boxes[outer]
        first = outer
        while first > 0 and boxes[first - 1, 0] == top:
            first -= 1
        for inner in range(first, boxes.shape[0]):
            if boxes[inner, 0] >= bottom:
                break
            if boxes[inner, 1] >= left and boxes[inner, 2] <= bottom and boxes[inner, 3] <= right:
                _join(parents, outer, inner)


@njit(nogil=True, cache=True)
def frame_components(components: NDArray[np.int32], numbers: NDArray[np.int32], frame: NDArray[np.int32], top: int, left: int) -> None:
    """Write `numbers` of components, which may be 0 on background alone, into `frame` from (top, left) on."""
    rows, columns = components.shape
    for r in range(rows):
        for c in range(columns):
            frame[top + r, left + c] = numbers[components[r, c]]


@njit(nogil=True, cache=True)
def frame_provisional(provisional: NDArray[np.int32], numbers: NDArray[np.int32], frame: NDArray[np.int32]) -> None:
    """Write the components that `split` is to see into `frame`, an array of the same shape.

    Parameters
    ----------
    provisional : (rows, columns) int32
        0 on background, -1, -2, ... on components that meet a border, anything else on foreground of others.
    numbers : (n,) int32
        What to write for each component that meets a border, by its id without the sign.
    """
    rows, columns = provisional.shape
    for r in range(rows):
        for c in range(columns):
            value = provisional[r, c]
            if value == 0:
                frame[r, c] = 0
            elif -numbers.shape[0] < value < 0:
                frame[r, c] = numbers[-value]
            else:
                frame[r, c] = -1


@njit(nogil=True, cache=True)
def mark_unfinished(labels: NDArray[np.int32], components: NDArray[np.int32], marks: NDArray[np.int32]) -> None:
    """Where `labels` is 0 on a component, write the component's mark into it, in place."""
    rows, columns = labels.shape
    for r in range(rows):
        for c in range(columns):
            if labels[r, c] == 0 and components[r, c] != 0:
                labels[r, c] = marks[components[r, c]]


@njit(nogil=True, cache=True)
def replace_labels(labels: NDArray[np.int32], numbers: NDArray[np.int32], outside: int) -> None:
    """Replace every label from 0 to the end of `numbers` by its entry there, and every other value by `outside`, in place."""
    rows, columns = labels.shape
    for r in range(rows):
        for c in range(columns):
            label = labels[r, c]
            labels[r, c] = numbers[label] if 0 <= label < numbers.shape[0] else outside


@njit(nogil=True, cache=True)
def paint_labels(target: NDArray[np.int32], piece: NDArray[np.int32], numbers: NDArray[np.int32]) -> None:
    """Write `numbers` of the labels in `piece` over `target`, an array of the same shape; 0 in `piece` leaves it as it is."""
    rows, columns = piece.shape
    for r in range(rows):
        for c in range(columns):
            if piece[r, c] > 0:
                target[r, c] = numbers[piece[r, c]]


@njit(nogil=True, cache=True)
def measure_components(components: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Find place and size of every component from 1 to `count`.

    Returns
    -------
    (count, 7) int64
        First row, first column, row after the last, column after the last, pixels, and row and column of the first pixel in
        raster order.
    """
    rows, columns = components.shape
    found = np.zeros((count, 7), np.int64)
    for r in range(rows):
        for c in range(columns):
            component = components[r, c]
            if component <= 0 or component > count:
                continue
            one = found[component - 1]
            if one[4] == 0:
                one[0], one[1], one[5], one[6] = r, c, r, c
            one[1] = min(one[1], c)
            one[2] = r + 1
            one[3] = max(one[3], c + 1)
            one[4] += 1
    return found


@njit(nogil=True, cache=True)
def find_first_pixels(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Find the first pixel in raster order of every label from 1 to `count`.

    Returns
    -------
    (count, 2) int64
        Row and column; -1 for a label that does not occur.
    """
    rows, columns = labels.shape
    firsts = np.full((count, 2), -1, np.int64)
    for r in range(rows):
        for c in range(columns):
            label = labels[r, c]
            if 0 < label <= count and firsts[label - 1, 0] < 0:
                firsts[label - 1, 0] = r
                firsts[label - 1, 1] = c
    return firsts


def warm() -> None:
    """Compile what this module holds, for whole arrays and for regions cut out of larger ones where both occur."""
    labels = np.eye(3, dtype=np.int32)
    parents, line, numbers = np.arange(2, dtype=np.int32), np.zeros(1, np.int32), np.arange(2, dtype=np.int32)
    join_lines(parents, line, line, 1)
    join_nested(np.zeros((2, 4), np.int32), parents)
    number_groups(parents)
    frame_components(labels, numbers, labels.copy(), 0, 0)
    mark_unfinished(labels, labels, numbers)
    measure_components(labels, 1)
    find_first_pixels(labels, 1)
    region = labels[:, :2]
    replace_labels(labels, numbers, 0)
    replace_labels(region, numbers, 0)
    frame_provisional(labels, numbers, labels.copy())
    frame_provisional(region, numbers, labels.copy()[:, :2])
    for target in (labels.copy()[:, :2], np.ascontiguousarray(region)):
        paint_labels(target, region, numbers)
        paint_labels(target, np.ascontiguousarray(region), numbers)
