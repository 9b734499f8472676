"""Live events of the service: 500 WebSocket readers, 2,000 updates a second, and how soon they hear that a job is done.

    python -m benchmarks.service_live [--quick]

One process publishes as workers do, through PostgreSQL's NOTIFY (or SQLite and Redis, when PostgreSQL cannot be started: the figures say
which), on whichever core is free; one serves, bound to the first core; the readers are bound to the second. Every reader hears of 300
jobs of one run. Done-events are timed from their publication to each reader, by the machine's monotonic clock. The readers take frames
off their sockets and no more: a WebSocket library in Python would be slower than the service. How fast the machine can be is measured
beside it: the same readers hear the same few bytes from a process that does nothing but write them to 500 sockets ("floor").
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

import segkit
from benchmarks.ingest import postgresql
from benchmarks.report import arguments, finish
from benchmarks.service_downloads import await_port, free_port, on_core
from segkit.events import Change
from segkit.server.app import create_app
from segkit.server.serving import take_turns
from segkit.server.zerocopy import ZeroCopy, text_frame
from segkit.settings import load

READERS, UPDATES, JOBS = 500, 2000, 300
ENDS_PER_SECOND = 5
#: A done-event tells in its text when it was published.
MARK = b'"detail":"at '
UPGRADE = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
UPGRADE += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2Vna2l0IGJlbmNobWFyaw==\r\n\r\n"
SERVER_CORE, CLIENT_CORE = 0, 1
#: No message of this benchmark is longer; the whole state of the run neither.
MOST_BYTES = 2**17


def measure(quick: bool) -> dict[str, float]:
    """Measure live events.

    Parameters
    ----------
    quick : bool
        4 seconds instead of 20.

    Returns
    -------
    dict
        `live_messages_per_s` (per reader), `live_done_p50_ms`, `live_done_p99_ms`, `live_floor_p99_ms` (of a bare fan-out of the
        same size on this machine, now), `live_core` (share of one core that the server used), `live_idle_core` (the same with readers
        and no updates) and `live_kb_per_message`.
    """
    seconds = 4.0 if quick else 20.0
    with tempfile.TemporaryDirectory(prefix="segkit-bench-") as folder, ExitStack() as stack:
        database = stack.enter_context(postgresql())
        url = database.engine.url.render_as_string(hide_password=False)
        home, port = str(Path(folder) / "home"), free_port()
        run_id = make_run(home, url)
        bare = free_port()
        stack.enter_context(service(bare, "--bare", str(bare)))
        server = stack.enter_context(service(port, "--serve", home, url, str(port)))
        mine = set(os.sched_getaffinity(0))
        on_core(CLIENT_CORE)()
        try:
            floor = uvloop.run(read_bare(bare, seconds / 2))
            return uvloop.run(read_all(home, url, port, run_id, server.pid, seconds, mine)) | floor
        finally:
            os.sched_setaffinity(0, mine)


def make_run(home: str, url: str) -> int:
    """Make a run to publish about."""
    Path(home).mkdir(exist_ok=True)
    import_folder = Path(home) / "images"
    import_folder.mkdir()
    (import_folder / "a.bmp").write_bytes(bitmap())
    with segkit.open(home, database_url=url) as kit:
        project = kit.project("live", create=True)
        project.add(import_folder)
        return project.segment("threshold").number


def bitmap() -> bytes:
    """Return the smallest image there is."""
    head = b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    about = b"".join(value.to_bytes(size, "little") for value, size in ((40, 4), (1, 4), (1, 4), (1, 2), (24, 2)))
    return head + about + bytes(24) + bytes(4)


@contextmanager
def service(port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.service_live", *arguments]
    with subprocess.Popen(command, preexec_fn=on_core(SERVER_CORE)) as process:
        try:
            await_port(port)
            yield process
        finally:
            process.terminate()


class Taken:
    """What all readers together were told."""

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.delays: list[float] = []  #: of done-events, in milliseconds

    def take(self, buffer: bytearray, start: int, end: int) -> None:
        """Count a message of one reader, and time the done-events in it."""
        self.messages += 1
        self.bytes += end - start
        if buffer.rfind(MARK, start, end) >= 0:  # from the end: where there is none, find takes three times as long
            now = time.monotonic()
            parts = bytes(buffer[start:end]).split(MARK)[1:]
            self.delays += [(now - float(part[: part.index(b'"')])) * 1000 for part in parts]


class Frames(asyncio.BufferedProtocol):
    """One reader: takes the frames of a WebSocket server off its socket, into a buffer that stays."""

    def __init__(self, taken: Taken, *, upgraded: bool) -> None:
        self.first = asyncio.get_running_loop().create_future()
        self._taken, self._upgraded = taken, upgraded
        self._buffer, self._filled = bytearray(MOST_BYTES), 0
        self._view = memoryview(self._buffer)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give room for what comes."""
        return self._view[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Take whole frames; the rest waits for more."""
        buffer, start, end = self._buffer, 0, self._filled + count
        if not self._upgraded:
            place = buffer.find(b"\r\n\r\n", 0, end)
            self._upgraded, start = place >= 0, place + 4 if place >= 0 else 0
        while self._upgraded and end - start > 2:
            head, size = 2, buffer[start + 1]
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(buffer[start + 2 : start + head], "big") if end - start >= head else MOST_BYTES
            if end - start < head + size:
                break
            self._taken.take(buffer, start + head, start + head + size)
            start += head + size
            if not self.first.done():
                self.first.set_result(None)
        if start and start < end:
            buffer[: end - start] = buffer[start:end]
        self._filled = end - start


async def connect(taken: Taken, port: int, path: str | None) -> list[asyncio.Transport]:
    """Connect all readers, one after another; each has the whole state before the next one comes."""
    transports = []
    for _ in range(READERS):
        transport, reader = await asyncio.get_running_loop().create_connection(
            lambda: Frames(taken, upgraded=path is None), "127.0.0.1", port
        )
        if path is not None:
            transport.write(UPGRADE.format(path=path, port=port).encode())
            await reader.first
        transports.append(transport)
    return transports


async def read_bare(port: int, seconds: float) -> dict[str, float]:
    """Time how soon a few bytes reach all readers from a process that does nothing else."""
    taken = Taken()
    transports = await connect(taken, port, None)
    await asyncio.sleep(0.5)
    taken.delays.clear()
    await asyncio.sleep(seconds)
    for transport in transports:
        transport.abort()
    return {"live_floor_p50_ms": quantile(taken.delays, 0.5), "live_floor_p99_ms": quantile(taken.delays, 0.99)}


def quantile(delays: list[float], share: float) -> float:
    """Return the delay within which this share was told; not a number when nothing was."""
    return sorted(delays)[int(share * len(delays))] if delays else math.nan


async def write_bare(port: int) -> None:
    """Write one frame to all sockets, as often as jobs end in the benchmark."""
    sockets: set[asyncio.BaseTransport] = set()

    class Socket(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            sockets.add(transport)

        def connection_lost(self, error: Exception | None) -> None:
            sockets.discard(self.transport)

    async with await asyncio.get_running_loop().create_server(Socket, "127.0.0.1", port):
        while True:
            await asyncio.sleep(1 / ENDS_PER_SECOND)
            frame = text_frame(b'{"id":"x","events":[{"status":"done","jobs":[{' + MARK + repr(time.monotonic()).encode() + b'"}]}]}')
            for each in list(sockets):
                each.write(frame)  # type: ignore[attr-defined]


async def read_all(home: str, url: str, port: int, run_id: int, server: int, seconds: float, cores: set[int]) -> dict[str, float]:
    """Connect all readers, let another process publish, and time what comes."""
    taken = Taken()
    transports = await connect(taken, port, f"/api/events?runs={run_id}")
    idle = await core_used(server, 2.0)
    taken.delays.clear()
    publisher = multiprocessing.get_context("spawn").Process(target=publish, args=(home, url, run_id, seconds + 1.5, cores))
    publisher.start()
    while not taken.delays and publisher.is_alive():  # it has to start first
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    taken.messages = taken.bytes = 0
    taken.delays.clear()
    started = time.monotonic()
    core = await core_used(server, seconds - 1)
    rate = taken.messages / READERS / (time.monotonic() - started)
    delays = list(taken.delays)
    size = taken.bytes / taken.messages
    await asyncio.to_thread(publisher.join)
    for transport in transports:
        transport.abort()
    return {
        "live_messages_per_s": rate,
        "live_done_p50_ms": quantile(delays, 0.5),
        "live_done_p99_ms": quantile(delays, 0.99),
        "live_core": core,
        "live_idle_core": idle,
        "live_kb_per_message": size / 1000,
    }


async def core_used(process: int, seconds: float) -> float:
    """Return which share of a core a process uses for a while."""
    before, started = processor_time(process), time.monotonic()
    await asyncio.sleep(seconds)
    return (processor_time(process) - before) / (time.monotonic() - started)


def processor_time(process: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def publish(home: str, url: str, run_id: int, seconds: float, cores: set[int]) -> None:
    """Publish 2,000 updates a second over 300 jobs, and 5 ends a second of other jobs, as a worker does."""
    os.sched_setaffinity(0, cores)  # bound to the readers' core it would wait for them, and their end of the delay be counted twice
    with segkit.open(home, database_url=url) as kit:
        started, sent, ended = time.monotonic(), 0, 0
        while (passed := time.monotonic() - started) < seconds:
            while sent < passed * UPDATES:
                job = 1_000_000 + sent % JOBS
                status = ("queued", "running")[sent // JOBS % 2]
                kit.events.publish(Change(run_id, job, status, f"image {job}.tif"))
                sent += 1
            if ended < passed * ENDS_PER_SECOND:
                kit.events.publish(Change(run_id, 2_000_000 + ended, "done", "image.tif", f"at {time.monotonic()!r}"))
                ended += 1
            time.sleep(0.002)


def serve(home: str, url: str, port: int) -> None:
    """Run the service alone."""
    settings = load(home=home, database_url=url)
    take_turns()
    app: Any = ZeroCopy(create_app(settings))
    uvicorn.run(app, port=port, log_level="warning", access_log=False, ws_per_message_deflate=False)


def main() -> None:
    """Measure, and print the figures."""
    parser = arguments(__doc__)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare is not None:
        uvloop.run(write_bare(given.bare))
    elif given.serve:
        home, url, port = given.serve
        serve(home, url, int(port))
    else:
        finish(measure(given.quick), given.json)


if __name__ == "__main__":
    main()
