"""An app before a service that answers as it is told, or breaks off half-way."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Faulty:
    """An app before the service that answers as it is told, or breaks off; then it lets through."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self.app, self.state = app, state
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []  #: given one after the other
        self.cuts: list[int] = []  #: bytes of a body after which it breaks off, one after the other
        self.asked: list[dict[str, str]] = []  #: headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.asked.append({name.decode(): value.decode() for name, value in scope["headers"]} | {"method": scope["method"]})
        if self.answers:
            status, body, headers = self.answers.pop(0)
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": [*raw, (b"content-length", b"%d" % len(body))]})
            await send({"type": "http.response.body", "body": body})
            return
        cut = self.cuts.pop(0) if self.cuts and scope["method"] == "GET" else None
        await self.app(scope, receive, send if cut is None else cut_after(send, cut))


class Broken(Exception):
    """The connection breaks here."""


def cut_after(send: Send, count: int) -> Send:
    """Let so many bytes of a body through, and then break the answer off."""

    async def sending(message: Message) -> None:
        nonlocal count
        body = message.get("body", b"")
        if message["type"] == "http.response.body" and len(body) > count:
            await send(message | {"body": body[:count], "more_body": True})
            raise Broken
        count -= len(body)
        await send(message)

    return sending
