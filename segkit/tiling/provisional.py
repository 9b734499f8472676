"""Provisional labels: what each tile left of its foreground, to be read in any region.

Above 0 is an object that lies inside its tile, numbered within it; below 0, as -1, -2, ..., a component that meets the tile's
border and is finished later; `ERASED` is foreground that was finished and belongs to no object; 0 is background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segkit.segmenters import LabelArray
from segkit.tiling.grid import Box, Grid, Tile

if TYPE_CHECKING:
    from segkit.tiling.work import Work

ERASED = np.int32(-(2**31))

#: Edge of the blocks in which a tile's labels are compressed, so that a strip along a border decompresses little beside itself.
BLOCK = 256


def tile_name(tile: Tile) -> str:
    """Name of the record that a tile's segmentation leaves."""
    return f"tiles/{tile.row}-{tile.column}"


def pack_labels(labels: LabelArray) -> dict[str, LabelArray]:
    """Return a tile's labels as the arrays of a record; blocks of background are left out."""
    grid = Grid(labels.shape, (BLOCK, BLOCK))
    blocks = {_block_name(block): labels[grid.box(block).rows, grid.box(block).columns] for block in grid.tiles}
    return {name: block for name, block in blocks.items() if block.any()}


def read_labels(work: Work, view: Box) -> LabelArray:
    """Return the provisional labels of a region, from whatever tiles it meets."""
    labels = np.zeros(view.shape, np.int32)
    for tile in work.grid.meeting(view):
        box = work.grid.box(tile)
        record = work.scratch.read(tile_name(tile))
        blocks = Grid(box.shape, (BLOCK, BLOCK))
        wanted = view.overlap(box).moved(-box.top, -box.left)
        for block in blocks.meeting(wanted):
            if _block_name(block) in record:
                there = blocks.box(block)
                shared = there.overlap(wanted)
                labels[shared.moved(box.top, box.left).inside(view)] = record[_block_name(block)][shared.inside(there)]
    return labels


def _block_name(block: Tile) -> str:
    return f"labels-{block.row}-{block.column}"
