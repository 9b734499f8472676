"""Downloads: any file of a result, any export, or a whole run as a ZIP made on the fly; whole, in ranges, or from where one stopped."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Path, Response
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from segkit import archives, results
from segkit.archives.making import members
from segkit.errors import NoResultError, PreconditionError, RangeError, SegkitError
from segkit.files import is_local, join
from segkit.kit import Kit
from segkit.runs import Result
from segkit.server.bodies import Body, LocalFile, Source, disposition, is_plain, open_source, unknown
from segkit.server.parameters import Number, Opened
from segkit.server.problems import problem_of, told
from segkit.server.ranges import Span, http_date, is_unchanged, may_continue, parse
from segkit.server.zerocopy import EXTENSION

log = logging.getLogger(__name__)
router = APIRouter(tags=["downloads"])

EXPORTS = "exports"
LONGEST_NAME = 1000
#: Read and sent at a time; two of them are held for a client at most.
PIECE = 2**19
#: Threads that read for downloads, so that slow disks and stores leave others free.
READERS = 16
#: Results whose lists of files are kept.
KNOWN_RESULTS = 64
Name = Annotated[str, Path(max_length=LONGEST_NAME)]
BINARY = {"schema": {"type": "string", "format": "binary"}}


def bytes_of(media_type: str) -> dict[int | str, dict[str, Any]]:
    """Describe the answers of a download in OpenAPI; several ranges come as parts."""
    return {
        200: {"content": {media_type: BINARY}},
        206: {"content": {media_type: BINARY, "multipart/byteranges": BINARY}, "description": "The bytes asked for."},
        304: {"description": "It is the one you have."},
        **told(404, 412, 416),
    }


ANY, ZIP = bytes_of("*/*"), bytes_of("application/zip")


class FileOfResult(BaseModel):
    """A file of a result."""

    name: str
    bytes: int


class FilesOfResult(BaseModel):
    """The files of a result."""

    items: list[FileOfResult]
    total: int
    next: None = None


@router.get("/api/download/runs/{run_id}/images/{image_id}", response_model=FilesOfResult, responses=told(404))
def list_files(kit: Opened, run_id: Number, image_id: Number) -> FilesOfResult:
    """List the files of one image's result."""
    record = record_of(kit, run_id, image_id)
    files = files_of(results.locate(kit.settings.home, record.path), record.checksum)
    items = [FileOfResult(name=name, bytes=size) for name, (size, _) in files.items()]
    return FilesOfResult(items=items, total=len(items))


@router.get("/api/download/runs/{run_id}.zip", response_class=Response, responses=ZIP)
@router.head("/api/download/runs/{run_id}.zip", include_in_schema=False)
def download_run(kit: Opened, run_id: Number) -> Response:
    """Download all results of a run as a ZIP archive, a folder for each image. It can be continued from any byte."""
    home = results.root(kit.settings.home)
    archive = archives.of_run(kit.database, kit.settings.home, run_id, lambda stored: open_source(home, stored))
    return Download(Body(f"segkit-run-{run_id}.zip", archive, f'"{archive.tag}"', archive.modified))


@router.get("/api/download/runs/{run_id}/images/{image_id}/{name:path}", response_class=Response, responses=ANY)
@router.head("/api/download/runs/{run_id}/images/{image_id}/{name:path}", include_in_schema=False)
def download_file(kit: Opened, run_id: Number, image_id: Number, name: Name) -> Response:
    """Download a file of one image's result: `objects.parquet`, `provenance.json`, or a part of `labels.ome.zarr`."""
    record = record_of(kit, run_id, image_id)
    known = files_of(results.locate(kit.settings.home, record.path), record.checksum).get(name)
    if known is None:
        raise unknown(name)
    return download(kit, join(record.path, name), name.rpartition("/")[2], known[1], record.created_at.timestamp())


@router.get("/api/download/exports/{name:path}", response_class=Response, responses=ANY)
@router.head("/api/download/exports/{name:path}", include_in_schema=False)
def download_export(kit: Opened, name: Name) -> Response:
    """Download an export that was made before: a file, or with ".zip" behind its name a folder as a ZIP archive."""
    if not is_local(kit.settings.home) or not is_plain(name):
        raise unknown(name)
    stored = join(EXPORTS, name)
    try:
        return download(kit, stored, name.rpartition("/")[2])
    except SegkitError:
        if not name.endswith(".zip"):
            raise
    return download_folder(kit, name.removesuffix(".zip"))


def download_folder(kit: Kit, name: str) -> Response:
    """Answer with a folder of exports as a ZIP archive.

    Raises
    ------
    UnknownFileError
        There is no such folder.
    """
    try:
        archive = archives.of_exports(kit.settings.home, join(EXPORTS, name), open_source)
    except OSError as error:
        raise unknown(name) from error
    return Download(Body(f"{name.rpartition('/')[2]}.zip", archive, f'"{archive.tag}"', archive.modified))


def record_of(kit: Kit, run_id: int, image_id: int) -> results.Record:
    """Return the record of what a run committed for an image; raises as `result_of`."""
    return result_of(kit, run_id, image_id).record


def result_of(kit: Kit, run_id: int, image_id: int) -> Result:
    """Return what a run committed for an image.

    Raises
    ------
    UnknownRunError, NoResultError
        There is nothing.
    """
    try:
        return kit.run(run_id).result(image_id)
    except NoResultError:
        raise NoResultError(f"Run {run_id} has no result of image {image_id}.") from None


