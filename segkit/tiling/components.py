"""Pass 2: the foreground of every tile; what lies inside it is finished there, what meets its border is kept for later."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.components import label_components, number_in_raster_order
from segkit.kernels.merging import (
    find_first_pixels,
    frame_components,
    mark_unfinished,
    measure_components,
)
from segkit.segmenters import BoolArray, LabelArray
from segkit.tiling.grid import Box, Tile
from segkit.tiling.provisional import ERASED, pack_labels, tile_name
from segkit.tiling.scratch import pack_table
from segkit.tiling.survey import survey_name
from segkit.tiling.work import Work, read_survey

#: What a tile without foreground leaves.
NOTHING = {"objects": np.zeros((0, 2), np.int64)}

#: The sides of a tile by name, each with the pixels that lie on it.
SIDES: dict[str, Any] = {"upper": (0, slice(None)), "left": (slice(None), 0), "lower": (-1, slice(None)), "right": (slice(None), -1)}


def segment_tile(work: Work, box: Box, tile: Tile) -> bool:
    """Segment one tile and leave its provisional labels, its objects and what meets its border; return False if that was done."""
    if work.scratch.find(tile_name(tile)):
        return False
    if work.recipe.empty(read_survey(work.scratch.read(survey_name(tile))), work.plan):
        work.scratch.write(tile_name(tile), NOTHING)
        return True
    view = box.grown(work.recipe.halo(work.plan), work.shape)
    raw = work.read(view)
    seen = work.recipe.see(work.segmenter.prepare(raw), work.plan, view.top, view.left, None)
    mask = work.recipe.foreground(seen, work.plan, view.top, view.left)
    components, count = label_components(np.ascontiguousarray(mask[box.inside(view)]), work.recipe.connectivity)
    if not count:
        work.scratch.write(tile_name(tile), NOTHING)
        return True
    numbers, crossing = _sort(components, count, inner_sides(box, work.shape))
    labels = _split(work, seen, mask, components, numbers, (box, view))
    objects = number_in_raster_order(labels)
    firsts = find_first_pixels(labels, objects) + box[:2]
    table = work.measure(labels, box, raw[box.inside(view)], work.confidence(seen, labels, *box.inside(view)))
    mark_unfinished(labels, components, _marks(count, crossing))
    work.scratch.write(
        tile_name(tile),
        {
            "objects": firsts,
            "table": pack_table(table),
            "crossing": measure_components(components, count)[crossing - 1] + (*box[:2], *box[:2], 0, *box[:2]),
            **{name: _line(components[side], crossing, count) for name, side in SIDES.items()},
            **pack_labels(labels),
        },
    )
    return True


def inner_sides(box: Box, shape: tuple[int, int]) -> list[str]:
    """Return the sides of a tile beyond which the image goes on."""
    there = (box.top > 0, box.left > 0, box.bottom < shape[0], box.right < shape[1])
    return [name for name, inner in zip(SIDES, there, strict=True) if inner]


def _sort(components: LabelArray, count: int, sides: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tell components that lie inside from those that meet a border.

    Returns
    -------
    (count + 1,) int32
        What `split` is to see of each: its id among those inside, or -1.
    (crossing,) int64
        The others.
    """
    meets = np.zeros(count + 1, np.bool_)
    for side in sides:
        meets[components[SIDES[side]]] = True
    meets[0] = False
    numbers = np.where(meets, -1, np.cumsum(~meets) - 1).astype(np.int32)
    return numbers, np.flatnonzero(meets)


def _split(
    work: Work, seen: Any, mask: BoolArray, components: LabelArray, numbers: NDArray[np.int32], boxes: tuple[Box, Box]
) -> LabelArray:
    box, view = boxes
    frame = np.negative(mask, dtype=np.int32)
    frame_components(components, numbers, frame, box.top - view.top, box.left - view.left)
    labels = work.recipe.split(seen, frame, work.plan, view.top, view.left)
    return np.ascontiguousarray(labels[box.inside(view)])


def _marks(count: int, crossing: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the provisional label of every component that has no object in it: -1, -2, ... for those that meet a border."""
    marks = np.full(count + 1, ERASED)
    marks[crossing] = -np.arange(1, len(crossing) + 1)
    return marks


def _line(side: LabelArray, crossing: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """Return the number from 0 of the crossing component in every pixel of a side, -1 where there is none."""
    nodes = np.full(count + 1, -1, np.int32)
    nodes[crossing] = np.arange(len(crossing))
    return nodes[side]
