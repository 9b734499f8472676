"""Writing a label image: in any order, by any number of hands, whole chunks at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil
from typing import Any

import numpy as np
from numcodecs import Zstd
from numpy.typing import ArrayLike, NDArray

from segkit.errors import InvalidPixelsError
from segkit.files import Folder, digest, folder
from segkit.labels.layout import (
    LARGEST_LABEL,
    ROOT,
    Layout,
    Region,
    as_labels,
    check_layout,
    choose_chunk,
    chunk_name,
    decode,
    gather,
    whole,
)

#: Name of a file inside the group → its bytes and checksum.
Files = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class LabelWriter:
    """Writes one label image. It holds no open file, so it may be pickled and used from any process and thread.

    A chunk's file is whole or absent. Regions that share no chunk may be written at the same time; what a dead
    process had written stays and need not be written again. The image can be read only after `finish`.
    """

    path: str  #: the OME-Zarr group: folder or fsspec URL
    layout: Layout
    compression_level: int = 3

    @classmethod
    def create(
        cls,
        path: str,
        shape: tuple[int, ...],
        axes: str,
        *,
        dtype: str = "uint32",
        chunk: tuple[int, ...] | None = None,
        pixel_size_um: float | None = None,
        z_step_um: float | None = None,
        time_step_s: float | None = None,
        compression_level: int = 3,
    ) -> LabelWriter:
        """Start a label image, or go on with one of the same layout.

        Parameters
        ----------
        path : str
            Folder or fsspec URL of the OME-Zarr group.
        shape : tuple of int
            One size per axis.
        axes : str
            "YX", "ZYX", "TYX" or "TZYX".
        dtype : "uint16" or "uint32"
            How labels are stored.
        chunk : tuple of int, optional
            Size of a chunk along each axis; along rows and columns an even number. Default: `choose_chunk`.
        pixel_size_um, z_step_um, time_step_s : float, optional
            Physical size of a pixel; they become the image's scale.
        compression_level : int
            Zstandard level from 1 (fastest) to 19 (smallest).

        Raises
        ------
        InvalidPixelsError
            The axes do not fit the shape, or a size is not positive.
        DiskFullError, NotWritableError
            The disk says so.
        """
        shape, chunk = tuple(map(int, shape)), tuple(map(int, chunk or choose_chunk(shape)))
        check_layout(axes, shape, chunk)
        layout = Layout(axes, shape, tuple(map(min, zip(chunk, shape, strict=True))), dtype, pixel_size_um, z_step_um, time_step_s)
        writer = cls(path, layout, compression_level)
        writer._put_json(f"0/{ROOT}", layout.array_document(0, compression_level))
        return writer

    @property
    def chunk(self) -> tuple[int, ...]:
        """Size of a chunk along each axis."""
        return self.layout.chunk

    def write(self, labels: ArrayLike, origin: Sequence[int] | None = None) -> None:
        """Store a region.

        Parameters
        ----------
        labels : integers, one axis per axis of the image
            0 on background.
        origin : sequence of int, optional
            Where the region starts: on a multiple of the chunk along each axis; default: 0. It ends on one too, or at the image's end.

        Raises
        ------
        InvalidPixelsError
            A label is negative or too large, or the region does not lie on whole chunks.
        DiskFullError, NotWritableError
            The disk says so; nothing half-written is kept.
        """
        labels = np.asarray(labels)
        origin = tuple(origin) if origin is not None else (0,) * labels.ndim
        check_labels(labels, self.layout.dtype)
        check_aligned(self.layout, origin, labels.shape)
        counts = (range(ceil(size / chunk)) for size, chunk in zip(labels.shape, self.chunk, strict=True))
        for index in product(*counts):
            inside = tuple(slice(i * chunk, (i + 1) * chunk) for i, chunk in zip(index, self.chunk, strict=True))
            there = tuple(start // chunk + i for start, chunk, i in zip(origin, self.chunk, index, strict=True))
            self._put_chunk(0, there, labels[inside])

    def read(self, region: Region | None = None) -> NDArray[np.int32]:
        """Read back a region that was written; what was not is 0."""
        return as_labels(self._read(0, whole(self.layout.shape, region), 1, {}))

    def finish(self, threads: int = 1) -> str:
        """Build the pyramid, read every chunk back, and write the manifest that makes the image readable.

        Memory is bounded by two chunks per thread. `segkit.files.flush_tree` makes the files outlast a power cut; `results.seal` does.

        Returns
        -------
        str
            Checksum of the manifest, and through it of the whole image.

        Raises
        ------
        ResultCorruptError
            A chunk is not what was written.
        DiskFullError, NotWritableError
            The disk says so.
        """
        files: Files = {}
        with ThreadPoolExecutor(threads) as pool:
            run = pool.map if threads > 1 else map
            for level in range(1, self.layout.levels):
                self._put_json(f"{level}/{ROOT}", self.layout.array_document(level, self.compression_level))
                deque(run(partial(self._halve, level, files), self.layout.grid_at(level)), maxlen=0)
            last = self.layout.levels - 1
            deque(run(partial(self._load, last, files), self.layout.grid_at(last)), maxlen=0)
        for level in range(self.layout.levels):
            document = self._folder.read(f"{level}/{ROOT}")
            files[f"{level}/{ROOT}"] = (len(document), digest(document))
        return self._seal(files)

    def _seal(self, files: Files) -> str:
        layout = self.layout
        manifest = {"axes": layout.axes, "shape": layout.shape, "chunk": layout.chunk, "dtype": layout.dtype}
        sizes = {"pixel_size_um": layout.pixel_size_um, "z_step_um": layout.z_step_um, "time_step_s": layout.time_step_s}
        attributes = {"ome": layout.document(), "segkit": {**manifest, **sizes, "files": dict(sorted(files.items()))}}
        data = self._put_json(ROOT, {"zarr_format": 3, "node_type": "group", "attributes": attributes})
        return digest(data)

    @property
    def _folder(self) -> Folder:
        return folder(self.path)

    def _put_json(self, name: str, document: dict[str, Any]) -> bytes:
        data = json.dumps(document, separators=(",", ":")).encode()
        self._folder.write(name, data)
        return data

    def _put_chunk(self, level: int, index: Sequence[int], labels: NDArray[Any]) -> None:
        """Write a chunk; one without an object has no file."""
        if not labels.any():
            self._folder.delete(chunk_name(level, index))
            return
        shape = self.layout.chunk_at(level)
        stored = (
            np.zeros(shape, dtype=f"<{np.dtype(self.layout.dtype).str[1:]}")
            if labels.shape != shape
            else np.empty(shape, self.layout.dtype)
        )
        stored[tuple(slice(size) for size in labels.shape)] = labels
        self._folder.write(chunk_name(level, index), Zstd(level=self.compression_level, checksum=True).encode(stored))

    def _halve(self, level: int, files: Files, index: tuple[int, ...]) -> None:
        """Make a chunk of a level from every second row and column of the level before: labels are never mixed."""
        place, below = self.layout.place_of(level, index), self.layout.shape_at(level - 1)
        doubled = (slice(2 * part.start, min(2 * part.stop, size)) for part, size in zip(place[-2:], below[-2:], strict=True))
        self._put_chunk(level, index, self._read(level - 1, (*place[:-2], *doubled), 2, files))

    def _read(self, level: int, region: Region, step: int, files: Files) -> NDArray[Any]:
        return gather(self.layout, level, region, step, partial(self._load, level, files))

    def _load(self, level: int, files: Files, index: tuple[int, ...]) -> NDArray[Any] | None:
        """Read a chunk and note its size and checksum; None when it has no object."""
        name = chunk_name(level, index)
        try:
            data = self._folder.read(name)
        except FileNotFoundError:
            return None
        files[name] = (len(data), digest(data))
        return decode(data, self.layout, level, f"{self.path}/{name}")


def check_labels(labels: NDArray[Any], dtype: str) -> None:
    """Refuse what is no label image.

    Raises
    ------
    InvalidPixelsError
        The message says which rule it breaks.
    """
    if labels.dtype.kind not in "iu":
        raise InvalidPixelsError(f"Labels are integers; these are {labels.dtype}.")
    largest = min(np.iinfo(dtype).max, LARGEST_LABEL)
    if labels.size and (labels.min() < 0 or labels.max() > largest):
        raise InvalidPixelsError(f"Labels stored as {dtype} lie from 0 to {largest}; these from {labels.min()} to {labels.max()}.")


def check_aligned(layout: Layout, origin: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Refuse a region that would share a chunk with another: two hands could then undo each other's work.

    Raises
    ------
    InvalidPixelsError
        The region does not lie on whole chunks, or not inside the image.
    """
    if len(origin) != len(layout.shape) or len(shape) != len(layout.shape):
        raise InvalidPixelsError(f"The label image has axes {layout.axes}; a region needs as many.")
    for start, size, edge, end in zip(origin, shape, layout.chunk, layout.shape, strict=True):
        stop = start + size
        if start < 0 or stop > end or start % edge or (stop % edge and stop != end):
            raise InvalidPixelsError(
                f"A region is written in whole chunks of {layout.chunk}; this one starts at {origin} and has shape {shape}."
            )
