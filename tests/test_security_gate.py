"""One gate stands before every route, mount and WebSocket of the service, whatever is added later: nothing is let in unless it is named."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from segkit.server.app import create_app
from segkit.server.auth import Admission
from segkit.server.timing import NO_ROUTE
from segkit.settings import load

TOKEN = "a-token-for-tests-only-0123456789"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "get", "XYZ")
OUTSIDE, HERE = ("203.0.113.9", 5555), ("127.0.0.1", 5555)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The service as others reach it, with no token set: nobody may in."""
    return create_app(load(home=str(tmp_path_factory.mktemp("gate")), server_host="0.0.0.0"))


def walk(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield kind and path of everything that a router leads to, mounts and included routers too."""
    for route in routes:
        inside = next((getattr(route, name) for name in ("router", "original_router") if hasattr(route, name)), route)
        below = getattr(inside, "routes", None)
        path = prefix + str(getattr(route, "path", ""))
        if isinstance(route, Mount):
            yield "http", f"{path}/x"
        elif "WebSocket" in type(route).__name__:
            yield "websocket", path
        elif not below:
            yield "http", path
        if below and not isinstance(route, WebSocketRoute):
            yield from walk(below, path if isinstance(route, Mount) else prefix)


def filled(path: str) -> str:
    """Put something in the place of each parameter."""
    parts = ["1" if part.startswith("{") else part.split("{")[0] + "1.zip" * ("{" in part) for part in path.split("/")]
    return "/".join(parts) or "/"


def ways(path: str) -> set[str]:
    """Write a path in the ways in which it could slip past a gate that judges another one than the router."""
    bare = path.strip("/")
    turns = {
        path,
        f"{path}/",
        f"/{path}",
        f"//{bare}",
        path.replace("/", "//"),
        f"/health/..{path}",
        f"/./{bare}",
        f"{path}/.",
        f"/;{path}",
    }
    turns |= {path.upper(), quote(path, safe=""), path.replace("/", "%2f"), f"{path}%00", f"{path}\0", f"{path}?token", f"{path}#/health"}
    return turns | {f"/static/..{path}", f"http://localhost{path}", f"{path}/health", f"\\{bare}", "*", "", f"{path};/health"}


async def knock(
    app: Any, kind: str, path: str, method: str = "GET", client: tuple[str, int] = OUTSIDE, sent: list[Any] | None = None, **headers: str
) -> list[Any]:
    """Ask without a credential; returns what was sent back."""
    sent = [] if sent is None else sent

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "localhost:8765"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": quote(path, safe="/%").encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": client,
        "server": ("localhost", 8765),
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, receive, send)
    return sent


def is_refused(sent: list[Any]) -> bool:
    """Whether nothing came of it but a refusal."""
    first = sent[0]
    return first["type"] == "websocket.close" or (first["type"].endswith("http.response.start") and first["status"] in (401, 403))


def everything(app: FastAPI) -> set[tuple[str, str]]:
    return {(kind, filled(path)) for kind, path in walk(app.routes)}


def test_the_walk_finds_everything(app: FastAPI) -> None:
    found = everything(app)
    paths = {path for _, path in found}
    assert len(found) > 50
    assert {"/", "/api/projects", "/health", "/metrics", "/api/openapi.json", "/api/download/exports/1", "/static/x"} <= paths
    assert ("websocket", "/api/events") in found
    assert [path for kind, path in found if kind == "websocket" and path.startswith("/dashboards/")], "the dashboards' sockets"
    assert {path for path in paths if path.startswith("/dashboards/queue_status")}


def test_nothing_is_let_in_without_a_credential(app: FastAPI) -> None:
    async def all_doors() -> list[str]:
        let_in = []
        for kind, path in sorted(everything(app)):
            for method in METHODS if kind == "http" else ("GET",):
                if not is_refused(await knock(app, kind, path, method)):
                    let_in.append(f"{method} {path}")
            let_in += [f"{kind} {way!r}" for way in sorted(ways(path)) if not is_refused(await knock(app, kind, way))]
        return let_in

    assert not asyncio.run(all_doors())


def test_what_is_added_later_is_behind_the_gate_too(tmp_path: Path) -> None:
    app = create_app(load(home=str(tmp_path), server_host="0.0.0.0"))

    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def socket(websocket: Any) -> None:
        await websocket.accept()

    app.add_api_route("/later", hello)
    app.mount("/health", Starlette(routes=[Route("/inside", hello), WebSocketRoute("/socket", socket)]))
    app.router.routes.append(WebSocketRoute("/later/socket", socket))

    async def asked() -> None:
        for kind, path in (("http", "/later"), ("http", "/health/inside"), ("websocket", "/health/socket"), ("websocket", "/later/socket")):
            for client in (OUTSIDE, HERE):
                assert is_refused(await knock(app, kind, path, client=client)), path

    asyncio.run(asked())


def test_health_alone_is_told_and_only_to_this_machine_itself(app: FastAPI) -> None:
    async def statuses() -> list[bool]:
        return [
            is_refused(await knock(app, "http", "/health", client=OUTSIDE)),
            is_refused(await knock(app, "http", "/health", client=HERE, x_forwarded_for="203.0.113.9")),
            is_refused(await knock(app, "http", "/health", client=HERE, forwarded="for=203.0.113.9")),
            is_refused(await knock(app, "websocket", "/health", client=OUTSIDE)),
        ] + [
            is_refused(await knock(app, "http", path, client=HERE)) for path in ("/x/health", "/health/", "//health", "/metrics", "/HEALTH")
        ]

    assert all(asyncio.run(statuses()))


def test_a_name_in_the_host_header_changes_no_path(app: FastAPI) -> None:
    """CVE-2026-48710: a path that is put together with the Host header is another one than the router's."""

    async def asked() -> list[bool]:
        hosts = ["localhost/health?", "localhost/health#", "x@localhost", "localhost:8765/health", "[::1", "localhost\\health", "a b", ""]
        return [
            is_refused(await knock(app, "http", "/api/projects", client=client, host=host)) for host in hosts for client in (HERE, OUTSIDE)
        ]

    assert all(asyncio.run(asked()))


def test_the_gate_stands_before_all_that_answers(app: FastAPI) -> None:
    names = [each.__name__ for each in app.passages]
    assert set(names[: names.index(Admission.__name__)]) <= {"Tracing", "Prefix"}, "what is before it answers nothing itself"


@pytest.mark.parametrize("where", ["route", "gate"])
def test_a_fault_that_nobody_foresaw_is_answered_like_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    app = create_app(load(home=str(tmp_path)))

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError

    if where == "gate":
        monkeypatch.setattr(Admission, "_is_plain", lambda *given: broken())

    sent: list[Any] = []
    with pytest.raises(ZeroDivisionError):  # the server that runs the app logs it
        asyncio.run(knock(app, "http", "/broken", client=HERE, sent=sent))
    start, body = sent
    headers = dict(start["headers"])
    assert start["status"] == 500
    assert b"Unforeseen fault" in body["body"]
    assert b"frame-ancestors" in headers[b"content-security-policy"]
    assert headers[b"x-request-id"]
    assert {(timing.route, timing.errors) for timing in app.state.requests.timings()} == {("/broken" if where == "route" else NO_ROUTE, 1)}


def test_an_address_has_no_module_imported(tmp_path: Path) -> None:
    """Panel's route for the files of its components imports whatever module is named there; a picture of another site could name one."""
    app = create_app(load(home=str(tmp_path)))
    assert "this" not in sys.modules

    async def asked() -> int:
        return int((await knock(app, "http", "/components/this/a/css/b", client=HERE))[0]["status"])

    assert asyncio.run(asked()) == 404
    assert "this" not in sys.modules


def test_with_the_token_the_same_doors_open(tmp_path: Path) -> None:
    """Otherwise the tests above would pass with a service that answers nobody."""
    app = create_app(load(home=str(tmp_path), server_host="0.0.0.0", token=TOKEN))

    async def status(path: str, **headers: str) -> int:
        return int((await knock(app, "http", path, **headers))[0]["status"])

    async def asked() -> list[int]:
        good = {"authorization": f"Bearer {TOKEN}"}
        return [await status("/api/openapi.json"), await status("/api/openapi.json", **good), await status("/nothing", **good)]

    assert asyncio.run(asked()) == [401, 200, 404]
