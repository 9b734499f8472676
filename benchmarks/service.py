"""The service beside a naive one: lists cached and not, deep pages, statements, bytes, and what monitoring costs.

    python -m benchmarks.service              a million images in PostgreSQL, five rounds
    python -m benchmarks.service --quick      100,000 images, two short rounds, under a minute
    python -m benchmarks.service --json       the same, ending in one JSON line

The naive service (`service_naive.py`) is FastAPI, ORM objects through pydantic, OFFSET and no cache, and tells the total from the
project's counter. Both are one process of uvicorn on the first core; wrk with 32 connections, and PostgreSQL, have the others. Rounds
are interleaved, ratios are formed within a round, and their medians are quoted. "Constant" is the first route of the same app,
which answers two letters. "New" are questions that were not asked before, each with another query, so that the service routes and checks
every one; "uncached" asks one again and again, and the database answers each time. Rates suffer from whoever else uses the machine; the
processor time of the server per request hardly does, so its ratios stand beside those of the rates (`..._cpu`).
Downloads and live events are in `service_downloads.py` and `service_live.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import importlib
import importlib.util
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import uvicorn
from sqlalchemy.orm import Session
from starlette.responses import PlainTextResponse

from benchmarks import service_naive
from benchmarks.ingest import postgresql
from benchmarks.report import arguments, finish, show
from benchmarks.service_live import processor_time
from segkit import catalog
from segkit.catalog.images import scope
from segkit.database import open_database
from segkit.pages import Place, encode_cursor
from segkit.server import app as assembly
from segkit.server.compression import pack, unpack
from segkit.settings import load

IMAGES, QUICK_IMAGES = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS, QUICK_SECONDS = 3, 1
PROJECTS, PAGE, CONNECTIONS = 20, 50, 32
LIST = f"/api/projects/1/images?limit={PAGE}"
#: Of 1,000 reads: mostly the first pages of lists, as dashboards ask for them.
MIX = [LIST] * 6 + ["/api/projects?limit=50"] * 2 + [f"/api/projects/1/images?limit={PAGE}&offset={PAGE}", "/api/queue"]
READS, WRITES = 1000, 10
#: For wrk: each request with another query.
NEW = """local number = %d
request = function() number = number + 1; return wrk.format("GET", wrk.path .. "&new=" .. number) end
"""
TOOLS = {"wrk": "requests per second", "nginx": "downloads", "curl": "downloads"}
#: Modules beside this one with more parts; each has `measure(quick) -> dict of figures`.
PARTS = ("service_downloads", "service_live")

FILL = """
INSERT INTO project (id, name, created_at, revision, images, unreadable)
    SELECT g, 'screen ' || g, now() + g * interval '1 second', 1000 + g, CASE g WHEN 1 THEN %(images)s ELSE 0 END, 0
    FROM generate_series(1, %(projects)s) g;
INSERT INTO image (project_id, content_hash, uri, name, format, axes, shape, dtype, channels, pixel_size_um, bytes, created_at)
    SELECT 1, md5(g::text), '/data/screen/plate7/well' || g || '.ome.tif', 'plate7_well' || g || '.ome.tif', 'tiff', 'CYX',
        '[3, 2048, 2048]', 'uint16', '["DAPI", "GFP", "mCherry"]', 0.325, 25166000 + g, now() + g * interval '1 millisecond'
    FROM generate_series(1, %(images)s) g;
ANALYZE
"""


RATIOS = [
    ("cached_vs_naive", "cached", "naive"),
    ("cached_vs_constant", "cached", "constant"),
    ("uncached_vs_naive", "uncached", "naive"),
    ("uncached_new_vs_naive", "uncached, new", "naive"),
]


# Servers


def serve(kind: str, url: str, port: int) -> None:
    """Run one server in this process, on the first core."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    uvicorn.run(app_of(kind, url), host="127.0.0.1", port=port, log_level="error", access_log=False)


