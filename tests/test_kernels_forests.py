"""Level-wise trees say, without a walk, what the same trees say when they are walked; and boosting makes such trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.boosting import boost
from segkit.kernels.forests import add_level_votes, add_votes, depths, levels_of, walkable
from segkit.segmenters.forest import plant


def rings(count: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Points in three rings about the middle, which no single question tells apart; and which ring."""
    points = np.random.default_rng(0).uniform(-1, 1, (count, 3)).astype(np.float32)
    return points, np.digitize(np.hypot(points[:, 0], points[:, 1]), (0.5, 0.9)).astype(np.int8)


def walk(planted: dict[str, NDArray[Any]], shown: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.zeros((len(shown), planted["votes"].shape[1]), np.float32)
    feature, threshold, left = walkable(planted["feature"], planted["threshold"], planted["left"])
    steps = depths(planted["feature"], planted["left"], planted["roots"])
    add_votes(shown, feature, threshold, left, planted["roots"], steps, planted["votes"], total)
    return total


def test_boosted_trees_learn_and_need_no_walk() -> None:
    shown, meant = rings(3000)
    trees, base = boost(shown, meant, classes=3, rounds=25, depth=4, rate=0.3)
    planted = plant(trees)
    levels = levels_of(*(planted[name] for name in ("feature", "threshold", "left", "roots", "votes")))
    assert levels is not None
    total = np.zeros((len(shown), 3), np.float32)
    add_level_votes(shown, *levels, total)
    np.testing.assert_allclose(total, walk(planted, shown), atol=1e-5)
    assert ((base + total).argmax(axis=1) == meant).mean() > 0.95


def test_the_order_and_number_of_pixels_do_not_show() -> None:
    shown, meant = rings(1000)
    trees, _ = boost(shown, meant, classes=3, rounds=5, depth=3)
    levels = levels_of(*(plant(trees)[name] for name in ("feature", "threshold", "left", "roots", "votes")))
    assert levels is not None
    whole, part = np.zeros((1000, 3), np.float32), np.zeros((77, 3), np.float32)
    add_level_votes(shown, *levels, whole)
    add_level_votes(np.ascontiguousarray(shown[333:410]), *levels, part)
    np.testing.assert_array_equal(part, whole[333:410])


def test_other_trees_are_walked() -> None:
    shown, meant = rings(500)
    trees, _ = boost(shown, meant, classes=3, rounds=2, depth=2)
    trees[1]["threshold"][2] += 0.1  # the two nodes of a level ask differently
    planted = plant(trees)
    assert levels_of(*(planted[name] for name in ("feature", "threshold", "left", "roots", "votes"))) is None
    stump = plant([{key: array[:1] for key, array in trees[0].items()} | {"feature": np.array([-1])}])
    assert levels_of(*(stump[name] for name in ("feature", "threshold", "left", "roots", "votes"))) is None
