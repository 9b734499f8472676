"""Label images as multiscale OME-Zarr: written in any order by any number of hands, checked, and never silently holed.

The layout is OME-NGFF 0.5 on Zarr version 3, which napari, ome-zarr and zarr open. Zarr reads a lost chunk as zeros; here a
manifest in the group's attributes names every chunk with its size and checksum, so a lost or damaged one is an error.
Chunks and documents are written directly and not through zarr, whose calls cost more than the whole of a small image.
"""

from segkit.labels.layout import CHUNK, Layout, Region, choose_chunk
from segkit.labels.reader import LabelReader, open_labels
from segkit.labels.writer import LabelWriter

__all__ = ["CHUNK", "LabelReader", "LabelWriter", "Layout", "Region", "choose_chunk", "open_labels"]
