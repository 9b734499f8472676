"""A real uvicorn on a free port, in a thread of the test, which ends with the test."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from segkit.server.zerocopy import ZeroCopy


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str

    def open_files(self, name: str) -> list[str]:
        """Which of this process's open files have such a name."""
        found = []
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                found.append(os.readlink(f"/proc/self/fd/{number}"))
        return [path for path in found if path.endswith(name)]


@contextmanager
def serving(app: ASGIApp, *, lifespan: str = "off") -> Iterator[Service]:
    """Serve an app until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        config = uvicorn.Config(ZeroCopy(app), log_level="warning", access_log=False, lifespan=lifespan, ws_per_message_deflate=False)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.01)
        yield Service(f"http://127.0.0.1:{listener.getsockname()[1]}")
        server.should_exit = True
        thread.join(8 if lifespan == "on" else 1)
        server.force_exit = True
        thread.join(5)


def singly(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take apart what is told of several jobs together: one event for each, with the job's id as `job_id`."""
    found = []
    for event in events:
        jobs = event.pop("jobs", None)
        found += [event] if jobs is None else [event | each | {"job_id": each["id"]} for each in jobs]
    return found
