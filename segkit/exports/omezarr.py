"""OME-Zarr: one multiscale label image per image, as segkit itself stores it, for napari and others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.labels import LabelWriter


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write one folder per image, a chunk at a time."""
    for item in items:
        path = output.place_folder(f"{output.stem(item.name)}.ome.zarr")
        writer = LabelWriter.create(str(path), item.shape, item.axes, pixel_size_um=item.pixel_size_um, z_step_um=item.z_step_um)
        for starts in product(*(range(0, size, step) for size, step in zip(item.shape, writer.chunk, strict=True))):
            sizes = zip(starts, writer.chunk, item.shape, strict=True)
            writer.write(item.labels(tuple(slice(start, min(start + step, end)) for start, step, end in sizes)), starts)
        writer.finish()
        report(item)
