"""Kept answers: made once, packed once, and told by their tags."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from fastapi import Response

from segkit.cache import Kind
from segkit.errors import UnknownProjectError
from segkit.server import compression
from segkit.settings import Settings, load
from tests.kept_answers import add, served, with_images


@pytest.fixture
def project(database_settings: Settings) -> int:
    """A project of two images."""
    return with_images(database_settings, 2)


# Kept


def test_a_kept_answer_asks_nothing(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            assert [await server.images(project) for _ in range(5)] == [2] * 5
            assert len(server.filled) == 1
            assert (server.statistics.misses, server.statistics.hits) == (1, 4)
            assert server.statistics.fill_seconds > 0

    asyncio.run(check())


def test_a_question_in_another_order_is_the_same_question(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            await server.client.get(f"/count/{project}?a=1&pad=2")
            await server.client.get(f"/count/{project}?pad=2&a=1")
            await server.client.get(f"/count/{project}?pad=3&a=1")
            assert len(server.filled) == 2

    asyncio.run(check())


def test_a_question_that_was_asked_before_is_not_routed_again(database_settings: Settings, project: int) -> None:
    async def run() -> None:
        async with served(database_settings) as server:
            assert await server.images(project) == 2
            server.app.router.routes.clear()
            assert await server.images(project) == 2, "kept"
            add(database_settings, project)
            assert await server.images(project) == 3, "made anew"
            assert (await server.client.get(f"/count/{project}?pad=1")).status_code == 404, "another question"

    asyncio.run(run())


def test_a_question_that_fails_later_is_told_by_its_route(database_settings: Settings, project: int) -> None:
    async def run() -> None:
        async with served(database_settings) as server:
            server.app.add_exception_handler(UnknownProjectError, lambda request, error: Response("gone", 404))
            assert await server.images(project) == 2

            def gone() -> None:
                raise UnknownProjectError("number 1", [])

            server.before_filling = gone
            add(database_settings, project)
            reply = await server.client.get(f"/count/{project}")
            assert (reply.status_code, reply.text) == (404, "gone")

    asyncio.run(run())


def test_what_fails_is_not_kept(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:

            def fail() -> None:
                raise LookupError("gone")

            server.before_filling = fail
            for _ in range(2):
                with pytest.raises(LookupError, match="gone"):
                    await server.images(project)
            server.before_filling = lambda: None
            assert await server.images(project) == 2

    asyncio.run(check())


def test_many_who_miss_at_once_ask_once(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            server.before_filling = lambda: time.sleep(0.1)
            counts = await asyncio.gather(*(server.images(project) for _ in range(200)))
            assert counts == [2] * 200
            assert len(server.filled) == 1
            assert server.statistics.joined + server.statistics.hits == 199

    asyncio.run(check())


def test_who_asked_first_may_leave(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            server.before_filling = lambda: time.sleep(0.2)
            first = asyncio.create_task(server.images(project))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(server.images(project))
            await asyncio.sleep(0.05)
            first.cancel()
            assert await second == 2
            assert len(server.filled) == 1

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["projects", "images", "results", "queue", "none"])
def test_kinds_are_kept_as_settings_say(make_settings: Callable[..., Settings], kind: Kind) -> None:
    async def check(settings: Settings, expected: int) -> None:
        async with served(settings) as server:
            for _ in range(3):
                await server.client.get(f"/kind/{kind}")
            assert len(server.filled) == expected

    asyncio.run(check(make_settings(), 3 if kind == "none" else 1))
    if kind != "none":
        asyncio.run(check(make_settings(**{f"cache_ttl_{kind}": 0}), 3))


def test_an_answer_that_is_old_is_made_anew(make_settings: Callable[..., Settings]) -> None:
    async def check() -> None:
        async with served(make_settings(cache_ttl_queue=1)) as server:
            await server.client.get("/kind/queue")
            await asyncio.sleep(1.05)
            await server.client.get("/kind/queue")
            assert len(server.filled) == 2

    asyncio.run(check())


def test_memory_is_bounded(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(cache_bytes=100_000)
    project_id = with_images(settings, 1)

    async def check() -> None:
        async with served(settings) as server:
            for pad in range(1000, 1100):
                await server.images(project_id, params={"pad": pad})
            assert server.statistics.bytes <= 100_000
            assert server.statistics.evictions >= 80

    asyncio.run(check())


# Encodings and tags


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip", None])
def test_each_encoding_is_packed_once(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, encoding: str | None
) -> None:
    settings = make_settings()
    project_id, packed = with_images(settings, 2), []

    def pack(chosen: compression.Encoding, body: bytes) -> bytes:
        packed.append(chosen)
        return compression.pack(chosen, body)

    monkeypatch.setattr("segkit.server.answers.pack", pack)

    async def check() -> None:
        async with served(settings) as server:
            for _ in range(4):
                async with server.client.stream(
                    "GET", f"/count/{project_id}?pad=500", headers={"accept-encoding": encoding or "identity"}
                ) as reply:
                    raw = b"".join([part async for part in reply.aiter_raw()])
                assert reply.headers.get("content-encoding") == encoding
                assert reply.headers["vary"] == "Accept-Encoding"
                assert int(reply.headers["content-length"]) == len(raw)
                assert len(raw) < 200 if encoding else len(raw) > 3000
                assert b'"images": 2' in (compression.unpack(encoding, raw) if encoding else raw)
            assert packed == ([encoding] if encoding else [])
            assert len(server.filled) == 1

    asyncio.run(check())


def test_short_answers_are_sent_as_they_are(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    project_id = with_images(settings, 2)

    async def check() -> None:
        async with served(settings) as server:
            for _ in range(2):
                reply = await server.client.get(f"/count/{project_id}", headers={"accept-encoding": "gzip"})
                assert "content-encoding" not in reply.headers
                assert reply.json()["images"] == 2

    asyncio.run(check())


def test_a_client_that_has_it_is_told_so(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            tag = (await server.client.get(f"/count/{project}")).headers["etag"]
            for wanted in (tag, f'"other", {tag}', "*", tag.removeprefix("W/")):
                reply = await server.client.get(f"/count/{project}", headers={"if-none-match": wanted})
                assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag)
            assert (await server.client.get(f"/count/{project}", headers={"if-none-match": '"other"'})).status_code == 200
            add(database_settings, project)
            reply = await server.client.get(f"/count/{project}", headers={"if-none-match": tag})
            assert (reply.status_code, reply.json()["images"]) == (200, 3)
            assert reply.headers["etag"] != tag

    asyncio.run(check())


def test_what_is_never_kept_has_a_tag_too(make_settings: Callable[..., Settings]) -> None:
    async def check() -> None:
        async with served(load(home=make_settings().home)) as server:
            assert (await server.client.get("/kind/none")).headers["etag"] != (await server.client.get("/kind/none")).headers["etag"]

    asyncio.run(check())
