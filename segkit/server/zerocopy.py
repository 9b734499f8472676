"""Files from the page cache to the socket without passing through Python: ASGI's zero-copy extension for uvicorn.

`ZeroCopy` wraps the whole app, outside of every middleware, because only there `send` is uvicorn's own. An app that finds
"http.response.zerocopysend" among the extensions of a request may send `{"type": "http.response.zerocopysend", "file": descriptor,
"offset": n, "count": n, "more_body": bool}`; without uvicorn's httptools protocol, or with TLS, it is not offered.

Files may lie on a cold disk and clients may be slow, so the loop neither reads nor waits: a thread sends for as long as the socket
takes bytes, and while it does not, no thread is held.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

EXTENSION = "http.response.zerocopysend"
#: Where this is among the extensions of a WebSocket, it holds a function that, once the WebSocket is accepted, returns what takes a whole
#: frame, made once for many readers, and tells whether the frame went out (not when the client is slow or leaving); or None when the client
#: wants its messages packed.
PUSH = "segkit.push"
#: How long a thread waits for a socket to take more before it gives the wait back to the loop.
PATIENCE_MS = 5
#: How long a thread serves one client before another has its turn.
TURN_SECONDS = 0.25
#: Most bytes of one call of the system.
PIECE = 2**24
THREADS = 16


class ZeroCopy:
    """ASGI wrapper that offers the zero-copy extension where it can be had."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._threads: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        cycle = getattr(send, "__self__", None)
        if scope["type"] == "http" and isinstance(cycle, RequestResponseCycle) and _is_plain(cycle.transport):
            if self._threads is None:
                self._threads = CapacityLimiter(THREADS)
            scope.setdefault("extensions", {})[EXTENSION] = {}
            send = partial(_pass_on, cycle, send, self._threads)
        elif scope["type"] == "websocket" and isinstance(cycle, WebSocketsSansIOProtocol):
            scope.setdefault("extensions", {})[PUSH] = partial(_pusher, cycle)
        await self._app(scope, receive, send)


def _is_plain(transport: Any) -> bool:
    return hasattr(os, "sendfile") and transport.get_extra_info("sslcontext") is None and transport.get_extra_info("socket") is not None


def _pusher(protocol: WebSocketsSansIOProtocol) -> Callable[[bytes], bool] | None:
    """Return what writes a frame of an accepted WebSocket; nothing when its messages are packed."""
    return None if protocol.conn.extensions else partial(_push_frame, protocol.transport)


def _push_frame(transport: Any, frame: bytes) -> bool:
    """Write a frame as it is, without waiting; tell whether that was possible.

    Nothing but the transport is asked: with 500 readers, looking at more took as long as the writing. Uvicorn closes it in the same
    breath in which it hears of the end of a WebSocket.
    """
    if transport.is_closing() or transport.get_write_buffer_size():
        return False
    transport.write(frame)
    return True


def text_frame(text: bytes) -> bytes:
    """Write a text as a WebSocket frame of a server (RFC 6455, section 5.2)."""
    size = len(text)
    if size < 126:
        return bytes([0x81, size]) + text
    if size < 2**16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


async def _pass_on(cycle: RequestResponseCycle, send: Send, threads: CapacityLimiter, message: Message) -> None:
    """Send a message; a file goes around uvicorn, which is told how many bytes went."""
    if message["type"] != EXTENSION:
        await send(message)
        return
    count = message["count"]
    if cycle.scope["method"] != "HEAD" and count:
        await _drained(cycle)
        await _send_file(cycle, threads, message["file"], message["offset"], count)
        cycle.expected_content_length -= count
    if not cycle.disconnected and not message.get("more_body", False):
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drained(cycle: RequestResponseCycle) -> None:
    """Wait until what was written before, the headers, has left."""
    while cycle.transport.get_write_buffer_size() and not cycle.disconnected:
        await (asyncio.sleep(0.001) if cycle.flow.write_paused else asyncio.sleep(0))


async def _send_file(cycle: RequestResponseCycle, threads: CapacityLimiter, file: int, offset: int, count: int) -> None:
    if cycle.disconnected:
        return
    socket = os.dup(cycle.transport.get_extra_info("socket").fileno())
    try:
        while count and not cycle.disconnected:
            sent = await to_thread.run_sync(push, socket, file, offset, count, limiter=threads)
            offset, count = offset + sent, count - sent
            if count:
                await _writable(cycle, socket)
    except ConnectionError:
        cycle.transport.abort()
    finally:
        os.close(socket)


def push(socket: int, file: int, offset: int, count: int) -> int:
    """Send bytes of a file for as long as a socket takes them; return how many went.

    Raises
    ------
    EOFError
        The file is shorter.
    ConnectionError
        The client has gone.
    """
    poll = select.poll()
    poll.register(socket, select.POLLOUT)
    sent, deadline = 0, time.monotonic() + TURN_SECONDS
    while sent < count and time.monotonic() < deadline:
        try:
            went = os.sendfile(socket, file, offset + sent, min(PIECE, count - sent))
        except BlockingIOError:
            if not poll.poll(PATIENCE_MS):
                break
            continue
        if went == 0:
            raise EOFError("The file became shorter while it was being sent.")
        sent += went
    return sent


async def _writable(cycle: RequestResponseCycle, socket: int) -> None:
    """Wait until a socket takes bytes again, or its client has gone."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(socket, ready.set)
    try:
        while not ready.is_set() and not cycle.disconnected:
            with suppress(TimeoutError):
                await asyncio.wait_for(ready.wait(), 1)
    finally:
        loop.remove_writer(socket)
