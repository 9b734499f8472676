"""Answers that are kept: serialised once, packed once for each encoding, given out without asking anything but the stamp.

An answer may be given again while the stamp of its scope (`segkit.revisions`) is the one that was taken before it was made. A write
that commits while the answer is being made changes the stamp, so what was read too early is never given out, whichever process
wrote. When no stamp can be had, the database is asked for the revision at every read instead.

Routing a request and checking its parameters take longer than the database does. Path and query alone name an answer, so how it is
made is kept beside it, and a question that was asked before goes straight to its copy, or to the database when that is outdated.

Progress of jobs does not change the stamps of projects and images. The kinds "results" and "queue" show what jobs do, so their scope
is everything, and any commit ends what was kept of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from time import perf_counter
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from segkit.cache import Kind
from segkit.catalog import Written
from segkit.errors import SegkitError
from segkit.kit import Kit
from segkit.revisions import Scope, Stamp, revision
from segkit.server.asking import Asking
from segkit.server.auth import SAFE_HEADERS
from segkit.server.compression import LEAST_BYTES, Encoding, choose, is_compressible, pack
from segkit.server.following import Following
from segkit.server.timing import note_route

TAG_BYTES = 12
#: Questions of which is known how they are answered.
MOST_QUESTIONS = 4096
#: Threads that ask the database at once. More of them wait for each other in Python, and keep the event loop waiting.
FILLING_THREADS = 4
#: Kinds that show projects and images, which change seldom and have revisions.
BY_PROJECT = frozenset({"projects", "images"})
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Variant:
    """One encoding of an answer."""

    body: bytes
    headers: Headers


@dataclass
class Copy:
    """An answer that is kept, in the encodings that were asked for."""

    stamp: Stamp
    scope: Scope
    tag: str  #: with its quotes
    media_type: str
    begun: int  #: answers that began to be made later have a higher number
    variants: dict[Encoding | None, Variant] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all variants."""
        return sum(len(variant.body) for variant in self.variants.values())

    def add(self, encoding: Encoding | None, body: bytes, *, packed: bool) -> Variant:
        """Keep one more encoding."""
        variant = self.variants[encoding] = variant_of(body, self.media_type, self.tag, encoding if packed else None)
        return variant


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for, and how its answer is made; the same whoever asks."""

    kind: Kind
    scope: Scope
    fill: Callable[[], bytes]
    written: Written | None  #: how PostgreSQL writes it without `fill`
    media_type: str
    is_compressible: bool
    route: Any  #: that answers it, for timings


@dataclass(frozen=True)
class Asked:
    """A stamp that the database was asked for, because nobody hears of changes now."""

    revision: Hashable


class Answers:
    """The answers of one server process; `app.state.answers`. Open and close it with the app."""

    def __init__(self, kit: Kit) -> None:
        self.cache = kit.catalog.cache
        self.following = Following(kit.database)
        self._database = kit.database
        self._questions: dict[Hashable, Question] = {}
        self._loading: dict[Hashable, asyncio.Task[Copy]] = {}
        self._numbers = itertools.count()
        self._threads = CapacityLimiter(min(FILLING_THREADS, kit.settings.db_pool_max))
        self._asking = Asking(kit.database, min(FILLING_THREADS, kit.settings.db_pool_max))

    async def open(self) -> None:
        """Start to follow the database."""
        await self.following.open()

    async def close(self) -> None:
        """Stop, when what is being made has been: a thread cannot be cancelled."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await self._asking.close()
        await self.following.close()

    async def answer(
        self,
        request: Request,
        kind: Kind | None,
        project_id: int | None,
        fill: Callable[[], bytes],
        media_type: str,
        written: Written | None,
    ) -> Response:
        """See the function `answer`."""
        accepts, wanted = _conditions(request.scope)
        if kind is None:
            variant, tag = await self._make_once(fill, written, media_type)
            return _response(variant, tag, wanted)
        scope: Scope = ("projects" if project_id is None else project_id) if kind in BY_PROJECT else "everything"
        question = Question(kind, scope, fill, written, media_type, is_compressible(media_type), request.scope.get("route"))
        variant, tag = await self._answer(name_of(request.scope), question, accepts)
        self._remember(name_of(request.scope), question)
        return _response(variant, tag, wanted)

    def _remember(self, name: Hashable, question: Question) -> None:
        if len(self._questions) >= MOST_QUESTIONS:
            self._questions.clear()
        self._questions[name] = question

    async def _answer(self, name: Hashable, question: Question, accepts: str) -> tuple[Variant, str]:
        """Return one encoding of an answer, and its tag; of what may not be kept, the plain one."""
        if not self.cache.seconds(question.kind):
            return await self._make_once(question.fill, question.written, question.media_type)
        encoding = choose(accepts) if accepts and question.is_compressible else None
        stamp = await self.following.stamp(question.scope)
        if stamp is None:
            stamp = Asked(await to_thread.run_sync(self._ask, question.scope, limiter=self._threads))
        copy = self._kept(name, stamp)
        if copy is not None and encoding in copy.variants:
            self.cache.count("hits")
        else:
            new = Copy(stamp, question.scope, "", question.media_type, next(self._numbers))
            copy = await self._load_once(name, question, encoding, copy or new)
        return copy.variants[encoding], copy.tag

    async def _make_once(self, fill: Callable[[], bytes], written: Written | None, media_type: str) -> tuple[Variant, str]:
        """Make an answer that is not kept."""
        page = await self._asking.page(written) if written is not None else None
        body, tag = (page, _tag(page)) if page is not None else await to_thread.run_sync(_tagged, fill, limiter=self._threads)
        return variant_of(body, media_type, tag, None), tag

    async def repeat(self, connection: Connection, send: Send) -> bool:
        """Answer a question that was asked before, before anything else is done for it; False when that cannot be."""
        name = name_of(connection)
        question = self._questions.get(name)
        if question is None:
            return False
        accepts, wanted = _conditions(connection)
        if accepts and not self.cache.seconds(question.kind):
            return False  # what is not kept is packed on its way out, behind here
        try:
            variant, tag = await self._answer(name, question, accepts)
        except SegkitError:  # it is told as a problem where it is met again
            self._questions.pop(name, None)
            return False
        connection["route"] = question.route
        if wanted is not None and _matches(wanted, tag):
            await send({"type": "http.response.start", "status": 304, "headers": _unchanged(tag) + SAFE_HEADERS})
            await send({"type": "http.response.body"})
            return True
        await send({"type": "http.response.start", "status": 200, "headers": variant.headers + SAFE_HEADERS})
        await send({"type": "http.response.body", "body": variant.body})
        return True

    def _kept(self, name: Hashable, stamp: Stamp) -> Copy | None:
        copy: Copy | None = self.cache.memory.get(name)
        if copy is None or copy.stamp == stamp:
            return copy
        self.cache.count("replaced")
        return None

    def _ask(self, scope: Scope) -> Hashable:
        with self._database.read() as connection:
            known = revision(connection, scope)
        return object() if known is None else known  # nothing is equal to it, so nothing is kept for long

    async def _load_once(self, name: Hashable, question: Question, encoding: Encoding | None, copy: Copy) -> Copy:
        """Make an answer, one for all who ask for the same under the same stamp. It goes on when who asked first has gone."""
        key = (name, copy.stamp, encoding)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(name, question, encoding, copy))
            task.add_done_callback(lambda done: self._loaded(key, done))
        else:
            self.cache.count("joined")
        return await asyncio.shield(task)

    def _loaded(self, key: Hashable, task: asyncio.Task[Copy]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may be left

    async def _load(self, name: Hashable, question: Question, encoding: Encoding | None, copy: Copy) -> Copy:
        kind = question.kind
        made = await self._make_on_loop(question, encoding, copy)
        if made is None:
            made = await to_thread.run_sync(self._make, name, kind, encoding, copy, question.fill, limiter=self._threads)
        kept = self.cache.memory.get(name)
        if isinstance(kept, Copy) and kept.stamp == copy.stamp and kept.tag == made[0]:
            copy = kept
        elif copy.tag != made[0]:
            copy = replace(copy, tag=made[0], variants={})
        for variant, (body, packed) in made[1].items():
            copy.add(variant, body, packed=packed)
        if not (isinstance(kept, Copy) and kept.begun > copy.begun):
            self.cache.memory.keep(name, copy, self.cache.seconds(kind), copy.size)
        return copy

    async def _make_on_loop(self, question: Question, encoding: Encoding | None, copy: Copy) -> Made | None:
        """Make one encoding of what PostgreSQL writes; None when it cannot, or other processes may have it. Packing leaves the loop."""
        if question.written is None or None in copy.variants or self.cache.is_shared:
            return None
        started = perf_counter()
        page = await self._asking.page(question.written)
        if page is None:
            return None
        plain = (page, False)
        packed = plain
        if encoding is not None and len(page) >= LEAST_BYTES:
            packed = await to_thread.run_sync(packed_if_worth_it, encoding, page, limiter=self._threads)
        self.cache.note_fill(perf_counter() - started)
        return _tag(page), {None: plain, encoding: packed}

    def _make(self, name: Hashable, kind: Kind, encoding: Encoding | None, copy: Copy, fill: Callable[[], bytes]) -> Made:
        """Make one encoding, in a thread: of the plain answer when there is one, or from Redis, or from the database."""
        plain = copy.variants.get(None)
        if plain is not None:
            return copy.tag, {encoding: packed_if_worth_it(encoding, plain.body)}
        filled: list[bytes] = []

        def seal() -> bytes:
            filled.append(fill())
            body, packed = packed_if_worth_it(encoding, filled[0])
            return hashlib.blake2b(filled[0], digest_size=TAG_BYTES).digest() + bytes([packed]) + body

        sealed = self.cache.fetch(kind, self._shared_key(name, encoding, copy), seal)
        made: dict[Encoding | None, tuple[bytes, bool]] = {encoding: (sealed[TAG_BYTES + 1 :], bool(sealed[TAG_BYTES]))}
        if filled:
            made[None] = (filled[0], False)
        return f'"{sealed[:TAG_BYTES].hex()}"', made

    def _shared_key(self, name: Hashable, encoding: Encoding | None, copy: Copy) -> tuple[object, ...] | None:
        """Name an answer for other processes, by the revision that the database had before the answer was made."""
        if not self.cache.is_shared:
            return None
        known = copy.stamp.revision if isinstance(copy.stamp, Asked) else self._ask(copy.scope)
        return (name, encoding, known) if isinstance(known, int | tuple) else None


#: A tag, and bodies by encoding, each with whether it is packed.
Made = tuple[str, dict[Encoding | None, tuple[bytes, bool]]]


class Repeats:
    """ASGI middleware, behind those that ask who may in: answers what is kept without routing or parsing."""

    def __init__(self, app: ASGIApp, answers: Callable[[], Answers | None]) -> None:
        self._app, self._answers = app, answers

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] == "GET":
            answers = self._answers()
            if answers is not None and await answers.repeat(scope, send):
                note_route(scope)
                return
        try:
            await self._app(scope, receive, send)
        finally:
            note_route(scope)


