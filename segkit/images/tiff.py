"""TIFF in all its forms: plain, multi-page, BigTIFF, ImageJ hyperstack, OME-TIFF, whole-slide; striped or tiled, with or without pyramid.

What the directory of the file promises is compared with what is there before a pixel is read. Pages that no metadata
explains are planes; three unexplained axes are time, channel, plane.

=========================  ==========================================================================
stored                     read as
=========================  ==========================================================================
RGB, RGBA, JPEG's YCbCr    colour, 8 or 16 bits as stored; alpha is dropped
gray with alpha            gray; alpha is dropped
several gray samples       channels
palette                    colour; gray indices when the palette is a ramp, as ImageJ's look-up tables are
white is zero              inverted, so that bright is high; masks of 1 bit stay
CMYK, CIE L*a*b*, YCbCr    refused with a reason (YCbCr is read when JPEG-compressed)
=========================  ==========================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.errors import ImageFormatError, ImageReadError, ImageTruncatedError
from segkit.images.image import refuse_large_piece, refuse_unreadable
from segkit.images.info import Layout, Limits
from segkit.images.segments import COMPRESSIONS, JPEG, Grid, PlaneCache, SegmentCache, Segments, Window
from segkit.images.storage import Source
from segkit.images.tiff_metadata import read_metadata

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Uncompressed rows are offered in chunks of about this many bytes.
CHUNK = 2**20
#: More pages than this in one file are a mistake or an attack.
MOST_PAGES = 2**20

WHITE_IS_ZERO, RGB, PALETTE, YCBCR = 0, 2, 3, 6
REFUSED_COLOURS = {
    5: "CMYK printing colours",
    8: "CIE L*a*b* colours",
    9: "ICC L*a*b* colours",
    10: "ITU L*a*b* colours",
    32803: "a raw camera mosaic",
}
ALPHA = (1, 2)


@dataclass(frozen=True)
class Level:
    """One resolution of an image: how its pages are cut, and where each lies."""

    grid: Grid
    planes: Sequence[Segments]


@dataclass(frozen=True)
class Order:
    """Which page, and which samples of it, hold a channel, plane and time point."""

    strides: dict[str, int]  #: pages from one T, C or Z to the next
    lengths: dict[str, int]
    channel_in_page: bool  #: the samples of a page are channels

    def page(self, time: int, channel: int, plane: int) -> int:
        """Return the number of a page."""
        number = {"T": time, "C": channel, "Z": plane}
        return sum(number[axis] * stride for axis, stride in self.strides.items())


class TiffReader:
    """An open TIFF file; its directory was read and checked, and its pixels are read piece by piece."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        walk_directory(source)
        with source.file() as file, tifffile.TiffFile(file, name=source.uri, _multifile=False, is_mmstack=False, is_ndtiff=False) as tiff:
            # Other files that the metadata names are not opened (_multifile): an image is one file, with one hash.
            series = first_series(tiff)
            page = series.keyframe
            self._stored = readable_type(page)
            self._order = order_of(series)
            self._colour, self._samples = samples_of(page, self._order)
            self._palette = palette_of(page, self._stored, tiff.is_imagej)
            self._inverted = page.photometric == WHITE_IS_ZERO
            self.layout = self._lay_out(tiff, series)
            refuse_unreadable(self.layout, limits)
            self._levels = [self._open_level(level, limits) for level in series.levels]
        self.layout = replace(self.layout, chunks=self._chunks())
        self._cache = SegmentCache(limits.cache_bytes)

    def read(self, level: int, time: int, channel: int, plane: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Return (rows, columns), or (rows, columns, 3) of a colour image."""
        number = self._order.page(time, channel, plane)
        samples = slice(channel, channel + 1) if self._order.channel_in_page else self._samples
        resolution = self._levels[level]
        window = Window(rows, columns, samples)
        pixels = resolution.grid.read(self._source, resolution.planes[number], window, PlaneCache(self._cache, (level, number)))
        if self._palette is not None:
            return self._palette[pixels[..., 0]]
        if self._inverted:
            pixels = inverted(pixels)
        return pixels if self._colour else pixels[..., 0]

    def digest(self) -> tuple[int, str]:
        """Return size in bytes and content hash."""
        return self._source.size, self._source.digest()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _lay_out(self, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Layout:
        page, lengths = series.keyframe, self._order.lengths
        metadata = read_metadata(tiff, series, lengths["C"])
        levels = [(level.keyframe.imagelength, level.keyframe.imagewidth) for level in series.levels]
        return Layout(
            format="tiff",
            dtype=str(self._stored) if self._palette is None else "uint8",
            levels=tuple(levels),
            chunks=(page.imagelength, page.imagewidth),
            times=lengths["T"],
            channels=lengths["C"],
            planes=lengths["Z"],
            colour=self._colour or self._palette is not None,
            names=metadata.names,
            pixel_size_um=metadata.pixel_size_um,
            z_step_um=metadata.z_step_um,
            time_step_s=metadata.time_step_s,
            scenes=len(tiff.series) if series.kind in ("ome", "generic") else 1,
        )

    def _open_level(self, series: tifffile.TiffPageSeries, limits: Limits) -> Level:
        grid = Grid(series.keyframe, readable_type(series.keyframe))
        planes = planes_of(series, grid)
        promised = prod(self._order.lengths[axis] for axis in self._order.strides)
        if len(planes) != promised:
            raise ImageTruncatedError(f"It has {len(planes)} of {promised} planes. Copy it again from where it came.")
        checked = (0, promised - 1) if isinstance(planes, ConsecutivePlanes) else range(promised)
        for number in checked:
            grid.check(planes[number], self._source.size, f"Plane {number + 1} of {promised}" if promised > 1 else "It")
        if not all(grid.in_one_piece(planes[number]) for number in checked):
            refuse_large_piece(grid.segment_pixels, "One of its tiles" if grid.tiled else "One of its strips", limits)
        return Level(grid, planes)

    def _chunks(self) -> tuple[int, int]:
        """Rows and columns that are read in one piece: a strip or tile, or a band of rows that no compression holds together."""
        grid, planes = self._levels[0].grid, self._levels[0].planes
        if grid.in_one_piece(planes[0]):
            return max(1, min(grid.rows, CHUNK // max(1, grid.plane_bytes // grid.rows))), grid.columns
        return min(grid.height, grid.rows), min(grid.width, grid.columns)


@dataclass(frozen=True)
class ConsecutivePlanes(Sequence[Segments]):
    """Planes that lie in the file one after the other, described by a page for the first alone."""

    first: Segments
    plane_bytes: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        return replace(self.first, offsets=self.first.offsets + int(number) * self.plane_bytes)


def walk_directory(source: Source) -> None:
    """Follow the chain of page directories to its end, so that a loop or a cut is found before anybody runs in circles.

    Raises
    ------
    ImageReadError
        When the chain leads back into itself or nowhere.
    ImageTruncatedError
        When it leads behind the end of the file.
    """
    head = source.head(16)
    if len(head) < 8:
        raise ImageTruncatedError("It ends within its header. Copy it again from where it came.")
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    wide = big or source.uri.lower().endswith(".ndpi")
    if big and len(head) < 16:
        raise ImageTruncatedError("It ends within its header. Copy it again from where it came.")
    entry, counter = (20, "Q") if big else (12, "H")
    pointer = "Q" if wide else "I"
    offset = struct.unpack_from(order + pointer, head, 8 if big else 4)[0]
    if offset == 0:
        raise ImageTruncatedError("It has a header and no image: it was never finished, or the copy was cut. Save or copy it again.")
    seen: set[int] = set()
    with source.file() as file:
        while offset:
            if offset in seen or len(seen) > MOST_PAGES:
                raise ImageReadError("Its directory of pages leads back into itself. Open and save it in another program.")
            seen.add(offset)
            offset = _next_directory(file, offset, order, counter, entry, pointer)


def _next_directory(file: Any, offset: int, order: str, counter: str, entry: int, pointer: str) -> int:
    file.seek(offset)
    size = struct.calcsize(order + counter)
    raw = file.read(size)
    entries = struct.unpack(order + counter, raw)[0] if len(raw) == size else 0
    if entries and entries <= 4096:
        file.seek(offset + size + entries * entry)
        raw = file.read(struct.calcsize(order + pointer))
        if len(raw) == struct.calcsize(order + pointer):
            return struct.unpack(order + pointer, raw)[0]
    if len(raw) < size or entries:
        raise ImageTruncatedError("It ends before its directory of pages does. Copy it again from where it came.")
    raise ImageReadError("Its directory of pages is damaged. Copy it again from where it came.")


def first_series(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the image that is meant when a file holds several."""
    if not tiff.series:
        raise ImageReadError("It is a TIFF file without an image. Save it again from the program that made it.")
    return tiff.series[0]


def readable_type(page: tifffile.TiffPage) -> np.dtype[Any]:
    """Check that there is a way to decode a page, and return the type of its pixels.

    Raises
    ------
    ImageFormatError
        When its compression, colours or pixel type are none that are read.
    """
    if page.dtype is None:
        raise ImageFormatError(f"Its pixels have {page.bitspersample} bits of a kind (sample format {page.sampleformat}) that is not read.")
    if page.compression not in COMPRESSIONS:
        known = ", ".join(sorted(set(COMPRESSIONS.values())))
        raise ImageFormatError(f"Its compression ({page.compression!s}) is none that segkit reads: {known}. Save it with one of these.")
    if page.photometric in REFUSED_COLOURS:
        raise ImageFormatError(f"It holds {REFUSED_COLOURS[page.photometric]}. Save it as RGB or gray.")
    if page.photometric == YCBCR and page.compression != JPEG:
        raise ImageFormatError("It holds YCbCr colours. Save it as RGB or gray.")
    if page.imagedepth > 1:
        raise ImageFormatError("It keeps a volume in one page. Save it with a page for each plane.")
    return page.dtype.newbyteorder("=")


def order_of(series: tifffile.TiffPageSeries) -> Order:
    """Work out which page holds what, from the axes that the metadata names.

    Raises
    ------
    ImageFormatError
        When there are axes beside time, channel and plane.
    """
    page = series.keyframe
    names, lengths = series.get_axes(False), series.get_shape(False)
    outer = [(name, length) for name, length in zip(names, lengths, strict=True) if name not in "YX" and length > 1]
    samples = page.shaped[0] * page.shaped[4]
    in_page = _samples_axis(outer, samples)
    outer = [axis for axis in outer if axis is not in_page]
    outer = _named([axis for axis in outer if axis[0] != "S"])
    gray = page.photometric not in (RGB, YCBCR, PALETTE)
    channel_in_page = samples > 1 and gray and not _is_gray_alpha(page)
    strides, stride = {}, 1
    for name, length in reversed(outer):
        strides[name] = stride
        stride *= length
    found = {"T": 1, "C": 1, "Z": 1} | dict(outer)
    if channel_in_page:
        if found["C"] > 1:
            raise ImageFormatError("It has channels both as pages and as samples of a pixel. Save it with a page for each channel.")
        found["C"] = samples
    return Order(strides, found, channel_in_page)


def _samples_axis(outer: Sequence[tuple[str, int]], samples: int) -> tuple[str, int] | None:
    """Return the axis that lies within a page: S, or the last one when it has as many entries as a pixel has samples."""
    if samples == 1:
        return None
    named = [axis for axis in outer if axis[0] == "S"] or list(outer[-1:])
    if not named or named[-1][1] != samples:
        raise ImageFormatError(f"Its pages have {samples} samples in a pixel, and its metadata does not say what they are.")
    return named[-1]


def _named(outer: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Give axes without a name (I, Q) the names that are still free: planes first, then channels and times."""
    known = [name for name, _ in outer if name in "TCZ"]
    free = [name for name in ("ZTC" if known else "ZCT") if name not in known]
    unnamed = sum(name in "IQ" for name, _ in outer)
    if len(known) + unnamed < len(outer) or unnamed > len(free):
        axes = " × ".join(f"{name}={length}" for name, length in outer)
        raise ImageFormatError(f"It has axes beside time, channel and plane ({axes}). Save one position or angle at a time.")
    given = iter(sorted(free[:unnamed], key="TCZ".index))
    return [(name if name in "TCZ" else next(given), length) for name, length in outer]


def samples_of(page: tifffile.TiffPage, order: Order) -> tuple[bool, slice]:
    """Return whether pixels are red, green, blue, and which samples of a page are read."""
    samples = page.shaped[0] * page.shaped[4]
    colour = page.photometric in (RGB, YCBCR) and samples >= 3
    return colour, slice(0, 3) if colour else slice(0, 1)


def _is_gray_alpha(page: tifffile.TiffPage) -> bool:
    samples = page.shaped[0] * page.shaped[4]
    return samples == 2 and bool(page.extrasamples) and int(page.extrasamples[0]) in ALPHA


def palette_of(page: tifffile.TiffPage, stored: np.dtype[Any], imagej: bool) -> NDArray[np.uint8] | None:
    """Return the colours of a palette image as (entries, 3) uint8, or None when its indices are gray values themselves."""
    if page.photometric != PALETTE or stored.kind != "u" or stored.itemsize > 2:
        return None
    colours = page.colormap
    if colours is None or imagej or is_ramp(colours.T):
        return None
    if len(colours[0]) < 2**page.bitspersample:
        raise ImageReadError("Its palette has fewer colours than its pixels need. Save it again as RGB or gray.")
    table = np.zeros((2 ** (8 * stored.itemsize), 3), np.uint8)
    table[: len(colours[0])] = (colours.T >> 8)[: len(table)]
    return table


def is_ramp(colours: NDArray[Any]) -> bool:
    """Tell whether a palette only tints gray values: no colour of it ever falls as the index rises."""
    return bool(np.all(np.diff(colours.astype(np.int64), axis=0) >= 0))


def inverted(pixels: NDArray[Any]) -> NDArray[Any]:
    """Turn an image whose zero is white; floats stay as they are, and so do bits: tifffile declares masks so, where True is the object."""
    return np.iinfo(pixels.dtype).max - pixels if pixels.dtype.kind == "u" else pixels


def planes_of(series: tifffile.TiffPageSeries, grid: Grid) -> Sequence[Segments]:
    """Return where each plane lies.

    Raises
    ------
    ImageTruncatedError
        When a plane that the metadata promises is not there.
    """
    first = series.keyframe
    if series.is_truncated:
        if not grid.plain:
            raise ImageReadError("It describes compressed planes by the first of them alone. Save it again from the program that made it.")
        return ConsecutivePlanes(_segments(first), grid.plane_bytes, prod(series.get_shape(False)) // prod(first.shape))
    planes: list[Segments] = []
    try:
        for page in series:
            if page is None:
                raise IndexError
            planes.append(_segments(page))
    except IndexError as fault:
        raise ImageTruncatedError(
            f"Plane {len(planes) + 1} of {len(series)} is missing. Copy the file again from where it came."
        ) from fault
    return planes


def _segments(page: tifffile.TiffPage | tifffile.TiffFrame) -> Segments:
    return Segments(_whole_numbers(page.dataoffsets), _whole_numbers(page.databytecounts), page.jpegtables)


def _whole_numbers(values: Sequence[int]) -> NDArray[np.int64]:
    return np.asarray(values, np.int64).reshape(-1)
