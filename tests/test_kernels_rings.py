"""Outlines, run lengths and extents: exact for any pixels, checked against other libraries and by filling them again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from segkit.kernels import run_lengths
from segkit.kernels.extents import Extents
from segkit.kernels.rings import Rings, trace

LABELS = arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 0, 1, 1, 2, 9]))


def fill(shape: tuple[int, ...], rings: Rings) -> NDArray[np.int64]:
    """Fill every ring again: each upward edge begins its label, each downward one ends it."""
    out = np.zeros(shape, dtype=np.int64)
    for number, label in enumerate(rings.labels):
        corners = rings.of(number)
        change = np.zeros((shape[0] + 1, shape[1] + 1), dtype=np.int64)
        for (row, column), (next_row, next_column) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if column == next_column:
                change[min(row, next_row) : max(row, next_row), column] += 1 if next_row < row else -1
        out += label * np.cumsum(change, axis=1)[:-1, :-1]
    return out


@settings(max_examples=150, deadline=None)
@given(LABELS)
def test_rings_filled_again_are_the_labels(labels: NDArray[np.int32]) -> None:
    rings = trace(labels)
    assert np.array_equal(fill(labels.shape, rings), labels)
    for label in np.unique(labels[labels > 0]):
        assert rings.areas[rings.labels == label].sum() == np.count_nonzero(labels == label)


@settings(max_examples=150, deadline=None)
@given(LABELS)
def test_rings_are_simple_and_without_idle_corners(labels: NDArray[np.int32]) -> None:
    rings = trace(labels)
    assert (np.diff(rings.labels) >= 0).all()
    for number in range(len(rings.labels)):
        corners = rings.of(number)
        assert len({tuple(corner) for corner in corners.tolist()}) == len(corners), "no ring passes a point twice"
        steps = np.roll(corners, -1, axis=0) - corners
        assert ((steps == 0).sum(axis=1) == 1).all(), "edges run along rows and columns"
        assert (steps * np.roll(steps, -1, axis=0)).sum() == 0, "every corner is a turn"


@settings(max_examples=150, deadline=None)
@given(LABELS)
def test_pieces_and_holes_are_counted(labels: NDArray[np.int32]) -> None:
    """Outer rings are the pieces joined by edges; each is followed by its own holes."""
    rings = trace(labels)
    for label in np.unique(labels[labels > 0]):
        _, pieces = ndimage.label(labels == label)
        areas = rings.areas[rings.labels == label]
        assert np.count_nonzero(areas > 0) == pieces
        assert areas[0] > 0
        starts = [*np.flatnonzero(areas > 0), len(areas)]
        assert all(areas[first:end].sum() > 0 for first, end in pairwise(starts))


def test_a_hole_belongs_to_the_piece_around_it() -> None:
    """An island in the hole of the same label has a hole of its own."""
    labels = np.zeros((13, 13), dtype=np.int32)
    labels[1:12, 1:12] = 5
    labels[2:11, 2:11] = 0
    labels[4:9, 4:9] = 5
    labels[6, 6] = 0
    assert trace(labels).areas.tolist() == [121, -81, 25, -1]


def test_an_image_without_objects_has_no_rings() -> None:
    rings = trace(np.zeros((3, 3), dtype=np.uint16))
    assert (len(rings.labels), len(rings.corners), rings.starts.tolist()) == (0, 0, [0])


def test_a_sponge_is_split_in_reasonable_time() -> None:
    """A ring that passes thousands of points twice."""
    labels = (np.indices((301, 301)).sum(axis=0) % 2).astype(np.int32)
    labels[::3] = 1
    assert np.abs(trace(labels).areas).sum() > 0
    assert trace(labels).areas.sum() == labels.sum()


@settings(max_examples=100, deadline=None)
@given(LABELS, st.integers(0, 5), st.integers(0, 5))
def test_run_lengths_are_those_of_pycocotools(labels: NDArray[np.int32], row: int, column: int) -> None:
    """Also for a part of a larger image."""
    whole = np.pad(labels, ((row, 2), (column, 1)))
    ids = np.unique(labels[labels > 0])
    boxes = [[part[0].start, part[1].start, part[0].stop, part[1].stop] for part in ndimage.find_objects(labels) if part]
    found = run_lengths.encode(labels, ids, np.array(boxes), (row, column), *whole.shape)
    assert found == [coco_mask.encode(np.asfortranarray(whole == label, dtype=np.uint8))["counts"] for label in ids]


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(1, 5))
def test_extents_are_the_rows_of_labels(labels: NDArray[np.int32], step: int) -> None:
    extents = Extents()
    for row in range(0, len(labels), step):
        extents.add(labels[row : row + step], row)
    for label in np.unique(labels[labels > 0]):
        rows = np.flatnonzero((labels == label).any(axis=1))
        assert (extents.first[label], extents.last[label]) == (rows[0], rows[-1])