async def answer(
    request: Request,
    kind: Kind | None,
    project_id: int | None,
    fill: Callable[[], bytes],
    media_type: str = "application/json",
    *,
    written: Written | None = None,
) -> Response:
    """Answer a GET with bytes that `fill` makes, from what is kept when that is still right.

    Parameters
    ----------
    request
        Path and query name the answer. Nothing else of the request, such as who asks, may change it.
    kind
        How long it is kept (`SEGKIT_CACHE_TTL_...`). "projects" and "images" must show nothing but projects and images, or what
        else raises a project's revision. None: never kept.
    project_id
        Whose projects or images it shows; None: of all.
    fill
        Synchronous, returns the serialised body, runs in a thread when the answer is not there. What it raises is raised here.
    media_type
        Of the body.
    written
        How PostgreSQL writes the same, for a page that it can be asked for on the event loop; then nothing waits for a thread.
    """
    answers = cast(Answers, request.app.state.answers)
    return await answers.answer(request, kind, project_id, fill, media_type, written)


def _unchanged(tag: str) -> Headers:
    """Return what tells clients to keep an answer and ask each time whether it is still right; all that a 304 says."""
    return [(b"etag", f"W/{tag}".encode()), (b"cache-control", b"private, no-cache"), (b"vary", b"Accept-Encoding")]


