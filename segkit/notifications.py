"""Tell people how something ended: webhooks, e-mail and whatever else Apprise reaches."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import apprise

from segkit.errors import NotificationError

#: Of what Apprise said about a fault, so much is kept.
LONGEST_FAULT = 1000


def check(url: str) -> None:
    """Refuse an address that nothing can be sent to.

    Raises
    ------
    NotificationError
        Apprise does not know its kind, or it lacks a part.
    """
    if service_of(url) is None:
        raise NotificationError(f"{masked(url)} cannot be notified. {NotificationError()}")


def send(url: str, title: str, body: str, *, well: bool) -> str | None:
    """Send a message.

    Returns
    -------
    str or None
        Why it could not be delivered, secrets left out; None when it was.
    """
    kind = apprise.NotifyType.SUCCESS if well else apprise.NotifyType.FAILURE
    service = service_of(url)
    if service is None:
        return f"{masked(url)}: {NotificationError()}"
    with said() as lines:
        delivered = service.notify(title=title, body=body, notify_type=kind)
    if delivered:
        return None
    reason = " ".join(lines).replace(url, masked(url)) or "it gave no reason"
    return f"{masked(url)} could not be notified: {reason}"[:LONGEST_FAULT]


def service_of(url: str) -> Any:
    """Return what sends to an address, or None. A plain web address is a webhook that is posted JSON."""
    load_plugins()
    scheme, colon, rest = url.partition("://")
    kinds = {"http": "json", "https": "jsons"}
    return apprise.Apprise.instantiate(f"{kinds.get(scheme.lower(), scheme)}{colon}{rest}", suppress_exceptions=True)


@cache
def load_plugins() -> None:
    """Let Apprise load its plug-ins, as it does at first use. One of them imports what Python 3.11 deprecates, which is theirs to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        apprise.Apprise.instantiate("json://localhost")


def masked(url: str) -> str:
    """Show an address without what is secret in it.

    Examples
    --------
    >>> masked("json://me:hunter2@host:8080/hooks/token?x=1")
    'json://host:8080/…'
    """
    parts = urlsplit(url)
    place = parts.hostname or "…"
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme or '?'}://{place}{port}/…"


class Lines(logging.Handler):
    """Keeps what is logged at warning level or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(record.getMessage())


@contextmanager
def said() -> Iterator[list[str]]:
    """Collect what Apprise logs in this block: it tells its reasons nowhere else."""
    handler = Lines()
    logger = logging.getLogger("apprise")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
