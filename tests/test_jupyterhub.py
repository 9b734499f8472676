"""The service as one of a real JupyterHub's, which starts it, logs its users in, and says who may use it.

The Hub's usual proxy is a program of Node; here one of a few lines stands before Hub and service, with the two routes that it would have.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from services import running

import segkit
from tests.browser import free_port

pytest.importorskip("jupyterhub", reason='skipped: no JupyterHub; pip install "segkit[dev]"')
pytestmark = pytest.mark.slow
PREFIX, PASSWORD, ADMIN = "/services/segkit", "correct horse", "a-token-of-the-one-who-runs-the-hub"
STARTS_WITHIN = 90.0
CONFIG = """
from jupyterhub.proxy import Proxy

class Standing(Proxy):
    "Another proxy stands before the Hub, with routes that never change."
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {{}}

c = get_config()
c.JupyterHub.proxy_class = Standing
c.JupyterHub.bind_url = "http://127.0.0.1:{front}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/secret"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{password}"
c.Authenticator.allowed_users = {{"ada", "bob"}}
c.JupyterHub.services = [
    {{"name": "segkit", "url": "http://127.0.0.1:{service}", "oauth_no_confirm": True,
      "command": ["{python}", "-m", "segkit", "serve", "--home", "{folder}/home"]}},
    {{"name": "admin", "api_token": "{admin}"}},
]
c.JupyterHub.load_roles = [
    {{"name": "segmenters", "users": ["ada"], "scopes": ["access:services!service=segkit"]}},
    {{"name": "admins", "services": ["admin"], "scopes": ["tokens", "admin:users"]}},
]
"""


@dataclass(frozen=True)
class Hub:
    """A running Hub with its service, and the address at which both are."""

    url: str
    api: str

    def token_of(self, user: str) -> str:
        """Make a token with all that the user may."""
        answer = httpx.post(f"{self.api}/users/{user}/tokens", headers={"Authorization": f"token {ADMIN}"}, json={})
        answer.raise_for_status()
        return str(answer.json()["token"])

    def logged_in(self, user: str) -> tuple[httpx.Client, httpx.Response]:
        """Open the service's page as a browser does that nobody has logged in, and log in as asked; returns where that leads."""
        client = httpx.Client(base_url=self.url, headers={"Accept": "text/html"}, follow_redirects=True, timeout=30)
        page = client.get(f"{PREFIX}/")
        assert "/hub/login" in str(page.url), page.text[:500]
        form = {"username": user, "password": PASSWORD, "_xsrf": client.cookies.get("_xsrf", path="/hub/") or ""}
        target = re.search(r'<form[^>]*action="([^"]+)"', page.text)
        assert target is not None
        return client, client.post(target[1].replace("&amp;", "&"), data=form)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("jupyterhub")
    ports = {"hub": free_port(), "service": free_port()}
    with running(front_of(f"http://127.0.0.1:{ports['hub']}", f"http://127.0.0.1:{ports['service']}")) as url:
        config = CONFIG.format(**ports, front=httpx.URL(url).port, folder=folder, password=PASSWORD, admin=ADMIN, python=sys.executable)
        (folder / "config.py").write_text(config)
        api = f"http://127.0.0.1:{ports['hub']}/hub/api"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGKIT_")}
        with open(folder / "hub.log", "wb") as log:
            command = [sys.executable, "-m", "jupyterhub", "-f", "config.py"]
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        try:
            wait_for(api, f"http://127.0.0.1:{ports['service']}{PREFIX}/health", process, folder / "hub.log")
            yield Hub(url, api)
        finally:
            process.terminate()
            process.wait(30)


def wait_for(hub: str, service: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until both answer."""
    until = time.monotonic() + STARTS_WITHIN
    for url in (hub, service):
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, f"{url} does not answer: {log.read_text()[-3000:]}"
            try:
                httpx.get(url, timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.2)


def front_of(hub: str, service: str) -> FastAPI:
    """Return a proxy with the two routes of the Hub's own."""
    app = FastAPI(openapi_url=None)
    app.state.settings = type("Settings", (), {"trusted_proxies": ()})

    async def pass_on(request: Request) -> Response:
        target = service if request.url.path.startswith(PREFIX) else hub
        headers = [(name, value) for name, value in request.headers.raw if name != b"accept-encoding"]
        query = f"?{request.url.query}" if request.url.query else ""
        asked = httpx.Request(request.method, f"{target}{request.url.path}{query}", headers=headers, content=await request.body())
        async with httpx.AsyncClient(follow_redirects=False, timeout=30) as client:
            answer = await client.send(asked)
        response = Response(answer.content, answer.status_code)
        response.raw_headers = [each for each in answer.headers.raw if each[0].lower() not in (b"transfer-encoding", b"connection")]
        return response

    app.add_route("/{path:path}", pass_on, methods=["GET", "POST", "HEAD"])
    return app


def test_a_user_is_logged_in_by_the_hub_and_comes_back_to_the_service(hub: Hub) -> None:
    client, page = hub.logged_in("ada")
    with closing(client):
        assert page.status_code == 200, page.text[:500]
        assert page.url.path == f"{PREFIX}/"
        assert "segkit" in page.text
        assert client.get(f"{PREFIX}/api/projects", headers={"Accept": "application/json"}).json()["total"] == 0
        made = client.post(f"{PREFIX}/api/projects", json={"name": "plate"}, headers={"Origin": hub.url})
        assert made.status_code == 201, made.text


def test_a_user_who_may_not_use_the_service_is_told_so(hub: Hub) -> None:
    client, page = hub.logged_in("bob")
    with closing(client):
        assert page.status_code == 403
        answer = client.get(f"{PREFIX}/api/projects", headers={"Accept": "application/json"}, follow_redirects=False)
        assert answer.status_code == 401


def test_nobody_comes_in_without_the_hub(hub: Hub) -> None:
    answer = httpx.get(f"{hub.url}{PREFIX}/api/projects")
    assert answer.status_code == 401
    assert httpx.get(f"{hub.url}{PREFIX}/api/projects", headers={"Authorization": "token made-up"}).status_code == 401


def test_a_script_opens_the_kit_with_a_token_of_the_hub(hub: Hub) -> None:
    with segkit.open(f"{hub.url}{PREFIX}", token=hub.token_of("ada")) as kit:
        kit.project("from a script", create=True)
        assert "from a script" in [project.name for project in kit.projects().items]
    refused = httpx.get(f"{hub.url}{PREFIX}/api/projects", headers={"Authorization": f"token {hub.token_of('bob')}"})
    assert refused.status_code in (401, 403)
