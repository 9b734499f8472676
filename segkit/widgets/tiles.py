"""Small pieces of large images and label images, for a page that draws only what it shows.

Level 0 is full size, each further level has half the rows and columns. A piece is read from the nearest level that the file
has; of an image without a pyramid the far levels come from one overview, which is read once and kept.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow as pa
from cachetools import LRUCache
from numpy.typing import NDArray

from segkit.errors import SelectionError
from segkit.images import Image, Selection
from segkit.results import Result

#: Edge of a piece in pixels.
TILE = 256
#: A piece is read from the file while it covers at most this many of its pixels; beyond, from the overview.
DIRECT = 2**22
#: An overview has one pixel for so many rows and columns: those of the first level whose pieces are too large to be read.
FAR = 16
#: Images up to this edge are their own overview.
SMALL = 1024
#: Shares of pixels that become black and white at first.
DARKEST, BRIGHTEST = 0.005, 0.998
#: Contrast is judged by about so many pixels.
SAMPLE = 2**18
#: Blocks of a label image that are kept, of up to 4 MB each.
BLOCKS = 16
COLOURS = {"red": "#ff0000", "green": "#00ff00", "blue": "#0000ff"}
#: Colours of channels whose names say nothing, after the usual order of dyes: DAPI, FITC, TRITC, Cy5.
USUAL = ("#4d7dff", "#00d26a", "#ff5050", "#ff40ff", "#ffd000", "#00e0e0")


@dataclass(frozen=True)
class Channel:
    """One channel, and the contrast it is shown with at first."""

    name: str
    colour: str
    low: float
    high: float
    least: float  #: of what contrast may be set to
    most: float


class Pixels:
    """The pieces of one plane of an open image.

    Parameters
    ----------
    image : Image
        Open; whoever opened it closes it.
    selection : Selection
        Which plane or projection; its `level` counts as full size. Its channel is not looked at: all channels are shown.
    time : int
        Time point.
    """

    def __init__(self, image: Image, selection: Selection, time: int = 0) -> None:
        self._image = image
        self._z = "max" if selection.z in ("volume", None) else selection.z
        self._base = selection.level % len(image.levels)
        self._time = time
        self._colour = "S" in image.info.axes and "C" not in image.info.axes
        self._names = image.info.channels or ("gray",)
        self._overviews: dict[int, NDArray[Any]] = {}
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns at full size."""
        return self._image.levels[self._base]

    @property
    def levels(self) -> int:
        """How many levels there are: the last fits one piece."""
        return levels_of(self.shape)

    @cached_property
    def channels(self) -> list[Channel]:
        """The channels, each with a contrast that shows most of it."""
        if self._colour and self._image.info.dtype == "uint8":
            return [Channel(name, COLOURS[name], 0, 255, 0, 255) for name in self._names]
        return [self._channel(number) for number in range(len(self._names))]

    def _channel(self, number: int) -> Channel:
        name = self._names[number]
        colour = COLOURS.get(name) or ("#ffffff" if len(self._names) == 1 else USUAL[number % len(USUAL)])
        overview = self._overview(number)
        step = max(1, int((overview.size / SAMPLE) ** 0.5))
        values = overview[::step, ::step].astype(np.float64).ravel()
        values = values[np.isfinite(values)]
        if not len(values):
            return Channel(name, colour, 0, 1, 0, 1)
        low, high = (float(each) for each in np.quantile(values, [DARKEST, BRIGHTEST]))
        least, most = float(values.min()), float(values.max())
        if not high > low:
            low, high = least, most if most > least else least + 1
        return Channel(name, colour, low, high, min(least, low), max(most, high))

    def tile(self, level: int, row: int, column: int, channels: Sequence[tuple[int, float, float]]) -> bytes:
        """Return a piece of several channels, one after the other, as bytes of 0..255.

        Parameters
        ----------
        level, row, column : int
            Which piece.
        channels : sequence of (number, low, high)
            `low` becomes 0 and `high` 255.
        """
        height, width = tile_shape(self.shape, level, row, column)
        planes = [quantised(self._piece(level, row, column, number, (height, width)), low, high) for number, low, high in channels]
        return b"".join(plane.tobytes() for plane in planes)

    def _piece(self, level: int, row: int, column: int, channel: int, shape: tuple[int, int]) -> NDArray[Any]:
        scale = 2**level
        top, left = row * TILE * scale, column * TILE * scale
        box = (top, left, min(self.shape[0], top + shape[0] * scale), min(self.shape[1], left + shape[1] * scale))
        there = self._nearest(scale)
        factor = self.shape[0] / self._image.levels[there][0]
        if (box[2] - box[0]) * (box[3] - box[1]) / factor**2 > DIRECT:
            overview = self._overview(channel)
            return fitted(cut(overview, box, self.shape[0] / overview.shape[0]), shape)
        rows, columns = span(box[0], box[2], factor), span(box[1], box[3], factor)
        return fitted(self._read(there, rows, columns, channel), shape)

    def _nearest(self, scale: float) -> int:
        """Return the coarsest level of the file that is fine enough."""
        rows = self.shape[0] / scale
        fine = [number for number, level in enumerate(self._image.levels) if number >= self._base and level[0] >= rows - 1]
        return max(fine, default=self._base)

    def _read(self, level: int, rows: slice, columns: slice, channel: int) -> NDArray[Any]:
        pixels = self._image.region(Selection(None if self._colour else channel, self._z, level), rows, columns, self._time)
        return pixels[..., channel] if self._colour else pixels

    def _overview(self, channel: int) -> NDArray[Any]:
        """Read a channel small, once."""
        with self._lock:
            if channel not in self._overviews:
                scale = FAR if max(self.shape) > SMALL else 1
                self._overviews[channel] = np.concatenate(list(self._bands(scale, channel)))
            return self._overviews[channel]

    def _bands(self, scale: int, channel: int) -> Iterator[NDArray[Any]]:
        """Read a channel in bands of whole rows of the storage's chunks, each made small at once."""
        there = self._nearest(scale)
        rows, columns = self._image.levels[there]
        step = max(1, round(scale * rows / self.shape[0]))
        height = step * ceil(max(self._image.chunks[0], DIRECT // columns) / step)
        for top in range(0, rows, height):
            band = self._read(there, slice(top, min(rows, top + height)), slice(None), channel)
            yield fitted(band, (ceil(band.shape[0] / step), ceil(columns / step)))


class Labels(Protocol):
    """Where the pieces of a label image come from."""

    def tile(self, level: int, row: int, column: int) -> NDArray[np.int32]:
        """Return a piece with a margin of one pixel of that level on each side; beyond the image its edge is repeated."""


class StoredLabels:
    """The pieces of a committed label image; of a volume the highest number along z.

    Parameters
    ----------
    result : Result
        Open.
    time : int
        Time point.
    plane : int, optional
        Of a volume, only this plane.
    """

    def __init__(self, result: Result, time: int = 0, plane: int | None = None) -> None:
        self._reader = result.labels
        self._layout = result.labels.layout
        self._time, self._plane = time, plane
        self._blocks: LRUCache[tuple[int, int, int], NDArray[np.int32]] = LRUCache(BLOCKS)
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns at full size."""
        rows, columns = self._layout.shape[-2:]
        return rows, columns

    def tile(self, level: int, row: int, column: int) -> NDArray[np.int32]:
        """Return a piece with its margin."""
        stored = min(level, self._layout.levels - 1)
        step = 2 ** (level - stored)
        rows, columns = self._layout.shape_at(stored)[-2:]
        height, width = tile_shape(self.shape, level, row, column)
        ys, xs = picks(row, height, step, rows), picks(column, width, step, columns)
        return self._pick(stored, ys, xs)

    def _pick(self, level: int, ys: NDArray[np.intp], xs: NDArray[np.intp]) -> NDArray[np.int32]:
        high, wide = self._layout.chunk_at(level)[-2:]
        out = np.empty((len(ys), len(xs)), np.int32)
        for down in np.unique(ys // high).tolist():
            for across in np.unique(xs // wide).tolist():
                block = self._block(level, down, across)
                y, x = ys // high == down, xs // wide == across
                out[np.ix_(y, x)] = block[np.ix_(ys[y] - down * high, xs[x] - across * wide)]
        return out

    def _block(self, level: int, down: int, across: int) -> NDArray[np.int32]:
        key = (level, down, across)
        with self._lock:
            if key in self._blocks:
                return self._blocks[key]
        high, wide = self._layout.chunk_at(level)[-2:]
        where = {"T": slice(self._time, self._time + 1), "Z": slice(None) if self._plane is None else slice(self._plane, self._plane + 1)}
        square = (slice(down * high, (down + 1) * high), slice(across * wide, (across + 1) * wide))
        leading = tuple(where[axis] for axis in self._layout.axes[:-2])
        labels = self._reader.read(level, (*leading, *square))
        block = labels.reshape(-1, *labels.shape[-2:]).max(axis=0)
        with self._lock:
            self._blocks[key] = block
        return block


class HeldLabels:
    """The pieces of labels in memory, which cover a part of the image; outside it there is no object.

    Parameters
    ----------
    labels : (rows, columns) int32
        May change while it is shown.
    origin : (row, column)
        Where its first pixel lies in the image.
    shape : (rows, columns)
        Of the image at full size.
    """

    def __init__(self, labels: NDArray[np.int32], origin: tuple[int, int], shape: tuple[int, int]) -> None:
        self.labels, self.origin, self.shape = labels, origin, shape

    def tile(self, level: int, row: int, column: int) -> NDArray[np.int32]:
        """Return a piece with its margin."""
        height, width = tile_shape(self.shape, level, row, column)
        ys = picks(row, height, 2**level, self.shape[0]) - self.origin[0]
        xs = picks(column, width, 2**level, self.shape[1]) - self.origin[1]
        inside = (ys >= 0) & (ys < self.labels.shape[0]), (xs >= 0) & (xs < self.labels.shape[1])
        out = np.zeros((len(ys), len(xs)), np.int32)
        out[np.ix_(*inside)] = self.labels[np.ix_(ys[inside[0]], xs[inside[1]])]
        return out


@dataclass(frozen=True)
class Measurements:
    """The objects' rows, ready to be looked up by number."""

    table: pa.Table  #: ascending by label
    time: int = 0  #: of a series, the time point that is shown

    @cached_property
    def _labels(self) -> NDArray[Any]:
        return self.table["label"].to_numpy()

    def of(self, label: int) -> dict[str, Any]:
        """Return what was measured of an object; empty when there is no such object."""
        rows = np.flatnonzero(self._labels == label) if "time" in self.table.column_names else self._found(label)
        for row in rows:
            values = self.table.slice(int(row), 1).to_pylist()[0]
            if values.pop("time", self.time) == self.time:
                return values
        return {}

    def _found(self, label: int) -> Sequence[int]:
        place = int(np.searchsorted(self._labels, label))
        return [place] if place < len(self._labels) and self._labels[place] == label else []


def levels_of(shape: tuple[int, int]) -> int:
    """How many levels an image has until it fits one piece."""
    return 1 + max(0, ceil(log2(max(shape) / TILE)))


def tile_shape(shape: tuple[int, int], level: int, row: int, column: int) -> tuple[int, int]:
    """Return rows and columns of a piece, cut off at the image's end.

    Raises
    ------
    SelectionError
        There is no such piece.

    Examples
    --------
    >>> tile_shape((300, 1000), 0, 1, 3), tile_shape((300, 1000), 2, 0, 0)
    ((44, 232), (75, 250))
    """
    if min(level, row, column) < 0:
        raise SelectionError("There is no such piece of the image.")
    rows, columns = (ceil(size / 2**level) - index * TILE for size, index in zip(shape, (row, column), strict=True))
    if min(rows, columns) < 1:
        raise SelectionError("There is no such piece of the image.")
    return min(TILE, rows), min(TILE, columns)


def picks(index: int, count: int, step: int, size: int) -> NDArray[np.intp]:
    """Return the rows (or columns) of a level that a piece picks, with one more on each side, none beyond the image."""
    return np.clip((np.arange(-1, count + 1) + index * TILE) * step, 0, size - 1)


def span(start: int, stop: int, factor: float) -> slice:
    """Return the part of a coarser level that covers a part of the full size."""
    return slice(int(start / factor), max(int(start / factor) + 1, ceil(stop / factor)))


def cut(pixels: NDArray[Any], box: tuple[int, int, int, int], factor: float) -> NDArray[Any]:
    """Cut a box of the full size out of an overview."""
    return pixels[span(box[0], box[2], factor), span(box[1], box[3], factor)]


def fitted(pixels: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Return pixels at another size: averaged when smaller, repeated when larger."""
    if pixels.shape == shape:
        return pixels
    plain = pixels if pixels.dtype in (np.uint8, np.uint16, np.float32) else pixels.astype(np.float32)
    smaller = pixels.shape[0] >= shape[0] and pixels.shape[1] >= shape[1]
    way = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(np.ascontiguousarray(plain), shape[::-1], interpolation=way))


def quantised(pixels: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Bring values to 0..255; NaN becomes 0."""
    gain = 255 / (high - low) if high > low else 0.0
    scaled = np.nan_to_num((pixels.astype(np.float32) - np.float32(low)) * np.float32(gain), posinf=255, neginf=0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def packed(data: bytes) -> bytes:
    """Make bytes smaller, as the page's own "deflate" reads them."""
    return zlib.compress(data, 1)
