"""Tiles of images and of label images at any magnification, for viewers: each reads only what it shows.

Level 0 is full size; each further level has half the rows and columns, rounded up, until one tile holds everything. Tiles are
counted by column and row from the top left; the last ones are cut, not filled up.

A tile is made from the coarsest level of the image's own pyramid that is fine enough. An image without a pyramid is read in bands
of rows, each made small before the next is read, so that memory does not grow with the image: a band has at most `BAND` pixels, or
one row of the pieces that the file is stored in. PNG, JPEG and BMP can only be decoded whole; their size is limited by
`SEGKIT_MAX_DECODED_PIXELS`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from segkit.errors import SelectionError, suggest
from segkit.images import Image, Selection
from segkit.labels import LabelReader
from segkit.overlays import COLOURS, outline

Form = Literal["webp", "jpeg", "png"]
Style = Literal["outlines", "fills"]

#: Edge of a tile in pixels.
EDGE = 512
#: Edges that may be asked for.
EDGES = range(64, 2049)
#: Pixels of an image without a pyramid that are read at a time.
BAND = 2**23
#: Contrast is judged by an overview of about this edge.
OVERVIEW = 1024
#: Percentiles that become black and white.
CUT = (0.5, 99.8)
#: How pictures are packed: extension and parameters of OpenCV.
PACKING: dict[str, tuple[str, list[int]]] = {
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 85]),
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 88]),
    "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
}
PLAIN = Selection()


@dataclass(frozen=True)
class Grid:
    """How an image is cut into tiles at each level.

    Examples
    --------
    >>> grid = Grid(1000, 3000, edge=512)
    >>> grid.levels, grid.shape(1), grid.tiles(1)
    (4, (500, 1500), (1, 3))
    """

    rows: int
    columns: int
    edge: int = EDGE

    def __post_init__(self) -> None:
        if self.edge not in EDGES:
            raise SelectionError(f"The edge of a tile is {EDGES.start} to {EDGES.stop - 1} pixels, not {self.edge}.")

    @property
    def levels(self) -> int:
        """How many levels there are; the last one is a single tile."""
        return 1 + max(0, ceil(max(self.rows, self.columns) / self.edge) - 1).bit_length()

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level."""
        return ceil(self.rows / 2**level), ceil(self.columns / 2**level)

    def tiles(self, level: int) -> tuple[int, int]:
        """How many tiles a level has, down and across."""
        rows, columns = self.shape(level)
        return ceil(rows / self.edge), ceil(columns / self.edge)

    def place(self, level: int, column: int, row: int) -> tuple[slice, slice]:
        """Return the rows and columns of a tile, in pixels of its level.

        Raises
        ------
        SelectionError
            There is no such level or tile.
        """
        if not 0 <= level < self.levels:
            raise SelectionError(f"There is no level {level}: the image has {self.levels}, and 0 is full size.")
        down, across = self.tiles(level)
        if not (0 <= row < down and 0 <= column < across):
            raise SelectionError(f"Level {level} has {across} columns and {down} rows of tiles, so there is no tile ({column}, {row}).")
        rows, columns = self.shape(level)
        top, left = row * self.edge, column * self.edge
        return slice(top, min(rows, top + self.edge)), slice(left, min(columns, left + self.edge))


def grid_of(image: Image, edge: int = EDGE) -> Grid:
    """Return how an open image is cut into tiles."""
    rows, columns = image.levels[0]
    return Grid(rows, columns, edge)


def grid_of_labels(labels: LabelReader, edge: int = EDGE) -> Grid:
    """Return how a label image is cut into tiles."""
    rows, columns = labels.shape[-2:]
    return Grid(rows, columns, edge)


# Tiles of images


