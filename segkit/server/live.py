"""Live events: where runs and jobs stand, by WebSocket or as server-sent events at `/api/events`.

Every message has an id. What is sent is JSON, either changes or, first and after a gap that is too long, the whole state:

    {"id": "5f3a-17", "events": [{"type": "jobs", "run_id": 4, "status": "running", "jobs": [{"id": 17, ...}]}, {"type": "run", ...}]}
    {"id": "5f3a-17", "state": {"runs": [...], "jobs": [...]}}

A message is made once for all readers of the same subscription who have come as far, and sent only when a reader has taken the one
before. Who is slow gets fewer messages, each with only the newest of what he missed; nothing waits for him.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import orjson
from fastapi import APIRouter, FastAPI, Query, Request, Response
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from segkit.errors import SubscriptionError
from segkit.events import RunState
from segkit.schema import JobStatus
from segkit.server.parameters import LARGEST_ID
from segkit.server.problems import told
from segkit.server.readers import EVERYTHING, Hub, Reader, Subscription
from segkit.server.zerocopy import PUSH

router = APIRouter(tags=["events"])

#: Jobs, runs or projects that one subscription names.
MOST_NAMED = 1000
LONGEST_LIST = 20 * MOST_NAMED
#: A comment is sent so often to a stream in which nothing happens, so that proxies keep it open.
COMMENT_SECONDS = 15.0
#: How long a browser waits before it opens a stream again.
RETRY_MS = 1000
STREAM = "text/event-stream"
NUMBERS = r"^[0-9]{1,16}(,[0-9]{1,16})*$"


class Job(BaseModel):
    """A job, in an event that says how it is with it."""

    id: int
    image: str
    detail: str | None = None


class JobsEvent(BaseModel):
    """Jobs of one run that have a new status."""

    type: Literal["jobs"]
    run_id: int
    project_id: int | None
    status: JobStatus
    jobs: list[Job]


@dataclass(frozen=True, kw_only=True)
class RunEvent(RunState):
    """A run with new counts."""

    type: Literal["run"]


class State(BaseModel):
    """Where everything subscribed to stands: counts of runs, and the jobs that run now."""

    runs: list[RunEvent]
    jobs: list[JobsEvent]


class Message(BaseModel):
    """Events since an id, or the whole state."""

    id: str
    events: list[JobsEvent | RunEvent] | None = None
    state: State | None = None


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """Open the hub of an app, `app.state.live`, and close it."""
    hub = app.state.live = Hub(app.state.kit)
    await hub.open()
    try:
        yield
    finally:
        await hub.close()


Numbers = Annotated[str | None, Query(max_length=LONGEST_LIST, pattern=NUMBERS, description="Numbers, with commas between them.")]
Since = Annotated[str | None, Query(max_length=100, description="The `id` of the last message that was seen.")]


@router.get(
    "/api/events",
    response_model=Message,
    responses={**told(400), 200: {"content": {STREAM: {"schema": {"type": "string"}}}}},
)
async def list_events(
    request: Request, runs: Numbers = None, jobs: Numbers = None, projects: Numbers = None, since: Since = None
) -> Response:
    """Tell what happened since an id, or the whole state; as a stream to who accepts `text/event-stream`. Also a WebSocket."""
    hub = cast(Hub, request.app.state.live)
    reader = Reader(subscription_of(request.query_params), since or request.headers.get("last-event-id"))
    if STREAM in request.headers.get("accept", ""):
        return EventStream(hub, reader)
    return Response(await hub.now(reader), media_type="application/json", headers={"Cache-Control": "no-store"})


class EventStream(Response):
    """Server-sent events: messages for as long as the client stays."""

    def __init__(self, hub: Hub, reader: Reader) -> None:
        super().__init__(media_type=STREAM, headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub, self._reader = hub, reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send_messages(send))
        leaving = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
        if sending.done() and not sending.cancelled():
            await send({"type": "http.response.body", "body": b""})

    async def _send_messages(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": f"retry: {RETRY_MS}\n\n".encode(), "more_body": True})
        while not self._hub.is_closed:
            text = b": nothing new\n\n"
            with suppress(TimeoutError):
                identity, message = await asyncio.wait_for(self._hub.next(self._reader), COMMENT_SECONDS)
                text = b"id: " + identity.encode() + b"\ndata: " + message.encode() + b"\n\n"
            await send({"type": "http.response.body", "body": text, "more_body": True})


async def until_gone(receive: Receive) -> None:
    """Wait for the client to go."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventSocket:
    """The WebSocket: messages go out, subscriptions come in. Plain ASGI, because each of its steps is taken for every reader."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one reader until he leaves."""
        hub = cast(Hub, scope["app"].state.live)
        query = QueryParams(scope["query_string"])
        await receive()
        try:
            reader = Reader(subscription_of(query), query.get("since"))
        except SubscriptionError:
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept"})
        reader.push = scope.get("extensions", {}).get(PUSH, lambda: None)()
        sending = asyncio.ensure_future(self._send_messages(hub, reader, send))
        try:
            while (message := await receive())["type"] == "websocket.receive":
                await self._take(hub, reader, message, send)
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, OSError, RuntimeError):
                await sending

    @staticmethod
    async def _send_messages(hub: Hub, reader: Reader, send: Send) -> None:
        while not hub.is_closed:
            _, text = await hub.next(reader)
            await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.close", "code": 1001})

    @staticmethod
    async def _take(hub: Hub, reader: Reader, message: Any, send: Send) -> None:
        """Take a message of a reader: `{"subscribe": {"runs": [1, 2]}}`."""
        try:
            hub.subscribe(reader, subscription_asked(message.get("text") or message.get("bytes") or b""))
        except SubscriptionError as error:
            await send({"type": "websocket.send", "text": orjson.dumps({"error": str(error)}).decode()})


router.routes.append(WebSocketRoute("/api/events", EventSocket(), name="event_socket"))


# What readers ask for


def subscription_of(query: QueryParams) -> Subscription:
    """Read a subscription from a query such as `runs=1,2&jobs=7`.

    Raises
    ------
    SubscriptionError
        There is something else in it.
    """
    found = {}
    for name in ("runs", "jobs", "projects"):
        text = query.get(name)
        if text is not None:
            if len(text) > LONGEST_LIST or not re.fullmatch(NUMBERS, text):
                raise SubscriptionError
            found[name] = numbers(map(int, text.split(",")))
    return Subscription(**found) if found else EVERYTHING


def subscription_asked(message: str | bytes) -> Subscription:
    """Read what a WebSocket's reader asks for.

    Raises
    ------
    SubscriptionError
        It is something else.
    """
    try:
        asked = orjson.loads(message)["subscribe"]
        found = {name: numbers(asked[name]) for name in asked}
        return Subscription(**found) if found else EVERYTHING
    except (ValueError, TypeError, KeyError) as error:
        raise SubscriptionError from error


def numbers(given: Iterable[Any]) -> frozenset[int]:
    """Check the numbers of a subscription."""
    found = frozenset(given)
    if len(found) > MOST_NAMED or not all(type(each) is int and 0 < each <= LARGEST_ID for each in found):
        raise SubscriptionError
    return found