def app_of(kind: str, url: str) -> Any:
    """Make the app of one server: "naive", "cached", or "uncached"."""
    if kind == "naive":
        return service_naive.create_app(url)
    options = {"cache_ttl_projects": 0, "cache_ttl_images": 0, "cache_ttl_queue": 0} if kind.startswith("uncached") else {}
    monitored = kind != "uncached-unwatched"
    app = assembly.create_app(load(home=tempfile.gettempdir(), database_url=url, enable_performance_monitoring=monitored, **options))

    async def constant() -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def statements() -> list[int]:
        timings = app.state.kit.database.timings
        return [timings.count() if timings else 0, app.state.answers.following.questions]

    app.get("/constant")(constant)
    app.router.routes.insert(0, app.router.routes.pop())  # FastAPI tries routes in turn: the first is the fastest
    app.get("/statements")(statements)
    return app


@contextmanager
def server(kind: str, url: str) -> Iterator[tuple[str, int]]:
    """Run one server in a process of its own; gives its address and the number of its process."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.service", "--serve", kind, url, str(port)])
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    """Find a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            get(f"http://127.0.0.1:{port}{LIST}")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("A server of the benchmark did not start.")


# Asking


class Client:
    """One connection that is kept open. It reads no more of an answer than it must: what it costs is counted to every server."""

    def __init__(self, address: str) -> None:
        place = urlsplit(address)
        self._host = place.netloc
        self._socket = socket.create_connection((place.hostname, place.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> bytes:
        """Ask for a path."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        held = b""
        while (end := held.find(b"\r\n\r\n")) < 0:
            held += self._more()
        head = held[:end].decode("latin-1").lower()
        size = int(re.search(r"content-length: (\d+)", head)[1])  # type: ignore[index]
        parts = [held[end + 4 :]]
        while (size := size - len(parts[-1])) > 0:
            parts.append(self._more())
        body = b"".join(parts)
        if head.split(None, 2)[1] != "200":
            raise RuntimeError(f"{path}: {head.splitlines()[0]} {body[:200]!r}")
        return body

    def _more(self) -> bytes:
        found = self._socket.recv(2**18)
        if not found:
            raise ConnectionError("The server hung up.")
        return found

    def seconds(self, path: str) -> float:
        """Ask for a path, and tell how long that took."""
        started = time.perf_counter()
        self.get(path)
        return time.perf_counter() - started


def get(url: str) -> bytes:
    """Ask once."""
    parts = urlsplit(url)
    return Client(f"{parts.scheme}://{parts.netloc}").get(f"{parts.path}?{parts.query}")


def rate(url: str, seconds: int, script: str | None = None) -> float:
    """Return the requests per second that wrk gets answered; a script in Lua may change each request."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pinned = ["taskset", "-c", str(cores[-1])] if len(cores) > 1 and shutil.which("taskset") else []
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script or "")
        file.flush()
        scripted = ["-s", file.name] if script else []
        command = [*pinned, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *scripted, url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        raise RuntimeError(f"{url} was answered with faults:\n{said}")
    return float(re.search(r"Requests/sec:\s*([\d.]+)", said)[1])  # type: ignore[index]


# Parts


def measure_rates(addresses: dict[str, str], processes: dict[str, int], rounds: int, seconds: int) -> dict[str, float]:
    """Requests per second side by side, and the milliseconds of processor time that each takes the server."""
    routes = {"naive": ("naive", LIST), "constant": ("cached", "/constant"), "cached": ("cached", LIST)}
    routes |= {"uncached": ("uncached", LIST), "uncached, new": ("uncached", LIST)}
    rates: dict[str, list[float]] = {name: [] for name in routes}
    costs: dict[str, list[float]] = {name: [] for name in routes}
    for number in range(rounds):
        for name, (kind, path) in routes.items():
            before = processor_time(processes[kind])
            rates[name].append(rate(addresses[kind] + path, seconds, NEW % (number * 10**6) if name.endswith("new") else None))
            costs[name].append(1000 * (processor_time(processes[kind]) - before) / (rates[name][-1] * seconds))
    rows = [(name, statistics.median(rates[name]), statistics.median(costs[name])) for name in routes]
    show("A page of 50 images", ["server", "requests/s", "CPU ms/request"], rows)
    figures = {}
    for figure, one, other in RATIOS:
        figures[figure] = statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))
        figures[f"{figure}_cpu"] = statistics.median(b / a for a, b in zip(costs[one], costs[other], strict=True))
    return figures


