"""Which site a request was made for, and by which it was made: against DNS rebinding and forged requests.

A page of another site can make a browser send requests here, and with a name that it lets point to 127.0.0.1 even read the
answers. So the name that was asked for (`Host`) must be one of ours, and whatever changes something, or opens a WebSocket,
must come from a page of the same name (`Origin`). Programs send no `Origin` and are not hindered. There are no CORS headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from segkit.errors import ForeignRequestError

READING = {"GET", "HEAD", "OPTIONS"}
PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone.

    Examples
    --------
    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "localhost.evil.example")]
    [True, True, True, False, False]
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def split_host(netloc: str) -> tuple[str, int | None]:
    """Return the name, in lower case, and the port of "name:port".

    Examples
    --------
    >>> split_host("[::1]:8765"), split_host("Lab.Example")
    (('::1', 8765), ('lab.example', None))
    """
    try:
        parts = urlsplit(f"//{netloc}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        raise ForeignRequestError from None
    if "@" in netloc or not name:
        raise ForeignRequestError
    return name.rstrip("."), port


class Sites:
    """The names under which a service may be asked for.

    Parameters
    ----------
    allowed : iterable of str
        Names besides this machine's own.
    any_name : bool
        Take any name when none is given: the service asks for a token, which no other site's pages have.
    """

    def __init__(self, allowed: Iterable[str], any_name: bool) -> None:
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed)
        self._any_name = any_name and not self._allowed

    def check(self, headers: Headers, scheme: str, method: str) -> None:
        """Refuse a request that was made for another name, or by another site's page.

        Parameters
        ----------
        headers
            Of the request.
        scheme : str
            "http", "https", "ws" or "wss".
        method : str
            Of the request; "WEBSOCKET" for one.

        Raises
        ------
        ForeignRequestError
            It was.
        """
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            raise ForeignRequestError
        name, port = split_host(hosts[0])
        if not (self._any_name or self._ours(name)):
            raise ForeignRequestError(
                f'The service is not known as "{name}". Ask for it as localhost, or add the name to SEGKIT_ALLOWED_HOSTS.'
            )
        if method not in READING:
            self._check_origin(headers, (name, port or PORTS.get(scheme)))

    def _ours(self, name: str) -> bool:
        return name in self._allowed or is_loopback(name)

    def _check_origin(self, headers: Headers, here: tuple[str, int | None]) -> None:
        origins = headers.getlist("origin")
        if not origins:
            if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                raise ForeignRequestError
            return
        try:
            parts = urlsplit(origins[0])
        except ValueError:
            raise ForeignRequestError from None
        name, port = split_host(parts.netloc)
        same = name == here[0] and (port or PORTS.get(parts.scheme)) in (here[1], 443 if here[1] == 80 else here[1])
        if len(origins) != 1 or not (same or name in self._allowed):
            raise ForeignRequestError(f"A page of {origins[0]} asked for this. Only the service's own pages may change something.")
