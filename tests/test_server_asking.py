"""Pages asked for on the event loop: the same as in a thread, counted as all statements are, and never a fault of their own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from segkit import catalog
from segkit.database import Database, open_database
from segkit.errors import CursorError, UnknownProjectError
from segkit.server import asking
from segkit.server.app import create_app
from segkit.server.asking import MOST_ROWS, Asking
from segkit.settings import Settings, load
from tests.images_in_a_project import add_images
from tests.services import running

IMAGES = 7


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Of a PostgreSQL database with one project of images."""
    settings = make_settings("postgresql")
    with open_database(settings) as database:
        with database.write() as connection:
            number = catalog.create_project(connection, "cells").id
        assert number == 1
        add_images(database, number, IMAGES)
    return settings


@asynccontextmanager
async def opened(settings: Settings, most: int = 2) -> AsyncIterator[tuple[Asking, Database]]:
    with open_database(settings) as database:
        asks = Asking(database, most)
        try:
            yield asks, database
        finally:
            await asks.close()


def in_a_thread(database: Database, written: catalog.Written) -> bytes:
    with database.read() as connection:
        return written.ask(connection)


def backends(settings: Settings) -> list[int]:
    """Connections of others to the database, by their processes."""
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type ~ '^client'"
        )
        return [row[0] for row in found]


def cut(settings: Settings) -> None:
    """End every connection of others, as a server does that is started anew."""
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    with psycopg.connect(url.set(database="postgres").render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [url.database])


def test_pages_are_those_of_a_thread(settings: Settings) -> None:
    async def check() -> None:
        async with opened(settings) as (asks, database):
            after, seen = None, []
            while True:
                written = catalog.images_written(1, 3, after=after)
                page = await asks.page(written)
                assert page == in_a_thread(database, written)
                read = json.loads(page)
                seen += [item["id"] for item in read["items"]]
                after = read["next"]
                if after is None:
                    break
            assert seen == list(range(IMAGES, 0, -1))
            projects = catalog.projects_written()
            assert await asks.page(projects) == in_a_thread(database, projects)

    asyncio.run(check())


def test_what_is_not_there_or_makes_no_sense_is_told(settings: Settings) -> None:
    async def check() -> None:
        async with opened(settings) as (asks, _):
            with pytest.raises(UnknownProjectError):
                await asks.page(catalog.images_written(99))
            with pytest.raises(CursorError):
                catalog.images_written(1, after="made up")
            there = backends(settings)
            assert await asks.page(catalog.images_written(1)) is not None
            assert backends(settings) == there, "its connection is as good as before"

    asyncio.run(check())


def test_statements_are_timed_as_all_are(settings: Settings) -> None:
    async def check() -> None:
        async with opened(settings) as (asks, database):
            assert database.timings is not None
            before = database.timings.count()
            await asks.page(catalog.images_written(1))
            assert database.timings.count() == before + 1

    asyncio.run(check())


def test_connections_are_few_kept_and_closed(settings: Settings) -> None:
    async def check() -> None:
        async with opened(settings) as (asks, database):
            database.engine.dispose()
            pages = await asyncio.gather(*(asks.page(catalog.images_written(1, 1 + number % 5)) for number in range(40)))
            assert all(json.loads(page or b"")["total"] == IMAGES for page in pages)
            assert len(backends(settings)) == 2
            await asks.close()
            until = time.monotonic() + 5
            while backends(settings):
                assert time.monotonic() < until
                await asyncio.sleep(0.01)
            assert await asks.page(catalog.images_written(1)) is None

    asyncio.run(check())


def test_its_connections_can_write_nothing(settings: Settings) -> None:
    async def check() -> None:
        async with opened(settings) as (asks, database):
            wrong = catalog.Written("DELETE FROM image RETURNING name", {}, 10, lambda found: (found or "").encode())
            assert await asks.page(wrong) is None
            assert len(json.loads(in_a_thread(database, catalog.images_written(1)))["items"]) == IMAGES

    asyncio.run(check())


