"""An open image: planes, regions and volumes of it, as a selection asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from segkit.errors import ImageChangedError, ImageFormatError, ImageReadError, ImageTooLargeError, SelectionError
from segkit.images.faults import told_in_words
from segkit.images.info import COLOURS, DEFAULT_SELECTION, ImageInfo, Layout, Limits, Selection, find_channel, find_number
from segkit.images.storage import State, name_of, state_of

PROJECTIONS = ("max", "mean")
#: What each colour adds to the luminance of a pixel (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)


class Reader(Protocol):
    """One opened file of one format. Safe to read from many threads at once."""

    layout: Layout

    def read(self, level: int, time: int, channel: int, plane: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Return (rows, columns), or (rows, columns, 3) of a colour image, in native byte order; bounds are inside the image."""

    def digest(self) -> tuple[int, str]:
        """Return size in bytes and content hash."""

    def close(self) -> None:
        """Let go of the file."""


@dataclass(frozen=True)
class _Wanted:
    """A selection in numbers, for one image."""

    level: int
    channel: int  #: along C
    sample: int | str | None  #: one of the colours, "gray", or None for all of them
    planes: tuple[int, ...]
    projection: str  #: "max" or "mean", when there are several planes


class Image:
    """A microscopy image whose pixels are read when they are asked for. Use it in a `with` block, from as many threads as you like.

    Examples
    --------
    >>> with open_image("plate7/A01.tif") as image:            # doctest: +SKIP
    ...     plane = image.plane(Selection(channel="DAPI"))
    """

    def __init__(self, uri: str, reader: Reader, limits: Limits, state: State | None = None) -> None:
        self.uri = uri
        self._reader = reader
        self._limits = limits
        self._state = state

    @cached_property
    def info(self) -> ImageInfo:
        """What the header tells, with the content hash: the file is read through for it, once for as long as it does not change."""
        layout = self._reader.layout
        with told_in_words():
            size, digest = self._reader.digest()
        return ImageInfo(
            uri=self.uri,
            name=name_of(self.uri),
            format=layout.format,
            axes=layout.axes,
            shape=layout.shape,
            dtype=layout.dtype,
            channels=layout.channel_names,
            pixel_size_um=layout.pixel_size_um,
            z_step_um=layout.z_step_um,
            time_step_s=layout.time_step_s,
            bytes=size,
            content_hash=digest,
            scenes=layout.scenes,
        )

    @property
    def times(self) -> int:
        """How many time points the image has, at least 1."""
        return self._reader.layout.times

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each pyramid level, full size first."""
        return self._reader.layout.levels

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and columns that the storage decodes in one piece; regions along its multiples read the least."""
        return self._reader.layout.chunks

    def plane(self, selection: Selection = DEFAULT_SELECTION, time: int = 0) -> NDArray[Any]:
        """Read one whole plane.

        Parameters
        ----------
        selection : Selection
            Channel, plane or projection, and pyramid level.
        time : int
            Time point, from 0.

        Returns
        -------
        (rows, columns), or (rows, columns, 3) of a colour image whose channel is not chosen
            In the file's own type; float32 for the mean projection and for "gray" of float images.

        Raises
        ------
        ImageReadError
            When the pixels cannot be read: damaged, too many at once, or gone.
        SelectionError
            When the image has no such channel, plane, level or time point.
        """
        return self.region(selection, slice(None), slice(None), time)

    def region(self, selection: Selection, rows: slice, columns: slice, time: int = 0) -> NDArray[Any]:
        """Read a rectangle of one plane; of tiled and striped TIFF and of OME-Zarr only what it touches is decoded.

        Parameters
        ----------
        selection : Selection
            Channel, plane or projection, and pyramid level; rows and columns are those of that level.
        rows, columns : slice
            Without a step; what lies outside the image is cut off, as numpy does.
        time : int
            Time point, from 0.

        Returns
        -------
        (rows, columns), or (rows, columns, 3) of a colour image whose channel is not chosen
            As `plane`.

        Raises
        ------
        ImageReadError, SelectionError
            As `plane`.
        """
        wanted = self._resolve(selection, time)
        return self._read(wanted, rows, columns, find_number("time point", time, self.times))

    def volume(self, selection: Selection = DEFAULT_SELECTION, time: int = 0) -> NDArray[Any]:
        """Read all planes of one channel; the selection's `z` does not matter.

        Returns
        -------
        (planes, rows, columns), or (planes, rows, columns, 3) of a colour image whose channel is not chosen
            In the file's own type. An image without planes gives one.

        Raises
        ------
        ImageReadError, SelectionError
            As `plane`.
        """
        wanted = self._resolve(Selection(selection.channel, "volume", selection.level), time)
        rows, columns = self.levels[wanted.level]
        self._refuse_too_many(rows * columns * len(wanted.planes), "This volume")
        moment = find_number("time point", time, self.times)
        stack: NDArray[Any] | None = None
        for number, plane in enumerate(self._planes(wanted, slice(0, rows), slice(0, columns), moment)):
            if stack is None:
                stack = np.empty((len(wanted.planes), *plane.shape), plane.dtype)
            stack[number] = plane
        assert stack is not None
        return stack

    def refuse_changed(self) -> None:
        """Make sure that all that was read since it was opened is of one image, as far as a file's size and times tell.

        Raises
        ------
        ImageChangedError
            Somebody wrote to the file, or put another one in its place. Of folders and stores it cannot be told.
        """
        now = state_of(self.uri)
        if None not in (self._state, now) and now != self._state:
            raise ImageChangedError

    def close(self) -> None:
        """Let go of the file. Reading afterwards is an error."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _resolve(self, selection: Selection, time: int) -> _Wanted:
        layout = self._reader.layout
        channel, sample = _channel_and_sample(selection.channel, layout)
        planes, projection = _planes_wanted(selection.z, layout.planes)
        return _Wanted(find_number("pyramid level", selection.level, len(layout.levels)), channel, sample, planes, projection)

    def _read(self, wanted: _Wanted, rows: slice, columns: slice, time: int) -> NDArray[Any]:
        if len(wanted.planes) > 1 and wanted.projection == "volume":
            raise SelectionError('The selection asks for a volume; use Image.volume(), or choose a plane, "max" or "mean".')
        height, width = self.levels[wanted.level]
        rows, columns = _inside("rows", rows, height), _inside("columns", columns, width)
        self._refuse_too_many((rows.stop - rows.start) * (columns.stop - columns.start), "This plane or region")
        planes = self._planes(wanted, rows, columns, time)
        return _project(planes, wanted.projection, len(wanted.planes))

    def _planes(self, wanted: _Wanted, rows: slice, columns: slice, time: int) -> Iterator[NDArray[Any]]:
        for plane in wanted.planes:
            with told_in_words():
                pixels = self._reader.read(wanted.level, time, wanted.channel, plane, rows, columns)
            yield _sample(pixels, wanted.sample)

    def _refuse_too_many(self, pixels: int, what: str) -> None:
        most = self._limits.max_decoded_pixels
        if pixels > most:
            raise ImageTooLargeError(
                f"{what} has {pixels:,} pixels, and at most {most:,} are read at once."
                " Read it in regions, or raise SEGKIT_MAX_DECODED_PIXELS."
            )


def _channel_and_sample(wanted: int | str | None, layout: Layout) -> tuple[int, int | str | None]:
    """Return the number along C and the colour, or None for all colours."""
    if layout.channels > 1 or not layout.colour:
        names = layout.channel_names or layout.names
        return (0 if wanted is None else find_channel(wanted, names, layout.channels)), None
    if wanted is None:
        return 0, None
    if isinstance(wanted, str) and wanted.strip().lower() in ("gray", "grey"):
        return 0, "gray"
    return 0, find_channel(wanted, COLOURS, len(COLOURS))


def _planes_wanted(wanted: int | str | None, count: int) -> tuple[tuple[int, ...], str]:
    every = tuple(range(count))
    if wanted is None:
        return every, "max"
    if isinstance(wanted, str):
        word = wanted.strip().lower()
        if word in (*PROJECTIONS, "volume"):
            return every, word
        if not word.lstrip("-").isdecimal():
            raise SelectionError(f'There is no plane "{wanted}": give a number from 0 to {count - 1}, "max", "mean" or "volume".')
    return (find_number("plane", int(wanted), count),), "max"


def _inside(what: str, bounds: slice, length: int) -> slice:
    if bounds.step not in (None, 1):
        raise SelectionError(f"The {what} of a region are given without a step.")
    start, stop, _ = bounds.indices(length)
    return slice(start, max(start, stop))


def _sample(pixels: NDArray[Any], sample: int | str | None) -> NDArray[Any]:
    if sample is None:
        return pixels
    if isinstance(sample, int):
        return np.ascontiguousarray(pixels[..., sample])
    return luminance(pixels)


def luminance(colours: NDArray[Any]) -> NDArray[Any]:
    """Return the brightness of colours; where red, green and blue are equal it is their value, exactly.

    Parameters
    ----------
    colours : (rows, columns, 3)
        Red, green, blue.

    Returns
    -------
    (rows, columns)
        Of the same type; integers are rounded.
    """
    weights = np.asarray(LUMINANCE, np.float32 if colours.dtype.itemsize < 4 else np.float64)
    gray = colours @ weights
    return gray.astype(colours.dtype) if colours.dtype.kind == "f" else np.rint(gray).astype(colours.dtype)


def _project(planes: Iterator[NDArray[Any]], projection: str, count: int) -> NDArray[Any]:
    """Project planes one at a time, so that two are held at most."""
    first = next(planes)
    if projection == "mean":
        return _mean(first, planes, count)
    if count == 1:
        return first
    highest = first.copy()
    for plane in planes:
        np.maximum(highest, plane, out=highest)
    return highest


def _mean(first: NDArray[Any], rest: Iterator[NDArray[Any]], count: int) -> NDArray[Any]:
    total = first.astype(np.float64)
    for plane in rest:
        total += plane
    return (total / count).astype(np.float32)


def refuse_unreadable(layout: Layout, limits: Limits) -> None:
    """Check what a header declares, before anything is allocated for it.

    Raises
    ------
    ImageFormatError
        When the pixels are complex or no numbers at all.
    ImageTooLargeError
        When there are more pixels than the limit.
    ImageReadError
        When there are none.
    """
    dtype = np.dtype(layout.dtype)
    if dtype.kind == "c":
        raise ImageFormatError("Its pixels are complex numbers. Save their magnitude or phase as a real image first.")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ImageFormatError(f"Its pixels are of type {dtype}. segkit reads bool, integers and floats of up to 64 bits.")
    lengths = " × ".join(f"{length}" for length in layout.shape)
    if min(layout.shape) < 1:
        raise ImageReadError(f"It has no pixels: its header says {lengths}. Save it again from the program that made it.")
    if layout.pixels > limits.max_pixels:
        raise ImageTooLargeError(
            f"Its header declares {lengths} ({layout.pixels:,} pixels), more than the limit of {limits.max_pixels:,}."
            " If that is right, raise SEGKIT_MAX_PIXELS."
        )


def refuse_large_piece(pixels: int, what: str, limits: Limits) -> None:
    """Check a strip, tile, chunk or file that can only be decoded whole.

    Raises
    ------
    ImageTooLargeError
        When it has more pixels than are decoded at once.
    """
    if pixels > limits.max_decoded_pixels:
        raise ImageTooLargeError(
            f"{what} has {pixels:,} pixels and can only be decoded whole; the limit is {limits.max_decoded_pixels:,}."
            " Save the image in smaller tiles, or raise SEGKIT_MAX_DECODED_PIXELS."
        )