def measure_depth(url: str, addresses: dict[str, str], images: int, rounds: int) -> dict[str, float]:
    """How long a page takes that lies nine tenths down the list, beside the first, and beside OFFSET; each is asked of the database.

    Over HTTP, and as the library's call beside the naive service's own query, without the time that both take to be asked.
    """
    depth = images * 9 // 10
    client = Client(addresses["uncached"])
    cursor = cursor_at(url, depth)
    shallow, deep = LIST, f"{LIST}&after={cursor}"
    naive = Client(addresses["naive"])
    turns = []
    for _ in range(rounds):
        pairs = [(client.seconds(shallow), client.seconds(deep)) for _ in range(100)]
        turns.append((*(statistics.median(times) for times in zip(*pairs, strict=True)), naive.seconds(f"{LIST}&offset={depth}")))
    first, far, offset = (statistics.median(times) for times in zip(*turns, strict=True))
    called, queried = depth_in_process(url, cursor, depth, rounds)
    rows = [("first", first), (f"after {depth}", far), (f"offset {depth}, naive", offset)]
    rows += [(f"after {depth}, library", called), (f"offset {depth}, ORM", queried)]
    show("One page", ["page", "ms"], [(name, seconds * 1e3) for name, seconds in rows])
    beside = statistics.median(offset / far for _, far, offset in turns)
    return {"deep_vs_first_page": far / first, "deep_vs_naive": beside, "deep_vs_naive_in_library": queried / called}


def depth_in_process(url: str, cursor: str, depth: int, rounds: int) -> tuple[float, float]:
    """Return the seconds of the library's call for a deep page, and of the naive service's query for it."""
    with open_database(load(home=tempfile.gettempdir(), database_url=url)) as database:

        def call() -> None:
            with database.read() as connection:
                catalog.images_json(connection, 1, PAGE, after=cursor)

        def query() -> None:
            with Session(database.engine) as opened:
                service_naive.images_of(opened, 1, PAGE, depth)

        return median_of(call, 100 * rounds), median_of(query, rounds)


def median_of(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of some work, after a first time."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cursor_at(url: str, depth: int) -> str:
    """Make the cursor of a row deep in the list, as its page would have given it."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT created_at, id FROM image WHERE project_id = 1 ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET %s", [depth]
        ).fetchone()
    assert row is not None
    return encode_cursor(Place(*row), scope(1, False))


def measure_statements(url: str, addresses: dict[str, str]) -> dict[str, float]:
    """Count statements of 1,000 mixed reads while somebody writes ten times."""
    naive, ours = Client(addresses["naive"]), Client(addresses["cached"])
    counts = {}
    for name, client in (("naive", naive), ("ours", ours)):
        before = json.loads(client.get("/statements"))
        for number in range(READS):
            if number % (READS // WRITES) == READS // WRITES // 2:
                write(url)
            client.get(MIX[number % len(MIX)])
        counts[name] = json.loads(client.get("/statements")), before
    naive_count = counts["naive"][0] - counts["naive"][1]
    (after, asked), (before, asked_before) = counts["ours"]
    rows = [("naive", naive_count, 0), ("ours", after - before, asked - asked_before)]
    show(f"{READS} mixed reads, {WRITES} writes", ["server", "statements", "empty questions"], rows)
    return {"statements_saved": 1 - (after - before) / naive_count}


def write(url: str) -> None:
    """Change a project as adding an image to it does."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE project SET revision = revision + 1 WHERE id = 1")


