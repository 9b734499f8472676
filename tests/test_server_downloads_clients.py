"""Downloads by real clients from a real server: curl and wget killed half-way, readers that stand still or leave, nginx."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import segkit
from segkit.kit import Kit
from segkit.settings import Settings
from tests.finished_runs import finish_run
from tests.live_service import Service, serving
from tests.served_downloads import app_of, export, unpacked

MIB = 2**20


@pytest.fixture
def kit(make_settings: Callable[..., Settings]) -> Iterator[Kit]:
    with segkit.open(make_settings("sqlite").home) as kit:
        yield kit


# Real clients on a real server


@pytest.fixture
def service(kit: Kit) -> Iterator[Service]:
    with serving(app_of(kit)) as service:
        yield service


@pytest.fixture
def big(kit: Kit) -> bytes:
    data = np.random.default_rng(2).integers(0, 256, 24 * MIB, dtype=np.uint8).tobytes()
    export(kit, "large.bin", data)
    return data


def killed_half_way(command: list[str], out: Path, enough: int) -> None:
    """Start a client and kill it once it has some of the file."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        deadline = time.monotonic() + 20
        while not (out.exists() and out.stat().st_size > enough) and time.monotonic() < deadline:
            time.sleep(0.005)
        client.send_signal(signal.SIGKILL)


