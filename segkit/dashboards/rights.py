"""Who looks at a page may change something, or only look: what the service granted to the request that opened the page.

A page's buttons speak over its WebSocket, which a token that may only read opens too. So what they may do is decided when the page
is made, by the token that asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from segkit.boards import Probe

_granted: ContextVar[bool] = ContextVar("segkit-may-change", default=True)
_probe: ContextVar[Probe | None] = ContextVar("segkit-probe", default=None)
_downloads: ContextVar[str | None] = ContextVar("segkit-downloads", default=None)


def may_change() -> bool:
    """Whether the page that is made now may change something. Alone on loopback, as in a notebook, everybody may."""
    return _granted.get()


def probe() -> Probe | None:
    """Return what the service knows of itself; None where no service is."""
    return _probe.get()


def downloads() -> str | None:
    """Return the address that exports are downloaded below; None where no service is that gives them out."""
    return _downloads.get()


@contextmanager
def granting(change: bool, downloads: str | None = None, probe: Probe | None = None) -> Iterator[None]:
    """Decide for the pages that are made in this block."""
    tokens = _granted.set(change), _downloads.set(downloads), _probe.set(probe)
    try:
        yield
    finally:
        _granted.reset(tokens[0])
        _downloads.reset(tokens[1])
        _probe.reset(tokens[2])
