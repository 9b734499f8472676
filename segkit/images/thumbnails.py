"""Small pictures of images, for contact sheets and lists: from the pyramid where there is one, otherwise from every n-th row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.errors import SelectionError
from segkit.images.image import Image
from segkit.images.info import DEFAULT_SELECTION, Selection

#: A plane up to this many pixels is read whole and averaged; of a larger one rows are picked.
READ_WHOLE = 2**24
#: The darkest and brightest share of pixels, in percent, that may be cut off to make the rest visible.
CUT = (0.5, 99.8)


def thumbnail(image: Image, selection: Selection = DEFAULT_SELECTION, size: int = 256, time: int = 0) -> NDArray[np.uint8]:
    """Draw a small picture of one plane.

    Parameters
    ----------
    image : Image
        An open image.
    selection : Selection
        Which channel and plane; a volume is shown as its maximum projection. The level is chosen here.
    size : int
        The longer edge of the picture in pixels, at least 1; smaller images are not enlarged.
    time : int
        Time point, from 0.

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8
        Gray planes are stretched between two percentiles; colours of 8 bits stay as they are. NaN is black.

    Raises
    ------
    ImageReadError, SelectionError
        As `Image.plane`.
    """
    if size < 1:
        raise SelectionError("A thumbnail is at least 1 pixel large.")
    pixels = _sampled(image, selection, size, time)
    with np.errstate(over="ignore", invalid="ignore"):  # floats beyond the range of float32 count as infinite
        small = shrink(pixels, size)
        return small if small.dtype == np.uint8 and small.ndim == 3 else stretch(small)


def shrink(pixels: NDArray[Any], size: int) -> NDArray[Any]:
    """Average (rows, columns[, 3]) down so that its longer edge is `size`; smaller ones stay as they are."""
    rows, columns = pixels.shape[:2]
    scale = size / max(rows, columns)
    if scale >= 1:
        return pixels
    target = max(1, round(columns * scale)), max(1, round(rows * scale))
    fit = pixels if pixels.dtype in (np.uint8, np.uint16, np.float32) else pixels.astype(np.float32)
    return cv2.resize(np.ascontiguousarray(fit), target, interpolation=cv2.INTER_AREA)


def stretch(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch real values to 0..255 between two percentiles of the finite ones; constant images become black."""
    values = pixels.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(values[finite], CUT)
    if high <= low:
        low, high = values[finite].min(), values[finite].max()
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    scaled = (np.clip(values, low, high) - low) * (255 / (high - low))
    return np.where(finite, np.rint(scaled), 0).astype(np.uint8)


def _sampled(image: Image, selection: Selection, size: int, time: int) -> NDArray[Any]:
    """Read a plane at about the size wanted."""
    fine_enough = [number for number, level in enumerate(image.levels) if max(level) >= size]
    level = max(fine_enough, default=0)
    rows, columns = image.levels[level]
    chosen = Selection(selection.channel, "max" if selection.z == "volume" else selection.z, level)
    if rows * columns <= READ_WHOLE:
        return image.plane(chosen, time)
    step = max(1, -(-max(rows, columns) // size))
    bands = [image.region(chosen, band, slice(None), time)[::step, step // 2 :: step] for band in _bands(rows, step, image.chunks[0])]
    return np.concatenate(bands)


def _bands(rows: int, step: int, together: int) -> Iterator[slice]:
    """Yield pieces that hold every `step`-th row, each piece of rows that the storage decodes together once."""
    picked = range(step // 2, rows, step)
    for _, group in groupby(picked, key=lambda row: row // together):
        within = list(group)
        yield slice(within[0], within[-1] + 1)
