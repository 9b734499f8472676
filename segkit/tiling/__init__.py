"""One large image through any tile-exact segmenter, in tiles whose labels are, pixel for pixel, those of the whole.

`grid` cuts the image, `scratch` keeps what lies between the passes, `work` is what tasks are told, and the passes are, in order,
`survey`, `components`, `borders` and `clusters`, `numbering`, `painting`; `large` runs them.
"""

from segkit.tiling.grid import Box, Grid, Tile
from segkit.tiling.large import ObjectSink, Progress, Tiled, choose_edges, segment_large
from segkit.tiling.painting import LabelSink
from segkit.tiling.work import Executor, in_turn

__all__ = [
    "Box",
    "Executor",
    "Grid",
    "LabelSink",
    "ObjectSink",
    "Progress",
    "Tile",
    "Tiled",
    "choose_edges",
    "in_turn",
    "segment_large",
]
