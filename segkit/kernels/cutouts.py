"""One component at a time, on its own cut-out: holes, distances to the edge, peaks of the distance.

A cut-out is the component's bounding box with a rim of one pixel all around, so that no loop has to ask for bounds.
It holds 1 on the component itself, 2 on foreground of others, 0 on background; the rim is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

OWN, OTHER, REACHED = 1, 2, 3

#: Farther than any component is wide; its square still fits 32 bits.
FAR = 32000


@njit(nogil=True, cache=True)
def cut_out(components: NDArray[np.int32], label: int, box: NDArray[np.int32], scratch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy a component into a cut-out that lives in `scratch`, which must have room for it with its rim."""
    rows, columns = box[2] - box[0], box[3] - box[1]
    piece = scratch[: (rows + 2) * (columns + 2)].reshape(rows + 2, columns + 2)
    piece[0, :] = 0
    piece[rows + 1, :] = 0
    for r in range(rows):
        line, source = piece[r + 1], components[box[0] + r, box[1] : box[3]]
        line[0] = 0
        line[columns + 1] = 0
        for c in range(columns):
            line[c + 1] = OWN if source[c] == label else (OTHER if source[c] != 0 else 0)
    return piece


@njit(nogil=True, cache=True)
def has_holes(piece: NDArray[np.uint8]) -> bool:
    """Tell whether a component has a hole, from its Euler number: corners joined, one component has 1 - holes."""
    rows, columns = piece.shape
    euler = 0
    for r in range(rows - 1):
        above, below = piece[r], piece[r + 1]
        for c in range(columns - 1):
            a, b = np.int32(above[c] == OWN), np.int32(above[c + 1] == OWN)
            d, e = np.int32(below[c] == OWN), np.int32(below[c + 1] == OWN)
            total = a + b + d + e
            diagonal = (total == 2) & (a == e)
            euler += np.int32(total == 1) - np.int32(total == 3) - 2 * np.int32(diagonal)
    return euler != 4


@njit(nogil=True, cache=True)
def fill_holes(piece: NDArray[np.uint8], stack: NDArray[np.int32]) -> None:
    """Make the background that a component encloses its own; foreground of others inside it stays theirs.

    `stack` is scratch with room for every pixel of the cut-out.
    """
    columns = piece.shape[1]
    flat = piece.reshape(-1)
    # What is reached from the rim without stepping on the component is outside; rim pixels are never stepped from twice.
    stack[0] = 0
    flat[0] = REACHED
    height = 1
    while height:
        height -= 1
        at = stack[height]
        for step in (-columns, -1, 1, columns):
            to = at + step
            if 0 <= to < len(flat) and (flat[to] == 0 or flat[to] == OTHER):
                flat[to] = REACHED + flat[to]
                stack[height] = to
                height += 1
    for i in range(len(flat)):
        if flat[i] >= REACHED:
            flat[i] -= REACHED
        elif flat[i] == 0:
            flat[i] = OWN


@njit(nogil=True, cache=True)
def squared_distances(piece: NDArray[np.uint8], walls: NDArray[np.bool_], scratch: NDArray[np.int32], out: NDArray[np.int32]) -> int:
    """Compute the squared Euclidean distance of every own pixel to the nearest pixel that is not, exactly.

    Parameters
    ----------
    piece : (rows, columns) uint8
        The cut-out.
    walls : (4,) bool
        Whether its upper, left, lower and right rim lie outside the image, where there is nothing to be distant from.
    scratch : (rows, columns) int32
        Overwritten.
    out : (rows, columns) int32
        Squared distances; 0 off the component.

    Returns
    -------
    int
        The largest squared distance.
    """
    rows = len(piece)
    _vertical_distances(piece, walls, scratch)
    largest = 0
    out[0, :] = 0
    out[rows - 1, :] = 0
    for r in range(1, rows - 1):
        largest = max(largest, _nearest_in_row(piece[r], scratch[r], out[r]))
    if largest >= FAR * FAR:
        # Nothing but component as far as the image goes: no pixel is deeper than another.
        out[:] = np.minimum(out, 1)
        return 1
    return largest


