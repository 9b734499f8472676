"""Which reader opens which file: told by the first bytes, since names lie."""

from __future__ import annotations

import os
from pathlib import Path

from segkit.errors import ImageFormatError, ImageMissingError, ImageReadError
from segkit.images import ome_zarr, raster, tiff, vendors
from segkit.images.faults import told_in_words
from segkit.images.image import Image, Reader
from segkit.images.info import DEFAULT_LIMITS, ImageInfo, Limits
from segkit.images.storage import LocalSource, Source, StoreSource, file_system, is_url, normalise, state_of

#: What files turn out to be that people take for images, by their first bytes.
MISTAKEN = {
    b"<!DOCTYPE": "a web page; the download probably needed a login",
    b"<!doctype": "a web page; the download probably needed a login",
    b"<html": "a web page; the download probably needed a login",
    b"<HTML": "a web page; the download probably needed a login",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF\r\n": "an HDF5 file (Imaris, ilastik); export it as OME-TIFF",
    b"%PDF": "a PDF document; export its pictures as PNG",
    b"GIF8": "a GIF picture; save it as PNG",
    b"RIFF": "a WebP, AVI or WAV file; save it as PNG",
    b"\x93NUMPY": "a NumPy array; write it with tifffile.imwrite",
    b"{": "a JSON text",
}


def probe(uri: str | Path, limits: Limits = DEFAULT_LIMITS) -> ImageInfo:
    """Read what an image's header tells, and hash its bytes; its pixels are not decoded.

    What the header promises is compared with the size of the file, so that a copy that was cut is found here.

    Parameters
    ----------
    uri : str or Path
        A local path or a URL that fsspec knows.
    limits : Limits
        How much the header may promise.

    Returns
    -------
    ImageInfo
        Axes, sizes, channels, physical units and content hash.

    Raises
    ------
    ImageReadError
        Or one of its subclasses: missing, cut, damaged, too large, or of a format that is not read. The message says what to do.
    """
    with open_image(uri, limits) as image:
        return image.info


def open_image(uri: str | Path, limits: Limits = DEFAULT_LIMITS) -> Image:
    """Open an image to read planes, regions or volumes of it when they are wanted.

    Parameters
    ----------
    uri : str or Path
        A local path or a URL that fsspec knows.
    limits : Limits
        How much the header may promise, and how much is decoded at once.

    Returns
    -------
    Image
        Close it, or use it in a `with` block.

    Raises
    ------
    ImageReadError
        As `probe`.
    """
    with told_in_words():
        where = normalise(uri)
        _refuse_unwritable_name(where)
        state = state_of(where)  # before anything of it is read
        return Image(where, _reader(where, limits), limits, state)


def _reader(uri: str, limits: Limits) -> Reader:
    if _is_folder(uri):
        return ome_zarr.OmeZarrReader(uri, limits)
    source = _source(uri)
    try:
        with told_in_words():  # here too, so that what tifffile remarked on closes the file
            return _file_reader(source, limits)
    except BaseException:
        source.close()
        raise


def _source(uri: str) -> Source:
    try:
        return StoreSource(uri) if is_url(uri) else LocalSource(uri)
    except (FileNotFoundError, NotADirectoryError) as fault:
        raise ImageMissingError(f"There is no file {uri}. Check the path, and that the disk or share is mounted.") from fault


def _is_folder(uri: str) -> bool:
    if not is_url(uri):
        return os.path.isdir(uri)
    system, path = file_system(uri)
    return bool(system.isdir(path))


def _file_reader(source: Source, limits: Limits) -> Reader:
    head = source.head(32)
    if not head:
        raise ImageReadError("The file is empty. Copy it again from where it came.")
    if head[:4] in tiff.MAGIC:
        return tiff.TiffReader(source, limits)
    for magic, kind in raster.MAGIC.items():
        if head.startswith(magic):
            return raster.RasterReader(source, limits, kind)
    for magic, kind in vendors.MAGIC.items():
        if head.startswith(magic):
            return vendors.VendorReader(source, limits, kind)
    raise ImageFormatError(_what_it_is(head))


def _what_it_is(head: bytes) -> str:
    """Return a sentence about a file that is no image."""
    start = head.lstrip()
    for magic, meaning in MISTAKEN.items():
        if start.startswith(magic):
            return f"It is not an image but {meaning}."
    if not head.strip(b"\0"):
        return "It begins with zeros: the copy was not finished. Copy it again from where it came."
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "It is not an image but a text."
    return " ".join((ImageFormatError.__doc__ or "").split())


def _refuse_unwritable_name(uri: str) -> None:
    """Check that a path can be stored and shown: Linux allows names that are no text."""
    try:
        uri.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise ImageReadError("Its name or that of a folder above is not valid UTF-8 text. Rename it.") from fault
