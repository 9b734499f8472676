"""How well a label image agrees with the truth: objects are matched one to one by how much they overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from segkit.errors import InvalidPixelsError
from segkit.kernels.overlaps import overlap_runs

#: The thresholds that the field averages over.
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True)
class ScoresAt:
    """The scores at one IoU threshold. All are from 0 to 1, and 0 when nothing was matched."""

    threshold: float  #: objects match when their intersection is at least this part of their union
    true_positives: int  #: matched objects
    false_positives: int  #: objects found that match none of the truth
    false_negatives: int  #: objects of the truth that match none found
    matched_iou: float  #: sum of the IoU of all matches

    @property
    def precision(self) -> float:
        """Part of the objects found that are in the truth."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Part of the objects of the truth that were found."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def ap(self) -> float:
        """Average precision as the Data Science Bowl defined it: TP / (TP + FP + FN)."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)

    @property
    def pq(self) -> float:
        """Panoptic quality: the mean IoU of the matches, times F1."""
        return _ratio(self.matched_iou, self.true_positives + (self.false_positives + self.false_negatives) / 2)


@dataclass(frozen=True)
class Scores:
    """How a label image, or several taken together, agree with the truth."""

    thresholds: tuple[float, ...]  #: IoU from which objects match, one per entry of the next two
    true_positives: tuple[int, ...]  #: matched objects at each threshold
    matched_iou: tuple[float, ...]  #: sum of the IoU of the matches at each threshold
    truth: int  #: objects in the truth
    found: int  #: objects found
    miscounted: int  #: objects too many or too few, summed over images without their sign
    images: int = 1  #: label images these scores are of

    def at(self, threshold: float = 0.5) -> ScoresAt:
        """Return precision, recall, F1, AP and PQ at one of `thresholds`.

        Raises
        ------
        LookupError
            When the scores were not computed at this threshold; `score(..., thresholds=...)` takes any.
        """
        for i, known in enumerate(self.thresholds):
            if abs(known - threshold) < 1e-6:
                matched = self.true_positives[i]
                return ScoresAt(known, matched, self.found - matched, self.truth - matched, self.matched_iou[i])
        raise LookupError(f"No scores at IoU {threshold}: give it to score(..., thresholds=...). Known: {self.thresholds}")

    @property
    def ap_mean(self) -> float:
        """Average precision, averaged over the thresholds."""
        return float(np.mean([self.at(threshold).ap for threshold in self.thresholds])) if self.thresholds else 0.0

    @property
    def pq(self) -> float:
        """Panoptic quality at IoU 0.5, where it is defined."""
        return self.at(0.5).pq

    @property
    def count_error(self) -> float:
        """Objects miscounted, as a part of the objects in the truth."""
        return self.miscounted / max(self.truth, 1)

    def as_dict(self) -> dict[str, float]:
        """Return the figures that benchmarks print: `f1_50`, `f1_70`, `ap_50`, `ap_mean`, `pq` and more, at the default thresholds."""
        half, strict = self.at(0.5), self.at(0.7)
        return {
            "precision_50": half.precision,
            "recall_50": half.recall,
            "f1_50": half.f1,
            "f1_70": strict.f1,
            "ap_50": half.ap,
            "ap_70": strict.ap,
            "ap_mean": self.ap_mean,
            "pq": self.pq,
            "count_error": self.count_error,
        }


def score(truth: ArrayLike, labels: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> Scores:
    """Compare a label image with the truth.

    Objects are matched one to one: as many as possible whose IoU reaches the threshold, and of such matchings the one of
    the largest summed IoU. IoU and threshold are compared as float32, so that 13 of 20 pixels reach a 0.65 that was
    computed as 0.5 + 3 * 0.05.

    Parameters
    ----------
    truth, labels : (rows, columns) or (planes, rows, columns) integers
        0 on background. Labels need not be consecutive.
    thresholds : sequence of float
        IoU from which two objects match, each above 0 and at most 1.

    Returns
    -------
    Scores

    Raises
    ------
    InvalidPixelsError
        When the two differ in shape, or are not integers from 0.
    ValueError
        When a threshold is not above 0 and at most 1.

    Examples
    --------
    >>> truth = np.zeros((10, 20), dtype=np.int32)
    >>> truth[2:8, 2:8] = 1
    >>> truth[2:8, 12:18] = 2
    >>> labels = np.where(truth == 1, 5, 0)
    >>> labels[3:8, 12:18] = 9
    >>> scores = score(truth, labels)
    >>> scores.at(0.8).f1, scores.at(0.85).recall, round(scores.ap_mean, 3)
    (1.0, 0.5, 0.8)
    """
    true, found = _label_image(truth, "truth"), _label_image(labels, "labels")
    if true.shape != found.shape:
        raise InvalidPixelsError(f"Truth and labels must have one shape, and have {true.shape} and {found.shape}.")
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"Thresholds must be above 0 and at most 1, and are {tuple(thresholds)}.")
    overlaps = _overlaps(true.reshape(-1), found.reshape(-1))
    matches = [_match(overlaps, threshold) for threshold in thresholds]
    return Scores(
        thresholds=tuple(float(threshold) for threshold in thresholds),
        true_positives=tuple(count for count, _ in matches),
        matched_iou=tuple(iou for _, iou in matches),
        truth=overlaps.truth,
        found=overlaps.found,
        miscounted=abs(overlaps.truth - overlaps.found),
    )


def pool(scores: Iterable[Scores]) -> Scores:
    """Take several images together, as if they were one: every object weighs the same.

    Examples
    --------
    >>> one, none = np.ones((4, 4), dtype=int), np.zeros((4, 4), dtype=int)
    >>> pool([score(one, one), score(one, none)]).at(0.5).recall
    0.5
    """
    parts = list(scores)
    if len({part.thresholds for part in parts}) != 1:
        raise ValueError("Pool the scores of at least one image, all computed at the same thresholds.")
    return Scores(
        thresholds=parts[0].thresholds,
        true_positives=tuple(map(sum, zip(*(part.true_positives for part in parts), strict=True))),
        matched_iou=tuple(map(sum, zip(*(part.matched_iou for part in parts), strict=True))),
        truth=sum(part.truth for part in parts),
        found=sum(part.found for part in parts),
        miscounted=sum(part.miscounted for part in parts),
        images=sum(part.images for part in parts),
    )


def per_image(scores: Iterable[Scores]) -> dict[str, float]:
    """Average the figures of `Scores.as_dict` over images: every image weighs the same, one in which nothing matches counts 0."""
    rows = [part.as_dict() for part in scores]
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}


@dataclass(frozen=True)
class _Overlaps:
    """Every pair of objects that share a pixel."""

    truth: int  #: objects in the truth
    found: int  #: objects found
    rows: NDArray[np.intp]  #: number of the pair's true object, from 0
    columns: NDArray[np.intp]  #: number of the pair's object found, from 0
    iou: NDArray[np.float32]  #: shared pixels over the pixels of both


def _ratio(part: float, whole: float) -> float:
    return part / whole if part > 0 else 0.0


def _label_image(labels: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    if array.dtype.kind not in "iu" or (array.size and array.dtype.kind == "i" and array.min() < 0):
        raise InvalidPixelsError(f"A label image holds integers from 0 up, and {name} is {array.dtype} or holds a negative number.")
    return np.ascontiguousarray(array)


def _overlaps(truth: NDArray[Any], found: NDArray[Any]) -> _Overlaps:
    true_labels, found_labels, lengths = overlap_runs(truth, found)
    rows, true_count = _numbered(true_labels)
    columns, found_count = _numbered(found_labels)
    areas = np.bincount(rows, lengths, true_count + 1), np.bincount(columns, lengths, found_count + 1)
    both = (rows > 0) & (columns > 0)
    pairs = (rows[both] - 1, columns[both] - 1)
    shared = scipy.sparse.coo_array((lengths[both], pairs), shape=(true_count, found_count)).tocsr().tocoo()
    union = areas[0][1 + shared.row] + areas[1][1 + shared.col] - shared.data
    return _Overlaps(true_count, found_count, shared.row, shared.col, (shared.data / union).astype(np.float32))


def _numbered(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Number labels 1..n without gaps; 0 stays 0. Returns the numbers and n."""
    largest = int(labels.max(initial=0))
    if largest > 4 * labels.size + 1024:
        known, numbers = np.unique(np.append(labels, 0), return_inverse=True)
        return numbers[:-1].astype(np.int64), len(known) - 1
    present = np.zeros(largest + 1, dtype=bool)
    present[labels] = True
    present[0] = False
    numbers = np.where(present, np.cumsum(present), 0)
    return numbers[labels], int(present.sum())


