"""No N+1: what a route asks of the database does not depend on how many rows there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from plates import QUICK, write_plate
from services import running
from sqlalchemy import event
from starlette.types import ASGIApp, Receive, Scope, Send

import segkit
from segkit.database.engines import SESSION
from segkit.kit import Kit
from segkit.server.app import create_app
from segkit.settings import Settings, load

SIZES = (1, 10, 100)
#: Statements of the request that is being answered; what the service looks at by itself belongs to none.
ASKED: ContextVar[list[str] | None] = ContextVar("asked", default=None)
#: What stands for each parameter of a path.
PARAMETERS = {
    "scope": "read",
    "project_id": "1",
    "run_id": "1",
    "image_id": "1",
    "job_id": "1",
    "format": "csv",
    "name": "nuclei",
    "level": "0",
    "column": "0",
    "row": "0",
}
#: Routes whose parameters must be others.
OTHERS = {
    "/api/project": "/api/project?name=plate",
    "/api/download/runs/{run_id}/images/{image_id}/{name:path}": "/api/download/runs/1/images/1/objects.parquet",
}
#: Routes of what has to be made first.
MADE = {
    "/api/download/exports/{name:path}": "export",
    "/api/registrations/{registration_id}": "registration",
    "/api/registrations/{registration_id}/images": "registered",
    "/api/metrics/slow-queries/{statement_id}/plan": "plan",
}
#: The same lists asked for in other ways.
VARIANTS = [
    "/api/projects?limit=1000",
    "/api/projects?offset=0&limit=1000",
    "/api/activity?limit=1000",
    "/api/projects/1/images?limit=1000",
    "/api/projects/1/images?unreadable=true",
    "/api/runs?limit=1000",
    "/api/runs?project_id=1",
    "/api/runs/1/jobs?limit=1000",
    "/api/runs/1/jobs?status=done&limit=1000",
    "/api/runs/1/results?limit=1000",
    "/api/runs/1/objects?limit=1000",
    "/api/runs/1/objects?limit=1000&where=area_px>=1",
    "/api/runs/1/objects?format=csv",
    "/api/runs/1/objects?format=parquet",
    "/api/runs/1/objects?format=arrow&limit=1000",
]
#: Lists that are one statement, whatever their length.
ONE_STATEMENT = [
    "/api/projects",
    "/api/activity",
    "/api/projects/{project_id}/images",
    "/api/projects/{project_id}/runs",
    "/api/runs",
    "/api/runs/{run_id}/jobs",
    "/api/runs/{run_id}/results",
    "/api/images/{image_id}/results",
    "/api/runs/{run_id}/progress",
    "/api/queue",
    "/api/queue/workers",
]


def readable_routes() -> list[str]:
    """Every path that answers GET."""
    routes = create_app(load()).state.routes
    return sorted({route.path for route in routes if "GET" in (getattr(route, "methods", None) or ())})


class Asking:
    """ASGI middleware that collects the statements of each request; threads and tasks of a request inherit its context."""

    def __init__(self, app: ASGIApp, requests: list[list[str]]) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._requests.append([])
            ASKED.set(self._requests[-1])
        await self._app(scope, receive, send)


def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
    """Keep a statement with the request that executes it."""
    asked = ASKED.get()
    if asked is not None:
        asked.append(statement)


def noting(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what is asked on the event loop, where no event of the engine tells of it; setting a connection up is not counted."""

    async def noted(connection: Any, statement: str, *rest: Any) -> Any:
        if statement != SESSION:
            note(None, None, statement, None, None, False)
        return await execute(connection, statement, *rest)

    return noted


