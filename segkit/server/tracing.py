"""What is known of every request from outside: its id, on its answer and on every line that is logged on its behalf; how it ended, in a
line of its own; and how long it took, by its route.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segkit import logs
from segkit.server.auth import with_safe_headers
from segkit.server.problems import unforeseen
from segkit.server.timing import NO_ROUTE, NOTE
from segkit.telemetry import Requests

log = logging.getLogger("segkit.access")
HEADER = b"x-request-id"
#: Another's id, such as nginx's, is kept when it looks like this, and so can break no line of a log.
GOOD = re.compile(rb"[A-Za-z0-9._-]{4,64}")


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Tracing:
    """ASGI middleware, outermost: names each request by `X-Request-ID`, its own or the one that a proxy sent along, and times it.
    What fails in a passage in a way that nobody foresaw it answers as FastAPI does for routes.

    One for both, because every request pays for each middleware, and what is kept is given out in less time than a few of them take.

    Parameters
    ----------
    requests : Requests, optional
        Where times are kept; default: requests are not timed.
    """

    def __init__(self, app: ASGIApp, requests: Requests | None = None) -> None:
        self._app, self._requests = app, requests
        self._start, self._numbers = secrets.token_hex(4), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, from its head to its last byte."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = self._id_of(scope)
        header = (HEADER, request.encode())
        noted = scope.setdefault("state", {})
        status, started = 0, perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], header]
            await send(message)

        with logs.about(request=request):
            try:
                await self._app(scope, receive, sending)
            except Exception as error:  # of a passage itself: whatever a route raises was answered farther in
                if kind == "http" and not status:
                    await unforeseen(scope, error)(scope, receive, with_safe_headers(sending))
                raise
            finally:
                seconds = perf_counter() - started
                if self._requests is not None and kind == "http":
                    method = scope["method"] if scope["method"] in METHODS else "OTHER"
                    self._requests.add(method, noted.get(NOTE, NO_ROUTE), status or 500, seconds)
                if log.isEnabledFor(logging.INFO):
                    method = scope.get("method", "WEBSOCKET")
                    # The query stays out of it: it may hold a token.
                    log.info("%s %s %d, %.1f ms", method, ascii(scope["path"])[1:-1], status, 1000 * seconds)

    def _id_of(self, scope: Scope) -> str:
        """Return the id that came along, or a new one."""
        for name, value in scope["headers"]:
            if name == HEADER and GOOD.fullmatch(value):
                return str(value, "ascii")
        return f"{self._start}-{next(self._numbers):x}"
