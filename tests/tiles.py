"""A recipe run the hard way: surveyed, thresholded and split in tiles that see no more than they are promised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.kernels.components import label_components, number_in_raster_order
from segkit.segmenters import Parameters, Segmenter


def boxes(shape: tuple[int, ...], tile: int) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, shape[0], tile):
        for left in range(0, shape[1], tile):
            yield top, left, min(top + tile, shape[0]), min(left + tile, shape[1])


def grown(box: tuple[int, int, int, int], margin: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    top, left, bottom, right = box
    return max(top - margin, 0), max(left - margin, 0), min(bottom + margin, shape[0]), min(right + margin, shape[1])


def segment_in_tiles(segmenter: Segmenter, image: NDArray[Any], parameters: Parameters, tile: int) -> NDArray[np.int32]:
    """Segment in tiles of `tile` pixels, and every component for itself."""
    recipe = segmenter.recipe
    assert recipe is not None
    shape = image.shape[:2]

    def pixels(box: tuple[int, int, int, int]) -> NDArray[Any]:
        return segmenter.prepare(image[box[0] : box[2], box[1] : box[3]].copy())

    surveys = []
    for box in boxes(shape, tile):
        view = grown(box, recipe.survey_halo(parameters), shape)
        margins = (box[0] - view[0], box[1] - view[1], view[2] - box[2], view[3] - box[3])
        surveys.append(recipe.survey(pixels(view), box[0], box[1], parameters, margins))
    plan = recipe.settle(recipe.merge(surveys[::-1], shape), shape, parameters, None)
    foreground = np.zeros(shape, dtype=bool)
    for box in boxes(shape, tile):
        view = grown(box, recipe.halo(plan), shape)
        mask = recipe.foreground(recipe.see(pixels(view), plan, view[0], view[1], None), plan, view[0], view[1])
        foreground[box[0] : box[2], box[1] : box[3]] = mask[box[0] - view[0] : box[2] - view[0], box[1] - view[1] : box[3] - view[1]]
    components, _ = label_components(foreground, recipe.connectivity)
    out, count = np.zeros(shape, dtype=np.int32), 0
    for number, place in enumerate(ndimage.find_objects(components), start=1):
        box = grown((place[0].start, place[1].start, place[0].stop, place[1].stop), recipe.halo(plan), shape)
        window = components[box[0] : box[2], box[1] : box[3]]
        own = np.where(window == number, 1, np.where(window > 0, -1, 0)).astype(np.int32)
        labels = recipe.split(recipe.see(pixels(box), plan, box[0], box[1], own > 0), own, plan, box[0], box[1])
        out[box[0] : box[2], box[1] : box[3]][labels > 0] = labels[labels > 0] + count
        count += int(labels.max(initial=0))
    number_in_raster_order(out)
    return out


def assert_tile_exact(
    segmenter: Segmenter, image: NDArray[Any], parameters: Parameters, tiles: tuple[int, ...] = (64, 128)
) -> NDArray[np.int32]:
    """Check that tiles give the labels of the whole, and return these."""
    whole = segmenter.function(segmenter.prepare(image), parameters, None)
    for tile in tiles:
        np.testing.assert_array_equal(segment_in_tiles(segmenter, image, parameters, tile), whole)
    return whole
