"""Strips and tiles of a TIFF page: which of them a region touches, read and decoded one by one, none short and none too large."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.errors import ImageReadError, ImageTooLargeError, ImageTruncatedError
from segkit.images.storage import Source

#: Compressions of TIFF whose decoders cannot be made to return more than the header promises, or whose own header is checked first.
COMPRESSIONS = {
    1: "none",
    2: "CCITT", 3: "CCITT", 4: "CCITT",
    5: "LZW",
    7: "JPEG",
    8: "Deflate", 32946: "Deflate", 50013: "Deflate",
    32773: "PackBits",
    33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
    34925: "LZMA",
    50000: "Zstandard", 34926: "Zstandard",
    50001: "WebP", 34927: "WebP",
}  # fmt: skip
JPEG = 7
JPEG_2000 = (33003, 33004, 33005, 34712)
#: Of a wide uncompressed image, rows are read one by one when a region wants less than this share of them.
NARROW = 0.25
#: Uncompressed rows are read in bands of about this many bytes.
BAND = 2**24


@dataclass(frozen=True)
class Segments:
    """Where the strips or tiles of one plane lie in the file."""

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    jpeg_tables: bytes | None = None


@dataclass(frozen=True)
class Window:
    """A rectangle of a plane, and which samples of its pixels."""

    rows: slice
    columns: slice
    samples: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and samples."""
        return tuple(part.stop - part.start for part in (self.rows, self.columns, self.samples))


class SegmentCache:
    """The decoded strips and tiles that were used last, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0
        self._kept: OrderedDict[Any, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> NDArray[Any] | None:
        """Return a segment that was kept, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: Any, segment: NDArray[Any]) -> None:
        """Keep a segment, unless it is larger than everything that may be kept."""
        if segment.nbytes > self._most:
            return
        with self._lock:
            if key not in self._kept:
                self._kept[key] = segment
                self._held += segment.nbytes
            while self._held > self._most:
                self._held -= self._kept.popitem(last=False)[1].nbytes


class PlaneCache:
    """The decoded strips and tiles of one plane in the cache of its image."""

    def __init__(self, cache: SegmentCache, plane: Any) -> None:
        self._cache = cache
        self._plane = plane

    def get(self, index: int) -> NDArray[Any] | None:
        """Return a strip or tile by its number, or None."""
        return self._cache.get((self._plane, index))

    def keep(self, index: int, segment: NDArray[Any]) -> None:
        """Keep a strip or tile by its number."""
        self._cache.keep((self._plane, index), segment)