@njit(nogil=True, cache=True)
def _vertical_distances(piece: NDArray[np.uint8], walls: NDArray[np.bool_], out: NDArray[np.int32]) -> None:
    rows, columns = piece.shape
    out[0, :] = FAR if walls[0] else 0
    out[rows - 1, :] = FAR if walls[2] else 0
    for r in range(1, rows - 1):
        for c in range(1, columns - 1):
            out[r, c] = min(out[r - 1, c] + 1, FAR) if piece[r, c] == OWN else 0
        out[r, 0] = FAR if walls[1] else 0
        out[r, columns - 1] = FAR if walls[3] else 0
    for r in range(rows - 2, 0, -1):
        for c in range(1, columns - 1):
            out[r, c] = min(out[r, c], out[r + 1, c] + 1)
    for r in range(1, rows - 1):
        for c in range(columns):
            out[r, c] *= out[r, c]


@njit(nogil=True, cache=True)
def _nearest_in_row(line: NDArray[np.uint8], squares: NDArray[np.int32], out: NDArray[np.int32]) -> int:
    # Every pixel of the row looks one pixel farther each time, all at once, until that is farther than what all have found.
    columns = len(line)
    largest = 0
    for c in range(columns):
        out[c] = squares[c] if line[c] == OWN else 0
        largest = max(largest, out[c])
    reach = 1
    while reach * reach < largest and reach < columns:
        square = reach * reach
        for c in range(reach, columns):
            out[c] = min(out[c], squares[c - reach] + square)
        for c in range(columns - reach):
            out[c] = min(out[c], squares[c + reach] + square)
        largest = 0
        for c in range(columns):
            largest = max(largest, out[c])
        reach += 1
    return largest


@njit(nogil=True, cache=True)
def mark_peaks(heights: NDArray[np.int32], reach: int, scratch: NDArray[np.int32], peaks: NDArray[np.uint8]) -> int:
    """Mark the pixels that are higher than 0 and nowhere lower within `reach` rows and columns; return how many there are."""
    rows, columns = heights.shape
    for r in range(rows):
        line, best = heights[r], scratch[r]
        for c in range(columns):
            best[c] = line[c]
        for k in range(1, min(reach + 1, columns)):
            for c in range(k, columns):
                best[c] = max(best[c], line[c - k])
            for c in range(columns - k):
                best[c] = max(best[c], line[c + k])
    count = 0
    for r in range(rows):
        for c in range(columns):
            peak = heights[r, c] > 0 and heights[r, c] == scratch[r, c]
            if peak:
                for k in range(max(r - reach, 0), min(r + reach + 1, rows)):
                    if scratch[k, c] > heights[r, c]:
                        peak = False
                        break
            peaks[r, c] = peak
            count += np.int64(peak)
    return count


@njit(nogil=True, cache=True)
def choose_peaks(heights: NDArray[Any], peaks: NDArray[np.uint8], count: int, spacing: int) -> NDArray[np.int32]:
    """Choose the highest peaks first, and none nearer than `spacing` rows and columns to one chosen before.

    Returns
    -------
    (n,) int32
        Places of the chosen peaks in the flattened cut-out, in raster order. Of equal peaks, the first is chosen. `peaks` is used up.
    """
    rows, columns = peaks.shape
    places = np.empty(count, np.int32)
    found = 0
    for i in range(rows * columns):
        if peaks.reshape(-1)[i]:
            places[found] = i
            found += 1
    flat = heights.reshape(-1)
    if count > 1:
        places = places[np.argsort(-flat[places], kind="mergesort")]
    chosen = 0
    for place in places:
        r, c = place // columns, place % columns
        if not peaks[r, c]:
            continue
        places[chosen] = place
        chosen += 1
        peaks[max(r - spacing + 1, 0) : r + spacing, max(c - spacing + 1, 0) : c + spacing] = 0
    return np.sort(places[:chosen])


