"""PNG, JPEG and BMP: one plane each, decoded whole, so their size is checked first.

================================  ====================================================
stored                            read as
================================  ====================================================
gray, 1 bit                       bool (BMP, PNG)
gray, 2 to 16 bits                uint8 or uint16
red, green, blue, 8 or 16 bits    colour as stored
with alpha or a transparent key   the same without it
palette                           gray when all its colours are gray, otherwise colour
JPEG in CMYK                      colour
================================  ====================================================
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin

from segkit.errors import ImageFormatError, ImageReadError, ImageTruncatedError
from segkit.images.image import refuse_large_piece, refuse_unreadable
from segkit.images.info import Layout, Limits
from segkit.images.scale import from_density
from segkit.images.storage import Source

MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"BM": "bmp"}

# Pillow's own opener compares with a limit that all of a process shares; these classes do not, and ours is checked instead.
_OPENERS: dict[str, Callable[[Any], ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
}

#: Where the end of a JPEG file is looked for; cameras add padding behind it.
JPEG_TAIL = 2**16


class RasterReader:
    """An open PNG, JPEG or BMP file. Regions keep it decoded until it is closed."""

    def __init__(self, source: Source, limits: Limits, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._lock = threading.Lock()
        self._decoded: NDArray[Any] | None = None
        _refuse_cut(source, kind)
        with source.file() as file, _OPENERS[kind](file) as header:
            self.layout = _layout(header, kind)
        refuse_unreadable(self.layout, limits)
        refuse_large_piece(self.layout.pixels, f"This {kind.upper()} file", limits)

    def read(self, level: int, time: int, channel: int, plane: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Return (rows, columns), or (rows, columns, 3) of a colour image."""
        if (rows.stop - rows.start, columns.stop - columns.start) == self.layout.levels[0] and self._decoded is None:
            return self._decode()
        with self._lock:
            if self._decoded is None:
                self._decoded = self._decode()
        return self._decoded[rows, columns].copy()

    def digest(self) -> tuple[int, str]:
        """Return size in bytes and content hash."""
        return self._source.size, self._source.digest()

    def close(self) -> None:
        """Close the file and forget its pixels."""
        self._decoded = None
        self._source.close()

    def _decode(self) -> NDArray[Any]:
        data = self._source.read(0, self._source.size)
        pixels = _decode_png(data) if self._kind == "png" else _decode_pillow(data, self._kind)
        pixels = _as_laid_out(pixels, self.layout)
        if pixels.shape[:2] != self.layout.levels[0]:
            raise ImageFormatError(f"It decodes to {pixels.shape[1]} × {pixels.shape[0]} pixels, not to what its header says.")
        return pixels


def _layout(header: ImageFile.ImageFile, kind: str) -> Layout:
    columns, rows = header.size
    colour = header.mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr") or (header.mode == "P" and not _gray_palette(header))
    density = header.info.get("dpi", (0, 0))
    return Layout(
        format=kind,
        dtype=_pixel_type(header),
        levels=((rows, columns),),
        chunks=(rows, columns),
        colour=colour,
        pixel_size_um=from_density(density[0], density[1], 25400.0),
    )


def _pixel_type(header: ImageFile.ImageFile) -> str:
    rawmode = str(header.tile[0].args if header.tile else header.mode)
    if header.mode == "1":
        return "bool"
    return "uint16" if header.mode.startswith("I") or "16B" in rawmode else "uint8"


def _gray_palette(header: ImageFile.ImageFile) -> bool:
    if header.palette is None:
        return False
    colours = np.frombuffer(header.palette.getdata()[1], np.uint8)
    colours = colours.reshape(-1, len(header.palette.mode))
    return bool(np.all(colours[:, :1] == colours[:, :3]))


def _decode_png(data: bytes) -> NDArray[Any]:
    pixels = imagecodecs.png_decode(data)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _decode_pillow(data: bytes, kind: str) -> NDArray[Any]:
    with _OPENERS[kind](io.BytesIO(data)) as picture:
        if picture.mode not in ("1", "L", "RGB"):
            return np.asarray(picture.convert("RGB"))
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _as_laid_out(pixels: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Bring (rows, columns, samples) to gray or colour of the promised type; alpha is dropped."""
    if layout.colour and pixels.shape[2] < 3:
        raise ImageFormatError("It has fewer colours than its header says.")
    pixels = pixels[..., :3] if layout.colour else pixels[..., 0]
    return np.ascontiguousarray(pixels, dtype=layout.dtype)


def _refuse_cut(source: Source, kind: str) -> None:
    """Look for the end of the file where the format puts one, without decoding.

    Raises
    ------
    ImageTruncatedError
        When it is not there.
    ImageReadError
        When there are no pixels (of PNG; Pillow's words for it tell nobody).
    """
    if kind == "png" and b"\0\0\0\0" in (source.head(24)[16:20], source.head(24)[20:24]):
        raise ImageReadError("It has no pixels: its header says that it is 0 pixels wide or high. Save it again.")
    whole = {"png": _png_ends, "jpeg": _jpeg_ends, "bmp": _bmp_ends}[kind](source)
    if not whole:
        raise ImageTruncatedError


def _png_ends(source: Source) -> bool:
    place = 8
    with source.file() as file:
        while place + 12 <= source.size:
            file.seek(place)
            length, name = struct.unpack(">I4s", file.read(8))
            place += 12 + length
            if name == b"IEND":
                return place <= source.size
    return False


def _jpeg_ends(source: Source) -> bool:
    tail = min(JPEG_TAIL, source.size)
    return b"\xff\xd9" in source.read(source.size - tail, tail)


def _bmp_ends(source: Source) -> bool:
    if source.size < 34:
        return False
    start, size = struct.unpack_from("<II", source.head(18), 10)
    if size < 40:
        return source.size > start
    columns, rows, _, bits, compression = struct.unpack_from("<iiHHI", source.head(34), 18)
    if compression not in (0, 3):
        return source.size > start
    return source.size >= start + (columns * bits + 31) // 32 * 4 * abs(rows)
