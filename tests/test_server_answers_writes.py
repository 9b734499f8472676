"""Kept answers are never outdated, whoever writes, and whether or not a server hears of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from segkit import catalog, jobs
from segkit.settings import Settings
from tests.kept_answers import Served, add, served, with_images

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(database_settings: Settings) -> int:
    """A project of two images."""
    return with_images(database_settings, 2)


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
