"""The service as one of JupyterHub's: its OAuth, against a small HTTP server that answers as the Hub documents it, so that it can fail.

A real Hub is in `test_jupyterhub.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import pytest
from services import Service, service

from segkit import settings as settings_module
from segkit.errors import SettingsError
from segkit.server import hub as hub_module
from segkit.server.serving import link_of, placed
from segkit.settings import Hub, load

PREFIX = "/services/segkit"
PAGE = {"Accept": "text/html"}
SECRET = "the-services-own-api-token"
#: Tokens of users, and their scopes.
USERS = {
    "ada": ["access:services!service=segkit"],
    "bob": ["access:services!service=other"],
    "root": ["access:services"],
}


class FakeHub(ThreadingHTTPServer):
    """Answers `POST /hub/api/oauth2/token` and `GET /hub/api/user`; the code of a user is his name."""

    asked: list[str]
    broken = False


class Answers(BaseHTTPRequestHandler):
    server: FakeHub

    def do_POST(self) -> None:
        form = {name: values[0] for name, values in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        wanted = {"client_id": "service-segkit", "client_secret": SECRET, "grant_type": "authorization_code"}
        good = wanted.items() <= form.items() and form["redirect_uri"] == f"{PREFIX}/oauth_callback" and form["code"] in USERS
        self.answer(200, {"access_token": form["code"], "token_type": "Bearer"}) if good else self.answer(400, {"error": "invalid_grant"})

    def do_GET(self) -> None:
        kind, _, token = self.headers["Authorization"].partition(" ")
        known = kind == "token" and token in USERS and self.path == "/hub/api/user"
        self.answer(200, {"name": token, "kind": "user", "scopes": USERS[token]}) if known else self.answer(403, {"message": "no"})

    def answer(self, status: int, document: dict[str, Any]) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = orjson.dumps(document)
        self.send_response(500 if self.server.broken else status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    server = FakeHub(("127.0.0.1", 0), Answers)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def variables(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Hub sets for its services."""
    given = {
        "SERVICE_NAME": "segkit",
        "API_TOKEN": SECRET,
        "API_URL": f"http://127.0.0.1:{fake_hub.server_port}/hub/api",
        "BASE_URL": "/",
        "SERVICE_PREFIX": f"{PREFIX}/",
        "SERVICE_URL": "http://127.0.0.1:10101",
        "CLIENT_ID": "service-segkit",
        "OAUTH_CALLBACK_URL": f"{PREFIX}/oauth_callback",
        "OAUTH_ACCESS_SCOPES": '["access:services!service=segkit"]',
    }
    for name, value in given.items():
        monkeypatch.setenv(f"JUPYTERHUB_{name}", value)


@pytest.fixture
def client(variables: None, tmp_path: Path) -> Iterator[Service]:
    with service(load(home=str(tmp_path / "home")), settings_module.hub()) as client:
        yield client


def log_in(client: Service, user: str) -> httpx.Response:
    """Do what a browser does: open the page, go to the Hub, come back with a code."""
    sent = client.get(f"{PREFIX}/api/projects", headers=PAGE)
    assert sent.status_code == 302
    where = urlsplit(sent.headers["location"])
    asked = {name: values[0] for name, values in parse_qs(where.query).items()}
    assert where.path == "/hub/api/oauth2/authorize"
    assert asked | {"state": ""} == {
        "client_id": "service-segkit",
        "redirect_uri": f"{PREFIX}/oauth_callback",
        "response_type": "code",
        "state": "",
    }
    return client.get(f"{PREFIX}/oauth_callback", params={"code": user, "state": asked["state"]}, headers=PAGE)


@pytest.mark.parametrize("user", ["ada", "root"])
def test_a_browser_logs_in_through_the_hub(client: Service, fake_hub: FakeHub, user: str) -> None:
    answer = log_in(client, user)
    assert (answer.status_code, answer.headers["location"]) == (302, f"{PREFIX}/api/projects")
    cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith(f"{hub_module.COOKIE}="))
    assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", f"Path={PREFIX}"))
    assert client.get(f"{PREFIX}/api/projects").status_code == 200
    assert client.post(f"{PREFIX}/api/projects", json={"name": "p"}).status_code == 201
    assert fake_hub.asked == ["POST /hub/api/oauth2/token", "GET /hub/api/user"]  # not once for each request


def test_a_user_without_access_stays_out(client: Service) -> None:
    answer = log_in(client, "bob")
    assert answer.status_code == 403
    assert "may not use this service" in answer.json()["detail"]
    assert client.get(f"{PREFIX}/api/projects").status_code == 401


@pytest.mark.parametrize("change", [{"state": "forged"}, {"state": ""}, {"code": "nobody"}])
def test_a_forged_return_is_refused(client: Service, change: dict[str, str]) -> None:
    sent = client.get(f"{PREFIX}/", headers=PAGE)
    state = parse_qs(urlsplit(sent.headers["location"]).query)["state"][0]
    answer = client.get(f"{PREFIX}/oauth_callback", params={"code": "ada", "state": state} | change)
    assert answer.status_code == 403
    assert client.get(f"{PREFIX}/api/projects").status_code == 401


def test_a_return_that_this_browser_did_not_ask_for_is_refused(client: Service) -> None:
    sent = client.get(f"{PREFIX}/", headers=PAGE)
    state = parse_qs(urlsplit(sent.headers["location"]).query)["state"][0]
    client.cookies.clear()
    assert client.get(f"{PREFIX}/oauth_callback", params={"code": "ada", "state": state}).status_code == 403


def test_programs_send_a_token_of_the_hub(client: Service) -> None:
    for token, status in (("ada", 200), ("bob", 401), ("nobody", 401)):
        assert client.get(f"{PREFIX}/api/queue", headers={"Authorization": f"token {token}"}).status_code == status


def test_a_hub_that_does_not_answer_lets_nobody_in(client: Service, fake_hub: FakeHub) -> None:
    fake_hub.broken = True
    answer = client.get(f"{PREFIX}/api/queue", headers={"Authorization": "token ada"})
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    fake_hub.broken = False
    assert client.get(f"{PREFIX}/api/queue", headers={"Authorization": "token ada"}).status_code == 200


def test_the_service_listens_where_the_hub_expects_it(variables: None) -> None:
    hub = settings_module.hub()
    assert isinstance(hub, Hub)
    assert SECRET not in repr(hub)
    settings = placed(load(), hub)
    assert (settings.server_host, settings.server_port) == ("127.0.0.1", 10101)
    assert link_of(settings, hub, secret=False) == f"http://127.0.0.1:10101{PREFIX}/"


def test_somebodys_jupyterlab_at_a_hub_is_no_service(variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_NAME")
    assert settings_module.hub() is None


def test_half_a_set_of_variables_is_an_error(variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN")
    with pytest.raises(SettingsError, match="JUPYTERHUB_API_TOKEN"):
        settings_module.hub()
