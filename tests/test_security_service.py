"""The running service against requests that are made to break it: paths, addresses, headers, ranges, other sites, and error texts."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import TOKEN, Service, service
from websockets.sync.client import connect

from segkit.server.bodies import disposition
from segkit.server.ranges import MOST_PIECES
from segkit.settings import load

GOOD = {"Authorization": f"Bearer {TOKEN}"}
EVIL = "https://evil.example"
SCRIPT = "<script>alert(1)</script>"
SIZE = 100_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with an export, a link that leads out of it, and a secret beside it."""
    place = tmp_path_factory.mktemp("security") / "home"
    exports = place / "exports"
    (exports / "deep").mkdir(parents=True)
    (exports / "good.csv").write_bytes(bytes(SIZE))
    (exports / "deep" / "a.csv").write_text("a")
    (place.parent / "secret.csv").write_text("the secret")
    (exports / "link.csv").symlink_to(place.parent / "secret.csv")
    (exports / "out").symlink_to(place.parent)
    (exports / "deep" / "link.csv").symlink_to(place.parent / "secret.csv")
    return place


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Service]:
    """A client, without a token, of a service that asks for one, and may register from one folder and one address alone."""
    allowed = f"{home.parent / 'images'}, s3://lab/plates"
    (home.parent / "images").mkdir()
    with service(load(home=str(home), token=TOKEN, data_folders=allowed)) as client:
        yield client