@njit(nogil=True, cache=True)
def flood(
    piece: NDArray[np.uint8],
    levels: NDArray[np.int32],
    deepest: int,
    seeds: NDArray[np.int32],
    queue: NDArray[np.int32],
    marks: NDArray[np.int32],
) -> None:
    """Watershed by flooding from seeds, deepest level first, first come first served within a level.

    Parameters
    ----------
    piece : (rows, columns) uint8
        The cut-out; only its own pixels are flooded, over their edges.
    levels : (rows, columns) int32
        Pixels of a larger number, up to `deepest`, are flooded earlier.
    seeds : (n,) int32
        Places of the seeds in the flattened cut-out.
    queue : int32
        Scratch with room for every pixel of the cut-out.
    marks : (rows, columns) int32
        Receives 1..n, in the order of the seeds, and 0 where nothing is reached.
    """
    columns = piece.shape[1]
    own, depth, mark = piece.reshape(-1), levels.reshape(-1), marks.reshape(-1)
    mark[:] = 0
    heads = np.full(deepest + 2, -1, np.int32)
    tails = np.empty(deepest + 2, np.int32)
    # The seeds go first, then nothing is flooded from a shallower level as if it were deeper.
    level = deepest + 1
    for n in range(len(seeds)):
        mark[seeds[n]] = n + 1
        _enqueue(seeds[n], level, heads, tails, queue)
    while level >= 0:
        at = heads[level]
        if at < 0:
            level -= 1
            continue
        heads[level] = queue[at]
        for step in (-columns, -1, 1, columns):
            to = at + step
            if own[to] == OWN and mark[to] == 0:
                mark[to] = mark[at]
                _enqueue(to, min(depth[to], level), heads, tails, queue)


@njit(nogil=True, cache=True, inline="always")
def _enqueue(place: int, level: int, heads: NDArray[np.int32], tails: NDArray[np.int32], queue: NDArray[np.int32]) -> None:
    queue[place] = -1
    if heads[level] < 0:
        heads[level] = place
    else:
        queue[tails[level]] = place
    tails[level] = place


@njit(nogil=True, cache=True)
def largest_cutout(boxes: NDArray[np.int32]) -> int:
    """Return how many pixels the largest box has with its rim."""
    largest = 1
    for label in range(1, len(boxes)):
        if boxes[label, 2]:
            largest = max(largest, (boxes[label, 2] - boxes[label, 0] + 2) * (boxes[label, 3] - boxes[label, 1] + 2))
    return largest


@njit(nogil=True, cache=True)
def walls_of(box: NDArray[np.int32], walls: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Tell which sides of a box lie on sides of the image."""
    sides = np.empty(4, np.bool_)
    sides[0] = walls[0] and box[0] == 0
    sides[1] = walls[1] and box[1] == 0
    sides[2] = walls[2] and box[2] == rows
    sides[3] = walls[3] and box[3] == columns
    return sides


@njit(nogil=True, cache=True)
def write_parts(marks: NDArray[np.int32], parts: int, smallest: int, box: NDArray[np.int32], labels: NDArray[np.int32], count: int) -> int:
    """Write the parts of a cut-out that are large enough into `labels`, counting on from `count`; return the new count."""
    numbers = np.zeros(parts + 1, np.int32)
    if smallest > 1:
        for mark in marks.reshape(-1):
            numbers[mark] += 1
    for n in range(1, parts + 1):
        if smallest <= 1 or numbers[n] >= smallest:
            count += 1
            numbers[n] = count
        else:
            numbers[n] = 0
    for r in range(box[2] - box[0]):
        source, line = marks[r + 1], labels[box[0] + r]
        for c in range(box[3] - box[1]):
            if source[c + 1]:
                line[box[1] + c] = numbers[source[c + 1]]
    return count
