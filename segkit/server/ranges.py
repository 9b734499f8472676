"""Which bytes of a download a request asks for, and under which conditions (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from itertools import pairwise

from segkit.errors import PreconditionError, RangeError

#: A request may ask for so many pieces; whoever wants more is better served with the whole.
MOST_PIECES = 64
#: Pieces of several that are nearer to each other than a part's header is long are sent as one.
NEAR = 128
_PIECE = re.compile(r"([0-9]{0,30})-([0-9]{0,30})")
_TAG = re.compile(r'(W/)?"[^"]*"')


@dataclass(frozen=True)
class Span:
    """Some consecutive bytes, the end not included."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.stop - self.start


def parse(header: str, size: int) -> list[Span] | None:
    """Read a Range header.

    Parameters
    ----------
    header : str
        Such as "bytes=0-99,200-".
    size : int
        Of what is downloaded.

    Returns
    -------
    list of Span or None
        In the order asked for, unless some overlap, which are then joined; None when it counts in something else than bytes, and
        so does not matter.

    Raises
    ------
    RangeError
        None of the bytes asked for are there, it cannot be read, or asks for too many pieces.

    Examples
    --------
    >>> parse("bytes=0-0,-1", 10)
    [Span(start=0, stop=1), Span(start=9, stop=10)]
    """
    unit, equals, pieces = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    if pieces.count(",") >= MOST_PIECES:
        raise RangeError(f"The Range header asks for more than {MOST_PIECES} pieces. Ask for fewer, or for all without it.")
    asked = [_span(piece.strip(), size) for piece in pieces.split(",") if piece.strip()]
    spans = [span for span in asked if span is not None]
    if not spans:
        raise RangeError(f"The Range header asks for bytes that are not there: there are {size}, numbered from 0.")
    return joined(spans)


def _span(piece: str, size: int) -> Span | None:
    """Read one piece; None when its bytes are not there."""
    match = _PIECE.fullmatch(piece)
    if match is None or piece == "-":
        raise RangeError('The Range header cannot be read. Write "bytes=FIRST-LAST", "bytes=FIRST-" or "bytes=-COUNT".')
    first, last = match.groups()
    if not first:
        count = min(int(last), size)
        return Span(size - count, size) if count else None
    start = int(first)
    if last and int(last) < start:
        raise RangeError("The Range header asks for bytes that end before they begin.")
    stop = min(size, int(last) + 1) if last else size
    return Span(start, stop) if start < size else None


def joined(spans: list[Span]) -> list[Span]:
    """Join spans that overlap or nearly touch; when none do, they stay as they are."""
    ordered = sorted(spans, key=lambda span: span.start)
    if all(after.start - before.stop >= NEAR for before, after in pairwise(ordered)):
        return spans
    together = [ordered[0]]
    for span in ordered[1:]:
        if span.start - together[-1].stop < NEAR:
            together[-1] = Span(together[-1].start, max(together[-1].stop, span.stop))
        else:
            together.append(span)
    return together


def http_date(seconds: float) -> str:
    """Write a time as HTTP does."""
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


def is_unchanged(headers: Mapping[str, str], tag: str, modified: float) -> bool:
    """Whether who asks has this version already.

    Parameters
    ----------
    headers
        Of the request, by names in lower case.
    tag
        The strong ETag, with its quotes.
    modified
        Seconds since 1970.

    Raises
    ------
    PreconditionError
        The request is for another version alone.
    """
    wanted = headers.get("if-match")
    if wanted is not None:
        if wanted.strip() != "*" and tag not in _tags(wanted):
            raise PreconditionError
    elif (limit := _seconds(headers.get("if-unmodified-since"))) is not None and int(modified) > limit:
        raise PreconditionError
    known = headers.get("if-none-match")
    if known is not None:
        return known.strip() == "*" or tag in {each.removeprefix("W/") for each in _tags(known)}
    since = _seconds(headers.get("if-modified-since"))
    return since is not None and int(modified) <= since


def may_continue(headers: Mapping[str, str], tag: str, modified: float) -> bool:
    """Whether a range continues the version that who asks has part of: If-Range names it, by its tag or time, or is not there."""
    mark = headers.get("if-range")
    if mark is None:
        return True
    if '"' in mark:
        return mark.strip() == tag
    return _seconds(mark) == int(modified)


def _tags(header: str) -> set[str]:
    return {match[0] for match in _TAG.finditer(header)}


def _seconds(date: str | None) -> int | None:
    """Read a time of HTTP; None when there is none, or it cannot be read."""
    try:
        moment = parsedate_to_datetime(date) if date else None
    except (ValueError, TypeError, OverflowError):
        return None
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
