"""Put the pages of `dashboards/` on a server: under the service's FastAPI app, or alone with `panel serve`."""

from __future__ import annotations

import asyncio
import logging
import runpy
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Future
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import panel as pn
import psutil
from bokeh.document import Document
from panel.io.document import _cleanup_doc
from panel.io.fastapi import add_applications
from panel.io.resources import COMPONENT_PATH
from panel.io.state import set_curdoc
from starlette.websockets import WebSocketState

from segkit import kit as kits
from segkit.boards import Probe
from segkit.dashboards.look import TITLES, Page
from segkit.dashboards.rights import granting
from segkit.dashboards.turns import threads
from segkit.kit import Kit
from segkit.settings import shared_folder

log = logging.getLogger(__name__)
PREFIX = "/dashboards"
#: Where the service gives out exports, as a page below `PREFIX` writes it.
DOWNLOADS = "../api/download/exports/"
#: A page whose browser never came, or has gone, is let go of after so long.
UNUSED_MS, LOOK_MS = 15_000, 5_000
#: How Bokeh names the module of a file that it serves.
SERVED = "bokeh_app_"
NO_LOGIN = (
    "This page asks nobody who he is, and other machines reach it. Start it for this machine alone, panel serve --address 127.0.0.1 ...,"
    " or use `segkit serve`, which asks for a token."
)
TOKEN_SET = "SEGKIT_TOKEN is set, and this page cannot ask for it. Use `segkit serve`, which does."
FOREIGN = "Another site's page asked for this one. Open it by this machine's own address, as panel serve printed it, in a tab of its own."
Maker = Callable[[Kit], Page]
Scope = MutableMapping[str, Any]


def paths() -> dict[str, Path]:
    """Return the files of the pages, by name."""
    folder = shared_folder("dashboards")
    return {name: folder / f"{name}.py" for name in TITLES if (folder / f"{name}.py").is_file()}


@cache
def maker(path: Path) -> Maker:
    """Return what a file lays its page out with."""
    made: Maker = runpy.run_path(str(path))["page"]
    return made


def warmed(kit: Kit) -> Future[None]:
    """Make each page once in a thread, so that the first person who opens one does not wait for what all pages share."""
    if not _warming:
        _warming.append(threads().submit(warm, kit))
    return _warming[0]


#: Once in a process.
_warming: list[Future[None]] = []


def warm(kit: Kit) -> None:
    """Make each page once, for nobody."""
    for name, path in paths().items():
        document = Document()
        try:
            with granting(False), set_curdoc(document):
                maker(path)(kit).server_doc(document)
        finally:
            _cleanup_doc(document)
        log.debug("The page %s is warm", name)


def mount(
    app: Any, kit_of: Callable[[], Kit], change_of: Callable[[Scope], bool], probe_of: Callable[[], Probe | None] = lambda: None
) -> None:
    """Add the pages to a FastAPI app, under `/dashboards`.

    Parameters
    ----------
    app : FastAPI
        Gets the pages, their WebSockets, and `/static` for Bokeh's and Panel's scripts.
    kit_of : callable
        Returns the kit that the pages show, once the app has started.
    change_of : callable
        Tells from a request's ASGI scope whether who asks may change something.
    probe_of : callable
        Returns what the service knows of its own performance.
    """
    applications: dict[str, Any] = {f"{PREFIX}/{name}": lambda path=path: maker(path)(kit_of()) for name, path in paths().items()}
    titles = {place: TITLES[place.rsplit("/", 1)[1]] for place in applications}
    mounted = add_applications(
        applications,
        app=app,
        title=titles,
        location=False,
        websocket_origin="*",  # who may open a socket is decided before, with all else
        unused_session_lifetime_milliseconds=UNUSED_MS,
        check_unused_sessions_milliseconds=LOOK_MS,
    )
    close_components(app)
    for route in app.routes:
        if getattr(route, "path", "").startswith(PREFIX):
            route.include_in_schema = False  # pages, not the interface of programs
    app.add_middleware(Pages, mounted=mounted, change_of=change_of, probe_of=probe_of)


def close_components(app: Any) -> None:
    """Take Panel's route for files of components away: it imports whatever module an address names, and our pages bring theirs along."""
    app.router.routes[:] = [each for each in app.routes if not getattr(each, "path", "").startswith(f"/{COMPONENT_PATH}")]


class Pages:
    """ASGI middleware: tells pages who asks for them, and lets go of those whose browser has gone.

    The WebSocket handler overlooks that a browser went away, and would keep every page that was ever opened.
    """

    def __init__(self, app: Any, mounted: Any, change_of: Callable[[Scope], bool], probe_of: Callable[[], Probe | None]) -> None:
        self._app, self._mounted, self._change_of, self._probe_of = app, mounted, change_of, probe_of

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        """Pass a request on."""
        if scope["type"] not in ("http", "websocket") or PREFIX not in scope["path"]:
            await self._app(scope, receive, send)
            return
        if _warming and not _warming[0].done():
            await asyncio.wait([asyncio.wrap_future(_warming[0])])  # pages are made one at a time, and the others stay quick meanwhile
        try:
            with granting(self._change_of(scope), DOWNLOADS, self._probe_of()):
                await self._app(scope, receive, send)
        finally:
            if scope["type"] == "websocket":
                self._let_go()

    def _let_go(self) -> None:
        for connection in list(self._mounted._clients):
            if connection._socket._socket.client_state is WebSocketState.DISCONNECTED:
                self._mounted.client_lost(connection)


def serve_alone(make: Maker) -> None:
    """Show a page when its file is served by `panel serve`; otherwise do nothing.

    Panel's own `pn.state.served` looks through the source of all modules, which takes seconds and loads every lazy one.
    """
    if not make.__module__.startswith(SERVED):
        return
    kit = pn.state.as_cached("kit", kits.open)
    request = getattr(getattr(pn.state.curdoc, "session_context", None), "request", None)
    refused = refusal(kit, getattr(request, "host", ""), getattr(request, "headers", {}))
    if refused is not None:
        pn.pane.Str(refused).servable()
        return
    make(kit).servable()


def refusal(kit: Kit, host: str, headers: Mapping[str, str]) -> str | None:
    """Return why a page that stands alone may not be shown to who asks; None when it may.

    `panel serve` opens a WebSocket to every page that has the name it was asked for. So pages of other sites, which can let a name of
    theirs point to this machine (DNS rebinding) or lay this page under their own (clickjacking), are told so where a session begins.

    Parameters
    ----------
    host : str
        The name that was asked for, from the request itself: a WebSocket that begins a session brings headers of its own making.
    headers : mapping of str to str
        Of the request for the page.
    """
    if open_to_others():
        return NO_LOGIN
    if kit.settings.token is not None:
        return TOKEN_SET
    framed = headers.get("Sec-Fetch-Dest", "document") not in ("document", "websocket", "empty")
    if not is_own_name(host) or (framed and headers.get("Sec-Fetch-Site") == "cross-site"):
        return FOREIGN
    return None


def is_own_name(netloc: str) -> bool:
    """Whether a request names this machine, as only those do that were made on it and for it.

    Examples
    --------
    >>> [is_own_name(each) for each in ("127.0.0.1:5006", "localhost", "[::1]:5006", "evil.example:5006", "127.0.0.1.evil.example", "")]
    [True, True, True, False, False, False]
    """
    try:
        name = urlsplit(f"//{netloc}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def open_to_others() -> list[str]:
    """Return the addresses on which this process listens and that other machines reach; `panel serve` takes all unless told otherwise."""
    listening = [each.laddr.ip for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return sorted({address for address in listening if not ip_address(address).is_loopback})
