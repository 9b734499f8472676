"""Who may in. Pure ASGI, over HTTP and WebSockets alike, so that no route checks by itself.

On loopback, with no token set, everybody on this machine may in, as far as the request was not made by another site's page
(`sites.py`). Otherwise a request needs a token: `SEGKIT_TOKEN`, one of `segkit token create`, or JupyterHub's (`hub.py`), in the
header `Authorization: Bearer TOKEN`, or in the cookie that a link with `?token=TOKEN` sets. GET, HEAD, OPTIONS and WebSockets need
the scope "read", everything else "write". What was granted is in `scope["state"]["scope"]`.
"""

from __future__ import annotations

import hmac
import html
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from urllib.parse import parse_qsl, urlencode

from anyio import to_thread
from cachetools import TTLCache
from starlette.datastructures import URL
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Asgi

from segkit.errors import NotAdmittedError, ScopeError, SegkitError, TooManyFailuresError
from segkit.kit import Kit
from segkit.server.hub import HubLogin
from segkit.server.passages import route_path
from segkit.server.problems import problem_of
from segkit.server.sites import READING, Sites, is_loopback
from segkit.settings import Hub, Settings
from segkit.tokens import LONGEST_TOKEN, Scope, hash_of

#: A token that was found good is not looked up again for so long: as late as this a revoked one is refused.
TRUST_SECONDS = 2.0
#: Who came with a good token lately is not held up by others of his address who come with wrong ones.
SEEN_SECONDS = 24 * 3600
COOKIE_SECONDS = 30 * 24 * 3600
MOST_FAILURES, FAILURE_SECONDS = 10, 60.0
MOST_ADDRESSES = 10_000
#: Names of this service, as requests write them, that were found good.
MOST_NAMES = 1024
#: Asked for by whoever watches that the service runs; without a token from this machine alone.
HEALTH = "/health"
#: All that SEGKIT_METRICS_TOKEN opens.
MEASURED = {HEALTH, "/metrics"}
SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", b"frame-ancestors 'self'; base-uri 'self'; object-src 'none'"),
]

LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>segkit</title>
<meta name="viewport" content="width=device-width"><style>body{{font:16px/1.5 system-ui;max-width:34em;margin:12vh auto;padding:0 1em}}
input{{font:inherit;width:100%;box-sizing:border-box;padding:.4em}}button{{font:inherit;margin-top:.6em;padding:.4em 1em}}</style>
<main><h1>segkit</h1><p>{why}</p><form method="get" action="{action}"><label>Token
<input name="token" type="password" autocomplete="current-password" required autofocus></label><button>Open</button></form></main></html>"""

LOGIN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


@dataclass(frozen=True)
class Access:
    """The rules of one service, from its settings."""

    required: bool  #: a token is needed
    exposed: bool  #: others than people at this machine can reach it
    master: str | None = field(repr=False)  #: hash of SEGKIT_TOKEN, which lets in with all rights
    metrics: str | None = field(repr=False)  #: hash of SEGKIT_METRICS_TOKEN, which lets in to `MEASURED` alone
    cookie: str  #: cookies do not tell ports apart, so each service has one of its own
    hosts: tuple[str, ...]


def access_of(settings: Settings, hub: Hub | None = None) -> Access:
    """Read the rules from the settings."""
    named_to_others = any(not is_loopback(name) for name in settings.allowed_hosts)
    exposed = hub is not None or named_to_others or not is_loopback(settings.server_host)
    master = None if settings.token is None else hash_of(settings.token.get_secret_value())
    metrics = None if settings.metrics_token is None else hash_of(settings.metrics_token.get_secret_value())
    return Access(exposed or master is not None, exposed, master, metrics, f"segkit-{settings.server_port}", settings.allowed_hosts)


class Failures:
    """Wrong tokens by address. Beyond a number in a while an address must wait; memory is bounded."""

    def __init__(self) -> None:
        self._counts: TTLCache[str, int] = TTLCache(MOST_ADDRESSES, FAILURE_SECONDS, monotonic)

    def check(self, address: str) -> None:
        """Refuse an address that failed too often."""
        if self._counts.get(address, 0) >= MOST_FAILURES:
            raise TooManyFailuresError

    def add(self, address: str) -> None:
        """Count a failure."""
        self._counts[address] = self._counts.get(address, 0) + 1


class Admission:
    """Middleware that lets in whom the rules let in."""

    def __init__(self, app: ASGIApp, access: Access, kit_of: Callable[[], Kit], login: HubLogin | None = None) -> None:
        self.app = app
        self._access = access
        self._kit_of = kit_of
        self._sites = Sites(access.hosts, any_name=access.required)
        self._hub = login
        self._failures = Failures()
        self._good: TTLCache[str, Scope] = TTLCache(1024, TRUST_SECONDS, monotonic)
        self._seen: TTLCache[str, bool] = TTLCache(1024, SEEN_SECONDS, monotonic)
        self._hosts: set[bytes] = set()

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with a problem."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self._is_plain(scope):
            scope.setdefault("state", {})["scope"] = "write"
            await self.app(scope, receive, send)
            return
        try:
            early = await self._admit(HTTPConnection(scope))
        except SegkitError as error:
            early = await self._refusal(HTTPConnection(scope), error)
        if early is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await early(scope, receive, with_safe_headers(send))
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_plain(self, scope: Asgi) -> bool:
        """Whether a request is one of those that are most, and cost least: it reads, needs no token, and names a host that was good."""
        if self._access.required or scope["type"] != "http" or scope["method"] not in READING or b"token=" in scope["query_string"]:
            return False
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and hosts[0] in self._hosts

    async def _admit(self, asked: HTTPConnection) -> Response | None:
        """Note what was granted; returns an answer when there is one without the app."""
        scope = asked.scope
        method = scope.get("method", "WEBSOCKET")
        self._sites.check(asked.headers, scope["scheme"], method)
        if len(self._hosts) < MOST_NAMES:
            self._hosts.add(asked.headers["host"].encode("latin-1"))
        if self._hub is not None and self._hub.is_callback(asked):
            return await self._hub.finish(asked)
        granted = await self._granted(asked)
        if granted is Scope.READ and method not in READING and method != "WEBSOCKET":
            raise ScopeError
        scope.setdefault("state", {})["scope"] = granted.value
        return self._settled(asked) if b"token=" in scope["query_string"] else None

    async def _granted(self, asked: HTTPConnection) -> Scope:
        if not self._access.required or is_health_from_here(asked):
            return Scope.WRITE
        token = token_in_header(asked) or asked.query_params.get("token")
        if token is not None:
            return Scope.READ if self._measures(asked, token) else await self._check(asked, token)
        if self._access.cookie in asked.cookies:
            return await self._check(asked, asked.cookies[self._access.cookie])
        if self._hub is not None and (granted := await self._hub.user_of(asked)) is not None:
            return granted
        raise NotAdmittedError

    def _measures(self, asked: HTTPConnection, token: str) -> bool:
        """Whether Prometheus asks for what it may see."""
        known = self._access.metrics
        return known is not None and route_path(asked.scope) in MEASURED and hmac.compare_digest(hash_of(token[: LONGEST_TOKEN + 1]), known)

    async def _check(self, asked: HTTPConnection, token: str) -> Scope:
        """Tell what a token allows; raise when it is not good."""
        mark = hash_of(token[: LONGEST_TOKEN + 1])
        if mark in self._good:
            return self._good[mark]
        address = asked.client.host if asked.client else ""
        if mark not in self._seen:
            self._failures.check(address)
        granted = await self._look_up(token, mark)
        if granted is None:
            self._failures.add(address)
            raise NotAdmittedError(f"This token is not known, or is good no more. {NotAdmittedError()}")
        self._good[mark] = granted
        self._seen[mark] = True
        return granted

    async def _look_up(self, token: str, mark: str) -> Scope | None:
        if self._access.master is not None and hmac.compare_digest(mark, self._access.master):
            return Scope.WRITE
        known = await to_thread.run_sync(self._kit_of().known_token, token)
        if known is not None:
            return known.scope
        return await self._hub.scope_of(token) if self._hub is not None else None

    def _settled(self, asked: HTTPConnection) -> Response | None:
        """Take the token out of the address. A browser gets it as a cookie, and is sent to the address without it."""
        pairs = parse_qsl(asked.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        kept = [(name, value) for name, value in pairs if name != "token"]
        asked.scope["query_string"] = urlencode(kept).encode()
        if not is_page(asked):
            return None
        answer = RedirectResponse(address_of(asked, kept), 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        token = dict(pairs)["token"]
        if self._access.required:
            set_cookie(answer, asked, self._access.cookie, token, COOKIE_SECONDS)
        return answer

    async def _refusal(self, asked: HTTPConnection, error: SegkitError) -> Response:
        """Answer a problem; a browser's page is asked for a token, or sent to the Hub to log in."""
        answer = problem_of(asked.scope, error)
        if not is_page(asked) or not isinstance(error, NotAdmittedError):
            return answer
        if self._hub is not None and "token" not in asked.query_params:
            return self._hub.start(asked)
        page = LOGIN.format(why=html.escape(str(error)), action=html.escape(address_of(asked, [])))
        headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": LOGIN_POLICY,
        }
        return HTMLResponse(page, 401, headers)


def token_in_header(asked: HTTPConnection) -> str | None:
    """Return the token of an `Authorization` header, "Bearer" or as Jupyter writes it "token"."""
    kind, _, token = asked.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() in ("bearer", "token") else None


def is_page(asked: HTTPConnection) -> bool:
    """Whether a browser wants a page to show."""
    return asked.scope.get("method") == "GET" and "text/html" in asked.headers.get("accept", "")


def is_health_from_here(asked: HTTPConnection) -> bool:
    """Whether this machine itself asks for the service's health, and nobody through a proxy."""
    proxied = "x-forwarded-for" in asked.headers or "forwarded" in asked.headers
    return route_path(asked.scope) == HEALTH and asked.client is not None and is_loopback(asked.client.host) and not proxied


def address_of(asked: HTTPConnection, query: list[tuple[str, str]]) -> str:
    """Write the path of a request, with another query, relative to its own site: `//` would lead to another one."""
    path = "/" + URL(scope=asked.scope).path.lstrip("/\\")
    return f"{path}?{urlencode(query)}" if query else path


def set_cookie(answer: Response, asked: HTTPConnection, name: str, value: str, seconds: int) -> None:
    """Set a cookie that scripts cannot read and other sites' pages do not send."""
    secure = asked.scope["scheme"] in ("https", "wss")
    path = asked.scope.get("root_path") or "/"
    answer.set_cookie(name, value, max_age=seconds, path=path, secure=secure, httponly=True, samesite="lax")


class SafeHeaders:
    """ASGI middleware: adds to every answer the headers that keep browsers from guessing what it is, and from telling others of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, with_safe_headers(send))


def with_safe_headers(send: Send) -> Send:
    """Add the headers to one answer."""

    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            there = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(header for header in SAFE_HEADERS if header[0] not in there)]
        await send(message)

    return sending
