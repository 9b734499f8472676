"""Where the pixels of a label image lie: levels, chunks, metadata, and regions put together from chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from segkit.errors import InvalidPixelsError, SelectionError
from segkit.files import corrupt

Region = tuple[slice, ...]

ROOT = "zarr.json"
#: Edge of a chunk, and the size from which an image gets a pyramid.
CHUNK = 1024
#: Planes smaller than a chunk share one, up to so many pixels.
CHUNK_PIXELS = CHUNK * CHUNK
LARGEST_LABEL = 2**31 - 1
AXES = {
    "T": {"name": "t", "type": "time"},
    "Z": {"name": "z", "type": "space"},
    "Y": {"name": "y", "type": "space"},
    "X": {"name": "x", "type": "space"},
}


@dataclass(frozen=True)
class Layout:
    """Where the pixels of a label image lie, and how large one is."""

    axes: str  #: "YX", "ZYX", "TYX" or "TZYX"
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str  #: "uint16" or "uint32"
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    time_step_s: float | None = None

    @cached_property
    def levels(self) -> int:
        """Number of pyramid levels; each halves rows and columns until both fit a chunk."""
        longest = max(self.shape[-2:])
        return 1 + max(0, ceil(np.log2(longest / CHUNK)))

    def shape_at(self, level: int) -> tuple[int, ...]:
        """Shape of a pyramid level."""
        return (*self.shape[:-2], *(ceil(size / 2**level) for size in self.shape[-2:]))

    def chunk_at(self, level: int) -> tuple[int, ...]:
        """Shape of the chunks of a pyramid level."""
        return tuple(min(pair) for pair in zip(self.chunk, self.shape_at(level), strict=True))

    def grid_at(self, level: int) -> Iterator[tuple[int, ...]]:
        """Indices of every chunk of a pyramid level."""
        counts = (ceil(size / chunk) for size, chunk in zip(self.shape_at(level), self.chunk_at(level), strict=True))
        return product(*(range(count) for count in counts))

    def place_of(self, level: int, index: tuple[int, ...]) -> Region:
        """Region that a chunk covers, cut off at the image's end."""
        sizes = zip(index, self.chunk_at(level), self.shape_at(level), strict=True)
        return tuple(slice(i * chunk, min((i + 1) * chunk, size)) for i, chunk, size in sizes)

    def scale_at(self, level: int) -> list[float]:
        """Physical size of a pixel of a pyramid level along each axis; 1 where it is not known."""
        sizes = {"T": self.time_step_s, "Z": self.z_step_um, "Y": self.pixel_size_um, "X": self.pixel_size_um}
        return [(sizes[axis] or 1.0) * (2**level if axis in "YX" else 1) for axis in self.axes]

    def document(self) -> dict[str, Any]:
        """Return the OME-NGFF attributes. A level holds every second pixel of the one before, so scales need no translation."""
        datasets = [
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": self.scale_at(level)}]}
            for level in range(self.levels)
        ]
        multiscale = {"name": "labels", "axes": [self._axis(axis) for axis in self.axes], "datasets": datasets, "type": "nearest"}
        return {"version": "0.5", "multiscales": [multiscale], "image-label": {}}

    def _axis(self, axis: str) -> dict[str, str]:
        known = {"T": self.time_step_s, "Z": self.z_step_um, "Y": self.pixel_size_um, "X": self.pixel_size_um}[axis]
        return AXES[axis] | ({"unit": "second" if axis == "T" else "micrometer"} if known else {})

    def array_document(self, level: int, compression_level: int) -> dict[str, Any]:
        """Return the Zarr metadata of a pyramid level."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape_at(level),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk_at(level)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": compression_level, "checksum": True}},
            ],
            "attributes": {},
            "dimension_names": list(self.axes.lower()),
        }


def chunk_name(level: int, index: Sequence[int]) -> str:
    """File name of a chunk inside the group.

    Examples
    --------
    >>> chunk_name(0, (3, 1))
    '0/c/3/1'
    """
    return f"{level}/c/{'/'.join(map(str, index))}"


def choose_chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the chunk for a shape: small images whole, small planes several to a chunk, large ones in squares."""
    rows, columns = (min(size, CHUNK) for size in shape[-2:])
    if len(shape) == 2:
        return rows, columns
    planes = max(1, min(shape[-3], CHUNK_PIXELS // (rows * columns)))
    return (*(1,) * (len(shape) - 3), planes, rows, columns)


def decode(data: bytes, layout: Layout, level: int, place: str) -> NDArray[Any]:
    """Return the labels in a chunk's bytes; Zstandard's own checksum is checked.

    Raises
    ------
    ResultCorruptError
        The bytes are damaged.
    """
    shape = layout.chunk_at(level)
    try:
        labels = np.frombuffer(Zstd().decode(data), dtype=f"<{np.dtype(layout.dtype).str[1:]}")
    except (RuntimeError, ValueError) as error:
        raise corrupt(place, "is damaged") from error
    if labels.size != prod(shape):
        raise corrupt(place, "is damaged")
    return labels.reshape(shape)


def gather(layout: Layout, level: int, region: Region, step: int, load: Callable[[tuple[int, ...]], NDArray[Any] | None]) -> NDArray[Any]:
    """Put a region together from the chunks that `load` gives, taking every `step`-th row and column.

    Chunks start on even numbers, so that a step of 2 falls on the same pixels in each of them.
    """
    steps = (1,) * (len(region) - 2) + (step, step)
    out = np.zeros([ceil((part.stop - part.start) / by) for part, by in zip(region, steps, strict=True)], dtype=layout.dtype)
    chunks = layout.chunk_at(level)
    spans = [range(part.start // chunk, ceil(part.stop / chunk)) for part, chunk in zip(region, chunks, strict=True)]
    for index in product(*spans):
        labels = load(index)
        if labels is None:
            continue
        source, target = [], []
        for i, chunk, part, by in zip(index, chunks, region, steps, strict=True):
            start, stop = max(part.start, i * chunk), min(part.stop, (i + 1) * chunk)
            source.append(slice(start - i * chunk, stop - i * chunk, by))
            target.append(slice((start - part.start) // by, ceil((stop - part.start) / by)))
        out[tuple(target)] = labels[tuple(source)]
    return out


def whole(shape: tuple[int, ...], region: Region | None) -> Region:
    """Return a region with both its ends named; None means all.

    Raises
    ------
    SelectionError
        It has another number of axes, a step, or nothing in it.
    """
    if region is None:
        return tuple(slice(0, size) for size in shape)
    if len(region) != len(shape) or any(part.step not in (None, 1) for part in region):
        raise SelectionError(
            f"A region of this label image is {len(shape)} slices without a step, such as {(slice(0, 512),) * len(shape)}."
        )
    parts = tuple(slice(*part.indices(size)[:2]) for part, size in zip(region, shape, strict=True))
    if any(part.stop <= part.start for part in parts):
        raise SelectionError(f"The region {region} lies outside the label image, whose shape is {shape}.")
    return parts


def as_labels(stored: NDArray[Any]) -> NDArray[np.int32]:
    """Return stored labels as the int32 that the rest of segkit works with."""
    return stored.view(np.int32) if stored.dtype == np.uint32 else stored.astype(np.int32)


def check_layout(axes: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
    """Refuse a layout that cannot be stored.

    Raises
    ------
    InvalidPixelsError
        The message says which rule it breaks.
    """
    if axes not in ("YX", "ZYX", "TYX", "TZYX") or not len(axes) == len(shape) == len(chunk):
        raise InvalidPixelsError(
            f'A label image has axes "YX", "ZYX", "TYX" or "TZYX", and one size for each; these are "{axes}" and {shape}.'
        )
    if min(shape) < 1 or min(chunk) < 1:
        raise InvalidPixelsError(f"A label image needs at least one pixel along each axis; its shape is {shape}.")
    if any(size > edge and edge % 2 for size, edge in zip(shape[-2:], chunk[-2:], strict=True)):
        raise InvalidPixelsError(f"Chunks of a label image have an even number of rows and columns; these are {chunk}.")
