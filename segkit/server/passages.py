"""Small passages that every request goes through: the prefix of a proxy, the limit of a body, and HEAD as GET."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bodies of JSON; the numbers of a million images are 8 MB. Uploads have a limit of their own.
MOST_JSON_BYTES = 32 * 1024**2
UPLOADS = "/uploads"
#: Its routes answer HEAD themselves, without making what GET would send.
DOWNLOADS = "/api/download"


def route_path(scope: Scope) -> str:
    """Return the path of a request below the prefix of the proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class Prefix:
    """ASGI middleware: finds the routes below a path prefix, whether the proxy before it takes the prefix off or not.

    jupyter-server-proxy takes it off, JupyterHub's proxy does not.
    """

    def __init__(self, app: ASGIApp, prefix: str = "") -> None:
        self._app, self._prefix = app, prefix.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its whole path, and its prefix named."""
        if self._prefix and scope["type"] in ("http", "websocket"):
            path, raw = scope["path"], scope.get("raw_path") or b""
            scope = {**scope, "root_path": self._prefix}
            if path != self._prefix and not path.startswith(f"{self._prefix}/"):
                scope = {**scope, "path": self._prefix + path, "raw_path": self._prefix.encode() + raw}
        await self._app(scope, receive, send)


class HeadAsGet:
    """ASGI middleware: answers HEAD as GET would, without its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or route_path(scope).startswith(DOWNLOADS):
            await self._app(scope, receive, send)
            return

        ended = False

        async def send_without_body(message: Message) -> None:
            nonlocal ended
            if not ended:
                await send(message)
            if message["type"] == "http.response.start":
                ended = True  # the server now tells a stream that nobody listens, which ends it
                await send({"type": "http.response.body", "body": b""})

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


class BodyLimit:
    """ASGI middleware: refuses bodies that are larger than any that a route reads into memory."""

    def __init__(self, app: ASGIApp, most_bytes: int = MOST_JSON_BYTES) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count what it sends."""
        if scope["type"] != "http" or route_path(scope).endswith(UPLOADS):
            await self._app(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise HTTPException(413, f"The request's body is larger than {self._most} bytes. Send less in one request.")
            return message

        await self._app(scope, receive_counted, send)
