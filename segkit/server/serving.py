"""Run the service: choose its port and token, tell the link, serve until told to stop, and close everything in order."""

from __future__ import annotations

import errno
import logging
import socket
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from pydantic import SecretStr

from segkit.database import open_database
from segkit.errors import NotWritableError, PortTakenError, SettingsError
from segkit.files import faults_in_words, is_local
from segkit.kit import Kit
from segkit.results import root
from segkit.server.app import create_app
from segkit.server.auth import access_of
from segkit.server.zerocopy import ZeroCopy
from segkit.settings import Hub, Settings
from segkit.tokens import new_token

log = logging.getLogger(__name__)

BACKLOG = 2048
#: What is being answered when the service is told to stop may take so long to end.
GRACE_SECONDS = 10
#: How often is looked whether the worker beside it lives, and how long is waited before it is replaced.
LOOK_SECONDS, AGAIN_SECONDS = 0.5, 2.0
#: The worker beside it may take so long to end what it has begun.
WORKER_SECONDS = 45
#: How long a thread may compute in Python while another waits; Python's own 5 ms are long for the one that hears of a job's end while
#: the event loop writes to hundreds of readers.
SWITCH_SECONDS = 0.0005
#: A WebSocket message of a client; ours are small, and so are Panel's.
MOST_MESSAGE_BYTES = 16 * 1024**2


def serve(
    settings: Settings, hub: Hub | None = None, tell: Callable[[str], None] = print, *, show: bool = False, work: bool | None = None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    settings : Settings
        Where, for whom, and how much.
    hub : Hub, optional
        The JupyterHub whose service this is.
    tell : callable
        Is told the link, once it can be opened.
    show : bool
        Open the link in this desktop's browser.
    work : bool, optional
        Also have a worker process work jobs and batches off. Default: yes with the embedded database, whose jobs nobody else may
        do; no with PostgreSQL, where `segkit worker` does.

    Raises
    ------
    PortTakenError
        The port is taken, and others were told of it.
    DatabaseError
        The database cannot be used.
    """
    settings = placed(settings, hub)
    make_home(settings)
    with listen(settings, may_move=not access_of(settings, hub).exposed) as listening:
        settings = settings.model_copy(update={"server_port": listening.getsockname()[1]})
        settings, made = with_token(settings, hub)
        with ExitStack() as stack:
            kit = stack.enter_context(Kit(settings, open_database(settings)))
            if kit.database.dialect == "sqlite" if work is None else work:
                stack.enter_context(worker_beside(settings.home))
            take_turns()
            server = uvicorn.Server(configuration(settings, kit, hub))
            link = link_of(settings, hub, secret=made)
            tell(f"segkit serves {settings.home} at {link}" + (TOLD_ONCE if made else ""))
            if show:
                webbrowser.open(link_of(settings, hub, secret=True))
            server.run(sockets=[listening])


def take_turns() -> None:
    """Let threads of this process wait less for each other."""
    sys.setswitchinterval(SWITCH_SECONDS)


@contextmanager
def worker_beside(home: str) -> Iterator[None]:
    """Have a process of its own work off until this block ends, or this process does, however that comes. One that dies is replaced."""
    over = threading.Event()
    keeper = threading.Thread(target=keep_worker, args=[home, over], name="segkit-worker-beside", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def keep_worker(home: str, over: threading.Event) -> None:
    """Start a worker again and again until told that it is over; then let the last one end what it has begun."""
    command = [sys.executable, "-m", "segkit", "worker", "--while-stdin", "--home", home]
    while not over.is_set():
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as worker:
            while worker.poll() is None and not over.wait(LOOK_SECONDS):
                pass
            if over.is_set():
                end_worker(worker)
        if not over.is_set():
            log.warning("The worker beside the service ended with %s; another is started", worker.returncode)
            over.wait(AGAIN_SECONDS)


def end_worker(worker: subprocess.Popen[bytes]) -> None:
    """Let a worker end in order, or else at once."""
    worker.terminate()
    try:
        worker.communicate(timeout=WORKER_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()  # what it held comes back to the queue when its leases run out


TOLD_ONCE = "\nThe token in this link lets in with all rights, and is shown only now. Set SEGKIT_TOKEN to choose one."


def make_home(settings: Settings) -> None:
    """Make the home folder of a new service; beside PostgreSQL nothing else has, and without it the service is not well.

    Raises
    ------
    NotWritableError
        This user may not make it.
    SettingsError
        A file is in its place.
    """
    if not is_local(settings.home):
        return
    try:
        with faults_in_words(settings.home):
            Path(root(settings.home)).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise SettingsError(
            f"SEGKIT_HOME is {settings.home}, where there can be no folder: a file has its name, or a part of it."
        ) from error


def placed(settings: Settings, hub: Hub | None) -> Settings:
    """Take host and port from the Hub, which tells its services where to listen."""
    if hub is None or hub.service_url is None:
        return settings
    url = urlsplit(hub.service_url)
    if url.hostname is None or url.port is None:
        raise SettingsError(f"JUPYTERHUB_SERVICE_URL is {hub.service_url}, which names no host and port to listen on.")
    return settings.model_copy(update={"server_host": url.hostname, "server_port": url.port})


def with_token(settings: Settings, hub: Hub | None) -> tuple[Settings, bool]:
    """Make a token where one is needed and none was set; JupyterHub's users need none."""
    if settings.token is not None or hub is not None or not access_of(settings, hub).required:
        return settings, False
    return settings.model_copy(update={"token": SecretStr(new_token())}), True


def listen(settings: Settings, *, may_move: bool) -> socket.socket:
    """Bind the address; when the port is taken and nobody was told of it, a free one instead.

    Raises
    ------
    PortTakenError
        The port is taken.
    NotWritableError
        This user may not listen there.
    SettingsError
        This machine has no such address.
    """
    host, port = settings.server_host, settings.server_port
    try:
        return bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and may_move:
            return bound(host, 0)
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"Port {port} is taken by another program. Choose another with --port.") from error
        if error.errno == errno.EACCES:
            raise NotWritableError(f"This user may not listen on port {port}. Choose one above 1023.") from error
        raise SettingsError(f"SEGKIT_SERVER_HOST is {host}, where this machine cannot listen ({error}).") from error


def bound(host: str, port: int) -> socket.socket:
    """Listen on an address of either kind."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)


def configuration(settings: Settings, kit: Kit, hub: Hub | None) -> uvicorn.Config:
    """Make uvicorn's. Its log of requests is off: addresses may hold tokens, and `/metrics` counts better."""
    return uvicorn.Config(
        ZeroCopy(create_app(settings, kit, hub)),
        log_level=settings.log_level.lower(),
        log_config=None,  # its lines go where all others do: segkit.logs
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # the same message would be packed anew for each reader
        backlog=BACKLOG,
    )


def link_of(settings: Settings, hub: Hub | None, *, secret: bool) -> str:
    """Write the address to open, with the token in it when it is to be told."""
    host = settings.server_host
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    prefix = hub.prefix if hub else settings.server_root_path
    query = f"?token={settings.token.get_secret_value()}" if secret and settings.token is not None else ""
    return f"http://{name}:{settings.server_port}{prefix}/{query}"