def measure_bytes(addresses: dict[str, str], rounds: int) -> dict[str, float]:
    """What packing on the way out saves of a page, and its time beside gzip at level 6."""
    rows, saved, times = [], [], []
    for limit in (PAGE, 1000):
        body = get(f"{addresses['cached']}/api/projects/1/images?limit={limit}")
        packed = pack("zstd", body, 1)
        assert unpack("zstd", packed) == body
        ours, theirs = (fastest(work, 20 * rounds) for work in (lambda b=body: pack("zstd", b, 1), lambda b=body: gzip.compress(b, 6)))
        saved.append(1 - len(packed) / len(body))
        times.append(ours / theirs)
        rows.append((f"{limit} images", len(body), len(packed), 100 * saved[-1], times[-1]))
    show("JSON lists, zstd at level 1", ["page", "bytes", "packed", "saved %", "time / gzip-6"], rows)
    return {"bytes_saved": min(saved), "packing_vs_gzip_time": max(times)}


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of some work."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure_monitoring(url: str, rounds: int) -> dict[str, float]:
    """What timing every request and statement adds to a list that is asked of the database.

    Two apps in one process, asked in turn, request by request, in random order; and an unwatched one beside another as a control.
    """
    watched, plain, control = (app_of(kind, url) for kind in ("uncached", "uncached-unwatched", "uncached-unwatched"))
    costs = asyncio.run(_side_by_side([watched, plain, control], 400 * rounds))
    on, off, same = (statistics.median(times) for times in costs)
    # Of differences within one turn: the machine's mood, which lasts for many turns, is in both.
    added, control = (statistics.median(a - b for a, b in zip(times, costs[1], strict=True)) / off for times in (costs[0], costs[2]))
    rows = [("watched", on * 1e3, 100 * added), ("not watched", off * 1e3, 0.0), ("control", same * 1e3, 100 * control)]
    show("One uncached page in one process", ["app", "ms", "%"], rows)
    return {"monitoring_cost": added, "monitoring_control": control}


async def _side_by_side(apps: list[Any], repeats: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in apps]
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app.router.lifespan_context(app))
        for number in range(repeats):
            for place in sorted(range(len(apps)), key=lambda place: hash((number, place)) % 97):
                started = time.perf_counter()
                await ask_app(apps[place])
                times[place].append(time.perf_counter() - started)
    return times


async def ask_app(app: Any) -> None:
    """Ask an app for the list, without a network."""
    path, _, query = LIST.partition("?")
    request: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
    }
    request |= {"scheme": "http", "method": "GET", "root_path": "", "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    request |= {"headers": [(b"host", b"127.0.0.1:1")], "state": {}}
    await app(request, _receive, _check)


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _check(message: dict[str, Any]) -> None:
    if message.get("status", 200) != 200:
        raise RuntimeError(f"answered {message['status']}")


# All together


def fill(url: str, images: int) -> None:
    """Fill the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in FILL.split(";"):
            connection.execute(statement % {"images": images, "projects": PROJECTS})


def measure(quick: bool) -> dict[str, float]:
    """Measure all parts; those whose tools are missing are left out, and said so."""
    images, rounds, seconds = (QUICK_IMAGES, QUICK_ROUNDS, QUICK_SECONDS) if quick else (IMAGES, ROUNDS, SECONDS)
    for tool, what in TOOLS.items():
        if shutil.which(tool) is None:
            print(f"{tool} is missing (apt install {tool}): no {what}.")
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        database = stack.enter_context(postgresql())
        url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        fill(url, images)
        servers = {kind: stack.enter_context(server(kind, url)) for kind in ("naive", "cached", "uncached")}
        addresses = {kind: address for kind, (address, _) in servers.items()}
        if shutil.which("wrk"):
            figures |= measure_rates(addresses, {kind: process for kind, (_, process) in servers.items()}, rounds, seconds)
        figures |= measure_depth(url, addresses, images, rounds)
        figures |= measure_statements(url, addresses)
        figures |= measure_bytes(addresses, rounds)
        figures |= measure_monitoring(url, rounds)
    for name in PARTS:
        if importlib.util.find_spec(f"benchmarks.{name}"):
            figures |= importlib.import_module(f"benchmarks.{name}").measure(quick)
    return figures


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    options: argparse.Namespace = arguments(__doc__).parse_args()
    os.chdir(Path(__file__).parent.parent)
    finish(measure(options.quick), options.json)


if __name__ == "__main__":
    main()
