"""Clients that are slow, half open, vanish, send half a file or never read: others are served meanwhile, and nothing stays of them."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import tifffile
import websockets

from segkit.settings import Settings
from tests.faults.invariants import check
from tests.faults.processes import Program, Programs, until
from tests.faults.report import record
from tests.faults.scenes import files_below, many_files, queue_plate
from tests.plates import open_kit, squares, write_plate
from tests.services import Service, service

MakeSettings = Callable[..., Settings]
MIB = 2**20
#: A request of a client that behaves may take so long while others misbehave, in seconds.
SLOWEST = 5.0
PATIENCE = 60
#: Memory of the service for each WebSocket, whether its client reads or not, in bytes.
MOST_PER_CLIENT = 200_000


class Rude:
    """A plain connection to a service, for what no library does."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.sendall(sent)

    def vanish(self) -> None:
        """Go without a word: the other side gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def leave(self) -> None:
        """Close in order."""
        self.socket.close()


def request(method: str, path: str, *headers: str) -> bytes:
    """Write the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def connections(port: int, pid: int | None = None) -> int:
    """How many connections to the service its process holds."""
    listed = psutil.Process(pid).net_connections("tcp4")
    return sum(each.laddr.port == port and each.status in ("ESTABLISHED", "CLOSE_WAIT") for each in listed)


def quickly(client: httpx.Client, times: int = 10) -> None:
    """Ask as people do, and be answered in time."""
    for _ in range(times):
        started = time.monotonic()
        assert client.get("/api/projects").status_code == 200
        assert time.monotonic() - started < SLOWEST


