"""An id for every request: on its answer, on every line that is logged on its behalf, and in one line that tells how it ended."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segkit import logs

log = logging.getLogger("segkit.access")
HEADER = b"x-request-id"
#: Another's id, such as nginx's, is kept when it looks like this, and so can break no line of a log.
GOOD = re.compile(rb"[A-Za-z0-9._-]{4,64}")


class RequestIds:
    """ASGI middleware, outermost: names each request by `X-Request-ID`, its own or the one that a proxy sent along."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._start, self._numbers = secrets.token_hex(4), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = self._id_of(scope)
        status, started = 0, perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER, request)]
            await send(message)

        with logs.about(request=request.decode()):
            try:
                await self._app(scope, receive, sending)
            finally:
                if log.isEnabledFor(logging.INFO):
                    method = scope.get("method", "WEBSOCKET")
                    # The query stays out of it: it may hold a token.
                    log.info("%s %s %d, %.1f ms", method, ascii(scope["path"])[1:-1], status, 1000 * (perf_counter() - started))

    def _id_of(self, scope: Scope) -> bytes:
        """Return the id that came along, or a new one."""
        for name, value in scope["headers"]:
            if name == HEADER and GOOD.fullmatch(value):
                return bytes(value)
        return f"{self._start}-{next(self._numbers):x}".encode()