@lru_cache(maxsize=KNOWN_RESULTS)
def files_of(path: str, checksum: str) -> dict[str, tuple[int, str]]:
    """Return the files of a result: bytes and checksum by name. No other name can be downloaded."""
    return {name: (size, check) for name, size, check in members(path, checksum)}


def download(kit: Kit, stored: str, name: str, checksum: str | None = None, modified: float = 0.0) -> Response:
    """Answer with a file of the home folder.

    Parameters
    ----------
    stored : str
        Where it lies, relative to the home folder or URL.
    name : str
        What it is saved as.
    checksum : str, optional
        Of its contents.
    modified : float
        Seconds since 1970, for a file in a store.

    Raises
    ------
    UnknownFileError
        There is none.
    """
    prefix = kit.settings.accel_redirect
    try:
        source = open_source(results.root(kit.settings.home), stored)
    except OSError as error:
        raise unknown(name) from error
    if not isinstance(source, LocalFile):
        return Download(Body(name, source, f'"{checksum}"', modified))
    if prefix:
        # nginx sends its own tag, so ours must be the same: what a client got from one is known to the other.
        return Download(Body(name, source, source.nginx_tag, source.modified, f"{prefix}/{quote(stored)}"))
    return Download(Body(name, source, f'"{checksum or source.identity}"', source.modified))


class Download(Response):
    """The answer to a request for bytes: all of them, some, or none because they are known."""

    def __init__(self, body: Body) -> None:
        self._body = body
        super().__init__()
        self.raw_headers = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = self._body
        try:
            await self._answer(scope, receive, send)
        except (RangeError, PreconditionError) as error:
            answer = problem_of(scope, error)
            if isinstance(error, RangeError):
                answer.headers["Content-Range"] = f"bytes */{body.source.size}"
            await answer(scope, receive, send)
        finally:
            body.source.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, body, method = Headers(scope=scope), self._body, scope["method"]
        if is_unchanged(asked, body.tag, body.modified):
            await _start(send, 304, self._told())
            await send({"type": "http.response.body", "body": b""})
            return
        if body.place is not None:
            await _start(send, 200, self._told() | {"Content-Type": body.media_type, "X-Accel-Redirect": body.place})
            await send({"type": "http.response.body", "body": b""})
            return
        whole = [Span(0, body.source.size)]
        wanted = asked.get("range") if method == "GET" and may_continue(asked, body.tag, body.modified) else None
        spans = parse(wanted, body.source.size) if wanted is not None else None
        await self._send(scope, receive, send, spans or whole, 206 if spans else 200)

    def _told(self) -> dict[str, str]:
        """Return what every answer about this download tells."""
        body = self._body
        return {
            "ETag": body.tag,
            "Last-Modified": http_date(body.modified),
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache, no-transform",
            "Content-Disposition": disposition(body.name),
            "X-Content-Type-Options": "nosniff",
            "X-Accel-Buffering": "no",
        }

    async def _send(self, scope: Scope, receive: Receive, send: Send, spans: list[Span], status: int) -> None:
        body, headers = self._body, self._told() | {"Content-Type": self._body.media_type}
        parts = [(b"", span) for span in spans]
        tail = b""
        if len(spans) > 1:
            mark = secrets.token_hex(12)
            parts = [(_part_header(mark, body, span), span) for span in spans]
            tail = f"\r\n--{mark}--\r\n".encode()
            headers["Content-Type"] = f"multipart/byteranges; boundary={mark}"
        elif status == 206:
            headers["Content-Range"] = f"bytes {spans[0].start}-{spans[0].stop - 1}/{body.source.size}"
        headers["Content-Length"] = str(sum(len(head) + span.size for head, span in parts) + len(tail))
        await _start(send, status, headers)
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await self._send_parts(scope, send, gone, parts, tail)
        except (SegkitError, OSError, EOFError) as error:
            # The status is sent already; a connection that ends early is how a client learns that bytes are missing.
            log.warning("The download of %s ended early: %s", body.name, error)
        finally:
            gone.cancel()

    async def _send_parts(self, scope: Scope, send: Send, gone: asyncio.Future[None], parts: list[tuple[bytes, Span]], tail: bytes) -> None:
        file = self._body.descriptor if EXTENSION in scope.get("extensions", {}) else None
        for head, span in parts:
            if head:
                await send({"type": "http.response.body", "body": head, "more_body": True})
            if file is not None:
                await send({"type": EXTENSION, "file": file, "offset": span.start, "count": span.size, "more_body": True})
                continue
            async for piece in read_pieces(self._body.source, span):
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": tail})


async def read_pieces(source: Source, span: Span) -> AsyncIterator[bytes]:
    """Read some bytes piece by piece, in threads, so that a cold disk or a far store keeps nobody else waiting."""
    for start in range(span.start, span.stop, PIECE):
        yield await to_thread.run_sync(source.read, start, min(PIECE, span.stop - start), limiter=_readers())


@lru_cache(maxsize=1)
def _readers() -> CapacityLimiter:
    return CapacityLimiter(READERS)


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


def _part_header(mark: str, body: Body, span: Span) -> bytes:
    told = f"Content-Type: {body.media_type}\r\nContent-Range: bytes {span.start}-{span.stop - 1}/{body.source.size}"
    return f"\r\n--{mark}\r\n{told}\r\n\r\n".encode("latin-1")


async def _until_gone(receive: Receive) -> None:
    """Wait for the client to go."""
    while (await receive())["type"] != "http.disconnect":
        pass