@pytest.fixture
def plate(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    """Settings of a database with a project, an empty one, and a run that is done."""
    settings = make_settings()
    with open_kit(settings) as kit:
        queue_plate(kit, tmp_path / "plate", [1, 2, 3])
        kit.project("uploads", create=True)
        kit.work_off()
    return settings


@pytest.fixture
def served(plate: Settings) -> Iterator[Service]:
    """A service of it."""
    with service(plate) as client:
        yield client


def misbehave(client: Service, number: int) -> None:
    """Have so many clients of each kind misbehave while another one is served; nothing may stay of them."""
    quickly(client)
    before = connections(client.port)
    half = [Rude(client.port, b"GET /api/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ") for _ in range(number)]
    silent = [Rude(client.port) for _ in range(number)]
    vanishing = [Rude(client.port, request("GET", "/api/projects/1/images?limit=1000")) for _ in range(number)]
    promising = [Rude(client.port, request("POST", "/api/projects", "Content-Length: 100") + b'{"na') for _ in range(number)]
    for letter in b"abcdefgh":
        for slow in half:
            slow.socket.sendall(bytes([letter]))  # a letter at a time
        quickly(client, 2)
    for each in vanishing:
        each.vanish()
    quickly(client)
    for each in [*half[::2], *silent[::2], *promising[::2]]:
        each.leave()
    for each in [*half[1::2], *silent[1::2], *promising[1::2]]:
        each.vanish()
    until(lambda: connections(client.port) <= before, PATIENCE, what="the end of their connections")
    quickly(client)


def test_slow_half_open_and_vanishing_clients_keep_nobody_waiting(served: Service, plate: Settings) -> None:
    misbehave(served, 15)
    with open_kit(plate) as kit:
        assert len(kit.projects().items) == 2
        check(kit.database, plate.home, drained=True)
    told = f"Others are answered within {SLOWEST:.0f} s; no connection stays"
    record("Slow-loris, half-open and vanishing clients", "raw sockets: half requests a letter at a time, silence, resets", 60, told)


@pytest.mark.faults
def test_hundreds_of_slow_half_open_and_vanishing_clients_keep_nobody_waiting(served: Service, plate: Settings) -> None:
    with many_files(20_000):
        misbehave(served, 250)
    told = f"Others are answered within {SLOWEST:.0f} s; no connection stays"
    record("Slow-loris, half-open and vanishing clients", "the same, 250 of each kind at once", 1000, told)


# Uploads


def cut_upload(client: Service, content: bytes, cut: int, *, chunked: bool, reset: bool) -> None:
    """Send an upload as far as a cut, and go."""
    path = "/api/projects/2/uploads?name=cut.tif"
    head = request("POST", path, "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}")
    body = content[:cut]
    if chunked and body:
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n"
    rude = Rude(client.port, head + body)
    if reset:
        time.sleep(0.02)  # else the reset may overtake what was sent
        rude.vanish()
    else:
        rude.leave()


def test_an_upload_that_is_cut_is_whole_or_absent(served: Service, plate: Settings, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cut.tif", squares(5, edge=1300))
    content, times = (tmp_path / "cut.tif").read_bytes(), 0
    for cut in (0, 1, len(content) // 3, MIB + 1, len(content) - 1, len(content)):
        for chunked in (False, True):
            if cut == len(content) and not chunked:
                continue  # that is a whole one
            for reset in (False, True):
                cut_upload(served, content, cut, chunked=chunked, reset=reset)
                times += 1
    until(lambda: files_below(Path(plate.home) / "uploads") == [], PATIENCE, what="the end of the parts")
    assert served.get("/api/projects/2/images").json()["total"] == 0
    answer = served.post("/api/projects/2/uploads", params={"name": "cut.tif"}, content=content)
    assert answer.status_code == 201
    assert len(files_below(Path(plate.home) / "uploads")) == 1
    with open_kit(plate) as kit:
        check(kit.database, plate.home)
    record("Upload cut half-way", "closed or reset after n bytes, of known length and chunked", times, "Absent; sent again it is whole")


# Downloads


@pytest.fixture
def big(plate: Settings) -> bytes:
    """A large file among the exports."""
    data = os.urandom(MIB) * 40
    place = Path(plate.home) / "exports"
    place.mkdir(exist_ok=True)
    (place / "large.bin").write_bytes(data)
    return data


LARGE = "/api/download/exports/large.bin"


def open_files(name: str) -> int:
    """How often this process has a file of this name open."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").partition(" (deleted)")[0].endswith(name)
    return found


@pytest.mark.faults
def test_clients_that_vanish_while_they_download_leave_nothing_open(served: Service, plate: Settings, big: bytes) -> None:
    vanished = [Rude(served.port, request("GET", LARGE)) for _ in range(30)]
    for number, each in enumerate(vanished):
        assert each.socket.recv(64 * 1024)
        (each.vanish if number % 2 else each.leave)()
    quickly(served)
    until(lambda: open_files("large.bin") == 0, PATIENCE, what="the end of the downloads")
    assert served.get(LARGE).content == big
    with open_kit(plate) as kit:
        check(kit.database, plate.home, drained=True)
    told = "The file is closed, others are served, the next download is whole"
    record("Download client vanishes", "closed or reset after 64 KiB of 40 MiB", len(vanished), told)


def begun(client: Service) -> tuple[Rude, bytes]:
    """Begin to download, and stop reading."""
    rude = Rude(client.port, request("GET", LARGE, "Connection: close"))
    return rude, rude.socket.recv(64 * 1024)


def rest(rude: Rude) -> bytes:
    """Read on until the end."""
    pieces = []
    with closing(rude.socket), suppress(ConnectionResetError):
        while piece := rude.socket.recv(MIB):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.faults
def test_a_file_that_is_replaced_or_cut_while_it_is_downloaded_is_never_mixed(served: Service, plate: Settings, big: bytes) -> None:
    place = Path(plate.home) / "exports" / "large.bin"
    rude, first = begun(served)
    other = os.urandom(MIB) * 40
    (place.parent / "other").write_bytes(other)
    (place.parent / "other").replace(place)
    got = (first + rest(rude)).partition(b"\r\n\r\n")[2]
    assert got == big
    assert served.get(LARGE).content == other
    rude, first = begun(served)
    os.truncate(place, 20 * MIB)
    got = (first + rest(rude)).partition(b"\r\n\r\n")[2]
    assert len(got) < len(other)
    assert got == other[: len(got)]
    until(lambda: open_files("large.bin") == 0, PATIENCE, what="the end of the downloads")
    quickly(served)
    record(
        "File replaced while it is downloaded",
        "renamed over; truncated",
        2,
        "The old one whole, or a connection that is cut; never a mixture",
    )


# WebSockets


@dataclass
class Followers:
    """WebSocket clients that follow a run to its end."""

    address: str
    run: int
    done: int  #: jobs at its end
    connecting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(50))
    listening: int = 0
    told: list[float] = field(default_factory=list)  #: when each heard of the end

    async def follow(self, clients: int, work: Callable[[], None]) -> None:
        """Have so many follow; the run is worked off once all of them listen."""
        tasks = [asyncio.create_task(self._listen()) for _ in range(clients)]
        while self.listening < clients and not any(task.done() for task in tasks):
            await asyncio.sleep(0.02)
        worked = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.gather(*tasks)
        await worked

    async def _listen(self) -> None:
        async with self.connecting:
            url = f"{self.address.replace('http', 'ws')}/api/events?runs={self.run}"
            socket = await websockets.connect(url, ping_interval=None, open_timeout=PATIENCE, max_queue=None)
            message = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
        self.listening += 1
        while not self._ended(message):
            message = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
        self.told.append(time.monotonic())
        await socket.close()

    def _ended(self, message: dict[str, Any]) -> bool:
        told = message["events"] if "events" in message else message["state"]["runs"]
        return any(each["type"] == "run" and each["done"] == self.done for each in told)


def never_reading(port: int, number: int, run: int) -> list[Rude]:
    """Open WebSockets whose clients never read, with buffers as small as can be."""
    head = request(
        "GET",
        f"/api/events?runs={run}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )
    clients = [Rude(port) for _ in range(number)]
    for each in clients:
        each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        each.socket.sendall(head)
    return clients


def test_fifty_websockets_are_all_told_beside_some_that_never_read(served: Service, plate: Settings, tmp_path: Path) -> None:
    with open_kit(plate) as kit, ExitStack() as stack:
        project = kit.project("more", create=True)
        project.add(write_plate(tmp_path / "more", list(range(6)), first=50))
        run = project.segment("threshold")
        for each in never_reading(served.port, 5, run.number):
            stack.callback(each.vanish)
        followers = Followers(f"http://127.0.0.1:{served.port}", run.number, 6)
        asyncio.run(followers.follow(50, kit.work_off))
        assert len(followers.told) == 50
        quickly(served)
        check(kit.database, plate.home, drained=True)
    record("WebSocket clients, some of which never read", "50 that read and 5 that do not", 55, "All that read are told of the end")


def busy_events(program: Program, port: int) -> tuple[int, int]:
    """The service's memory and its connections."""
    return psutil.Process(program.pid).memory_info().rss, connections(port, program.pid)


@pytest.mark.faults
@pytest.mark.timeout(280)
def test_a_thousand_websockets_are_all_told_within_bounded_memory(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings, images, clients, deaf = make_settings(), 300, 1000, 20
    with many_files(20_000), Programs(settings, tmp_path / "programs") as programs, open_kit(settings) as kit, ExitStack() as stack:
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 3 * clients:
            pytest.skip("skipped: this process may not open 3000 files")
        run = queue_plate(kit, tmp_path / "plate", [number % 9 for number in range(images)])
        server = programs.server("--no-work")
        port = urlsplit(server.address).port or 0
        with httpx.Client(base_url=server.address, timeout=30) as client:
            quickly(client)
            before, _ = busy_events(server, port)
            for each in never_reading(port, deaf, run.number):
                stack.callback(each.vanish)
            most = before

            def work() -> None:
                nonlocal most
                kit.work_off()
                most = max(most, busy_events(server, port)[0])

            followers = Followers(server.address, run.number, images)
            asyncio.run(followers.follow(clients, work))
            assert len(followers.told) == clients
            assert (most - before) < clients * MOST_PER_CLIENT, f"{(most - before) / MIB:.0f} MiB more"
            quickly(client)
        check(kit.database, settings.home, drained=True)
    apart = max(followers.told) - min(followers.told)
    outcome = f"All that read are told of the end, {apart:.1f} s apart; the service grows by {(most - before) / MIB:.0f} MiB"
    record("WebSocket clients, some of which never read", f"{clients} that read and {deaf} that do not", clients + deaf, outcome)


# Too many


@pytest.mark.faults
def test_a_service_that_may_open_no_more_files_serves_again_when_clients_go(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    with open_kit(settings) as kit:
        queue_plate(kit, tmp_path / "plate", [1])
        kit.work_off()
    with Programs(settings, tmp_path / "programs") as programs:
        server = programs.server("--no-work")
        port = urlsplit(server.address).port or 0
        with httpx.Client(base_url=server.address, timeout=30) as client:
            quickly(client)
            open_now = psutil.Process(server.pid).num_fds()
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (open_now + 20, open_now + 20))
            crowd = [Rude(port) for _ in range(100)]
            until(lambda: psutil.Process(server.pid).num_fds() >= open_now + 15, PATIENCE, what="the crowd")
            for each in crowd:
                each.vanish()
            until(lambda: answered(server.address), PATIENCE, what="an answer")
            quickly(client)
        assert server.alive
    with open_kit(settings) as kit:
        check(kit.database, settings.home, drained=True)
    record("Too many open files", "RLIMIT_NOFILE of the service, 100 connections", 1, "It waits, and serves again when some have gone")


def answered(address: str) -> bool:
    """Whether a new connection is served."""
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address}/api/projects", timeout=2).status_code == 200
    return False
