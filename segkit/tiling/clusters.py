"""Pass 3, second half: components that cross borders, finished once, on their own bounding box."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from segkit.kernels.components import number_in_raster_order
from segkit.kernels.merging import find_first_pixels, frame_provisional
from segkit.segmenters import LabelArray
from segkit.tiling.borders import members_name
from segkit.tiling.grid import Box, Tile
from segkit.tiling.provisional import read_labels
from segkit.tiling.scratch import pack_table
from segkit.tiling.work import Work

ALL = np.zeros(1, np.int32)


def cluster_name(number: int) -> str:
    """Name of the record of a cluster's objects."""
    return f"clusters/{number}"


def piece_name(tile: Tile) -> str:
    """Name of an array in a cluster's record: its labels in a tile."""
    return f"piece-{tile.row}-{tile.column}"


def finish_cluster(work: Work, box: Box, number: int) -> bool:
    """Finish the components of one cluster and leave its objects and their labels in each tile; return False if that was done."""
    if work.scratch.find(cluster_name(number)):
        return False
    view = box.grown(work.recipe.halo(work.plan), work.shape)
    provisional = read_labels(work, view)
    raw = work.read(view)
    frame = _frame(work, provisional, view, number)
    seen = work.recipe.see(work.segmenter.prepare(raw), work.plan, view.top, view.left, frame > 0)
    labels = work.recipe.split(seen, frame, work.plan, view.top, view.left)
    # An object inside a hole is of a component that starts later, so where both claim a pixel it has the last word.
    labels[provisional > 0] = 0
    labels = np.ascontiguousarray(labels[box.inside(view)])
    count = number_in_raster_order(labels)
    arrays = {
        "objects": find_first_pixels(labels, count) + box[:2],
        "table": pack_table(work.measure(labels, box, raw[box.inside(view)], work.confidence(seen, labels, *box.inside(view)))),
        "box": np.array(box),
    }
    work.scratch.write(cluster_name(number), arrays | dict(_cut(work, labels, box)))
    return True


def _frame(work: Work, provisional: LabelArray, view: Box, number: int) -> LabelArray:
    """Return what `split` is to see: the cluster's components by their number, -1 on all other foreground."""
    frame = np.empty_like(provisional)
    for tile in work.grid.meeting(view):
        part = work.grid.box(tile).overlap(view).inside(view)
        numbers = ALL
        if (provisional[part] < 0).any():
            members = work.scratch.read(members_name(tile))
            numbers = np.append(ALL, np.where(members["cluster"] == number, members["number"], np.int32(-1)))
        frame_provisional(provisional[part], numbers, frame[part])
    return frame


def _cut(work: Work, labels: LabelArray, box: Box) -> Iterator[tuple[str, LabelArray]]:
    """Yield the labels in each tile where there are any, under their name in the record."""
    for tile in work.grid.meeting(box):
        piece = labels[work.grid.box(tile).overlap(box).inside(box)]
        if piece.any():
            yield piece_name(tile), piece
