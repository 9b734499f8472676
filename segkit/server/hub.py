"""Logging in through JupyterHub, of which the service is one of the services: the Hub's OAuth, as it documents it.

A browser is sent to the Hub (`start`), comes back with a code (`finish`), and the code becomes a token of the user's, which the
browser keeps as a cookie. Whose a token is, the Hub tells; it is asked again every few minutes, so that whoever is locked out
there is locked out here. Programs send a token of the Hub in the header.
"""

from __future__ import annotations

import hmac
import secrets
from time import monotonic
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import httpx
from cachetools import TTLCache
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response

from segkit.errors import HubError, LoginError
from segkit.settings import Hub
from segkit.tokens import LONGEST_TOKEN, Scope, hash_of

COOKIE, STATE_COOKIE = "segkit-hub", "segkit-hub-state"
COOKIE_SECONDS, STATE_SECONDS = 14 * 24 * 3600, 600
CALL_SECONDS = 5.0
#: What the Hub said of a token is believed for so long.
TRUST_SECONDS = 120.0
NO_STORE = {"Cache-Control": "no-store"}


class HubLogin:
    """The Hub as one service knows it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._client = httpx.AsyncClient(timeout=CALL_SECONDS, follow_redirects=False)
        self._known: TTLCache[str, bool] = TTLCache(4096, TRUST_SECONDS, monotonic)

    @property
    def prefix(self) -> str:
        """Path under which the Hub's proxy shows the service."""
        return self._hub.prefix

    def is_callback(self, asked: HTTPConnection) -> bool:
        """Whether the Hub sent a browser back."""
        return asked.scope["type"] == "http" and asked.scope["path"] == urlsplit(self._hub.callback).path

    def start(self, asked: HTTPConnection) -> Response:
        """Send a browser to the Hub, with a secret that it must bring back."""
        state = secrets.token_urlsafe(32)
        query = {"client_id": self._hub.client_id, "redirect_uri": self._hub.callback, "response_type": "code", "state": state}
        answer = RedirectResponse(f"{self._hub.authorize_url}?{urlencode(query)}", 302, NO_STORE)
        self._keep(answer, asked, STATE_COOKIE, f"{state}.{quote(local(asked.scope['path']), safe='')}", STATE_SECONDS)
        return answer

    async def finish(self, asked: HTTPConnection) -> Response:
        """Take the code that a browser brought back, and let it in.

        Raises
        ------
        LoginError
            It was not this browser that was sent there, the Hub refused, or the user may not use the service.
        HubError
            The Hub does not answer.
        """
        state, _, place = asked.cookies.get(STATE_COOKIE, "").partition(".")
        given = asked.query_params.get("state", "")
        if not state or not hmac.compare_digest(state.encode(), given.encode("utf-8", "replace")) or "code" not in asked.query_params:
            raise LoginError
        token = await self._token_for(asked.query_params["code"])
        if await self.scope_of(token) is None:
            raise LoginError("You are known to JupyterHub, but may not use this service. Ask who runs the Hub for access to it.")
        answer = RedirectResponse(local(unquote(place)) if place else self._hub.prefix + "/", 302, NO_STORE)
        self._keep(answer, asked, COOKIE, token, COOKIE_SECONDS)
        answer.delete_cookie(STATE_COOKIE, path=self._hub.prefix or "/")
        return answer

    async def user_of(self, asked: HTTPConnection) -> Scope | None:
        """Tell what the cookie of a browser allows; None without a good one."""
        token = asked.cookies.get(COOKIE)
        return None if token is None else await self.scope_of(token)

    async def scope_of(self, token: str) -> Scope | None:
        """Ask the Hub whether the owner of a token may use the service; whoever may, may write.

        Raises
        ------
        HubError
            The Hub does not answer.
        """
        if len(token) > LONGEST_TOKEN or not token.isascii() or not token.isprintable():
            return None
        mark = hash_of(token)
        if mark not in self._known:
            user = await self._call("GET", "/user", headers={"Authorization": f"token {token}"})
            self._known[mark] = user is not None and self._may(user)
        return Scope.WRITE if self._known[mark] else None

    async def close(self) -> None:
        """Close the connections to the Hub."""
        await self._client.aclose()

    def _may(self, user: dict[str, Any]) -> bool:
        """A scope that names the service, or one without a limit, gives access."""
        held = set(user.get("scopes") or ())
        return any(scope in held or scope.partition("!")[0] in held for scope in self._hub.access_scopes)

    async def _token_for(self, code: str) -> str:
        form = {
            "client_id": self._hub.client_id,
            "client_secret": self._hub.api_token,
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._hub.callback,
        }
        found = await self._call("POST", "/oauth2/token", data=form)
        token = (found or {}).get("access_token")
        if not isinstance(token, str):
            raise LoginError
        return token

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any] | None:
        """Call the Hub's API; None when it refuses."""
        try:
            answer = await self._client.request(method, f"{self._hub.api_url}{path}", **arguments)
            if answer.status_code in (400, 401, 403, 404):
                return None
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise HubError from error
        return found if isinstance(found, dict) else None

    def _keep(self, answer: Response, asked: HTTPConnection, name: str, value: str, seconds: int) -> None:
        secure = asked.scope["scheme"] == "https"
        answer.set_cookie(name, value, max_age=seconds, path=self._hub.prefix or "/", secure=secure, httponly=True, samesite="lax")


def local(path: str) -> str:
    """Keep a path on this site, whatever it begins with."""
    return "/" + path.lstrip("/\\")
