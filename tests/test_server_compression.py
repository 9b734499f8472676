"""Packing: the encoding that a client likes best, of what packing helps, and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from segkit.server.compression import ENCODINGS, LEAST_BYTES, Compression, choose, is_compressible, level_of, pack, unpack

BODY = json.dumps(
    [{"name": f"plate7_well{number:04}.tif", "shape": [3, 2048, 2048], "pixel_size_um": 0.325} for number in range(1000)]
).encode()


@pytest.mark.parametrize(
    ("accepts", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, br;q=0.9", "gzip"),
        ("br;q=0, gzip;q=0.1", "gzip"),
        ("*", "zstd"),
        ("*;q=0", None),
        ("zstd;q=0, *", "br"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=1", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip;q=nonsense", None),
        ("gzip;q=1.2.3", None),
        (";;;,,q=1", None),
        ("deflate", None),
    ],
)
def test_the_encoding_that_a_client_likes_best(accepts: str, chosen: str | None) -> None:
    assert choose(accepts) == chosen


@pytest.mark.parametrize(
    ("media_type", "yes"),
    [
        ("application/json", True),
        ("application/geo+json", True),
        ("application/problem+json", True),
        ("text/csv; charset=utf-8", True),
        ("text/html", True),
        ("text/event-stream", False),
        ("image/png", False),
        ("image/jpeg", False),
        ("application/zip", False),
        ("application/octet-stream", False),
        ("application/vnd.apache.parquet", False),
        ("application/vnd.apache.arrow.stream", False),
        ("", False),
    ],
)
def test_what_packing_helps(media_type: str, yes: bool) -> None:
    assert is_compressible(media_type) is yes


async def whole(request: Request) -> Response:
    parameters = request.query_params
    size = int(parameters.get("size", len(BODY)))
    return Response(BODY[:size], media_type=parameters.get("type", "application/json"), headers={"ETag": '"tag"', "Accept-Ranges": "bytes"})


async def streamed(request: Request) -> Response:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(BODY), 10_000):
            yield BODY[start : start + 10_000]

    return StreamingResponse(pieces(), media_type="text/csv")


async def packed(request: Request) -> Response:
    return Response(gzip.compress(BODY), media_type="application/json", headers={"Content-Encoding": "gzip"})


def ask(path: str, accepts: str = "", method: str = "GET", **headers: str) -> tuple[httpx.Response, bytes]:
    """Return the answer, and its body as it was sent."""
    app = Starlette()
    for route in (whole, streamed, packed):
        app.add_route(f"/{route.__name__}", route, ["GET", "HEAD"])

    async def asked() -> tuple[httpx.Response, bytes]:
        transport = httpx.ASGITransport(Compression(app))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://segkit") as client,
            client.stream(method, path, headers={"accept-encoding": accepts} | headers) as reply,
        ):
            return reply, b"".join([part async for part in reply.aiter_raw()])

    return asyncio.run(asked())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("path", ["/whole", "/streamed"])
def test_answers_are_packed_and_come_back(path: str, encoding: str) -> None:
    reply, raw = ask(path, encoding)
    assert reply.headers["content-encoding"] == encoding
    assert reply.headers["vary"] == "Accept-Encoding"
    assert unpack(encoding, raw) == BODY
    assert len(raw) < 0.17 * len(BODY)
    assert int(reply.headers.get("content-length", len(raw))) == len(raw)


def test_a_packed_answer_has_a_weak_tag_and_no_ranges() -> None:
    reply, _ = ask("/whole", "zstd")
    assert reply.headers["etag"] == 'W/"tag"'
    assert "accept-ranges" not in reply.headers
    plain, raw = ask("/whole", "identity")
    assert (plain.headers["etag"], plain.headers["vary"], raw) == ('"tag"', "Accept-Encoding", BODY)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/whole?size={LEAST_BYTES - 1}", {}),
        ("/whole?type=image/png", {}),
        ("/whole?type=application/zip", {}),
        ("/whole", {"range": "bytes=0-9"}),
    ],
)
def test_what_is_left_as_it_is(path: str, headers: dict[str, str]) -> None:
    reply, raw = ask(path, "zstd, br, gzip", **headers)
    assert "content-encoding" not in reply.headers
    assert BODY.startswith(raw)


def test_what_is_packed_is_not_packed_again() -> None:
    reply, raw = ask("/packed", "zstd, br, gzip")
    assert reply.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == BODY


def test_a_head_is_answered_without_a_body() -> None:
    assert ask("/whole", "zstd", "HEAD")[1] == b""


def test_lists_shrink_by_83_percent_in_less_than_a_third_of_the_time_of_gzip() -> None:
    def fastest(work: object) -> float:
        times = []
        for _ in range(30):
            started = time.perf_counter()
            work()  # type: ignore[operator]
            times.append(time.perf_counter() - started)
        return min(times)

    assert len(pack("zstd", BODY, 1)) <= 0.17 * len(BODY)
    assert fastest(lambda: pack("zstd", BODY, 1)) < 0.3 * fastest(lambda: gzip.compress(BODY, 6))


def test_levels_are_those_that_each_encoding_has() -> None:
    for level in range(1, 20):
        for encoding in ENCODINGS:
            assert unpack(encoding, pack(encoding, BODY[:5000], min(level_of(encoding, level), 6))) == BODY[:5000]
