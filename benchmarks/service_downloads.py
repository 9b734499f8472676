"""Downloads of the service beside nginx: one stream, twenty clients with ranges, and what a client costs in memory.

    python -m benchmarks.service_downloads [--quick]

The service is the whole app with every middleware; it and nginx are bound to the first core, curl to the second. nginx and curl
come from Debian; what is missing is named and left out. Files lie in the page cache, as they do for whoever downloads a result
that was just written.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import uvicorn

from benchmarks.report import arguments, finish
from segkit.server.app import create_app
from segkit.server.zerocopy import ZeroCopy
from segkit.settings import load

MIB = 2**20
CLIENTS = 20
ROUNDS = 5
SERVER_CORE, CLIENT_CORE = 0, 1
BIG = "/api/download/exports/big.bin"
ZIP = "/api/download/exports/folder.zip"

NGINX = """
{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{plain}; root {home}/exports; }}
  server {{
    listen 127.0.0.1:{proxy};
    location / {{ proxy_pass http://127.0.0.1:{app}; proxy_http_version 1.1; proxy_set_header Host 127.0.0.1:{app}; }}
    location /segkit-files/ {{ internal; alias {home}/; }}
  }}
}}
"""


def measure(quick: bool) -> dict[str, float]:
    """Measure downloads.

    Parameters
    ----------
    quick : bool
        A file of 256 MiB instead of 2 GiB.

    Returns
    -------
    dict
        `download_vs_nginx_alone` and `download_vs_nginx_behind` (throughput as a share of nginx's; missing without nginx or curl),
        `download_growth_mib` (of the service's memory, for each of 20 clients) and MB/s of each.
    """
    missing = [name for name in ("nginx", "curl") if shutil.which(name) is None]
    if missing:
        print(f"not measured, because there is no {' and no '.join(missing)}: downloads beside nginx", file=sys.stderr)
    size = (256 if quick else 2048) * MIB
    with tempfile.TemporaryDirectory(prefix="segkit-bench-") as folder, ExitStack() as stack:
        os.chmod(folder, 0o755)
        home = Path(folder) / "home"
        write_exports(home, size)
        app, accelerated, plain, proxy = (free_port() for _ in range(4))
        server = stack.enter_context(service(home, app, ""))
        figures: dict[str, float] = {"download_growth_mib": growth(server, app)}
        if missing:
            return figures
        stack.enter_context(service(home, accelerated, "/segkit-files"))
        stack.enter_context(nginx(Path(folder), home, plain=plain, proxy=proxy, app=accelerated))
        alone = compared(lambda: stream(app, BIG), lambda: stream(plain, "/big.bin"))
        behind = compared(lambda: ranges(proxy, BIG, size), lambda: ranges(plain, "/big.bin", size))
    figures |= {"download_vs_nginx_alone": alone[0], "download_alone_mb_per_s": alone[1], "nginx_alone_mb_per_s": alone[2]}
    figures |= {"download_vs_nginx_behind": behind[0], "download_behind_mb_per_s": behind[1], "nginx_ranges_mb_per_s": behind[2]}
    return figures


def write_exports(home: Path, size: int) -> None:
    """Write a large file, and a folder with another one that is downloaded as a ZIP archive."""
    block = os.urandom(MIB)
    (home / "exports" / "folder").mkdir(parents=True)
    for name, bytes_wanted in (("big.bin", size), ("folder/member.bin", size // 4)):
        with open(home / "exports" / name, "wb") as file:
            for _ in range(bytes_wanted // MIB):
                file.write(block)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def on_core(number: int) -> Callable[[], None]:
    """Return a function that binds a new process to one core, when there are several."""
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[number % len(cores)]})


@contextmanager
def service(home: Path, port: int, prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.service_downloads", "--serve", str(home), str(port), prefix]
    with subprocess.Popen(command, preexec_fn=on_core(SERVER_CORE)) as process:
        try:
            await_port(port)
            yield process
        finally:
            process.terminate()


@contextmanager
def nginx(folder: Path, home: Path, **ports: int) -> Iterator[None]:
    """Run nginx before the service, and beside it for comparison."""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(user="user root;" if os.getuid() == 0 else "", folder=folder, home=home, **ports))
    command = ["nginx", "-e", f"{folder}/error.log", "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=on_core(SERVER_CORE)) as process:
        try:
            await_port(ports["plain"])
            yield
        finally:
            process.terminate()


def await_port(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port} after {seconds:.0f} s")


def compared(ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float, float]:
    """Measure two things in turn; return the median of their ratios, and the medians of both, in MB/s."""
    rounds = []
    for number in range(ROUNDS + 1):
        pair = (ours(), theirs()) if number % 2 else (theirs(), ours())[::-1]
        if number:  # the first warms up
            rounds.append(pair)
    return tuple(statistics.median(values) for values in ([a / b for a, b in rounds], *zip(*rounds, strict=True)))


def stream(port: int, path: str) -> float:
    """Download a file with one curl; MB/s."""
    command = ["curl", "-sS", "--fail", "-o", "/dev/null", "-w", "%{speed_download}", f"http://127.0.0.1:{port}{path}"]
    return float(subprocess.run(command, check=True, capture_output=True, preexec_fn=on_core(CLIENT_CORE)).stdout) / 1e6


def ranges(port: int, path: str, size: int) -> float:
    """Download overlapping ranges of a tenth of a file with 20 curls at once; MB/s together."""
    part = size // 10
    started = time.perf_counter()
    clients = [
        subprocess.Popen(
            ["curl", "-sS", "--fail", "-r", f"{start}-{start + part - 1}", "-o", "/dev/null", f"http://127.0.0.1:{port}{path}"],
            preexec_fn=on_core(CLIENT_CORE),
        )
        for start in (number * (size - part) // CLIENTS for number in range(CLIENTS))
    ]
    codes = [client.wait() for client in clients]
    if any(codes):
        raise RuntimeError("a curl failed")
    return CLIENTS * part / (time.perf_counter() - started) / 1e6


def growth(server: subprocess.Popen[bytes], port: int) -> float:
    """Download with 20 clients at once, a file and a ZIP; return by how much the service grew at most, in MiB for each client."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for path in (BIG, ZIP):
            client.get(path, headers={"Range": "bytes=-1000"}).raise_for_status()
    before = memory(server.pid, "VmRSS")
    for path in (BIG, ZIP):
        download_slowly(port, path)
    return max(0.0, memory(server.pid, "VmHWM") - before) / CLIENTS


def download_slowly(port: int, path: str) -> None:
    """Download with 20 clients, of whom half read nothing for a while, so that whatever waits for them piles up."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CLIENTS)]
        for each in sockets:
            each.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            for each in sockets[::2]:
                each.recv(MIB)


def memory(process: int, what: str) -> float:
    """Return a figure of a process's memory in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def serve(home: str, port: int, prefix: str) -> None:
    """Run the service alone."""
    app = create_app(load(home=home, accel_redirect=prefix, enable_performance_monitoring=True))
    uvicorn.run(ZeroCopy(app), port=port, log_level="warning", access_log=False, ws_per_message_deflate=False)


def main() -> None:
    """Measure, and print the figures."""
    parser = arguments(__doc__)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        home, port, prefix = given.serve
        serve(home, int(port), prefix)
    else:
        finish(measure(given.quick), given.json)


if __name__ == "__main__":
    main()