class Growing:
    """A service over a database that grows."""

    def __init__(self, app: FastAPI, client: httpx.Client, requests: list[list[str]], settings: Settings, folder: Path) -> None:
        self.app, self.client, self.requests = app, client, requests
        self._settings, self._folder, self._size = settings, folder, 0
        self._made: dict[str, str] = {}

    def grow(self, size: int) -> None:
        """Bring everything to a size: projects, runs, and images, jobs and results of the first of each."""
        url = self._settings.database_url and self._settings.database_url.get_secret_value()
        with segkit.open(self._settings.home, database_url=url, **QUICK) as kit:
            plate = kit.project("plate", create=True)
            plate.add(write_plate(self._folder / str(size), [number % 4 + 1 for number in range(self._size, size)], first=self._size))
            run = plate.segment("threshold")
            run.work_off()
            for number in range(max(1, self._size), size):
                kit.project(f"project {number}", create=True)
                plate.segment("threshold", images=[1], threshold=number)  # a run that stays queued
            assert run.number == 1
        self._size = size
        self._make()

    def _make(self) -> None:
        """Have the service make what only then can be asked for."""
        self.client.post("/api/runs/1/exports/csv")
        registering = self.client.post("/api/projects/1/images", json={"where": [str(self._folder / str(self._size))]})
        made = {"registration": registering.headers["location"], "registered": f"{registering.headers['location']}/images"}
        deadline = time.monotonic() + 20
        while made.get("export") is None or self.client.get(made["registration"]).json()["state"] != "done":
            assert time.monotonic() < deadline
            made["export"] = self.client.get("/api/runs/1/exports/csv").json()["download"]
            time.sleep(0.01)
        slow = [each["id"] for each in self.client.get("/api/metrics/slow-queries").json() if each["statement"].startswith("SELECT")]
        made["plan"] = f"/api/metrics/slow-queries/{slow[0]}/plan"
        self._made = made

    def address(self, path: str) -> str:
        """A path with its parameters filled in; a parameter that nobody told a value is an error."""
        return self._made[MADE[path]] if path in MADE else OTHERS.get(path) or path.format_map(PARAMETERS)

    def count(self, path: str) -> int:
        """Statements of one request, which must not fail."""
        answer = self.client.get(self.address(path))
        assert answer.status_code < 400, f"{path}: {answer.text}"
        return len(self.requests[-1])


@pytest.fixture
def growing(database_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Growing]:
    never = {f"cache_ttl_{kind}": 0 for kind in ("projects", "images", "results", "queue")}
    app = create_app(load(home=database_settings.home, database_url=database_settings.database_url, slow_query_ms=0, **never))
    requests: list[list[str]] = []
    app.put_before(Asking, requests=requests)
    with running(app) as address, httpx.Client(base_url=address, timeout=30) as client:
        event.listen(app.state.kit.database.engine, "before_cursor_execute", note)
        monkeypatch.setattr(psycopg.AsyncConnection, "execute", noting(psycopg.AsyncConnection.execute))
        yield Growing(app, client, requests, database_settings, tmp_path / "plates")


@pytest.mark.parametrize("database_settings", [pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"], indirect=True)
def test_statements_do_not_grow_with_rows(growing: Growing) -> None:
    paths = readable_routes() + VARIANTS
    seen: dict[str, list[int]] = {path: [] for path in paths}
    rows: dict[int, Any] = {}
    for size in SIZES:
        growing.grow(size)
        rows[size] = [growing.client.get(path).json()["total"] for path in ("/api/projects", "/api/projects/1/images", "/api/runs/1/jobs")]
        for path in paths:
            seen[path].append(growing.count(path))
    assert rows == {size: [size] * 3 for size in SIZES}
    assert {path: counts for path, counts in seen.items() if len(set(counts)) > 1} == {}
    lists = {path: seen[path] for path in ONE_STATEMENT}
    assert lists == {path: [1] * len(SIZES) for path in ONE_STATEMENT}


def test_the_count_can_fail(growing: Growing) -> None:
    """A route that asks once for each row is caught by the same count."""
    growing.grow(3)

    @growing.app.get("/naive")
    def naive() -> list[str]:
        kit: Kit = growing.app.state.kit
        return [kit.project(each.name).name for each in kit.projects().items]

    assert growing.count("/naive") > 3
