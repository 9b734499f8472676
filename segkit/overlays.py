"""Pictures for people: objects' outlines over their image, and many of them on one sheet. Numbers are those of the object tables."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from segkit.errors import InvalidPixelsError
from segkit.files import beside

RGB = NDArray[np.uint8]

#: Colours that stay apart for the colour-blind (after Okabe and Ito), brightened for dark images; objects take turns.
COLOURS = np.array([[86, 180, 233], [230, 159, 0], [0, 200, 140], [240, 228, 66], [255, 110, 60], [224, 140, 190]], dtype=np.uint8)
#: Shares of the pixels that become black and white.
DARKEST, BRIGHTEST = 0.005, 0.998
#: Contrast is judged by about so many pixels.
SAMPLE = 2**18
GAP, TITLE, FONT = 6, 18, 12
LONGEST_TITLE = 200


def draw(image: ArrayLike, labels: ArrayLike, *, numbers: bool = False, edge: int | None = None) -> RGB:
    """Draw the outlines of objects over their image.

    Parameters
    ----------
    image : (rows, columns) or (rows, columns, 3) bool, integers or floats
        Its contrast is stretched; 8-bit colour is shown as it is.
    labels : (rows, columns) integers
        0 on background.
    numbers : bool
        Write each object's number on it.
    edge : int, optional
        Longest side of the drawing; larger images are made smaller before outlines are drawn, so that these stay visible.

    Returns
    -------
    (rows, columns, 3) uint8
        RGB.

    Raises
    ------
    InvalidPixelsError
        The two do not fit each other.

    Examples
    --------
    >>> labels = np.zeros((5, 5), dtype=np.int32)
    >>> labels[1:4, 1:4] = 1
    >>> (draw(np.zeros((5, 5)), labels).max(axis=2) > 0).sum()
    8
    """
    image, labels = np.asarray(image), np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise InvalidPixelsError(f"Labels to draw are one plane of integers; these have shape {labels.shape} and type {labels.dtype}.")
    if image.shape[:2] != labels.shape or image.shape[2:] not in ((), (1,), (3,), (4,)):
        raise InvalidPixelsError(f"An image of shape {image.shape} does not fit labels of shape {labels.shape}.")
    image, labels = shrink(image, labels, edge)
    out = display(image)
    outlined = outline(labels)
    out[outlined] = colours_of(labels[outlined])
    return write_numbers(out, labels) if numbers else out


def display(image: NDArray[Any]) -> RGB:
    """Make an image visible.

    Parameters
    ----------
    image : (rows, columns) or (rows, columns, 1, 3 or 4) bool, integers or floats
        NaN becomes black. A fourth channel (alpha) is dropped.

    Returns
    -------
    (rows, columns, 3) uint8
        A copy; 8-bit colour as it is, everything else with its contrast stretched.
    """
    if image.ndim == 3 and image.shape[2] >= 3 and image.dtype == np.uint8:
        return image[..., :3].copy()
    values = np.nan_to_num(image[..., :3] if image.ndim == 3 else image[..., None], posinf=0, neginf=0).astype(np.float32)
    step = max(1, int((values.shape[0] * values.shape[1] / SAMPLE) ** 0.5))
    low, high = np.quantile(values[::step, ::step], [DARKEST, BRIGHTEST]) if values.size else (0.0, 1.0)
    gain = 255 / (high - low) if high > low else 0.0
    stretched = np.clip((values - low) * gain, 0, 255).astype(np.uint8)
    return np.repeat(stretched, 3, axis=2) if stretched.shape[2] == 1 else stretched[..., :3]


def shrink(image: NDArray[Any], labels: NDArray[Any], edge: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Make both smaller, so that the longest side is `edge`: pixels are averaged, labels picked."""
    rows, columns = labels.shape
    if edge is None or max(rows, columns) <= edge:
        return image, labels
    scale = edge / max(rows, columns)
    size = max(1, round(rows * scale)), max(1, round(columns * scale))
    middles = (((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, labels.shape, strict=True))
    return resized(image, size), labels[np.ix_(*middles)]


def resized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return an image at another size, (rows, columns), by averaging pixels."""
    plain = image if image.dtype in (np.uint8, np.uint16, np.float32) else image.astype(np.float32)
    return cv2.resize(plain, size[::-1], interpolation=cv2.INTER_AREA)


def outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the outermost pixels of every object: those beside another label. The image's own edge is no outline.

    Parameters
    ----------
    labels : (rows, columns) integers
        0 on background.

    Returns
    -------
    (rows, columns) bool
        True on outlines.
    """
    marked = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    marked[1:] |= down
    marked[:-1] |= down
    marked[:, 1:] |= right
    marked[:, :-1] |= right
    marked &= labels != 0
    return marked


def colours_of(labels: NDArray[Any]) -> RGB:
    """Return the colour of each object: always the same for the same number."""
    return COLOURS[labels % len(COLOURS)]


def write_numbers(picture: RGB, labels: NDArray[Any]) -> RGB:
    """Write each object's number on it, at a pixel of its own."""
    canvas = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT)
    for label, (row, column) in middles_of(labels).items():
        pen.text((column, row), str(label), fill="white", font=font, anchor="mm", stroke_width=1, stroke_fill="black")
    return np.array(canvas)