def image_tile(
    image: Image,
    selection: Selection,
    level: int,
    column: int,
    row: int,
    *,
    time: int = 0,
    edge: int = EDGE,
    contrast: tuple[float, float] | None = None,
    form: Form = "webp",
) -> bytes:
    """Draw one tile of an image.

    Parameters
    ----------
    image : Image
        An open image; keep it open from tile to tile.
    selection : Selection
        Channel and plane; its own level does not matter. A volume is shown as its maximum projection.
    level, column, row : int
        Which tile; see `Grid`.
    time : int
        Time point, from 0.
    edge : int
        Edge of the tiles in pixels.
    contrast : (float, float), optional
        Values that become black and white, from `contrast`; when not given they are found here, for each tile anew.
        Colours of 8 bits are shown as they are.
    form : {"webp", "jpeg", "png"}
        How the picture is packed.

    Returns
    -------
    bytes
        A picture of as many pixels as `Grid.place` says, gray or colour.

    Raises
    ------
    ImageReadError, SelectionError
        It cannot be read, or there is no such tile.
    """
    if form not in PACKING:
        raise SelectionError(f'Tiles are not made as "{form}". {suggest(form, PACKING)}')
    rows, columns = grid_of(image, edge).place(level, column, row)
    pixels = read_small(image, flat(selection), level, rows, columns, time)
    if pixels.ndim == 3 and pixels.dtype == np.uint8:
        return pack(pixels, form)
    return pack(stretch(pixels, contrast or find_contrast(image, selection, time)), form)


def flat(selection: Selection) -> Selection:
    """Show a volume as its maximum projection."""
    return Selection(selection.channel, "max" if selection.z == "volume" else selection.z)


def read_small(image: Image, selection: Selection, level: int, rows: slice, columns: slice, time: int) -> NDArray[Any]:
    """Read a rectangle of a deep-zoom level, averaged down from the nearest finer level of the image's pyramid.

    Returns
    -------
    (rows, columns) or (rows, columns, 3)
        Exactly as many pixels as the slices say.
    """
    height, width = (ceil(size / 2**level) for size in image.levels[0])
    fine_enough = [number for number, (down, across) in enumerate(image.levels) if down >= height and across >= width]
    source = max(fine_enough)
    full = image.levels[source]
    chosen = Selection(selection.channel, selection.z, source)
    if full == (height, width):
        return image.region(chosen, rows, columns, time)
    across = scaled(columns, full[1] / width, full[1])
    bands = [
        averaged(image.region(chosen, band, across, time), (part.stop - part.start, columns.stop - columns.start))
        for part, band in cut_in_bands(rows, full[0] / height, full[0], across.stop - across.start, image.chunks[0])
    ]
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


def scaled(part: slice, factor: float, size: int) -> slice:
    """Return the pixels of a finer level that a part of a coarser one covers, at least one."""
    start = min(size - 1, round(part.start * factor))
    return slice(start, max(start + 1, min(size, round(part.stop * factor))))


