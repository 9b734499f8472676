"""Label TIFF: one file per image, whose pixels are the objects' numbers, with the pixel size.

Up to 65,535 objects it is a 16-bit ImageJ TIFF. More objects, or planes too large for memory, make a 32-bit or tiled OME-TIFF,
which Fiji (Bio-Formats), QuPath and napari open; ImageJ's floats would mix numbers up above 16,777,216.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.exports.shapes import BAND_PIXELS

TILE = 1024
SMALL = np.iinfo(np.uint16).max
#: ImageJ files are classic TIFF, which ends at 4 GiB.
CLASSIC_BYTES = 2**32 - 2**25


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write one file per image."""
    for item in items:
        path = output.place(f"{output.stem(item.name)}_labels.tif")
        largest = largest_label(item)
        pixels = int(np.prod(item.shape))
        if largest <= SMALL and item.rows * item.columns <= BAND_PIXELS and 2 * pixels < CLASSIC_BYTES:
            write_imagej(path, item)
        else:
            write_ome(path, item, np.uint16 if largest <= SMALL else np.uint32)
        report(item)


def largest_label(item: Item) -> int:
    """Return the highest number in a label image."""
    return max(int(part.max(initial=0)) for plane in range(item.planes) for part in parts(item, plane))


def parts(item: Item, plane: int) -> Iterator[NDArray[np.int32]]:
    """Yield a plane in bands of rows."""
    step = max(1, BAND_PIXELS // item.columns)
    for start in range(0, item.rows, step):
        yield item.read(plane, slice(start, min(start + step, item.rows)))


def write_imagej(path: Any, item: Item) -> None:
    """Write a 16-bit file that ImageJ opens as a hyperstack with its scale."""
    metadata: dict[str, Any] = {"axes": item.axes}
    sizes: dict[str, Any] = {}
    if item.pixel_size_um:
        sizes["resolution"] = (1 / item.pixel_size_um, 1 / item.pixel_size_um)
        metadata["unit"] = "um"
    if item.z_step_um:
        metadata["spacing"] = item.z_step_um
    planes = (item.read(plane).astype(np.uint16) for plane in range(item.planes))
    tifffile.imwrite(path, planes, shape=item.shape, dtype=np.uint16, imagej=True, compression="zlib", metadata=metadata, **sizes)


def write_ome(path: Any, item: Item, dtype: type[np.unsignedinteger[Any]]) -> None:
    """Write a tiled file of any size, a tile at a time."""
    metadata: dict[str, Any] = {"axes": item.axes}
    if item.pixel_size_um:
        metadata |= {f"PhysicalSize{axis}": item.pixel_size_um for axis in "XY"}
        metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    if item.z_step_um and "Z" in item.axes:
        metadata |= {"PhysicalSizeZ": item.z_step_um, "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(
        path,
        tiles(item, dtype),
        shape=item.shape,
        dtype=dtype,
        tile=(TILE, TILE),
        ome=True,
        bigtiff=np.dtype(dtype).itemsize * int(np.prod(item.shape)) >= CLASSIC_BYTES,
        compression="zlib",
        metadata=metadata,
    )


def tiles(item: Item, dtype: type[np.unsignedinteger[Any]]) -> Iterator[NDArray[Any]]:
    """Yield the tiles of every plane in order."""
    for plane, row, column in product(range(item.planes), range(0, item.rows, TILE), range(0, item.columns, TILE)):
        rows, columns = slice(row, min(row + TILE, item.rows)), slice(column, min(column + TILE, item.columns))
        yield item.read(plane, rows, columns).astype(dtype)