CLIENTS = {
    "curl": (["curl", "-sS", "--limit-rate", "8M", "-o"], ["curl", "-sS", "-C", "-", "-o"]),
    "wget": (["wget", "-q", "--limit-rate=8M", "-O"], ["wget", "-q", "-c", "-O"]),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_killed_client_continues(name: str, service: Service, big: bytes, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"skipped: no {name}")
    out, address = tmp_path / "out", f"{service.url}/api/download/exports/large.bin"
    first, again = CLIENTS[name]
    killed_half_way([*first, str(out), address], out, 2 * MIB)
    got = out.stat().st_size
    assert 2 * MIB < got < len(big)
    subprocess.run([*again, str(out), address], check=True, timeout=30)
    assert out.read_bytes() == big


@pytest.mark.parametrize("name", CLIENTS)
def test_a_killed_client_continues_a_zip(name: str, service: Service, kit: Kit, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"skipped: no {name}")
    run = finish_run(kit, 4, size=1600)
    out, address = tmp_path / "out", f"{service.url}/api/download/runs/{run.number}.zip"
    size = int(httpx.head(address).headers["content-length"])
    first, again = CLIENTS[name]
    killed_half_way([*first, str(out), address], out, size // 3)
    assert size // 3 < out.stat().st_size < size
    subprocess.run([*again, str(out), address], check=True, timeout=30)
    assert unpacked(out.read_bytes())
    assert out.stat().st_size == size


def test_many_ranges_and_a_kept_connection_over_zero_copy(service: Service, big: bytes) -> None:
    with httpx.Client(base_url=service.url) as client:
        for start, stop in [(0, 5), (3 * MIB, 9 * MIB), (len(big) - 1, len(big))]:
            answer = client.get("/api/download/exports/large.bin", headers={"Range": f"bytes={start}-{stop - 1}"})
            assert answer.status_code == 206
            assert answer.content == big[start:stop]
        several = client.get("/api/download/exports/large.bin", headers={"Range": "bytes=0-999999,5000000-5999999"})
        assert big[:1000000] in several.content
        assert big[5000000:6000000] in several.content
        assert int(several.headers["content-length"]) == len(several.content)
        assert client.get("/api/download/exports/large.bin").content == big
        assert client.head("/api/download/exports/large.bin").headers["content-length"] == str(len(big))


def test_clients_that_leave_end_quietly(service: Service, big: bytes, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        with httpx.stream("GET", f"{service.url}/api/download/exports/large.bin") as answer:
            next(answer.iter_raw(1000))
    deadline = time.monotonic() + 5
    while service.open_files("large.bin") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not service.open_files("large.bin")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_slow_clients_hold_no_thread(service: Service, big: bytes) -> None:
    """More readers that stand still than there are threads; another is served all the same."""
    slow = [httpx.Client().send(httpx.Request("GET", f"{service.url}/api/download/exports/large.bin"), stream=True) for _ in range(24)]
    started = time.monotonic()
    assert httpx.get(f"{service.url}/api/download/exports/large.bin", timeout=10).content == big
    assert time.monotonic() - started < 5
    for answer in slow:
        answer.close()


# nginx


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen unix:{folder}/nginx.sock;
    location / {{ proxy_pass {upstream}; proxy_http_version 1.1; }}
    location /segkit-files/ {{ internal; alias {home}/; disable_symlinks on from={home}; }}
  }}
}}
"""


@pytest.fixture
def behind_nginx(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[tuple[Kit, httpx.Client]]:
    if shutil.which("nginx") is None:
        pytest.skip("skipped: no nginx")
    settings = make_settings("sqlite")
    folder = tmp_path / "nginx"
    folder.mkdir()
    for place in (tmp_path, *tmp_path.parents):
        if str(place).startswith("/tmp/") and place.owner() == "root" and os.getuid() == 0:
            place.chmod(0o755)
    with segkit.open(settings.home, accel_redirect="/segkit-files") as kit, serving(app_of(kit)) as service:
        config = folder / "nginx.conf"
        config.write_text(
            ("user root;" if os.getuid() == 0 else "") + NGINX.format(folder=folder, upstream=service.url, home=settings.home)
        )
        with subprocess.Popen(["nginx", "-e", f"{folder}/error.log", "-c", str(config)], stderr=subprocess.DEVNULL) as nginx:
            while not (folder / "nginx.sock").exists():
                assert nginx.poll() is None, (folder / "error.log").read_text()
                time.sleep(0.01)
            with httpx.Client(base_url="http://nginx", transport=httpx.HTTPTransport(uds=str(folder / "nginx.sock"))) as client:
                yield kit, client
            nginx.terminate()


def test_nginx_sends_what_the_service_names(behind_nginx: tuple[Kit, httpx.Client]) -> None:
    kit, client = behind_nginx
    data = random.Random(3).randbytes(300_000)
    export(kit, "a b é.bin", data)
    path = "/api/download/exports/a b é.bin"
    whole = client.get(path)
    assert whole.status_code == 200
    assert whole.content == data
    assert "x-accel-redirect" not in whole.headers
    tag = whole.headers["etag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    part = client.get(path, headers={"Range": "bytes=10-19", "If-Range": tag})
    assert part.status_code == 206
    assert part.content == data[10:20]
    assert client.get(path, headers={"Range": "bytes=10-19", "If-Range": '"other"'}).status_code == 200
    assert client.get(path, headers={"Range": "bytes=0-4,100-104"}).headers["content-type"].startswith("multipart/byteranges")
    assert client.get(path, headers={"Range": "bytes=400000-"}).status_code == 416
    assert client.get(path, headers={"If-Match": '"other"'}).status_code == 412
    assert client.head(path).headers["content-length"] == str(len(data))
    assert client.head(path).headers["etag"] == tag
    assert client.get("/segkit-files/segkit.db").status_code == 404
    assert "filename*=UTF-8''a%20b%20%C3%A9.bin" in whole.headers["content-disposition"]


def test_archives_pass_through_nginx_in_ranges(behind_nginx: tuple[Kit, httpx.Client]) -> None:
    kit, client = behind_nginx
    run = finish_run(kit, 2)
    path = f"/api/download/runs/{run.number}.zip"
    whole = client.get(path)
    assert unpacked(whole.content)
    part = client.get(path, headers={"Range": "bytes=1000-2999", "If-Range": whole.headers["etag"]})
    assert part.status_code == 206
    assert part.content == whole.content[1000:3000]
    result = next(run.results())
    labels = client.get(f"/api/download/runs/{run.number}/images/{result.image.id}/labels.ome.zarr/zarr.json")
    assert labels.status_code == 200
    assert labels.json()["zarr_format"] == 3