def packed_if_worth_it(encoding: Encoding | None, body: bytes) -> tuple[bytes, bool]:
    """Pack a body hard, unless it is short."""
    if encoding is None or len(body) < LEAST_BYTES:
        return body, False
    return pack(encoding, body), True


def name_of(connection: Connection) -> Hashable:
    """Name an answer by its path and query."""
    return connection["path"], canonical(connection["query_string"])


@lru_cache(maxsize=4096)
def canonical(query: bytes) -> str:
    """Sort a query, so that the same question in another order is the same question.

    Examples
    --------
    >>> canonical(b"limit=5&after=x") == canonical(b"after=x&limit=5")
    True
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="surrogateescape")
    return urlencode(sorted(pairs), errors="surrogateescape")


def _conditions(connection: Connection) -> tuple[str, str | None]:
    """Return what a request says of encodings, and which answer it has already."""
    accepts, wanted = "", None
    for name, value in connection["headers"]:
        if name == b"accept-encoding":
            accepts = value.decode("latin-1")
        elif name == b"if-none-match":
            wanted = value.decode("latin-1")
    return accepts, wanted


def _matches(wanted: str, tag: str) -> bool:
    return tag in wanted or wanted.strip() == "*"


def variant_of(body: bytes, media_type: str, tag: str, encoding: Encoding | None) -> Variant:
    """Put the headers of an answer to its body."""
    headers = [(b"content-type", media_type.encode("latin-1")), (b"content-length", str(len(body)).encode()), *_unchanged(tag)]
    return Variant(body, headers if encoding is None else [*headers, (b"content-encoding", encoding.encode())])


def _response(variant: Variant, tag: str, wanted: str | None) -> Response:
    """Answer from a route."""
    unchanged = wanted is not None and _matches(wanted, tag)
    response = Response(status_code=304) if unchanged else Response(variant.body)
    response.raw_headers = _unchanged(tag) if unchanged else variant.headers.copy()
    return response


def _tagged(fill: Callable[[], bytes]) -> tuple[bytes, str]:
    """Make an answer and its tag, in a thread."""
    body = fill()
    return body, _tag(body)


def _tag(body: bytes) -> str:
    """Name contents, in quotes."""
    return f'"{hashlib.blake2b(body, digest_size=TAG_BYTES).hexdigest()}"'
