"""Whatever a decoder raises, told as one `ImageReadError` with a reason that a person can act on."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from segkit.errors import (
    ImageMissingError,
    ImageReadError,
    ImageTooLargeError,
    ImageTruncatedError,
    SegkitError,
)

#: Remarks of tifffile on metadata that no pixel depends on. Every other warning of it means that something is missing or damaged.
HARMLESS = re.compile(
    r"coercing invalid ASCII|GDAL_NODATA|imagej_metadata|stk|STK|GeoKey|ndpi_tags|epics_tags|andor_tags|nuvu_tags|get_resolution"
    r"|TiffTag \d+ @\d+> raised|invalid self\.subfiletype|shaped series metadata does not match|OME series expected \d+ frames, got"
    r"|ImageJ series (metadata invalid|of unknown order)|ignoring predictor|SVS series focal planes"
)

#: What a damaged file makes a decoder say, and what it means. The first that fits is told.
MEANINGS = (
    (
        re.compile(r"truncated|too small|data stream|invalid value offset|unexpected end|end of file|incomplete|premature|EOF", re.I),
        "It ends before its pixels do",
    ),
    (re.compile(r"circular reference"), "Its directory points back at itself"),
)


class _Remarks(threading.local):
    """What tifffile logged in this thread while somebody listened."""

    heard: list[str] | None = None


_remarks = _Remarks()


def _overhear(record: logging.LogRecord) -> bool:
    """Keep tifffile's remarks from the log while a thread listens for them."""
    if _remarks.heard is None:
        return True
    if record.levelno >= logging.WARNING and not HARMLESS.search(record.getMessage()):
        _remarks.heard.append(record.getMessage())
    return False


logging.getLogger("tifffile").addFilter(_overhear)


@contextmanager
def told_in_words() -> Iterator[None]:
    """Turn every failure inside the block into an `ImageReadError`, and tifffile's warnings of this thread too.

    Errors of segkit's own pass as they are. Threads do not hear each other.

    Raises
    ------
    ImageReadError
        Or one of its subclasses; its cause is the decoder's own exception.
    """
    outer, _remarks.heard = _remarks.heard, []
    try:
        yield
        if _remarks.heard:
            raise damaged(_remarks.heard[0])
    except SegkitError:
        raise
    except Exception as fault:
        raise in_words(fault) from fault
    finally:
        _remarks.heard = outer


def in_words(fault: Exception) -> ImageReadError:
    """Return the `ImageReadError` that tells a person what a decoder's exception means."""
    if isinstance(fault, FileNotFoundError | NotADirectoryError):
        return ImageMissingError()
    if isinstance(fault, PermissionError):
        return ImageReadError("It may not be read: permission is denied. Check who owns the file and its access rights.")
    if isinstance(fault, MemoryError):
        return ImageTooLargeError("There is not enough memory to decode it. Free some memory or lower SEGKIT_MAX_DECODED_PIXELS.")
    if isinstance(fault, EOFError):
        return ImageTruncatedError()
    if isinstance(fault, OSError) and fault.errno is not None:
        return ImageReadError(f"Its disk or share gave an error: {fault.strerror or fault}. Check the connection and try again.")
    return damaged(f"{type(fault).__name__}: {fault}")


def damaged(detail: str) -> ImageReadError:
    """Return the error for a damaged file, with the decoder's own words for those who want them."""
    words = " ".join(detail.split())
    fits = next((number for number, (pattern, _) in enumerate(MEANINGS) if pattern.search(words)), None)
    meaning = "Its contents are damaged" if fits is None else MEANINGS[fits][1]
    kind = ImageTruncatedError if fits == 0 else ImageReadError
    return kind(f"{meaning}. Copy it again from where it came, or open and save it in another program. (Detail: {words[:200]})")