def _match(overlaps: _Overlaps, threshold: float) -> tuple[int, float]:
    """Return how many objects match at a threshold, and the sum of their IoU."""
    reaches = overlaps.iou >= np.float32(threshold)
    rows, columns, iou = overlaps.rows[reaches], overlaps.columns[reaches], overlaps.iou[reaches]
    if len(np.unique(rows)) == len(rows) and len(np.unique(columns)) == len(columns):
        return len(rows), float(iou.sum(dtype=np.float64))
    return _assign(overlaps, np.float32(threshold))


def _assign(overlaps: _Overlaps, threshold: np.float32) -> tuple[int, float]:
    """Choose among objects that could match more than one other: the most matches first, then the largest summed IoU.

    Every true object may also stay alone, on a column of its own; so a matching of all rows always exists.
    """
    alone = np.arange(overlaps.truth)
    rows, columns = np.concatenate([overlaps.rows, alone]), np.concatenate([overlaps.columns, overlaps.found + alone])
    gain = (overlaps.iou >= threshold) + overlaps.iou.astype(np.float64) / (2 * min(overlaps.truth, overlaps.found))
    costs = 2.0 - np.concatenate([gain, np.zeros(overlaps.truth)])
    shape = (overlaps.truth, overlaps.found + overlaps.truth)
    chosen = min_weight_full_bipartite_matching(scipy.sparse.csr_array((costs, (rows, columns)), shape=shape))
    iou = scipy.sparse.csr_array((overlaps.iou, (overlaps.rows, overlaps.columns)), shape=shape)
    matched = np.asarray(iou[chosen]).reshape(-1)
    kept = matched[matched >= threshold]
    return len(kept), float(kept.sum(dtype=np.float64))
