"""Open and look into any microscopy image: the only room that knows image formats.

`discover` finds candidates, `probe` reads a header and hashes the bytes, `open_image` reads planes, regions and volumes
when they are wanted, `thumbnail` draws a small picture. Every failure is an `ImageReadError` that says what to do.

Pixels come in the file's own type and in native byte order; what a segmenter makes of them is the segmenter's affair:

==========================  ===========================================================================
pixel type in the file      what `plane` gives
==========================  ===========================================================================
bool, 1 bit                 bool
int8 ... int64              the same
uint8 ... uint64, odd bits  the same; 2 to 7 bits as uint8, 9 to 15 as uint16
float16, float32, float64   the same; NaN and infinities as they are
complex                     refused: ImageFormatError, "save magnitude or phase"
RGB, RGBA of 8 or 16 bits   (rows, columns, 3) uint8 or uint16; alpha is dropped
palette                     (rows, columns, 3) uint8; gray when every colour is gray or a ramp
no pixels (0 × n)           refused: ImageReadError
==========================  ===========================================================================
"""

from __future__ import annotations

from segkit.images.discovery import discover
from segkit.images.formats import open_image, probe
from segkit.images.image import Image
from segkit.images.info import ImageInfo, Limits, Selection
from segkit.images.thumbnails import thumbnail

__all__ = ["Image", "ImageInfo", "Limits", "Selection", "discover", "open_image", "probe", "thumbnail"]