class Grid:
    """How one page is cut into strips or tiles, and how they are decoded. All planes of an image and level share one."""

    def __init__(self, page: tifffile.TiffPage, pixel_type: np.dtype[Any]) -> None:
        self.rows, self.columns = page.imagelength, page.imagewidth
        self.separate = page.shaped[0]  #: samples that are stored one after the other
        self.contiguous = page.shaped[4]  #: samples that are stored together in a pixel
        self.tiled = page.is_tiled
        self.height = page.tilelength if self.tiled else max(1, page.rowsperstrip)
        self.width = page.tilewidth if self.tiled else self.columns
        self.down, self.across = ceil(self.rows / self.height), ceil(self.columns / self.width)
        self.dtype = pixel_type.newbyteorder("=")
        self.stored = pixel_type.newbyteorder(page.parent.byteorder)
        self.compression = int(page.compression)
        self.empty = page.nodata
        #: the bytes in the file are the pixels
        self.plain = page.compression == 1 and page.fillorder == 1 and page.predictor == 1 and page.bitspersample == pixel_type.itemsize * 8
        self._decode = page.decode
        self._jpeg_header = page.jpegheader

    @property
    def count(self) -> int:
        """How many strips or tiles a plane has."""
        return self.separate * self.down * self.across

    @property
    def plane_bytes(self) -> int:
        """Size of a plane without compression."""
        return self.rows * self.columns * self.separate * self._pixel_bytes

    @property
    def segment_pixels(self) -> int:
        """Pixels of the largest strip or tile."""
        return min(self.height, self.rows if not self.tiled else self.height) * self.width

    def in_one_piece(self, segments: Segments) -> bool:
        """Tell whether a plane's uncompressed pixels lie in the file from first to last without a gap."""
        if not self.plain or self.width != self.columns or (self.tiled and self.rows % self.height) or len(segments.offsets) != self.count:
            return False
        return bool(np.all(segments.offsets[:-1] + self._stored_sizes()[:-1] == segments.offsets[1:]))

    def check(self, segments: Segments, file_size: int, where: str) -> None:
        """Compare what the header promises of a plane with the size of the file.

        Raises
        ------
        ImageTruncatedError
            When strips or tiles are missing, were never written, or lie behind the end of the file.
        """
        offsets, counts = segments.offsets, segments.counts
        kind = "tiles" if self.tiled else "strips"
        if len(offsets) < self.count or len(counts) < self.count:
            raise ImageTruncatedError(
                f"{where} has {min(len(offsets), len(counts))} of {self.count} {kind}. Copy the file again from where it came."
            )
        offsets, counts = offsets[: self.count], counts[: self.count]
        if self.in_one_piece(segments):  # the counts do not matter then, and those of files above 4 GiB are often wrong
            counts = self._stored_sizes()
        absent = (offsets <= 0) | (counts <= 0)
        if absent.any() and (not self.tiled or absent.all()):
            raise ImageTruncatedError(f"{where} has {int(absent.sum())} of {self.count} {kind} that were never written. Save it again.")
        if self.plain and (short := int(np.count_nonzero(counts[~absent] < self._stored_sizes()[~absent]))):
            raise ImageTruncatedError(f"{where} is not whole: {short} of {self.count} {kind} are shorter than their pixels. Save it again.")
        beyond = int(np.count_nonzero(counts > file_size - offsets))
        if beyond:
            raise ImageTruncatedError(
                f"{where} is not whole: {beyond} of {self.count} {kind} lie behind the end of the file. Copy it again from where it came."
            )

    def read(self, source: Source, segments: Segments, window: Window, cache: PlaneCache) -> NDArray[Any]:
        """Read a rectangle of a plane, decoding only what it touches.

        Returns
        -------
        (rows, columns, samples)
            In native byte order.
        """
        out = np.empty(window.shape, self.dtype)
        if not out.size:
            return out
        if self.separate == 1:
            self._read_samples(source, segments, 0, window, cache, out)
            return out
        for number in range(window.samples.start, window.samples.stop):
            place = number - window.samples.start
            one = replace(window, samples=slice(0, 1))
            self._read_samples(source, segments, number, one, cache, out[..., place : place + 1])
        return out

    def _read_samples(self, source: Source, segments: Segments, number: int, window: Window, cache: PlaneCache, out: NDArray[Any]) -> None:
        """Read what is stored together: all samples of a pixel, or one of them when each has strips or tiles of its own."""
        if self.in_one_piece(segments):
            start = int(segments.offsets[0]) + number * self.rows * self.columns * self._pixel_bytes
            self._read_rows(source, start, window, out)
            return
        for down, across in self._touched(window):
            index = (number * self.down + down) * self.across + across
            segment = cache.get(index)
            if segment is None:
                segment = self._decoded(source, segments, index)
                if out.shape[:2] != (self.rows, self.columns):
                    cache.keep(index, segment)
            self._copy(segment, down * self.height, across * self.width, window, out)

    def _read_rows(self, source: Source, start: int, window: Window, out: NDArray[Any]) -> None:
        """Read uncompressed rows from where they lie, in bands, or row by row when only a narrow part is wanted."""
        rows, columns = window.rows, window.columns
        narrow = columns.stop - columns.start < NARROW * self.columns
        left, right = (columns.start, columns.stop) if narrow else (0, self.columns)
        band = 1 if narrow else max(1, BAND // (self.columns * self._pixel_bytes))
        for row in range(rows.start, rows.stop, band):
            count = min(band, rows.stop - row)
            place = start + (row * self.columns + left) * self._pixel_bytes
            data = source.read(place, count * (right - left) * self._pixel_bytes)
            pixels = np.frombuffer(data, self.stored).reshape(count, right - left, self.contiguous)
            out[row - rows.start :][:count] = pixels[:, columns.start - left : columns.stop - left, window.samples]

    def _touched(self, window: Window) -> Iterator[tuple[int, int]]:
        for down in range(window.rows.start // self.height, ceil(window.rows.stop / self.height)):
            for across in range(window.columns.start // self.width, ceil(window.columns.stop / self.width)):
                yield down, across

    @staticmethod
    def _copy(segment: NDArray[Any], top: int, left: int, window: Window, out: NDArray[Any]) -> None:
        """Copy the part of a strip or tile that lies in a window to its place."""
        rows = slice(max(window.rows.start, top), min(window.rows.stop, top + segment.shape[0]))
        columns = slice(max(window.columns.start, left), min(window.columns.stop, left + segment.shape[1]))
        to = _moved(rows, -window.rows.start), _moved(columns, -window.columns.start)
        out[to] = segment[_moved(rows, -top), _moved(columns, -left), window.samples]

    def _decoded(self, source: Source, segments: Segments, index: int) -> NDArray[Any]:
        """Decode one strip or tile to (rows, columns, samples), cut to the image."""
        down, across = index // self.across % self.down, index % self.across
        height = min(self.height, self.rows - down * self.height)
        width = min(self.width, self.columns - across * self.width)
        offset, count = int(segments.offsets[index]), int(segments.counts[index])
        if offset <= 0 or count <= 0:
            return np.full((height, width, self.contiguous), self.empty, self.dtype)
        data = source.read(offset, count)
        self._refuse_inflated(data)
        self._refuse_inflated(segments.jpeg_tables or b"")
        tables = {"jpegtables": segments.jpeg_tables, "jpegheader": self._jpeg_header} if self.compression == JPEG else {}
        pixels = self._decode(data, index, **tables)[0]
        if (
            pixels is None
            or pixels.shape[0] != 1
            or pixels.shape[1] < height
            or pixels.shape[2] < width
            or pixels.shape[3] != self.contiguous
        ):
            raise ImageReadError(
                "One of its strips or tiles decodes to fewer pixels than its header promises. Copy it again from where it came."
            )
        return pixels[0, :height, :width].astype(self.dtype, copy=False)

    def _refuse_inflated(self, data: bytes) -> None:
        """Check the size that a JPEG or JPEG 2000 segment declares for itself, since its decoder allocates that."""
        size = jpeg_size(data) if self.compression == JPEG else jpeg_2000_size(data) if self.compression in JPEG_2000 else None
        if size and size[0] * size[1] > 4 * max(self.height * self.width, 2**16):
            raise ImageTooLargeError(f"One of its strips or tiles unpacks to {size[0]} × {size[1]} pixels, more than its header promises.")

    def _stored_sizes(self) -> NDArray[np.int64]:
        """Bytes that each strip or full-width tile has without compression."""
        heights = np.full(self.down, self.height, np.int64)
        if not self.tiled:
            heights[-1] = self.rows - (self.down - 1) * self.height
        sizes = heights * (self.width * self._pixel_bytes)
        return np.tile(np.repeat(sizes, self.across), self.separate)

    @property
    def _pixel_bytes(self) -> int:
        return self.contiguous * self.dtype.itemsize


def _moved(bounds: slice, by: int) -> slice:
    return slice(bounds.start + by, bounds.stop + by)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the rows and columns that a JPEG stream declares in its frame header, or None when it has none.

    What lies between its parts is skipped as the decoder skips it, so that both find the same header.
    """
    place = data.find(b"\xff", 2)
    while 0 <= place < len(data) - 9:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", data[place + 5 : place + 9])
        if marker in (0xD9, 0xDA):  # its end, or its pixels: no header comes after
            return None
        alone = marker <= 1 or 0xD0 <= marker <= 0xD8
        place = data.find(b"\xff", place + 2 + (0 if alone else struct.unpack(">H", data[place + 2 : place + 4])[0]))
    return None


def jpeg_2000_size(data: bytes) -> tuple[int, int] | None:
    """Return the rows and columns that a JPEG 2000 codestream declares in its SIZ segment, or None when it has none."""
    place = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if place < 0 or len(data) < place + 24:
        return None
    right, bottom, left, top = struct.unpack(">IIII", data[place + 8 : place + 24])
    return bottom - top, right - left
