"""Gradient boosting of level-wise trees: all nodes of a level ask the same question, so that a trained forest needs no walk.

Each round grows one tree for all classes, by the second-order gain of the softmax loss, on features cut into 255 bins. Deterministic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

BINS = 255


def boost(
    shown: NDArray[np.float32],
    meant: NDArray[np.int8],
    *,
    classes: int,
    rounds: int,
    depth: int = 6,
    rate: float = 0.1,
    shrinkage: float = 3.0,
    share: float = 1.0,
    seed: int = 0,
) -> tuple[list[dict[str, NDArray[Any]]], NDArray[np.float32]]:
    """Train trees on examples.

    Parameters
    ----------
    shown : (examples, features) float32
    meant : (examples,) int8
        The class of each.
    rounds, depth : int
        How many trees, and how many levels each has.
    rate : float
        How much of each tree's correction is taken.
    shrinkage : float
        Pull of a leaf's votes towards 0, in examples.
    share : float
        Share of the examples, drawn anew each round, that chooses the questions; the votes are those of all.

    Returns
    -------
    list of dict
        Trees in the form that `segkit.segmenters.forest.plant` takes.
    (classes,) float32
        What every example starts with.
    """
    random = np.random.default_rng(seed)
    edges = bin_edges(shown)
    binned = np.stack([np.searchsorted(edge, column, side="left") for edge, column in zip(edges, shown.T, strict=True)]).astype(np.uint8)
    base = np.log(np.bincount(meant, minlength=classes) / len(meant)).astype(np.float32)
    scores = np.tile(base, (len(meant), 1))
    trees = []
    for _ in range(rounds):
        slopes, curves = _gradients(scores, meant)
        drawn = np.flatnonzero(random.random(len(meant)) < share) if share < 1 else np.arange(len(meant))
        questions, limits = _ask(binned, slopes, curves, drawn, depth, shrinkage)
        leaf = _leaves(binned, questions, limits)
        votes = -rate * _sums(leaf, slopes, 2**depth) / (_sums(leaf, curves, 2**depth) + shrinkage)
        scores += votes.astype(np.float32)[leaf]
        trees.append(_tree(questions, [edges[f][min(b, len(edges[f]) - 1)] for f, b in zip(questions, limits, strict=True)], votes))
    return trees, base


def bin_edges(shown: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the values at which each feature is cut into bins of about as many examples each."""
    shares = np.linspace(0, 1, BINS + 1)[1:-1]
    return [np.unique(np.quantile(column[:: max(1, len(column) // 200_000)], shares, method="nearest")) for column in shown.T]


@njit(cache=True)
def _gradients(scores: NDArray[np.float32], meant: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    slopes, curves = np.empty_like(scores), np.empty_like(scores)
    for i in range(len(scores)):
        most, total = scores[i].max(), np.float32(0)
        for k in range(scores.shape[1]):
            slopes[i, k] = np.exp(scores[i, k] - most)
            total += slopes[i, k]
        for k in range(scores.shape[1]):
            likely = slopes[i, k] / total
            slopes[i, k] = likely - np.float32(meant[i] == k)
            curves[i, k] = max(likely * (1 - likely), np.float32(1e-6))
    return slopes, curves


def _ask(
    binned: NDArray[np.uint8],
    slopes: NDArray[np.float32],
    curves: NDArray[np.float32],
    drawn: NDArray[np.int64],
    depth: int,
    shrinkage: float,
) -> tuple[list[int], list[int]]:
    """Choose the question of each level: the feature and bin that gain most over all nodes of the level together."""
    leaf = np.zeros(len(drawn), dtype=np.uint8)
    questions, limits = [], []
    for level in range(depth):
        gains = np.stack([_gains(binned[f], slopes, curves, drawn, leaf, 2**level, shrinkage) for f in range(len(binned))])
        feature, limit = np.unravel_index(int(np.argmax(gains)), gains.shape)
        questions.append(int(feature))
        limits.append(int(limit))
        leaf = 2 * leaf + (binned[feature][drawn] > limit)
    return questions, limits


@njit(cache=True)
def _gains(
    column: NDArray[np.uint8],
    slopes: NDArray[np.float32],
    curves: NDArray[np.float32],
    drawn: NDArray[np.int64],
    leaf: NDArray[np.uint8],
    leaves: int,
    shrinkage: float,
) -> NDArray[np.float64]:
    classes = slopes.shape[1]
    sums = np.zeros((leaves, BINS, classes, 2))
    for n in range(len(drawn)):
        cell = sums[leaf[n], column[drawn[n]]]
        for k in range(classes):
            cell[k, 0] += slopes[drawn[n], k]
            cell[k, 1] += curves[drawn[n], k]
    gains = np.zeros(BINS)
    for node in range(leaves):
        for k in range(classes):
            slope, curve = sums[node, :, k, 0].sum(), sums[node, :, k, 1].sum()
            left, left_curve = 0.0, 0.0
            for b in range(BINS):
                left += sums[node, b, k, 0]
                left_curve += sums[node, b, k, 1]
                gains[b] += left**2 / (left_curve + shrinkage) + (slope - left) ** 2 / (curve - left_curve + shrinkage)
    return gains


def _leaves(binned: NDArray[np.uint8], questions: list[int], limits: list[int]) -> NDArray[np.int64]:
    leaf = np.zeros(binned.shape[1], dtype=np.int64)
    for feature, limit in zip(questions, limits, strict=True):
        leaf = 2 * leaf + (binned[feature] > limit)
    return leaf


def _sums(leaf: NDArray[np.int64], values: NDArray[np.float32], leaves: int) -> NDArray[np.float64]:
    return np.stack([np.bincount(leaf, weights=column, minlength=leaves) for column in values.T], axis=1)


def _tree(questions: list[int], limits: list[Any], votes: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Write a tree out node by node, level by level."""
    depth, inner = len(questions), 2 ** len(questions) - 1
    of_level = np.repeat(np.arange(depth), 2 ** np.arange(depth))
    nothing = np.zeros(len(votes))
    here = np.arange(inner)
    return {
        "feature": np.concatenate([np.array(questions)[of_level], nothing - 1]).astype(int),
        "threshold": np.concatenate([np.array(limits)[of_level], nothing]).astype(np.float32),
        "left": np.concatenate([2 * here + 1, nothing]).astype(int),
        "right": np.concatenate([2 * here + 2, nothing]).astype(int),
        "votes": np.concatenate([np.zeros((inner, votes.shape[1])), votes]),
    }
