"""What the routes of the service answer to requests that cannot be."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import orjson
import pytest
from services import Service, service, small_service

from segkit.server import passages
from segkit.settings import Settings

Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with small_service(tmp_path_factory.mktemp("routes")) as client:
        yield client


@pytest.mark.parametrize("value", ["0", "-1", "1001", "1.5", "x", "", "1_0", "１", "1e2", "99999999999999999999999", "%00", "%ff"])
def test_a_limit_that_cannot_be_is_explained(client: Service, value: str) -> None:
    for path in ("/api/projects", "/api/projects/1/images", "/api/runs", "/api/runs/1/jobs", "/api/runs/1/results", "/api/runs/1/objects"):
        answer = client.get(f"{path}?limit={value}")
        assert answer.status_code == 422, (path, value)
        assert answer.json()["errors"][0]["where"] == "query.limit"


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.0", "99999999999999999999", "%00", "..", "%2e%2e", "1%2f..", "%ff", "None", "1;"])
def test_a_number_that_cannot_be_is_explained(client: Service, value: str) -> None:
    for path in (
        "/api/projects/{}",
        "/api/images/{}",
        "/api/runs/{}/jobs",
        "/api/jobs/{}",
        "/api/runs/{}/objects",
        "/api/registrations/{}",
    ):
        answer = client.get(path.format(value))
        assert answer.status_code in (404, 422), (path, value)
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("number", ["99", "9007199254740991"])
def test_what_is_not_there_is_told(client: Service, number: str) -> None:
    for path in ("/api/projects/{}", "/api/projects/{}/images", "/api/projects/{}/runs", "/api/images/{}", "/api/images/{}/results"):
        assert client.get(path.format(number)).status_code == 404
    for path in (
        "/api/runs/{}",
        "/api/runs/{}/progress",
        "/api/runs/{}/jobs",
        "/api/runs/{}/results",
        "/api/runs/{}/objects",
        "/api/jobs/{}",
    ):
        assert client.get(path.format(number)).status_code == 404
    for path in ("/api/runs/{}/cancel", "/api/runs/{}/retry", "/api/jobs/{}/retry", "/api/jobs/{}/cancel", "/api/projects/{}/runs"):
        assert client.post(path.format(number), json={}).status_code == 404


def test_a_cursor_that_was_tampered_with_is_refused(client: Service) -> None:
    cursor = client.get("/api/projects/1/images?limit=1").json()["next"]
    changed = [cursor[:-1], cursor + "A", "B" + cursor[1:], cursor.swapcase(), "x", "a" * 200, "ü", "=" * 8]
    for each in changed:
        answer = client.get("/api/projects/1/images", params={"after": each})
        assert answer.status_code == 400, each
    assert client.get("/api/runs", params={"after": cursor}).status_code == 400
    assert client.get("/api/projects/1/images", params={"after": cursor, "offset": 1}).status_code == 400
    assert client.get("/api/projects/1/images", params={"after": "\0"}).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"name": 1}',
        b'{"name": ""}',
        b'{"name": "a\\u0000b"}',
        b'{"name": "\\ud800"}',
        b'{"name": "a", "nmae": "b"}',
        b'{"name": "a", "exist_ok": "yes"}',
        orjson.dumps({"name": "x" * 201}),
    ],
)
def test_a_body_that_cannot_be_is_explained(client: Service, body: bytes) -> None:
    answer = client.post("/api/projects", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"segmenter": "nucleus"}, 400),
        ({"parameters": {"diametre": 3}}, 400),
        ({"parameters": {"diameter": "wide"}}, 400),
        ({"parameters": {"method": "x"}}, 400),
        ({"parameters": {"self": "x"}}, 400),
        ({"parameters": {"images": [1]}}, 400),
        ({"parameters": {"x\0": 1}}, 422),
        ({"images": [99]}, 400),
        ({"images": []}, 400),
        ({"images": [True]}, 422),
        ({"images": ["1"]}, 422),
        ({"priority": 1001}, 422),
        ({"level": -1}, 422),
        ({"z": -1}, 422),
        ({"channel": 1.5}, 422),
        ({"notebook": "a\0"}, 422),
    ],
)
def test_a_run_that_cannot_be_is_explained(client: Service, body: dict[str, object], status: int) -> None:
    before = client.get("/api/runs").json()["total"]
    answer = client.post("/api/projects/1/runs", json=body)
    assert answer.status_code == status, answer.text
    assert client.get("/api/runs").json()["total"] == before


def test_half_a_surrogate_pair_anywhere_is_refused(client: Service) -> None:
    for body in (
        b'{"parameters": {"diameter": "\\ud800"}}',
        b'{"channel": "\\udfff"}',
        b'{"notebook": "\\ud800"}',
        b'{"segmenter": "\\ud800"}',
    ):
        answer = client.post("/api/projects/1/runs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, body


def test_a_body_that_is_too_large_is_refused(client: Service) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(passages.MOST_JSON_BYTES // 2**20 + 2):
            yield b"x" * 2**20

    assert client.post("/api/projects", content=pieces()).status_code == 413
    assert client.get("/api/projects").status_code == 200


def test_methods_and_paths_that_are_not_there_are_told(client: Service) -> None:
    answer = client.put("/api/projects/1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    for path in ("/nothing", "/api", "/api/projects/", "/api//projects", "/api/projects/1/../../etc", "/%2e%2e/%2e%2e/etc/passwd"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["detail"]


def test_head_is_get_without_its_body(client: Service) -> None:
    got, asked = client.get("/api/projects"), client.head("/api/projects")
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["etag"] == got.headers["etag"]
    assert client.head("/api/runs/1/objects?format=csv").content == b""
    assert client.head("/nothing").status_code == 404


def test_a_client_that_hangs_up_disturbs_nobody(client: Service) -> None:
    for request in (b"GET /api/runs/1/objects?format=csv HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /api/pro", b"\0\1\2\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", client.port)) as wire:
            wire.sendall(request)
    assert client.get("/api/projects").status_code == 200


@pytest.mark.parametrize("stripped", [True, False])
def test_under_a_prefix_everything_is_found(make_settings: Make, stripped: bool) -> None:
    with service(make_settings("sqlite", server_root_path="/user/me/segkit")) as client:
        root = "" if stripped else "/user/me/segkit"
        assert client.get(f"{root}/api/projects").json()["total"] == 0
        assert client.get(f"{root}/").status_code == 200
        assert 'href="/user/me/segkit/api/openapi.json"' in client.get(f"{root}/").text
        client.post(f"{root}/api/projects", json={"name": "p"})
        begun = client.post(f"{root}/api/projects/1/images", json={"where": ["/nowhere/x.tif"]})
        assert begun.headers["location"] == "/user/me/segkit/api/registrations/1"