def raw(client: Service, request: str, *headers: str) -> tuple[int, str]:
    """Send a request as it is written; returns the status and all that was answered."""
    lines = [request, f"Host: 127.0.0.1:{client.port}", "Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
    return int(answer.split(" ")[1]) if answer.startswith("HTTP/") else 0, answer


# The gate, as requests reach it over a socket


@pytest.mark.parametrize(
    "target",
    [
        "/api/projects",
        "//api/projects",
        "/api//projects",
        "/api/projects/",
        "/health/../api/projects",
        "/health/%2e%2e/api/projects",
        "/%2e%2e/api/projects",
        "/%61pi/projects",
        "/api%2fprojects",
        "/health%00/api/projects",
        "/static/../api/projects",
        "/health?/../api/projects",
        "/health/",
        "/health;x",
        "/%68ealth",
        "http://127.0.0.1/api/projects",
        "http://evil.example/health",
        "*",
        "/dashboards/queue_status",
        "/static/js/bokeh.min.js",
        "/metrics",
    ],
)
def test_no_way_of_writing_a_path_passes_the_gate(client: Service, target: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        status, answer = raw(client, f"{method} {target} HTTP/1.1", "Content-Length: 0", "X-Forwarded-For: 203.0.113.9")
        assert status in (400, 401, 403), f"{method}: {answer[:200]}"


def test_two_hosts_and_smuggled_requests_are_refused(client: Service) -> None:
    assert raw(client, "GET /api/projects HTTP/1.1", "Host: evil.example")[0] in (400, 403)
    chunks = ("Transfer-Encoding: chunked", "Content-Length: 4", "")
    _, answer = raw(client, "POST /health HTTP/1.1", *chunks, "0\r\n\r\nGET /api/projects HTTP/1.1\r\nHost: localhost\r\n")
    assert "HTTP/1.1 200" not in answer


@pytest.mark.parametrize("path", ["/api/events", "/dashboards/queue_status/ws", "/nothing"])
def test_no_socket_opens_without_a_token_or_for_another_site(client: Service, path: str) -> None:
    address = f"ws://127.0.0.1:{client.port}{path}"
    with pytest.raises(Exception, match="401"):
        connect(address).close()
    for origin in (EVIL, "null", f"http://127.0.0.1:{client.port}.evil.example", f"http://127.0.0.1:{client.port + 1}", "http://localhost"):
        with pytest.raises(Exception, match="403"):
            connect(address, origin=origin, additional_headers=GOOD).close()  # type: ignore[arg-type]


# Paths and addresses


@pytest.mark.parametrize(
    "name",
    [
        "../secret.csv",
        "..%2fsecret.csv",
        "%2e%2e/secret.csv",
        "deep/../../../secret.csv",
        "link.csv",
        "deep/link.csv",
        "out/secret.csv",
        "out/home/exports/good.csv",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "good.csv%00.txt",
        "..%5csecret.csv",
        "..%c0%afsecret.csv",
        "deep/./a.csv",
        "",
        "out.zip",
        "...zip",
        "..%2f..zip",
    ],
)
def test_no_name_of_a_download_leads_out_of_the_exports(client: Service, name: str) -> None:
    status, answer = raw(client, f"GET /api/download/exports/{name} HTTP/1.1", f"Authorization: Bearer {TOKEN}")
    assert status == 404, answer[:300]
    assert "the secret" not in answer
    assert "root:" not in answer


def test_a_folder_is_given_out_without_what_its_links_lead_to(client: Service) -> None:
    answer = client.get("/api/download/exports/deep.zip", headers=GOOD)
    assert answer.status_code == 200
    assert b"a.csv" in answer.content
    assert b"the secret" not in answer.content


@pytest.mark.parametrize(
    "place",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "local:///etc/passwd",
        "FILE:///etc/passwd",
        "{images}/../secret.csv",
        "{images}/*/../../secret.csv",
        "{images}\x00",
        "/proc/self/environ",
        "http://127.0.0.1:{port}/a.tif",
        "http://[::1]:{port}/a.tif",
        "http://localhost:{port}/a.tif",
        "https://127.0.0.1:{port}/a.tif",
        "http://169.254.169.254/latest/meta-data/",
        "ftp://127.0.0.1:{port}/a.tif",
        "simplecache::http://127.0.0.1:{port}/a.tif",
        "zip://a.tif::file:///etc/passwd",
        "reference://::/etc/passwd",
        "s3://lab/plates/../other/a.tif",
        "s3://lab/plates2/a.tif",
        "s3://lab/plates/a.tif::file:///etc/passwd",
        "github://a:b@main/c",
        "memory://a.tif",
    ],
)
def test_no_place_that_is_not_allowed_is_even_opened(client: Service, home: Path, place: str) -> None:
    project = client.post("/api/projects", json={"name": f"p {place!r}"}, headers=GOOD).json()["id"]
    with socket.create_server(("127.0.0.1", 0)) as inner:
        inner.settimeout(0.01)
        where = place.replace("{port}", str(inner.getsockname()[1])).replace("{images}", str(home.parent / "images"))
        answer = client.post(f"/api/projects/{project}/images", json={"where": [where]}, headers=GOOD)
        with pytest.raises(TimeoutError):
            inner.accept()
    assert answer.status_code in (403, 422)
    assert "root:" not in answer.text


def test_a_link_in_an_allowed_folder_leads_nowhere(client: Service, home: Path) -> None:
    (home.parent / "images" / "link.tif").symlink_to(home.parent / "secret.csv")
    project = client.post("/api/projects", json={"name": "links"}, headers=GOOD).json()["id"]
    answer = client.post(f"/api/projects/{project}/images", json={"where": [str(home.parent / "images" / "link.tif")]}, headers=GOOD)
    assert answer.status_code == 403
    started = client.post(f"/api/projects/{project}/images", json={"where": [str(home.parent / "images")]}, headers=GOOD)
    until, found = time.monotonic() + 60, started.json()
    while found["state"] in ("waiting", "running") and time.monotonic() < until:
        found = client.get(started.headers["location"], headers=GOOD).json()
    assert found["state"] == "failed"
    assert client.get(f"/api/projects/{project}/images", headers=GOOD).json()["total"] == 0


# Headers


@pytest.mark.parametrize(
    "name", ["a\r\nSet-Cookie: x=1", 'a"; filename="b.exe', "a\nb", "\u2028x", "../../a", "a\x00b", "\ud800", "ü\r\n", ""]
)
def test_a_name_ends_no_header(name: str) -> None:
    written = disposition(name)
    assert written.isascii()
    assert written.isprintable()
    assert written.count('"') == 2
    assert "/" not in written.split(";")[1]


def test_nothing_that_is_sent_becomes_a_header(client: Service) -> None:
    for target in (
        "/api/download/exports/a%0d%0aSet-Cookie:%20x=1",
        f"/api/projects%0d%0aSet-Cookie:x=1?token={TOKEN}",
        f"/%0d%0aSet-Cookie:x=1?token={TOKEN}&a=%0d%0aSet-Cookie:x=1",
    ):
        _, answer = raw(client, f"GET {target} HTTP/1.1", f"Authorization: Bearer {TOKEN}", "Accept: text/html", "X-Request-ID: a\tb")
        head = answer.partition("\r\n\r\n")[0].lower()
        assert "\r\nset-cookie: x=1" not in head
        assert "\r\nset-cookie:x=1" not in head
        assert "a\tb" not in head


@pytest.mark.filterwarnings("ignore:.*HTTPServerRequest:DeprecationWarning")
def test_no_other_site_lays_a_page_under_its_own(client: Service) -> None:
    for path in ("/", "/dashboards/queue_status", "/api/projects", "/nothing"):
        for headers in (GOOD, GOOD | {"Accept": "text/html"}):
            assert "frame-ancestors 'self'" in client.get(path, headers=headers).headers["content-security-policy"], path
    login = client.get("/", headers={"Accept": "text/html"})
    assert login.headers["content-security-policy"].startswith("default-src 'none'")


# Ranges


@pytest.mark.parametrize(
    "ranges",
    [
        ",".join(f"{start}-{start}" for start in range(0, 60_000, 2)),
        ",".join(["0-"] * 10_000),
        ",".join(["0-99999"] * MOST_PIECES),
        ",".join(f"0-{stop}" for stop in range(MOST_PIECES)),
        "0-" + "9" * 10_000,
        "9" * 5_000 + "-",
        "-" + "9" * 30,
        "0-0," * 30_000,
        ", ," * 20_000,
        "-0",
        "1-0",
        "a-b",
    ],
    ids=lambda text: text[:12],
)
def test_no_range_costs_more_than_the_file(client: Service, ranges: str) -> None:
    """CVE-2025-62727: many ranges were merged in quadratic time."""
    before = time.process_time()
    status, answer = raw(client, "GET /api/download/exports/good.csv HTTP/1.1", f"Authorization: Bearer {TOKEN}", f"Range: bytes={ranges}")
    assert time.process_time() - before < 5
    assert status in (200, 206, 400, 416, 431)
    assert len(answer) < SIZE + MOST_PIECES * 300


# Error texts


def test_error_texts_are_no_pages(client: Service) -> None:
    for target in (f"/{SCRIPT}", f"/api/projects?limit={SCRIPT}", f"/api/segmenters/{SCRIPT}", f"/api/projects?after={SCRIPT}"):
        for headers in (GOOD, {}):
            answer = client.get(target, headers=headers | {"Accept": "text/html"})
            assert answer.status_code in (400, 401, 404, 422), target
            assert answer.headers["x-content-type-options"] == "nosniff"
            kind = answer.headers["content-type"]
            assert kind == "application/problem+json" or (kind.startswith("text/html") and SCRIPT not in answer.text)


def test_no_answer_tells_a_secret_or_a_place_on_the_disk(client: Service, home: Path) -> None:
    for answer in (
        client.get("/api/download/exports/none.csv", headers=GOOD),
        client.get("/nothing", headers=GOOD),
        client.get("/health", headers=GOOD),
        client.post("/api/projects", json={"name": "\x00"}, headers=GOOD),
        client.get("/api/download/exports/none.csv"),
    ):
        assert TOKEN not in answer.text
        assert str(home.parent) not in answer.text
        assert "Traceback" not in answer.text
