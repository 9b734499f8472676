"""What a person does to a label image by hand, with undo and redo: pure work on arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.errors import CorrectionError

Point = tuple[float, float]  #: (row, column), in pixels of the region
Box = tuple[int, int, int, int]  #: row, column, end row, end column

#: Steps that can be undone.
REMEMBERED = 200
#: A piece that a cut leaves counts as an object from so many pixels, or from this share of the object.
SMALLEST_PIECE, SMALLEST_SHARE = 4, 0.005


@dataclass(frozen=True)
class Change:
    """One thing that was done."""

    kind: str  #: "merge", "split", "draw", "paint", "erase" or "delete"
    objects: tuple[int, ...]  #: the numbers it was done to
    made: tuple[int, ...] = ()  #: new numbers

    def __str__(self) -> str:
        named = ", ".join(map(str, self.objects))
        made = f" → {', '.join(map(str, self.made))}" if self.made else ""
        return f"{self.kind} {named}{made}".strip()


@dataclass(frozen=True)
class Step:
    """A change, and the pixels before and after it."""

    change: Change
    box: Box
    before: NDArray[np.int32] = field(repr=False)
    after: NDArray[np.int32] = field(repr=False)

    @property
    def touched(self) -> set[int]:
        """Objects whose pixels it changed."""
        differ = self.before != self.after
        return {int(label) for label in np.union1d(self.before[differ], self.after[differ])} - {0}


class Edits:
    """The labels of a region while they are corrected.

    Parameters
    ----------
    labels : (rows, columns) int32
        0 on background; changed in place.
    next_label : int
        The first number that no object of the whole image has.
    locked : collection of int
        Objects that reach beyond the region: here they cannot be changed.

    Examples
    --------
    >>> edits = Edits(np.array([[1, 1, 0, 2]], dtype=np.int32), next_label=3)
    >>> str(edits.merge([1, 2])), edits.labels.tolist()
    ('merge 1, 2', [[1, 1, 0, 1]])
    >>> edits.undo(); edits.labels.tolist()
    [[1, 1, 0, 2]]
    """

    def __init__(self, labels: NDArray[np.int32], *, next_label: int, locked: Collection[int] = ()) -> None:
        self.labels = labels
        self.next_label = next_label
        self.locked = frozenset(locked)
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._forgotten: list[Change] = []
        self.touched: set[int] = set()  #: every object whose pixels a step has changed, undone or not
        self.stale: set[int] = set()  #: those of them that were changed since they were measured last; who measures empties it
        self.last: Step | None = None  #: what was done, undone or redone last

    @property
    def changes(self) -> tuple[Change, ...]:
        """What was done and not undone, in order."""
        return (*self._forgotten, *(step.change for step in self._done))

    @property
    def can_undo(self) -> bool:
        """Whether there is something to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is something to redo."""
        return bool(self._undone)

    def at(self, point: Point) -> int:
        """Return the object at a place; 0 on background and outside the region."""
        row, column = int(np.floor(point[0])), int(np.floor(point[1]))
        inside = 0 <= row < self.labels.shape[0] and 0 <= column < self.labels.shape[1]
        return int(self.labels[row, column]) if inside else 0

    # What can be done

    def merge(self, objects: Sequence[int]) -> Change:
        """Make one object of several; the first one's number stays. They need not touch."""
        wanted = self._known(objects)
        if len(wanted) < 2:
            raise CorrectionError("Choose two objects or more to merge: click them one after the other.")
        mask = np.isin(self.labels, wanted)
        return self._apply(Change("merge", tuple(wanted)), mask, wanted[0])

    def split(self, label: int, line: Sequence[Point]) -> Change:
        """Cut an object along a line; the largest piece keeps its number.

        Raises
        ------
        CorrectionError
            The line does not cut it in two.
        """
        (label,) = self._known([label])
        box = box_of(self.labels == label)
        part = self.labels[box[0] : box[2], box[1] : box[3]]
        mask = part == label
        cut = polyline(part.shape, line, (box[0], box[1])) & mask
        pieces, count = ndimage.label(mask & ~cut, structure=np.ones((3, 3)))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        kept = [number + 1 for number in np.argsort(-sizes) if sizes[number] >= max(SMALLEST_PIECE, SMALLEST_SHARE * mask.sum())]
        if len(kept) < 2:
            raise CorrectionError(f"The line does not cut object {label} in two. Draw it right across, from outside to outside.")
        numbers = [label, *range(self.next_label, self.next_label + len(kept) - 1)]
        new = part.copy()
        new[mask] = _nearest_piece(pieces, kept, numbers)[mask]
        self.next_label += len(kept) - 1
        return self._store(Change("split", (label,), tuple(numbers)), box, new)

    def draw(self, outline: Sequence[Point]) -> Change:
        """Make a new object of what an outline encloses; other objects stay as they are.

        Raises
        ------
        CorrectionError
            There is no background in it.
        """
        mask = filled(self.labels.shape, outline) & (self.labels == 0)
        if not mask.any():
            raise CorrectionError("There is no background inside this outline. Draw it around something that is no object yet.")
        label = self.next_label
        change = self._apply(Change("draw", (), (label,)), mask, label)
        self.next_label += 1
        return change

    def paint(self, label: int, stroke: Sequence[Point], radius: float) -> Change:
        """Add what a brush covers to an object; other objects stay as they are."""
        (label,) = self._known([label])
        mask = brushed(self.labels.shape, stroke, radius) & (self.labels == 0)
        return self._apply(Change("paint", (label,)), mask, label)

    def erase(self, stroke: Sequence[Point], radius: float, label: int | None = None) -> Change:
        """Take what a brush covers away from one object, or from all that can be changed here."""
        mask = brushed(self.labels.shape, stroke, radius) & (self.labels != 0)
        mask &= self.labels == self._known([label])[0] if label else ~np.isin(self.labels, list(self.locked))
        objects = tuple(int(each) for each in np.unique(self.labels[mask]))
        return self._apply(Change("erase", objects), mask, 0)

    def delete(self, objects: Sequence[int]) -> Change:
        """Make objects background."""
        wanted = self._known(objects)
        if not wanted:
            raise CorrectionError("Choose an object to delete: click it first.")
        return self._apply(Change("delete", tuple(wanted)), np.isin(self.labels, wanted), 0)

    def undo(self) -> None:
        """Take the last change back, if there is one."""
        if self._done:
            step = self._done.pop()
            self._undone.append(step)
            self._put(step, step.before)

    def redo(self) -> None:
        """Do again what was undone last, if there is something."""
        if self._undone:
            step = self._undone.pop()
            self._done.append(step)
            self._put(step, step.after)

    # How

    def _known(self, objects: Sequence[int]) -> list[int]:
        """Return the numbers, each once, or say which of them cannot be changed."""
        wanted = list(dict.fromkeys(int(label) for label in objects))
        for label in wanted:
            if label in self.locked:
                raise CorrectionError(f"Object {label} reaches beyond this region. Move the region so that it lies inside, then change it.")
            if label <= 0 or not (self.labels == label).any():
                raise CorrectionError(f"There is no object {label} in this region.")
        return wanted

    def _apply(self, change: Change, mask: NDArray[np.bool_], value: int) -> Change:
        """Set masked pixels to one number."""
        if not mask.any():
            raise CorrectionError("Nothing was changed: there is nothing here that this could change.")
        box = box_of(mask)
        rows, columns = slice(box[0], box[2]), slice(box[1], box[3])
        new = np.where(mask[rows, columns], np.int32(value), self.labels[rows, columns])
        return self._store(change, box, new)

    def _store(self, change: Change, box: Box, new: NDArray[np.int32]) -> Change:
        before = self.labels[box[0] : box[2], box[1] : box[3]].copy()
        step = Step(change, box, before, new)
        self._done.append(step)
        self._undone.clear()
        if len(self._done) > REMEMBERED:
            self._forgotten.append(self._done.pop(0).change)
        self._put(step, new)
        return change

    def _put(self, step: Step, pixels: NDArray[np.int32]) -> None:
        self.labels[step.box[0] : step.box[2], step.box[1] : step.box[3]] = pixels
        self.touched |= step.touched
        self.stale |= step.touched
        self.last = step


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds all marked pixels; at least one is marked."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def polyline(shape: tuple[int, ...], line: Sequence[Point], origin: tuple[int, int] = (0, 0)) -> NDArray[np.bool_]:
    """Mark a line that not even a diagonal neighbour can cross: (rows, columns) bool."""
    canvas = np.zeros(shape, np.uint8)
    cv2.polylines(canvas, [_points(line, origin)], isClosed=False, color=1, thickness=1, lineType=cv2.LINE_4)
    return canvas.astype(bool)