def test_long_pages_and_sqlite_are_left_to_threads(settings: Settings, make_settings: Callable[..., Settings]) -> None:
    async def check() -> None:
        async with opened(settings) as (asks, _):
            assert await asks.page(catalog.images_written(1, MOST_ROWS)) is not None
            assert await asks.page(catalog.images_written(1, MOST_ROWS + 1)) is None
        async with opened(make_settings("sqlite")) as (asks, _):
            assert await asks.page(catalog.images_written(1)) is None

    asyncio.run(check())


def test_connections_that_were_cut_are_made_anew(settings: Settings) -> None:
    async def check() -> None:
        async with opened(settings) as (asks, _):
            written = catalog.images_written(1)
            assert await asyncio.gather(asks.page(written), asks.page(written)) != [None, None]
            for _ in range(3):
                cut(settings)
                assert await asks.page(written) is None, "asked in a thread this time"
                assert await asks.page(written) is not None

    asyncio.run(check())


def test_a_question_that_is_given_up_leaves_no_connection_in_disorder(settings: Settings) -> None:
    async def check() -> None:
        async with opened(settings, most=1) as (asks, _):
            slow = catalog.Written("SELECT pg_sleep(30)::text", {}, 10, lambda found: b"")
            asked = asyncio.create_task(asks.page(slow))
            await asyncio.sleep(0.2)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert json.loads(await asks.page(catalog.images_written(1)) or b"")["total"] == IMAGES

    asyncio.run(check())


def test_nobody_waits_twice_for_a_server_that_is_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    connect = psycopg.AsyncConnection.connect

    async def noted(**arguments: object) -> object:
        tried.append(arguments["port"])
        return await connect(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", noted)
    monkeypatch.setattr(asking, "PAUSE_SECONDS", 0.5)
    away = load(home=settings.home, database_url="postgresql://nobody@127.0.0.1:9/nothing")

    async def check() -> None:
        asks = Asking(Database(away), 2)
        written = catalog.images_written(1)
        assert await asyncio.gather(*(asks.page(written) for _ in range(8))) == [None] * 8
        assert len(tried) <= 2, "as many as may ask at once"
        seen = len(tried)
        await asyncio.sleep(0.6)
        assert await asks.page(written) is None
        assert len(tried) == seen + 1

    asyncio.run(check())


@pytest.mark.parametrize("kept", [0, 60])
def test_a_service_answers_right_through_cuts(settings: Settings, kept: int) -> None:
    """Whoever asks meets no fault: what the loop cannot ask, a thread does."""
    assert settings.database_url is not None
    app = create_app(load(home=settings.home, database_url=settings.database_url, cache_ttl_images=kept))
    with running(app) as address, httpx.Client(base_url=address, timeout=30) as client:
        stop, cuts = threading.Event(), []

        def cutting() -> None:
            while not stop.wait(0.1):
                cut(settings)
                cuts.append(1)

        thread = threading.Thread(target=cutting)
        thread.start()
        try:
            statuses: list[int] = []
            while len(cuts) < 5:
                reply = client.get("/api/projects/1/images", params={"limit": 1 + len(statuses) % 5, "new": len(statuses)})
                statuses.append(reply.status_code)
                assert reply.status_code == 503 or reply.json()["total"] == IMAGES
        finally:
            stop.set()
            thread.join()
        assert statuses.count(200) > 0.9 * len(statuses)
        assert client.get("/api/projects/1/images").json()["total"] == IMAGES


def test_a_database_that_is_away_is_a_problem_that_says_so(settings: Settings) -> None:
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    app = create_app(load(home=settings.home, database_url=settings.database_url, cache_ttl_images=0))
    elsewhere = url.set(database="postgres").render_as_string(hide_password=False)
    with (
        running(app) as address,
        httpx.Client(base_url=address, timeout=30) as client,
        psycopg.connect(elsewhere, autocommit=True) as administrator,
    ):
        assert client.get("/api/projects/1/images").status_code == 200
        administrator.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
        cut(settings)
        try:
            time.sleep(1.1)  # the pool tries connections that lay idle for longer than a second
            reply = client.get("/api/projects/1/images")
            assert reply.status_code == 503, reply.text
            assert "not currently accepting connections" in reply.json()["detail"]
        finally:
            administrator.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")
        assert client.get("/api/projects/1/images").json()["total"] == IMAGES
