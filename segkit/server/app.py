"""Put the service together: one app of all routes, and what each request goes through on its way to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp, Receive, Scope, Send

from segkit import __version__
from segkit.database import open_database
from segkit.kit import Kit
from segkit.server import (
    dashboards,
    downloads,
    exports,
    front,
    images,
    live,
    metrics,
    objects,
    outlines,
    problems,
    projects,
    queue,
    registrations,
    runs,
    segmenters,
    tiles,
)
from segkit.server.answers import Answers, Repeats
from segkit.server.auth import Admission, SafeHeaders, access_of
from segkit.server.background import Background
from segkit.server.compression import Compression, Savings
from segkit.server.hub import HubLogin
from segkit.server.passages import BodyLimit, HeadAsGet, Prefix
from segkit.server.tracing import Tracing
from segkit.settings import Hub, Settings
from segkit.telemetry import Requests

#: In the order in which they are tried, so those come first that are asked most.
ROUTERS = [
    *(images, projects, runs, queue, objects, outlines, registrations, exports, segmenters, front, dashboards),
    *(downloads, tiles, live, metrics),
]
#: What is opened with the app and closed in the opposite order.
PARTS = [tiles, live, metrics, dashboards]
DESCRIPTION = "Projects, images, runs, the queue and results of segkit. Faults are problem details (RFC 9457) that say what to do."


class Service(FastAPI):
    """FastAPI behind passages of our own, outside all of its own.

    A passage that answers by itself spends nothing on what FastAPI does with a request, and what FastAPI says when a route fails in a way
    that nobody foresaw goes through them as every other answer does.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.passages: list[type] = []  #: in the order in which a request comes to them
        self._entrance: ASGIApp = super().__call__

    def put_before(self, passage: Any, **options: Any) -> None:
        """Add a passage, an ASGI middleware; the last that is added is the first to see a request."""
        self._entrance = passage(self._entrance, **options)
        self.passages.insert(0, passage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self
        await self._entrance(scope, receive, send)


def create_app(settings: Settings, kit: Kit | None = None, hub: Hub | None = None) -> Service:
    """Make the app of the service.

    Parameters
    ----------
    settings : Settings
        Say where it is reached, who may in, and how much.
    kit : Kit, optional
        Open already, and closed by its owner; default: opened when the app starts and closed when it ends.
    hub : Hub, optional
        The JupyterHub whose service this is; `segkit.settings.hub()` reads it from the environment.

    Returns
    -------
    Service
        A FastAPI with `state.kit`, `state.answers`, `state.background` and `state.access` once it has started.
    """
    login = HubLogin(hub) if hub else None
    app = Service(
        title="segkit",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages load scripts from elsewhere, where a laboratory's network may not lead
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # segkit times requests itself; this reads variables at each
        lifespan=lifespan_of(settings, kit, login),
        responses=problems.told(401, 403, 422, 429, 503),
    )
    app.state.settings, app.state.access = settings, access_of(settings, hub)
    problems.install(app)
    app.state.routes = []  # flat, where `app.routes` holds whole routers
    for module in ROUTERS:
        app.include_router(module.router)
        app.state.routes += module.router.routes
    dashboards.mount(app)
    add_passages(app, settings, login)
    app.openapi = lambda: schema_of(app)  # type: ignore[method-assign]
    return app


def add_passages(app: Service, settings: Settings, login: HubLogin | None) -> None:
    """Add what every request goes through; the last that is added is the first to see it."""
    app.state.requests, app.state.savings = Requests(), Savings()
    app.put_before(Compression, level=settings.http_compression_level, savings=app.state.savings)
    app.put_before(BodyLimit)
    app.put_before(HeadAsGet)
    app.put_before(SafeHeaders)
    app.put_before(Repeats, answers=lambda: getattr(app.state, "answers", None))
    app.put_before(Admission, access=app.state.access, kit_of=lambda: app.state.kit, login=login)
    prefix = login.prefix if login else settings.server_root_path
    if prefix:
        app.put_before(Prefix, prefix=prefix)
    app.put_before(Tracing, requests=app.state.requests if settings.enable_performance_monitoring else None)


def lifespan_of(settings: Settings, kit: Kit | None, login: HubLogin | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what opens the parts of an app when it starts, and closes them in the opposite order when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if login is not None:
                stack.push_async_callback(login.close)
            opened = kit
            if opened is None:
                opened = Kit(settings, await to_thread.run_sync(open_database, settings))
                stack.push_async_callback(to_thread.run_sync, opened.close)
            app.state.kit = opened
            app.state.answers = Answers(opened)
            await app.state.answers.open()
            stack.push_async_callback(app.state.answers.close)
            app.state.background = Background()
            stack.push_async_callback(to_thread.run_sync, app.state.background.close)
            for part in PARTS:
                await stack.enter_async_context(part.opened(app))
            yield

    return lifespan


def schema_of(app: FastAPI) -> dict[str, Any]:
    """Describe the routes in OpenAPI, once; with the form of problems, which no route returns as such."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = problems.SCHEMA
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        app.openapi_schema = schema
    return app.openapi_schema
