"""Decision trees over the features of pixels: the whole forest lies in a few flat arrays, so that one compiled loop walks it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Pixels that go through one tree before the next: their features stay in the processor's nearest cache.
_TOGETHER = 64


def walkable(
    feature: NDArray[np.int16], threshold: NDArray[np.float32], left: NDArray[np.int32]
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.int32]]:
    """Turn every leaf into a node that leads back to itself, so that a walk of as many steps as the tree is deep needs no end.

    Parameters
    ----------
    feature, threshold, left : (nodes,)
        As for `add_votes`, with a negative feature at leaves.
    """
    leaf = feature < 0
    here = np.arange(len(feature), dtype=np.int32)
    return np.where(leaf, 0, feature), np.where(leaf, np.float32(np.inf), threshold), np.where(leaf, here, left)


def depths(feature: NDArray[np.int16], left: NDArray[np.int32], roots: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return how many steps the longest walk of each tree has; children come after their parents."""
    level = np.zeros(len(feature), dtype=np.int32)
    for node in np.flatnonzero(feature >= 0):
        level[left[node]] = level[left[node] + 1] = level[node] + 1
    ends = np.append(roots[1:], len(feature))
    return np.array([level[start:end].max() for start, end in zip(roots, ends, strict=True)], dtype=np.int32)


@njit(nogil=True, cache=True)
def add_votes(
    features: NDArray[np.float32],
    feature: NDArray[np.int16],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    roots: NDArray[np.int32],
    steps: NDArray[np.int32],
    votes: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Add what every tree says about every pixel to `total`, tree by tree, so that the order of the pixels cannot show.

    Parameters
    ----------
    features : (pixels, n) float32
    feature : (nodes,) int16
        Which feature a node asks for.
    threshold : (nodes,) float32
        A feature above this goes to the right child, which is stored just after the left one.
    left : (nodes,) int32
        The left child; a leaf is its own, see `walkable`.
    roots, steps : (trees,) int32
        First node of each tree, and how deep it is.
    votes : (nodes, classes) float32
        What a leaf adds.
    total : (pixels, classes) float32
        Added to.
    """
    at = np.empty(_TOGETHER, np.int32)
    for start in range(0, len(features), _TOGETHER):
        count = min(_TOGETHER, len(features) - start)
        for tree in range(len(roots)):
            at[:] = roots[tree]
            # All pixels take a step before any takes the next: the steps of different pixels do not wait for each other.
            for _ in range(steps[tree]):
                for i in range(count):
                    node = at[i]
                    at[i] = left[node] + np.int32(features[start + i, feature[node]] > threshold[node])
            for i in range(count):
                for k in range(votes.shape[1]):
                    total[start + i, k] += votes[at[i], k]


@njit(nogil=True, cache=True)
def add_level_votes(
    features: NDArray[np.float32],
    feature: NDArray[np.int16],
    threshold: NDArray[np.float32],
    votes: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Add what every tree says to `total`, where all nodes of a level ask the same: then pixels need no walk, only comparisons.

    Parameters
    ----------
    features : (pixels, n) float32
    feature, threshold : (trees, levels)
        Which feature a level asks for, and above what the answer is yes.
    votes : (trees, classes, 2 ** levels) float32
        What each tree adds for each row of answers, read as a binary number, the root's answer first.
    total : (pixels, classes) float32
        Added to.
    """
    trees, levels = feature.shape
    columns = np.zeros((features.shape[1], _TOGETHER), np.float32)
    sums = np.zeros((votes.shape[1], _TOGETHER), np.float32)
    at = np.zeros(_TOGETHER, np.int32)
    for start in range(0, len(features), _TOGETHER):
        count = min(_TOGETHER, len(features) - start)
        for i in range(count):
            for n in range(features.shape[1]):
                columns[n, i] = features[start + i, n]
            for k in range(votes.shape[1]):
                sums[k, i] = total[start + i, k]
        # The innermost loops run over all places, used or not: of a fixed length, they become vector instructions.
        for tree in range(trees):
            at[:] = 0
            for level in range(levels):
                values, limit = columns[feature[tree, level]], threshold[tree, level]
                for i in range(_TOGETHER):
                    at[i] = 2 * at[i] + np.int32(values[i] > limit)
            for k in range(votes.shape[1]):
                said, into = votes[tree, k], sums[k]
                for i in range(_TOGETHER):
                    into[i] += said[np.uint32(at[i])]
        for i in range(count):
            for k in range(votes.shape[1]):
                total[start + i, k] = sums[k, i]


def levels_of(
    feature: NDArray[np.int16],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    roots: NDArray[np.int32],
    votes: NDArray[np.float32],
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]] | None:
    """Return a forest in the form that `add_level_votes` takes, or None when it is not of that kind.

    Parameters
    ----------
    feature, threshold, left, roots, votes
        As for `add_votes`, with a negative feature at leaves, and each tree level by level.
    """
    depth = (int(np.append(roots, len(feature))[1]) + 1).bit_length() - 2
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    if depth < 1 or len(feature) != nodes * len(roots) or (np.diff(roots) != nodes).any():
        return None
    asked, limits = (array.reshape(-1, nodes)[:, :inner] for array in (feature, threshold))
    children = left.reshape(-1, nodes)[:, :inner] - roots[:, None]
    firsts = 2 ** np.arange(depth) - 1
    of_level = np.repeat(np.arange(depth), 2 ** np.arange(depth))
    same = (asked == asked[:, firsts][:, of_level]) & (limits == limits[:, firsts][:, of_level])
    if (
        not same.all()
        or (asked < 0).any()
        or (children != 2 * np.arange(inner) + 1).any()
        or (feature.reshape(-1, nodes)[:, inner:] >= 0).any()
    ):
        return None
    return (
        np.ascontiguousarray(asked[:, firsts]),
        np.ascontiguousarray(limits[:, firsts]),
        np.ascontiguousarray(votes.reshape(len(roots), nodes, -1)[:, inner:].transpose(0, 2, 1)),
    )


def warm() -> None:
    """Compile what this module holds."""
    one, none = np.zeros(1, np.int32), np.zeros(1, np.float32)
    add_votes(
        np.zeros((1, 1), np.float32), np.zeros(1, np.int16), none, one, one, one, np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)
    )
    add_level_votes(none[None], np.zeros((1, 1), np.int16), none[None], np.zeros((1, 2, 2), np.float32), np.zeros((1, 2), np.float32))
