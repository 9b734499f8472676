"""What the network is shown: crops of labelled images, varied as other microscopes might have taken them, and what it should say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.segmenters.recipe import LabelArray
from segkit.training.pairs import LabelledImage
from segkit.training.purposes import FOR_NUCLEI, Purpose

#: Nuclei nearer to each other than this many pixels touch.
TOUCHING = 2
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled image in the size in which the network looks at it."""

    name: str
    #: (planes, rows, columns) float32: what is shown, before it is varied
    planes: FloatArray
    #: (rows, columns) int32, 0 on background
    labels: LabelArray
    #: (rows, columns, 3) float32: foreground, depth in parts of the object's deepest, and where two objects touch
    targets: FloatArray
    #: (objects, 2) row and column of a pixel in each object
    places: NDArray[np.int64]


def example_of(image: LabelledImage, purpose: Purpose = FOR_NUCLEI) -> Example | None:
    """Prepare one image; None when the segmenter sees nothing in it."""
    pixels = purpose.prepare(image.pixels)
    plan = purpose.plan(pixels)
    planes = purpose.planes(pixels, plan)
    if planes is None:
        return None
    scale = purpose.scale(plan)
    rows, columns = (
        np.minimum((np.arange(size) * scale.step + scale.step // 2) // scale.finer, most - 1)
        for size, most in zip(planes.shape[1:], pixels.shape[:2], strict=True)
    )
    labels = np.ascontiguousarray(image.labels[np.ix_(rows, columns)])
    _, places = np.unique(labels, return_index=True)
    where = np.stack(np.unravel_index(places, labels.shape), axis=1)
    return Example(image.name, planes, labels, targets_of(labels), where[labels.reshape(-1)[places] > 0])


def targets_of(labels: LabelArray) -> FloatArray:
    """Return what the network should say of labels.

    Returns
    -------
    (rows, columns, 3) float32
        1 on foreground; the depth in each object, 1 where it is deepest; 1 where two objects touch.
    """
    return np.stack([(labels > 0).astype(np.float32), _depths(labels), _contacts(labels)], axis=-1)


def _depths(labels: LabelArray) -> FloatArray:
    depths = np.zeros(labels.shape, dtype=np.float32)
    for label, (rows, columns) in boxes_of(labels):
        own = (labels[rows, columns] == label).view(np.uint8)
        upper, left = int(rows.start > 0), int(columns.start > 0)
        lower, right = int(rows.stop < labels.shape[0]), int(columns.stop < labels.shape[1])
        # The image's own sides are no edges of a nucleus: it goes on beyond them.
        framed = cv2.copyMakeBorder(own, upper, lower, left, right, cv2.BORDER_CONSTANT, value=0)
        if framed.all():
            depths[rows, columns] = 1
            continue
        deep = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[upper:, left:][: own.shape[0], : own.shape[1]]
        inside = own.view(bool)
        depths[rows, columns][inside] = (deep / deep[inside].max())[inside]
    return depths


def boxes_of(labels: LabelArray) -> list[tuple[int, tuple[slice, slice]]]:
    """Return each label with the box around it."""
    count = int(labels.max(initial=0))
    first = np.full((count + 1, 2), np.iinfo(np.int64).max)
    last = np.full((count + 1, 2), -1)
    places = np.nonzero(labels)
    own = labels[places]
    for axis in (0, 1):
        np.minimum.at(first[:, axis], own, places[axis])
        np.maximum.at(last[:, axis], own, places[axis])
    found = np.flatnonzero(last[:, 0] >= 0)
    return [(int(n), (slice(int(first[n, 0]), int(last[n, 0]) + 1), slice(int(first[n, 1]), int(last[n, 1]) + 1))) for n in found]


def _contacts(labels: LabelArray) -> FloatArray:
    window = np.ones((2 * TOUCHING + 1, 2 * TOUCHING + 1), dtype=np.uint8)
    numbers = labels.astype(np.float32)
    highest = cv2.dilate(numbers, window, borderType=cv2.BORDER_REPLICATE)
    lowest = cv2.erode(np.where(numbers > 0, numbers, np.float32(2**24)), window, borderType=cv2.BORDER_REPLICATE)
    return ((highest > 0) & (lowest < highest)).astype(np.float32)


def crop(example: Example, edge: int, draw: np.random.Generator, purpose: Purpose = FOR_NUCLEI) -> tuple[FloatArray, FloatArray]:
    """Return a random, varied square of an example, as the network is shown it: (planes, edge, edge) and (edge, edge, 3) float32."""
    shown, targets, _ = labelled_crop(example, edge, draw, purpose)
    return shown, targets


def labelled_crop(
    example: Example, edge: int, draw: np.random.Generator, purpose: Purpose = FOR_NUCLEI
) -> tuple[FloatArray, FloatArray, LabelArray]:
    """Return a crop as `crop` does, and its labels."""
    middle = _middle(example, draw)
    turn = _turned(middle, edge, purpose.zoom, draw)
    size = (edge, edge)

    def warped(array: FloatArray, flags: int) -> FloatArray:
        return np.asarray(cv2.warpAffine(array, turn, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101), dtype=np.float32)

    planes = np.stack([warped(plane, cv2.INTER_LINEAR) for plane in example.planes])
    labels = warped(example.labels.astype(np.float32), cv2.INTER_NEAREST).astype(np.int32)
    return purpose.shown(purpose.varied(planes, labels, draw)), warped(example.targets, cv2.INTER_LINEAR), labels


def _middle(example: Example, draw: np.random.Generator) -> tuple[float, float]:
    """Return where a crop is centred: on a nucleus half of the time."""
    rows, columns = example.labels.shape
    if len(example.places) and draw.random() < 0.5:
        row, column = example.places[draw.integers(len(example.places))]
        return float(row + draw.uniform(-40, 40)), float(column + draw.uniform(-40, 40))
    return draw.uniform(0, rows), draw.uniform(0, columns)


def _turned(middle: tuple[float, float], edge: int, most: float, draw: np.random.Generator) -> NDArray[np.float64]:
    """Return the affine map from an example to a crop: turned, mirrored, stretched and resized."""
    zoom, angle = np.exp(draw.uniform(-most, most)), draw.uniform(0, 2 * np.pi)
    if draw.random() < 0.4:  # quarter turns blur nothing
        angle = np.pi / 2 * draw.integers(4)
        zoom = 1.0 if draw.random() < 0.5 else zoom
    stretch = np.exp(draw.uniform(-0.1, 0.1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    change = zoom * turn @ np.diag([stretch, draw.choice([-1, 1]) / stretch])
    centre = np.array([middle[1], middle[0]])
    return np.hstack([change, ((edge - 1) / 2 - change @ centre)[:, None]])


def batch(
    examples: Sequence[Example], chosen: Iterable[int], edge: int, draw: np.random.Generator, purpose: Purpose = FOR_NUCLEI
) -> tuple[FloatArray, FloatArray]:
    """Return crops of the chosen examples: (crops, planes, edge, edge) and (crops, 3, edge, edge) float32."""
    shown, meant = zip(*(crop(examples[number], edge, draw, purpose) for number in chosen), strict=True)
    return np.stack(shown), np.ascontiguousarray(np.moveaxis(np.stack(meant), -1, 1))
