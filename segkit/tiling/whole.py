"""What cannot be tiled, in one piece: one task for the whole image."""

from __future__ import annotations

import numpy as np

from segkit.segmenters import LabelArray
from segkit.tiling.grid import Box
from segkit.tiling.painting import LabelSink, put
from segkit.tiling.scratch import pack_table
from segkit.tiling.work import Work

WHOLE = "whole"


def segment_whole(work: Work, box: Box, sink: LabelSink) -> bool:
    """Segment, measure and write the whole image, and leave its table."""
    pixels = work.read(box)
    labels: LabelArray = work.segmenter.function(work.segmenter.prepare(pixels), work.parameters, work.pixel_size_um)
    put(work, sink, labels, box)
    table = work.measure(labels, box, pixels)
    work.scratch.write(WHOLE, {"table": pack_table(table), "objects": np.array([table.num_rows])})
    return True
