"""The Panel dashboards, under `/dashboards` of the service: on its port, and under the rule that all of it is under."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.types import Scope

from segkit import dashboards
from segkit.tokens import Scope as Granted

log = logging.getLogger(__name__)
router = APIRouter()


@router.get("/dashboards", include_in_schema=False)
@router.get("/dashboards/", include_in_schema=False)
def show_first(request: Request) -> Response:
    """Show the first of the pages."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/dashboards/queue_status", 307)


def mount(app: FastAPI) -> None:
    """Add the pages to the service. What middleware is added later sees their requests before they do: who may in is decided there."""
    dashboards.mount(app, lambda: app.state.kit, may_change, lambda: getattr(app.state, "metrics", None))


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """Warm the pages while the service starts to answer, and do not close the kit under them."""
    warming = dashboards.warmed(app.state.kit)
    warming.add_done_callback(report)
    try:
        yield
    finally:
        await to_thread.run_sync(wait, [warming])


def report(warming: Future[None]) -> None:
    """Log what kept pages from being made; who opens one sees it too."""
    error = warming.exception()
    if error is not None:
        log.warning("The dashboards could not be made beforehand: %s", error)


def may_change(scope: Scope) -> bool:
    """Whether who asks may write."""
    return scope.get("state", {}).get("scope") == Granted.WRITE
