"""A running service for tests: real uvicorn on a free port, in a thread of this process, gone when the block ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from plates import QUICK, write_plate

import segkit
from segkit.server.app import create_app
from segkit.settings import Settings, load

START_SECONDS = 20.0
TOKEN = "a-token-for-tests-only-0123456789"


class Service(httpx.Client):
    """A client of a running service; `app` and `port` are the service's."""

    app: FastAPI
    port: int


@contextmanager
def running(app: FastAPI, **options: Any) -> Iterator[str]:
    """Run an app; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    trusted = list(app.state.settings.trusted_proxies)
    given = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_graceful_shutdown": 2} | options
    config = uvicorn.Config(app, lifespan="on", forwarded_allow_ips=trusted, **given)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listening.close()
        assert not thread.is_alive(), "the service did not stop"


@contextmanager
def service(settings: Settings, hub: Any = None, **headers: str) -> Iterator[Service]:
    """Run the service of these settings; gives a client of it."""
    app = create_app(settings, hub=hub)
    with running(app) as address, Service(base_url=address, headers=headers, timeout=30) as client:
        client.app, client.port = app, int(address.rpartition(":")[2])
        yield client


def worked_off(settings: Settings, counts: tuple[int, ...] = (1, 2, 3)) -> None:
    """Fill the database of these settings: project 1, images of so many squares each, and run 1, done."""
    url = settings.database_url and settings.database_url.get_secret_value()
    with segkit.open(settings.home, database_url=url, **QUICK) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(Path(settings.home).parent / "plate", list(counts)))
        project.segment("threshold")
        kit.work_off()


@contextmanager
def small_service(folder: Path) -> Iterator[Service]:
    """Run a service of small uploads, with project 1, images 1 to 3 of 1 to 3 squares, and run 1, done; gives a client of it."""
    settings = load(home=str(folder / "home"), upload_max_bytes=100_000, **QUICK)
    worked_off(settings)
    with service(settings) as client:
        yield client
