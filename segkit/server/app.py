"""Put the service together: one app of all routes, and what each request goes through on its way to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

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
from segkit.server.timing import Timing
from segkit.server.tracing import RequestIds
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


def create_app(settings: Settings, kit: Kit | None = None, hub: Hub | None = None) -> FastAPI:
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
    FastAPI
        With `state.kit`, `state.answers`, `state.background` and `state.access` once it has started.
    """
    login = HubLogin(hub) if hub else None
    app = FastAPI(
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


def add_passages(app: FastAPI, settings: Settings, login: HubLogin | None) -> None:
    """Add what every request goes through; the last that is added is the first to see it."""
    app.state.requests, app.state.savings = Requests(), Savings()
    app.add_middleware(Compression, level=settings.http_compression_level, savings=app.state.savings)
    app.add_middleware(BodyLimit)
    app.add_middleware(HeadAsGet)
    app.add_middleware(SafeHeaders)
    app.add_middleware(Repeats, answers=lambda: getattr(app.state, "answers", None))
    app.add_middleware(Admission, access=app.state.access, kit_of=lambda: app.state.kit, login=login)
    prefix = login.prefix if login else settings.server_root_path
    if prefix:
        app.add_middleware(Prefix, prefix=prefix)
    if settings.enable_performance_monitoring:
        app.add_middleware(Timing, requests=app.state.requests)
    app.add_middleware(RequestIds)


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
