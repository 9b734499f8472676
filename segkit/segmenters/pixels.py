"""Which arrays can be segmented, and the one form that the segmenters get them in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segkit.errors import InvalidPixelsError

#: The kernels are compiled for these; everything else becomes float32.
KERNEL_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def gray_plane(image: ArrayLike) -> NDArray[Any]:
    """Check one gray plane and bring it to a type that the kernels are compiled for.

    Parameters
    ----------
    image : (rows, columns) bool, integer or float
        Any real numbers. bool becomes uint8; uint8 and uint16 stay as they are; all else becomes float32.

    Returns
    -------
    (rows, columns) uint8, uint16 or float32
        C-contiguous; the input itself where nothing had to change.

    Raises
    ------
    InvalidPixelsError
        When there is no pixel, more or fewer than two axes, or a value that is not a finite real number.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        raise InvalidPixelsError("This segmenter wants one gray plane, and the image is in colour: choose one of its channels.")
    if pixels.ndim != 2:
        raise InvalidPixelsError(f"This segmenter wants one plane (rows, columns), and got the shape {pixels.shape}: choose a plane.")
    return _kernel_form(pixels)


def colour_plane(image: ArrayLike) -> NDArray[np.uint8]:
    """Check one colour plane and bring it to (rows, columns, 3) uint8; an alpha channel is dropped, 16 bits are scaled to 8.

    Raises
    ------
    InvalidPixelsError
        When the image is not in colour, has no pixel, or holds something else than 8-bit, 16-bit or 0-to-1 colour.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise InvalidPixelsError(f"This segmenter wants a colour image (rows, columns, 3), and got the shape {pixels.shape}.")
    return np.ascontiguousarray(_eight_bits(_kernel_form(pixels)[..., :3]))


def _kernel_form(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.size == 0:
        raise InvalidPixelsError(f"The image has no pixels: its shape is {pixels.shape}.")
    if pixels.dtype.kind not in "buif":
        raise InvalidPixelsError(f"Pixels must be real numbers, and these are {pixels.dtype}.")
    if pixels.dtype.kind == "b":
        return np.ascontiguousarray(pixels).view(np.uint8)
    if pixels.dtype.newbyteorder("=") in KERNEL_TYPES[:2]:
        return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
    with np.errstate(over="ignore"):
        real = np.ascontiguousarray(pixels, dtype=np.float32)
    strange = real.size - int(np.count_nonzero(np.isfinite(real)))
    if strange:
        raise InvalidPixelsError(f"{strange} pixels are NaN or infinite. Replace them first, for example with numpy.nan_to_num.")
    return real


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if pixels.min() < 0 or pixels.max() > 1:
        raise InvalidPixelsError("Colour given as floats must be from 0 to 1.")
    return np.rint(pixels * np.float32(255)).astype(np.uint8)
