"""Encodings of answers: which one a client takes, kept answers packed hard, and all others packed on their way out.

zstd at level 1 made lists smaller than gzip at level 6 in a fifteenth of its time, so it comes first where a client takes several
alike. gzip is made by ISA-L, at once 2 to 27 times as fast as zlib. Images, archives, Parquet and Arrow are packed already and are
left alone, and so is what has an encoding, or is a range of something.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Protocol

import brotli
import zstandard
from anyio import to_thread
from isal import igzip, isal_zlib
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Encoding = Literal["zstd", "br", "gzip"]
#: Of those that a client takes alike, the first.
ENCODINGS: tuple[Encoding, ...] = ("zstd", "br", "gzip")
#: Below this a packet is sent anyway.
LEAST_BYTES = 860
#: A piece above this is packed in a thread, so that other requests go on.
THREAD_BYTES = 2**17
#: Levels for answers that are kept, and so packed once for many readers.
HARD: dict[Encoding, int] = {"zstd": 9, "br": 5, "gzip": 3}

COMPRESSIBLE = re.compile(
    r"(?:text/(?!event-stream)[\w.+-]+|application/(?:[\w.-]+\+)?json|application/(?:x-ndjson|json-seq|javascript|yaml|xml|wasm)"
    r"|application/[\w.-]+\+xml)\s*(?:;|$)",
    re.IGNORECASE,
)
_OFFER = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q\s*=\s*([\d.]+)\s*)?$")


@lru_cache(maxsize=256)
def choose(accept_encoding: str) -> Encoding | None:
    """Return the encoding that a client likes best; None when it is to be sent as it is.

    Examples
    --------
    >>> choose("gzip, br, zstd"), choose("gzip;q=1, zstd;q=0.5"), choose("identity"), choose("*;q=0")
    ('zstd', 'gzip', None, None)
    """
    wished = {name.lower().removeprefix("x-"): _quality(quality) for name, quality in _offers(accept_encoding)}
    rest = wished.get("*", 0.0)
    quality, _, best = max((wished.get(name, rest), -place, name) for place, name in enumerate(ENCODINGS))
    return best if quality > 0 and quality >= wished.get("identity", 0.0) else None


def _offers(accept_encoding: str) -> list[tuple[str, str | None]]:
    return [(offer[1], offer[2]) for part in accept_encoding.split(",") if (offer := _OFFER.match(part))]


def _quality(text: str | None) -> float:
    try:
        return 1.0 if text is None else min(1.0, float(text))
    except ValueError:
        return 0.0


def is_compressible(media_type: str) -> bool:
    """Whether packing helps: JSON, GeoJSON, CSV and text.

    Examples
    --------
    >>> is_compressible("application/geo+json"), is_compressible("text/csv; charset=utf-8"), is_compressible("image/png")
    (True, True, False)
    """
    return COMPRESSIBLE.match(media_type) is not None


def pack(encoding: Encoding, body: bytes, level: int | None = None) -> bytes:
    """Pack a whole body; as hard as is worth it for many readers, unless a level is given."""
    level = HARD[encoding] if level is None else level
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=level).compress(body)
    if encoding == "br":
        return brotli.compress(body, quality=level)
    return igzip.compress(body, compresslevel=level)


def unpack(encoding: str, body: bytes) -> bytes:
    """Undo `pack`."""
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return brotli.decompress(body) if encoding == "br" else igzip.decompress(body)


def level_of(encoding: Encoding, level: int) -> int:
    """Translate `SEGKIT_HTTP_COMPRESSION_LEVEL`, which is zstd's, to a level that takes another encoding about as long.

    Examples
    --------
    >>> level_of("zstd", 1), level_of("br", 1), level_of("gzip", 1), level_of("br", 19)
    (1, 4, 1, 11)
    """
    if encoding == "zstd":
        return level
    return min(11, 3 + level) if encoding == "br" else min(3, level)


class Packer(Protocol):
    """Packs a body that comes in pieces."""

    def add(self, piece: bytes) -> bytes:
        """Take a piece; what can be sent already."""

    def end(self) -> bytes:
        """Return the rest."""


class _Stream:
    def __init__(self, add: Callable[[bytes], bytes], end: Callable[[], bytes]) -> None:
        self.add, self.end = add, end


def packer(encoding: Encoding, level: int) -> Packer:
    """Make a packer for a body in pieces."""
    packing: Any
    if encoding == "zstd":
        packing = zstandard.ZstdCompressor(level=level).compressobj()
        return _Stream(packing.compress, packing.flush)
    if encoding == "br":
        packing = brotli.Compressor(quality=level)
        return _Stream(packing.process, packing.finish)
    packing = isal_zlib.compressobj(level, wbits=31)
    return _Stream(packing.compress, packing.flush)


class Savings:
    """What packing on the way out saved."""

    def __init__(self) -> None:
        self.taken = 0  #: bytes before
        self.sent = 0  #: bytes after


class Compression:
    """ASGI middleware that packs answers on their way out, whole ones and streams."""

    def __init__(self, app: ASGIApp, level: int = 1, savings: Savings | None = None) -> None:
        self._app, self._level = app, level
        self.savings = savings or Savings()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] == "HEAD" or self._level == 0:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = None if "range" in headers else choose(headers.get("accept-encoding", ""))
        await self._app(scope, receive, _Answer(send, encoding, self._level, self.savings))


class _Answer:
    """One answer on its way out. The start is held back until the first piece tells whether packing is worth it."""

    def __init__(self, send: Send, encoding: Encoding | None, level: int, savings: Savings) -> None:
        self._send, self._encoding, self._level, self._savings = send, encoding, level, savings
        self._start: Message | None = None
        self._packer: Packer | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self._may_pack(message):
                await self._send(message)
                return
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None:
            await self._first(self._start, message)
        elif message["type"] == "http.response.body" and self._packer is not None:
            await self._more(message.get("body", b""), message.get("more_body", False))
        else:
            await self._send(message)

    def _may_pack(self, start: Message) -> bool:
        headers = MutableHeaders(raw=start["headers"])
        if "content-encoding" in headers or start["status"] == 304 or not is_compressible(headers.get("content-type", "")):
            return False
        if "accept-encoding" not in headers.get("vary", "").lower():
            headers.add_vary_header("Accept-Encoding")
        refused = start["status"] in (204, 206, 304) or "content-range" in headers or "no-transform" in headers.get("cache-control", "")
        return self._encoding is not None and not refused and int(headers.get("content-length", LEAST_BYTES)) >= LEAST_BYTES

    async def _first(self, start: Message, message: Message) -> None:
        self._start = None
        body, more = message.get("body", b""), message.get("more_body", False)
        assert self._encoding is not None
        if not more and len(body) < LEAST_BYTES:
            await self._send(start)
            await self._send(message)
            return
        headers = MutableHeaders(raw=start["headers"])
        headers["Content-Encoding"] = self._encoding
        _weaken(headers)
        level = level_of(self._encoding, self._level)
        if more:
            del headers["Content-Length"]
            self._packer = packer(self._encoding, level)
            await self._send(start)
            await self._more(body, True)
            return
        packed = await _in_its_place(body, lambda piece: pack(self._encoding or "gzip", piece, level))
        self._count(body, packed)
        headers["Content-Length"] = str(len(packed))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": packed})

    async def _more(self, body: bytes, more: bool) -> None:
        assert self._packer is not None
        packed = await _in_its_place(body, self._packer.add) if body else b""
        if not more:
            packed += self._packer.end()
        self._count(body, packed)
        if packed or not more:
            await self._send({"type": "http.response.body", "body": packed, "more_body": more})

    def _count(self, body: bytes, packed: bytes) -> None:
        self._savings.taken += len(body)
        self._savings.sent += len(packed)


async def _in_its_place(body: bytes, work: Callable[[bytes], bytes]) -> bytes:
    return work(bytes(body)) if len(body) < THREAD_BYTES else await to_thread.run_sync(work, bytes(body))


def _weaken(headers: MutableHeaders) -> None:
    """Another encoding is another sequence of bytes, so a strong tag no longer fits, and no range can be continued with it."""
    tag = headers.get("etag")
    if tag is not None and not tag.startswith("W/"):
        headers["ETag"] = f"W/{tag}"
    if "accept-ranges" in headers:
        del headers["accept-ranges"]
