import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stardist.matching import matching, matching_dataset

import segkit.scoring
from segkit.errors import InvalidPixelsError
from segkit.scoring import THRESHOLDS, per_image, pool, score


def random_pair(seed, objects=7):
    """Blocky label images whose objects overlap in every way: split, merged, shifted, missing."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, objects, (6, 6)), np.ones((3, 3), dtype=int))
    other = np.kron(rng.integers(0, objects, (9, 9)), np.ones((2, 2), dtype=int))
    return truth, np.where(rng.random(truth.shape) < 0.7, truth, other)


def assert_equal_to_stardist(truth, labels, threshold):
    ours, theirs = score(truth, labels, (threshold,)).at(threshold), matching(truth, labels, threshold)
    assert (ours.true_positives, ours.false_positives, ours.false_negatives) == (theirs.tp, theirs.fp, theirs.fn)
    assert [ours.precision, ours.recall, ours.f1, ours.ap] == [theirs.precision, theirs.recall, theirs.f1, theirs.accuracy]
    assert ours.pq == pytest.approx(theirs.panoptic_quality, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from((0.05, 0.1, 0.3, 0.4, 0.5, 0.65, 0.9, 1.0)))
def test_equals_stardist(seed, objects, threshold):
    assert_equal_to_stardist(*random_pair(seed, objects), threshold)


@pytest.mark.parametrize("threshold", [*THRESHOLDS, *np.arange(0.5, 1, 0.05)])
def test_equals_stardist_where_iou_is_just_the_threshold(threshold):
    truth, labels = np.zeros((2, 20 * 20), dtype=int)
    for i in range(20):
        truth[20 * i : 20 * i + 20] = i + 1
        labels[20 * i : 20 * i + i + 1] = i + 1
    assert_equal_to_stardist(truth[None], labels[None], float(threshold))


@pytest.mark.parametrize(("there", "found"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_equals_stardist_when_there_is_nothing(there, found):
    one = np.pad(np.ones((4, 4), dtype=np.uint16), 2)
    assert_equal_to_stardist(one * there, one * found, 0.5)


def test_one_object_cut_in_equal_halves_matches_once():
    truth, labels = np.ones((4, 4), dtype=int), np.ones((4, 4), dtype=int)
    labels[2:] = 2
    at = score(truth, labels).at(0.5)
    assert (at.true_positives, at.false_positives, at.false_negatives) == (1, 1, 0)


def test_pooled_and_per_image_equal_stardist():
    pairs = [random_pair(seed) for seed in range(6)]
    scores = [score(*pair, (0.5, 0.7)) for pair in pairs]
    truths, labels = zip(*pairs, strict=True)
    pooled = matching_dataset(truths, labels, 0.5, show_progress=False)
    assert pool(scores).at(0.5).f1 == pooled.f1
    assert pool(scores).pq == pytest.approx(pooled.panoptic_quality, abs=1e-6)
    assert pool(scores).images == 6
    averaged = matching_dataset(truths, labels, 0.5, by_image=True, show_progress=False)
    assert per_image(scores)["f1_50"] == pytest.approx(averaged.f1)
    assert per_image(scores)["pq"] == pytest.approx(averaged.panoptic_quality, abs=1e-6)


def test_mean_ap_is_the_mean_over_ten_thresholds():
    truth, labels = random_pair(3)
    expected = np.mean([matching(truth, labels, threshold).accuracy for threshold in THRESHOLDS])
    assert score(truth, labels).ap_mean == pytest.approx(expected)


def test_count_error_does_not_cancel_between_images():
    two, one = np.array([[1, 0, 2]]), np.array([[1, 0, 0]])
    both = pool([score(two, one), score(one, two)])
    assert both.miscounted == 2
    assert both.count_error == pytest.approx(2 / 3)


def test_labels_need_not_be_consecutive_nor_of_one_type():
    truth, labels = random_pair(5)
    renumbered = np.where(labels > 0, labels.astype(np.uint32) + np.uint32(4_000_000_000), 0).astype(np.uint32)
    assert score(truth.astype(np.uint16), renumbered) == score(truth, labels)


def test_volumes_score_like_planes():
    truth, labels = random_pair(8)
    assert score(truth.reshape(2, 9, 18), labels.reshape(2, 9, 18)) == score(truth, labels)


def test_a_hundred_thousand_objects_need_no_table_of_all_pairs():
    truth = np.arange(1, 320 * 320 + 1, dtype=np.int32).reshape(320, 320).repeat(6, axis=0).repeat(6, axis=1)
    truth[::6] = truth[:, ::6] = 0
    scores = score(truth, np.roll(truth, 1, axis=0))
    assert scores.truth == scores.found == 320 * 320
    assert scores.at(0.65).f1 == 1
    assert scores.at(0.7).f1 == 0


@pytest.mark.parametrize(
    ("truth", "labels"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int)),
        (np.zeros((2, 2)), np.zeros((2, 2), int)),
        (-np.ones((2, 2), int), np.zeros((2, 2), int)),
    ],
)
def test_what_is_no_pair_of_label_images_is_refused(truth, labels):
    with pytest.raises(InvalidPixelsError):
        score(truth, labels)


def test_a_threshold_that_was_not_asked_for_is_named():
    with pytest.raises(LookupError, match=r"0\.33"):
        score(np.ones((2, 2), int), np.ones((2, 2), int)).at(0.33)
    with pytest.raises(ValueError, match="above 0"):
        score(np.ones((2, 2), int), np.ones((2, 2), int), (0.0,))


def test_examples_in_docstrings():
    assert doctest.testmod(segkit.scoring).failed == 0
