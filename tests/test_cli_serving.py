"""`segkit serve` and `segkit token`, as processes; and the tile in JupyterLab's launcher, through a real jupyter-server-proxy."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from plates import write_plate
from services import TOKEN
from test_cli import command_in

from segkit.errors import PortTakenError, SettingsError
from segkit.server import launcher
from segkit.server.serving import link_of, listen, make_home, with_token
from segkit.settings import load, process_environment


@contextmanager
def serving(home: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `segkit serve`; gives the process and the link that it prints."""
    command = [sys.executable, "-m", "segkit", "serve", "--home", str(home), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=process_environment(**variables), cwd=home.parent
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + (process.stderr.read() if process.stderr and process.poll() is not None else "")
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


def children(process: int) -> list[int]:
    """Processes that a process started, from whatever thread."""
    return [int(each) for thread in Path(f"/proc/{process}/task").iterdir() for each in (thread / "children").read_text().split()]


def is_gone(process: int) -> bool:
    """Whether a process has ended, perhaps without anybody having looked."""
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that must come to be so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_prints_its_link_works_jobs_off_and_ends_in_order(tmp_path: Path) -> None:
    """With the embedded database nobody has to start a worker; and it ends with the service."""
    home, plate = tmp_path / "home", write_plate(tmp_path / "plate", [1, 2])
    with serving(home, "--port", "0", SEGKIT_CLUSTER="threads", SEGKIT_POLL_SECONDS="0.1") as (process, link):
        with httpx.Client(base_url=link, timeout=30) as client:
            assert client.get("api/projects").json() == {"items": [], "total": 0, "next": None}
            project = f"api/projects/{client.post('api/projects', json={'name': 'plate'}).json()['id']}"
            client.post(f"{project}/images", json={"where": [str(plate)]})
            wait_until(lambda: client.get(project).json()["images"] == 2)
            run = client.post(f"{project}/runs", json={"segmenter": "threshold"}).json()
            wait_until(lambda: client.get(f"api/runs/{run['id']}").json()["done"] == 2)
        (worker,) = children(process.pid)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=40)
        assert time.monotonic() - started < 20
        assert is_gone(worker)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in out + err


def test_a_new_service_makes_its_home(tmp_path: Path) -> None:
    """Beside PostgreSQL nothing else does, and `/health` would say that it is gone."""
    home = tmp_path / "new" / "home"
    make_home(load(home=str(home)))
    assert home.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="no folder"):
        make_home(load(home=str(tmp_path / "file" / "home")))


@pytest.mark.slow
def test_others_need_the_token_that_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the worker ends even when the service is killed."""
    home = tmp_path / "home"
    segkit = command_in(tmp_path, capsys)
    with serving(home, "--port", "0", "--host", "0.0.0.0", SEGKIT_CLUSTER="threads", SEGKIT_POLL_SECONDS="0.1") as (process, link):
        (worker,) = children(process.pid)
        token = link.partition("?token=")[2]
        port = re.search(r":(\d+)/", link)
        assert port is not None
        address = f"http://127.0.0.1:{port[1]}/api/projects"
        assert len(token) > 40
        assert httpx.get(address).status_code == 401
        assert httpx.get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        made = json.loads(segkit("token", "create", "reader", "--json", "--home", home).stdout)
        headers = {"Authorization": f"Bearer {made['token']}"}
        assert httpx.get(address, headers=headers).status_code == 200
        assert httpx.post(address, headers=headers, json={"name": "p"}).status_code == 403
        listed = segkit("token", "list", "--home", home).stdout
        assert "reader" in listed
        assert made["token"] not in listed
        assert segkit("token", "revoke", "reader", "--home", home).returncode == 1  # it asks, and nobody is there to answer
        assert segkit("token", "revoke", "reader", "--yes", "--home", home).returncode == 0
        time.sleep(2.1)
        assert httpx.get(address, headers=headers).status_code == 401
        process.kill()
        wait_until(lambda: is_gone(worker))


def test_a_token_that_was_chosen_is_not_told() -> None:
    chosen = load(server_host="0.0.0.0", token=TOKEN)
    assert TOKEN not in link_of(chosen, None, secret=False)
    assert TOKEN in link_of(chosen, None, secret=True)


def test_a_taken_port_is_another_on_loopback_and_an_error_elsewhere() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listen(load(server_port=port), may_move=True) as other:
            assert other.getsockname()[1] not in (0, port)
        with pytest.raises(PortTakenError, match=str(port)):
            listen(load(server_port=port), may_move=False)


def test_a_token_is_made_where_one_is_needed_and_none_was_set() -> None:
    assert with_token(load(), None) == (load(), False)
    settings, made = with_token(load(server_host="0.0.0.0"), None)
    assert made
    assert settings.token is not None
    chosen = load(server_host="0.0.0.0", token=TOKEN)
    assert with_token(chosen, None) == (chosen, False)


def test_the_launcher_gives_its_token_to_the_service_and_the_proxy_alone() -> None:
    first, second = launcher.launch(), launcher.launch()
    assert first["environment"] != second["environment"]
    assert first["request_headers_override"] == {"Authorization": f"Bearer {first['environment']['SEGKIT_TOKEN']}"}
    assert not any(first["environment"]["SEGKIT_TOKEN"] in part for part in first["command"])  # every user sees commands
    assert Path(first["launcher_entry"]["icon_path"]).read_text().startswith("<svg")


@pytest.mark.slow
def test_jupyter_shows_the_service_under_its_prefix(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(
        "from segkit.server.launcher import launch\n"
        "tile = launch()\n"
        "tile['command'].append('--no-work')\n"
        "c.ServerProxy.servers = {'segkit': tile}\n"
        f"c.IdentityProvider.token = {TOKEN!r}\n"
        "c.ServerApp.base_url = '/user/me/'\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter_server", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--allow-root"]
    environment = process_environment(
        SEGKIT_HOME=str(tmp_path / "home"), JUPYTER_CONFIG_DIR=str(tmp_path), JUPYTER_RUNTIME_DIR=str(tmp_path)
    )
    options = [f"--config={tmp_path / 'config.py'}", "--no-browser", f"--ServerApp.root_dir={tmp_path}"]
    jupyter = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    root = f"http://127.0.0.1:{port}/user/me"
    try:
        with httpx.Client(headers={"Authorization": f"token {TOKEN}"}, timeout=60) as client:
            for _ in range(1800):
                try:
                    client.get(f"{root}/api/status")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            assert client.get(f"{root}/segkit/api/projects").json() == {"items": [], "total": 0, "next": None}
            assert 'href="/user/me/segkit/api/openapi.json"' in client.get(f"{root}/segkit/").text
            made = client.post(f"{root}/segkit/api/projects", json={"name": "p"})
            assert made.status_code == 201
            page = {"Origin": "https://evil.example"}
            assert client.post(f"{root}/segkit/api/projects", json={"name": "q"}, headers=page).status_code == 403
        assert httpx.get(f"{root}/segkit/api/projects").status_code in (302, 403)
    finally:
        jupyter.send_signal(signal.SIGTERM)
        try:
            jupyter.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            jupyter.kill()
            jupyter.communicate()