def cut_in_bands(rows: slice, factor: float, size: int, width: int, together: int) -> Iterator[tuple[slice, slice]]:
    """Yield parts of some coarse rows, each with the fine rows it is made of: few enough to be held, and whole rows of stored pieces."""
    most = max(1, BAND // width // max(1, together)) * max(1, together)
    step = max(1, int(most / factor))
    for start in range(rows.start, rows.stop, step):
        part = slice(start, min(rows.stop, start + step))
        yield part, scaled(part, factor, size)


def averaged(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Average pixels down to (rows, columns)."""
    fit = pixels if pixels.dtype in (np.uint8, np.uint16, np.float32) else pixels.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return cv2.resize(np.ascontiguousarray(fit), size[::-1], interpolation=cv2.INTER_AREA)


def contrast(image: Image, selection: Selection = PLAIN, time: int = 0) -> tuple[float, float]:
    """Return the values that become black and white, the same for all tiles: two percentiles of an overview.

    Raises
    ------
    ImageReadError, SelectionError
        It cannot be read.
    """
    grid = grid_of(image, OVERVIEW)
    level = grid.levels - 1
    pixels = read_small(image, flat(selection), level, *grid.place(level, 0, 0), time)
    values = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, CUT)
    if high <= low:
        low, high = values.min(), values.max()
    return float(low), float(high)


find_contrast = contrast


def stretch(pixels: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Stretch values to 0..255; NaN and infinities are black, and so is everything where both limits are the same."""
    low, high = limits
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    values = np.nan_to_num(pixels.astype(np.float32), nan=low, posinf=low, neginf=low)
    return np.rint((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def pack(pixels: NDArray[np.uint8], form: Form) -> bytes:
    """Pack (rows, columns) or (rows, columns, 3) uint8 as a picture."""
    extension, parameters = PACKING[form]
    ordered = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    packed, data = cv2.imencode(extension, np.ascontiguousarray(ordered), parameters)
    assert packed
    return data.tobytes()


# Tiles of label images


def overlay_tile(
    labels: LabelReader,
    level: int,
    column: int,
    row: int,
    *,
    time: int = 0,
    plane: int | None = None,
    edge: int = EDGE,
    style: Style = "outlines",
    opacity: float = 1.0,
) -> bytes:
    """Draw objects on nothing, to be laid over the tile of the image.

    Parameters
    ----------
    labels : LabelReader
        An open label image.
    level, column, row : int
        Which tile; see `Grid`.
    time : int
        Time point, from 0.
    plane : int, optional
        Plane of a volume; by default the highest number along z is shown.
    edge : int
        Edge of the tiles in pixels.
    style : {"outlines", "fills"}
        Outermost pixels of objects, or all of them.
    opacity : float
        0 (cannot be seen) to 1.

    Returns
    -------
    bytes
        A PNG with transparency, in the colours of `overlays.colours_of`.

    Raises
    ------
    SelectionError
        There is no such tile, plane, style or opacity.
    ResultCorruptError
        A chunk is missing or damaged.
    """
    if style not in ("outlines", "fills"):
        raise SelectionError(f'Objects are not drawn as "{style}". {suggest(style, ["outlines", "fills"])}')
    if not 0 <= opacity <= 1:
        raise SelectionError(f"Opacity is 0 to 1, not {opacity}.")
    rows, columns = grid_of_labels(labels, edge).place(level, column, row)
    around = slice(max(0, rows.start - 1), rows.stop + 1), slice(max(0, columns.start - 1), columns.stop + 1)
    found = pick(labels, level, *around, time, plane)
    shown = found != 0 if style == "fills" else outline(found)
    colours = np.where(shown, found % len(COLOURS) + 1, 0).astype(np.uint8)
    top, left = rows.start - around[0].start, columns.start - around[1].start
    return pack_colours(colours[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start], opacity)


def label_tile(
    labels: LabelReader, level: int, column: int, row: int, *, time: int = 0, plane: int | None = None, edge: int = EDGE
) -> bytes:
    """Return the numbers of the objects in one tile, so that a viewer can tell what the pointer is on.

    Returns
    -------
    bytes
        Little-endian uint32, one for each pixel that `Grid.place` says, row by row; 0 on background.

    Raises
    ------
    SelectionError, ResultCorruptError
        As `overlay_tile`.
    """
    rows, columns = grid_of_labels(labels, edge).place(level, column, row)
    return pick(labels, level, rows, columns, time, plane).astype("<u4").tobytes()


def pick(labels: LabelReader, level: int, rows: slice, columns: slice, time: int, plane: int | None) -> NDArray[np.int32]:
    """Read a rectangle of a deep-zoom level of a label image. Beyond its pyramid every 2nd, 4th, ... pixel is taken.

    Returns
    -------
    (rows, columns) int32
        What lies outside the image is cut off.
    """
    layout = labels.layout
    source = min(level, layout.levels - 1)
    step = 2 ** (level - source)
    height, width = layout.shape_at(source)[-2:]
    place = {
        "Y": slice(rows.start * step, min(height, rows.stop * step)),
        "X": slice(columns.start * step, min(width, columns.stop * step)),
    }
    place |= {"T": chosen("time point", time, layout.axes, layout.shape, "T"), "Z": chosen("plane", plane, layout.axes, layout.shape, "Z")}
    region = tuple(place[axis] for axis in layout.axes)
    found = labels.read(source, region)
    return found.reshape(-1, *found.shape[-2:]).max(axis=0)[::step, ::step]


def chosen(what: str, number: int | None, axes: str, shape: tuple[int, ...], axis: str) -> slice:
    """Return the part of an axis that is shown: one place, or all of it.

    Raises
    ------
    SelectionError
        There is no such place.
    """
    length = shape[axes.index(axis)] if axis in axes else 1
    if number is None:
        return slice(0, length)
    if not 0 <= number < length:
        raise SelectionError(f"The label image has no {what} {number}: it has {length}, numbered from 0.")
    return slice(number, number + 1)


def pack_colours(numbers: NDArray[np.uint8], opacity: float) -> bytes:
    """Pack (rows, columns) of 0 = nothing, 1.. = a colour, as a PNG with a palette, which is small."""
    picture = Picture.fromarray(numbers)
    picture.putpalette([0, 0, 0, *COLOURS.ravel().tolist()])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=bytes([0, *[round(255 * opacity)] * len(COLOURS)]), compress_level=1)
    return buffer.getvalue()
