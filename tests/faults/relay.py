"""What stands between a worker and its database: a relay that passes bytes on, holds or cuts them, and a cable that can be pulled out."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import make_url

PIECE = 65536


class Relay:
    """Listens on TCP and passes bytes on to a PostgreSQL server's socket. Use as a context manager."""

    def __init__(self, url: str, host: str = "127.0.0.1") -> None:
        parsed = make_url(url)
        self._target = Path(str(parsed.query["host"])) / f".s.PGSQL.{parsed.query.get('port') or parsed.port or 5432}"
        self._listening = socket.create_server((host, 0))
        port = self._listening.getsockname()[1]
        self.url = f"postgresql://{parsed.username}@{host}:{port}/{parsed.database}"
        self._passing = threading.Event()
        self._passing.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._passing.set()
        self.cut()

    def hold(self) -> None:
        """Pass nothing on; connections stay open, and new ones are taken and hear nothing."""
        self._passing.clear()

    def go_on(self) -> None:
        """Pass on again, what was held back first."""
        self._passing.set()

    def cut(self) -> int:
        """Reset every connection, on both sides; returns how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    if end.family == socket.AF_INET:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
                with suppress(OSError):
                    end.close()
        return len(pairs)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.socket(socket.AF_UNIX)
                try:
                    far.connect(str(self._target))
                except OSError:
                    near.close()
                    far.close()
                    continue
                with self._lock:
                    self._pairs.append((near, far))
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE):
                self._passing.wait()
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                end.close()


@dataclass
class Network:
    """A network namespace with a cable to ours, which can be pulled out."""

    name: str
    near: str = field(init=False)  #: our end
    far: str = field(init=False)
    subnet: int = field(init=False)

    def __post_init__(self) -> None:
        self.subnet = os.getpid() % 60_000 + 1
        self.near, self.far = f"sk{self.subnet}a", f"sk{self.subnet}b"

    @property
    def address(self) -> str:
        """Of our end, as seen from within."""
        return f"10.213.{self.subnet // 250}.{self.subnet % 250 + 1}"

    def unplug(self) -> None:
        """Drop whatever is sent from now on, both ways; nobody is told."""
        ip("link", "set", self.near, "down")

    def plug(self) -> None:
        """Let it pass again."""
        ip("link", "set", self.near, "up")
        ip("route", "replace", f"{self._inner}/32", "dev", self.near)

    @property
    def _inner(self) -> str:
        return f"10.214.{self.subnet // 250}.{self.subnet % 250 + 1}"

    def command(self, *command: str) -> list[str]:
        """Return the command that runs another one in there."""
        return ["ip", "netns", "exec", self.name, *command]

    def build(self) -> None:
        """Make the namespace and the cable."""
        ip("netns", "add", self.name)
        ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
        ip("address", "add", f"{self.address}/32", "dev", self.near)
        ip("-n", self.name, "address", "add", f"{self._inner}/32", "dev", self.far)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "link", "set", self.far, "up")
        self.plug()
        ip("-n", self.name, "route", "add", f"{self.address}/32", "dev", self.far)


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[Network]:
    """Build a network, and take it down; skips the test where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("skipped: only root may build a network, with `ip`")
    built = Network(f"segkit-{os.getpid()}")
    try:
        try:
            built.build()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"skipped: no network namespaces here ({error.stderr.decode().strip()})")
        yield built
    finally:
        subprocess.run(["ip", "netns", "delete", built.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", built.near], check=False, capture_output=True)
