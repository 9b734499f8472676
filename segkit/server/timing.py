"""How long each request takes, by its route."""

from __future__ import annotations

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segkit.telemetry import Requests

NO_ROUTE = "(no route)"
#: Where the route is noted, in the part of a request's scope that all copies of it share.
NOTE = "segkit_route"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def note_route(scope: Scope) -> None:
    """Note which route a request came to, for who sees only a copy of its scope."""
    if scope["type"] == "http" and (route := scope.get("route")) is not None:
        scope.setdefault("state", {})[NOTE] = route.path


class Timing:
    """ASGI middleware, outermost: times every request from its head to its last byte."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Time one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        noted = scope.setdefault("state", {})
        status = 500
        started = perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            self._requests.add(method, noted.get(NOTE, NO_ROUTE), status, perf_counter() - started)