def middles_of(labels: NDArray[Any]) -> dict[int, tuple[int, int]]:
    """Return a pixel in the middle of each object: the mean of its pixels, or the middle one of them where that lies outside."""
    rows, columns = np.nonzero(labels)
    values = labels[rows, columns]
    order = np.argsort(values, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    found, starts, counts = np.unique(values, return_index=True, return_counts=True)
    if not len(found):
        return {}
    mean_rows, mean_columns = (np.add.reduceat(axis, starts) // counts for axis in (rows, columns))
    inside = labels[mean_rows, mean_columns] == found
    middle = starts + counts // 2
    places = np.where(inside, mean_rows, rows[middle]), np.where(inside, mean_columns, columns[middle])
    return dict(zip(found.tolist(), zip(*(place.tolist() for place in places), strict=True), strict=True))


def save_png(picture: RGB, out: str | Path, *, overwrite: bool = True) -> Path:
    """Write a picture as PNG.

    Parameters
    ----------
    picture : (rows, columns, 3) uint8
        RGB.
    out : path
        The file.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    OutputExistsError, DiskFullError, NotWritableError
        It was not written.
    """
    with beside(out, overwrite=overwrite) as part:
        Image.fromarray(picture).save(part, format="PNG", compress_level=3)
    return Path(out)


def contact_sheet(
    out: str | Path,
    tiles: Iterable[tuple[str, RGB]],
    *,
    columns: int | None = None,
    edge: int = 256,
    most: int = 400,
    overwrite: bool = True,
) -> Path:
    """Write many pictures on one sheet, each with its title.

    Parameters
    ----------
    out : path
        The PNG file.
    tiles : iterable of (title, (rows, columns, 3) uint8)
        Drawn one at a time; only small copies are kept.
    columns : int, optional
        Pictures beside each other; default: a sheet about as wide as it is high.
    edge : int
        Longest side of a picture on the sheet.
    most : int
        Pictures on the sheet at most; the rest are left out.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    InvalidPixelsError
        There is no picture.
    OutputExistsError, DiskFullError, NotWritableError
        It was not written.
    """
    small = [(title, fit(picture, edge)) for title, picture in islice(tiles, most)]
    if not small:
        raise InvalidPixelsError("A contact sheet needs at least one picture.")
    across = columns or ceil(len(small) ** 0.5)
    width, height = edge + GAP, edge + TITLE + GAP
    sheet = Image.new("RGB", (min(across, len(small)) * width + GAP, ceil(len(small) / across) * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for number, (title, picture) in enumerate(small):
        left, top = number % across * width + GAP, number // across * height + GAP
        pen.text((left, top), shorten(title, edge, font), fill="black", font=font)
        sheet.paste(Image.fromarray(picture), (left + (edge - picture.shape[1]) // 2, top + TITLE))
    return save_png(np.asarray(sheet), out, overwrite=overwrite)


def fit(picture: RGB, edge: int) -> RGB:
    """Return a copy whose longest side is at most `edge`."""
    rows, columns = picture.shape[:2]
    scale = min(1.0, edge / max(rows, columns))
    return resized(picture, (max(1, round(rows * scale)), max(1, round(columns * scale)))) if scale < 1 else picture.copy()


def shorten(title: str, width: int, font: Any) -> str:
    """Return a title on one line that fits a width, with the middle left out: names differ at their ends."""
    text = "".join(character if character.isprintable() else " " for character in title)
    half = min(len(text), LONGEST_TITLE) // 2
    short = text
    while half and font.getlength(short) > width:
        short = f"{text[:half]}…{text[-half:]}"
        half -= 1
    return short