def filled(shape: tuple[int, ...], outline: Sequence[Point]) -> NDArray[np.bool_]:
    """Mark what an outline encloses, itself included: (rows, columns) bool."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [_points(outline)], color=1)
    return canvas.astype(bool)


def brushed(shape: tuple[int, ...], stroke: Sequence[Point], radius: float) -> NDArray[np.bool_]:
    """Mark what a round brush covers on its way: (rows, columns) bool."""
    canvas = np.zeros(shape, np.uint8)
    points, size = _points(stroke), max(0, round(radius))
    if len(points) > 1 and size:
        cv2.polylines(canvas, [points], isClosed=False, color=1, thickness=2 * size)
    for column, row in points.tolist():
        cv2.circle(canvas, (column, row), size, color=1, thickness=-1)
    return canvas.astype(bool)


def _points(points: Sequence[Point], origin: tuple[int, int] = (0, 0)) -> NDArray[np.int32]:
    """Return points as OpenCV takes them: (n, 2), column before row.

    Raises
    ------
    CorrectionError
        They are no points.
    """
    try:
        given = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    except (ValueError, TypeError):
        given = np.empty((0, 2))
    if not len(given) or not (np.abs(given) < 1e6).all():
        raise CorrectionError("A line or outline is a list of places (row, column), at least one.")
    return np.floor(given - origin)[:, ::-1].astype(np.int32)


def _nearest_piece(pieces: NDArray[Any], kept: Sequence[int], numbers: Sequence[int]) -> NDArray[np.int32]:
    """Give each pixel the number of the nearest piece that is kept."""
    lookup = np.zeros(int(pieces.max()) + 1, np.int32)
    lookup[list(kept)] = list(numbers)
    labelled = lookup[pieces]
    rows, columns = ndimage.distance_transform_edt(labelled == 0, return_distances=False, return_indices=True)
    return np.asarray(labelled[rows, columns])


def reaching_out(labels: NDArray[np.int32], sides: tuple[bool, bool, bool, bool]) -> set[int]:
    """Return the objects at those sides of a region (top, left, bottom, right) beyond which the image goes on."""
    edges = (labels[0], labels[:, 0], labels[-1], labels[:, -1])
    return {label for edge in _chosen(edges, sides) for label in np.unique(edge).tolist()} - {0}


def _chosen(edges: Sequence[NDArray[np.int32]], sides: Sequence[bool]) -> Iterator[NDArray[np.int32]]:
    return (edge for edge, open_ended in zip(edges, sides, strict=True) if open_ended)
