"""Who may in: this machine without ceremony, others with a token, and no other site's pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI
from services import TOKEN, Service, service
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from segkit.errors import SettingsError
from segkit.kit import Kit
from segkit.server import auth
from segkit.server.app import create_app
from segkit.settings import Settings, load

Make = Callable[..., Settings]
PAGE = {"Accept": "text/html,*/*"}


@pytest.fixture(scope="module")
def open_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A client of a service that asks for no token, for tests that change nothing that another sees."""
    with service(load(home=str(tmp_path_factory.mktemp("open")))) as client:
        yield client


@pytest.fixture(scope="module")
def guarded_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A client, without a token, of a service that asks for one."""
    with service(load(home=str(tmp_path_factory.mktemp("guarded")), token=TOKEN)) as client:
        yield client


@pytest.fixture
def guarded(make_settings: Make) -> Settings:
    """Settings of a service that asks for a token."""
    return make_settings("sqlite", token=TOKEN)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Loopback


def test_this_machine_needs_no_token(make_settings: Make) -> None:
    with service(make_settings()) as client:
        assert client.get("/api/projects").status_code == 200
        assert client.post("/api/projects", json={"name": "p"}).status_code == 201


@pytest.mark.parametrize("host", ["localhost:8765", "LOCALHOST", "127.0.0.1:1", "127.8.8.8", "[::1]:8765", "segkit.localhost"])
def test_every_name_of_this_machine_will_do(open_client: Service, host: str) -> None:
    assert open_client.get("/api/projects", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.7:80", "a@127.0.0.1", "[::1", "127.0.0.1:x", ""]
)
def test_a_name_that_somebody_let_point_here_is_refused(open_client: Service, host: str) -> None:
    answer = open_client.get("/api/projects", headers={"Host": host})
    assert answer.status_code in (400, 403)
    assert "segkit" not in answer.text or answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Origin": "http://127.0.0.1:{port}"}, 201),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_another_sites_page_changes_nothing(open_client: Service, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=open_client.port) for name, value in headers.items()}
    name = f"by {headers}"
    assert open_client.post("/api/projects", json={"name": name}, headers=sent).status_code == status
    assert open_client.get("/api/project", params={"name": name}).status_code == (200 if status == 201 else 404)


def test_other_sites_are_allowed_nothing(open_client: Service) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (open_client.options("/api/projects", headers=asked), open_client.get("/api/projects", headers=asked)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_another_sites_page_opens_no_websocket(make_settings: Make) -> None:
    with service(make_settings()) as client:
        add_echo(client.app)
        address = f"ws://127.0.0.1:{client.port}/echo"
        with pytest.raises(Exception, match="403"):
            connect(address, origin="https://evil.example").close()  # type: ignore[arg-type]
        with connect(address, origin=f"http://127.0.0.1:{client.port}") as socket:  # type: ignore[arg-type]
            assert socket.recv() == "write"


def add_echo(app: FastAPI) -> None:
    """Add a WebSocket that tells what was granted."""

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.scope["state"]["scope"])
        await websocket.close()

    app.router.routes.append(WebSocketRoute("/echo", echo))


# Tokens


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(TOKEN[:-1]), {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}]
)
def test_without_a_good_token_nothing_is_told(guarded_client: Service, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MOST_FAILURES", 1000)
    headers = headers | {"X-Forwarded-For": "10.1.1.1"}  # whose failures are no other test's
    paths = ["/", "/api/projects", "/api/openapi.json", "/nothing", "/api/download/runs/1.zip", "/static/x.js", "/%2e%2e/health"]
    answers = [guarded_client.get(path, headers=headers) for path in paths]
    assert {answer.status_code for answer in answers} == {401}
    assert all(answer.headers["www-authenticate"].startswith("Bearer") for answer in answers)
    assert guarded_client.post("/api/projects", json={"name": "p"}, headers=headers).status_code == 401
    with pytest.raises(Exception, match="401"):
        connect(f"ws://127.0.0.1:{guarded_client.port}/echo", additional_headers=headers).close()


@pytest.mark.parametrize("headers", [bearer(TOKEN), {"Authorization": f"token {TOKEN}"}, {"Authorization": f"bearer  {TOKEN}"}])
def test_the_token_of_the_settings_lets_in_with_all_rights(guarded_client: Service, headers: dict[str, str]) -> None:
    assert guarded_client.post("/api/projects", json={"name": f"by {headers}"}, headers=headers).status_code == 201
    add_echo(guarded_client.app)
    with connect(f"ws://127.0.0.1:{guarded_client.port}/echo", additional_headers=headers) as socket:
        assert socket.recv() == "write"


def test_a_token_that_may_read_may_not_write(database_settings: Settings) -> None:
    settings = load(home=database_settings.home, database_url=database_settings.database_url, token=TOKEN)
    with service(settings) as client:
        kit: Kit = client.app.state.kit
        _, reader = kit.new_token("reader")
        _, writer = kit.new_token("writer", "write")
        assert client.post("/api/projects", json={"name": "p"}, headers=bearer(writer)).status_code == 201
        assert client.get("/api/projects", headers=bearer(reader)).json()["total"] == 1
        for answer in (
            client.post("/api/projects", json={"name": "q"}, headers=bearer(reader)),
            client.delete("/api/projects/1?confirm=true", headers=bearer(reader)),
            client.post("/api/projects/1/uploads?name=a.tif", content=b"x", headers=bearer(reader)),
        ):
            assert answer.status_code == 403
            assert "--scope write" in answer.json()["detail"]
        assert client.get("/api/projects", headers=bearer(reader)).json()["total"] == 1


def test_a_revoked_token_is_refused_within_two_seconds(guarded: Settings) -> None:
    with service(guarded) as client:
        kit: Kit = client.app.state.kit
        _, reader = kit.new_token("reader")
        assert client.get("/api/queue", headers=bearer(reader)).status_code == 200
        kit.revoke_token("reader")
        time.sleep(auth.TRUST_SECONDS + 0.1)
        assert client.get("/api/queue", headers=bearer(reader)).status_code == 401


# The link


def test_a_browser_keeps_the_token_of_the_link_as_a_cookie(guarded: Settings) -> None:
    with service(guarded) as client:
        answer = client.get(f"/?token={TOKEN}&x=1", headers=PAGE)
        assert (answer.status_code, answer.headers["location"]) == (303, "/?x=1")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Path=/" in cookie
        assert "Secure" not in cookie  # it came over plain HTTP
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert client.get("/", headers=PAGE).status_code == 200
        assert client.post("/api/projects", json={"name": "p"}).status_code == 201
        assert client.post("/api/projects", json={"name": "q"}, headers={"Origin": "https://evil.example"}).status_code == 403


def test_behind_tls_the_cookie_is_sent_over_tls_alone(guarded_client: Service) -> None:
    answer = guarded_client.get(f"/?token={TOKEN}", headers=PAGE | {"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["set-cookie"]


def test_a_program_may_use_the_link_as_it_is(guarded_client: Service) -> None:
    answer = guarded_client.get(f"/api/projects?limit=5&token={TOKEN}")
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers


def test_a_wrong_link_sets_no_cookie_and_shows_where_to_enter_the_token(guarded_client: Service) -> None:
    answer = guarded_client.get("/dashboards/<script>?token=wrong", headers=PAGE)
    assert answer.status_code == 401
    assert "<form" in answer.text
    assert "<script>" not in answer.text
    assert "set-cookie" not in answer.headers


def test_the_link_leads_to_no_other_site(guarded_client: Service) -> None:
    for path in ("//evil.example/x", "/%5cevil.example", "///evil.example"):
        answer = httpx.get(f"{guarded_client.base_url}{path}?token={TOKEN}", headers=PAGE)
        assert answer.headers["location"].startswith("/")
        assert not answer.headers["location"].startswith(("//", "/\\"))


def test_two_services_of_one_machine_have_two_cookies(make_settings: Make) -> None:
    names = {create_app(make_settings("sqlite", token=TOKEN, server_port=port)).state.access.cookie for port in (8765, 8766)}
    assert len(names) == 2


# Failures


def test_who_fails_too_often_must_wait_and_others_go_on(guarded: Settings) -> None:
    with service(guarded) as client:
        assert client.get("/api/queue", headers=bearer(TOKEN)).status_code == 200
        failed = [client.get("/api/queue", headers=bearer(f"wrong {number}")).status_code for number in range(auth.MOST_FAILURES + 2)]
        assert failed == [401] * auth.MOST_FAILURES + [429] * 2
        answer = client.get("/api/queue", headers=bearer("wrong"))
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/api/queue", headers=bearer(client.app.state.kit.new_token("late")[1])).status_code == 429
        time.sleep(auth.TRUST_SECONDS + 0.1)
        assert client.get("/api/queue", headers=bearer(TOKEN)).status_code == 200  # it was good before
        other = {"X-Forwarded-For": "10.0.0.9", **bearer("wrong")}
        assert client.get("/api/queue", headers=other).status_code == 401  # the proxy on this machine is believed who asks


def test_a_client_that_is_no_trusted_proxy_cannot_say_it_is_somebody_else(make_settings: Make) -> None:
    with service(make_settings("sqlite", token=TOKEN, trusted_proxies="10.9.9.9")) as client:
        failed = [
            client.get("/api/queue", headers=bearer("wrong") | {"X-Forwarded-For": f"10.0.0.{number}"}).status_code
            for number in range(auth.MOST_FAILURES + 1)
        ]
    assert failed[-1] == 429


# Health


def test_this_machine_may_ask_for_health_and_nobody_through_a_proxy(guarded_client: Service) -> None:
    assert guarded_client.get("/health").status_code in (200, 404)
    assert guarded_client.get("/health", headers={"X-Forwarded-For": "10.0.0.9"}).status_code == 401
    assert guarded_client.get("/api/projects", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401


# Rules


@pytest.mark.parametrize(
    ("settings", "required", "exposed"),
    [
        ({}, False, False),
        ({"server_host": "localhost"}, False, False),
        ({"server_host": "::1"}, False, False),
        ({"token": TOKEN}, True, False),
        ({"allowed_hosts": "127.0.0.1, localhost"}, False, False),
        ({"server_host": "0.0.0.0"}, True, True),
        ({"server_host": "192.168.0.7"}, True, True),
        ({"allowed_hosts": "lab.example.org"}, True, True),
    ],
)
def test_what_others_can_reach_asks_for_a_token(settings: dict[str, str], required: bool, exposed: bool) -> None:
    access = auth.access_of(load(**settings))
    assert (access.required, access.exposed) == (required, exposed)
    assert TOKEN not in repr(access)


def test_a_named_service_is_known_by_its_names_alone(make_settings: Make) -> None:
    with service(make_settings("sqlite", token=TOKEN, allowed_hosts="lab.example.org"), **bearer(TOKEN)) as client:
        assert client.get("/api/queue", headers={"Host": "LAB.example.org."}).status_code == 200
        assert client.get("/api/queue", headers={"Host": "evil.example"}).status_code == 403
        page = {"Host": "lab.example.org", "Origin": "https://lab.example.org"}
        assert client.post("/api/projects", json={"name": "p"}, headers=page).status_code == 201


def test_a_short_token_is_refused() -> None:
    with pytest.raises(SettingsError, match="SEGKIT_TOKEN"):
        load(token="secret")


def test_answers_tell_browsers_to_be_careful(open_client: Service) -> None:
    for path in ("/", "/api/projects", "/nothing"):
        headers = open_client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers or "uvicorn" not in headers["server"]
