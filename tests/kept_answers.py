"""Servers of kept answers that count how often they ask the database, and images added beside them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response

from segkit import catalog
from segkit.cache import CacheStatistics
from segkit.database import open_database
from segkit.kit import Kit
from segkit.server.answers import Answers, Repeats, answer
from segkit.settings import Settings
from tests.images_in_a_project import add_images


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
