"""Voila and `panel serve` as real processes, started as a lab starts them: what they show, to whom, and that nobody runs code by them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from bokeh.util.token import generate_jwt_token
from browser import ROOT, Server, free_port, serving
from notebook_files import write_notebook
from services import TOKEN
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from segkit.cli.dashboards import command_of, voila
from segkit.dashboards import mounting
from segkit.errors import SettingsError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore::ResourceWarning")]

SCRIPT = '"><script>alert(1)</script>'
EVIL = "evil.example"
PAGE = "/voila/render/queue_status.ipynb"
#: Fewer warm kernels are enough here; all else is as conf/voila.json says.
ONE, NONE = ({"VoilaKernelManager": {"kernel_pools_config": {"default": {"pool_size": number}}}} for number in (1, 0))
NO_SUCH_KERNEL = "00000000-0000-0000-0000-000000000000"
DASHBOARDS = ("queue_status", "results", "performance")
#: Only a page that is shown has this; what is refused is a line of text.
SHOWN = "Skip to the content"


@dataclass
class Alone:
    """A running server that has no login of its own."""

    url: str
    folder: Path
    process: psutil.Process

    @property
    def netloc(self) -> str:
        return self.url.removeprefix("http://")

    def status(self, target: str, host: str | None = None, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Ask for a target as it is written, by any name; returns the status and all that was answered, from head to end."""
        name, _, port = self.netloc.partition(":")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or self.netloc}", "Connection: close", "Content-Length: 0"]
        lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
        with socket.create_connection((name, int(port)), timeout=60) as connection:
            connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")
        return int(answer.split(" ")[1]), answer

    def socket(self, path: str, origin: str | None = None, host: str | None = None, **options: Any) -> ClientConnection:
        """Open a WebSocket as a page of this origin does that has asked for this name."""
        name, _, port = self.netloc.partition(":")
        there = socket.create_connection((name, int(port)), timeout=60)
        given = Origin(origin) if origin else None
        return connect(f"ws://{host or self.netloc}{path}", sock=there, origin=given, compression=None, **options)

    def opens(self, path: str, origin: str | None = None, host: str | None = None, **options: Any) -> int:
        """Return with which status a WebSocket is opened or refused."""
        try:
            with self.socket(path, origin, host, **options):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    def rebound(self) -> str:
        """Return the name that another site has let point here, with the port that its page must then have."""
        return f"{EVIL}:{self.netloc.rpartition(':')[2]}"

    def listening(self) -> set[str]:
        """Return the addresses on which it and its kernels listen."""
        family = [self.process, *self.process.children(recursive=True)]
        return {each.laddr.ip for one in family for each in one.net_connections() if each.status == psutil.CONN_LISTEN}


@contextmanager
def started(folder: Path, port: int, command: list[str], ready: str, warm: Any = ONE, **settings: str) -> Iterator[Alone]:
    """Run a server of this port until the block ends."""
    (folder / ".jupyter_config_dir").mkdir(parents=True)
    (folder / ".jupyter_config_dir" / "voila.json").write_text(json.dumps(warm))
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # of this process alone, not of those that tests start later
            for name, value in settings.items():
                patch.setenv(name, value)
            server = stack.enter_context(serving(command, folder, port, ready))
        yield Alone(server.url, folder, process_of(server, port))


def process_of(server: Server, port: int) -> psutil.Process:
    for each in psutil.Process().children():
        if f"--port={port}" in each.cmdline() or str(port) in each.cmdline():
            return each
    raise AssertionError(f"{server.url} has no process")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """Voila as `segkit voila` starts it."""
    folder, port = tmp_path_factory.mktemp("voila"), free_port()
    command = ["segkit", "voila", "--no-open", "--port", str(port), "--home", str(folder / "home")]
    with started(folder, port, command, "/") as server:
        yield server


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """The same where SEGKIT_TOKEN is set."""
    folder, port = tmp_path_factory.mktemp("asking"), free_port()
    command = ["segkit", "voila", "--no-open", "--port", str(port), "--home", str(folder / "home")]
    with started(folder, port, command, "/login", NONE, SEGKIT_TOKEN=TOKEN) as server:
        yield server


@contextmanager
def panel(folder: Path, *options: str, names: tuple[str, ...] = DASHBOARDS, **settings: str) -> Iterator[Alone]:
    """Run `panel serve` as the heads of the files say."""
    port = free_port()
    files = [str(ROOT / "dashboards" / f"{name}.py") for name in names]
    command = ["panel", "serve", *options, "--port", str(port), *files]
    with started(folder, port, command, "/static/js/bokeh.min.js", SEGKIT_HOME=str(folder / "home"), **settings) as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    with panel(tmp_path_factory.mktemp("panel"), "--address", "127.0.0.1") as server:
        yield server


@pytest.fixture(scope="module")
def kernel(seen: Alone) -> str:
    """The kernel of a page that was opened."""
    page = httpx.get(f"{seen.url}{PAGE}", timeout=120)
    assert page.status_code == 200
    found = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", page.text)
    assert found
    return found[0]


# Voila


def test_voila_and_its_kernels_listen_on_this_machine_alone(seen: Alone, kernel: str) -> None:
    assert len(seen.process.children(recursive=True)) >= 2, "kernels"
    assert seen.listening() == {"127.0.0.1"}


@pytest.mark.parametrize("path", ["/", "/voila/tree", PAGE, "/voila/api/contents", f"/api/kernels/{NO_SUCH_KERNEL}"])
def test_voila_answers_to_no_name_but_this_machines(seen: Alone, path: str) -> None:
    """DNS rebinding: a page of another site, whose name points here now, could read everything and press every button."""
    for host in (EVIL, seen.rebound(), f"127.0.0.1.{EVIL}", "10.0.0.7"):
        status, answer = seen.status(path, host)
        assert status == 403, host
        assert "queue_status.ipynb" not in answer


def test_voila_opens_sockets_to_its_own_pages_alone(seen: Alone, kernel: str) -> None:
    channels = f"/api/kernels/{kernel}/channels?session_id=x"
    for path in (channels, f"/voila/query/{kernel}"):
        for origin in (f"http://{EVIL}", "null", f"http://{seen.netloc}.{EVIL}", "http://127.0.0.1:1"):
            assert seen.opens(path, origin) == 403, origin
    assert seen.opens(channels, f"http://{seen.rebound()}", seen.rebound()) == 403
    assert seen.opens(f"/api/kernels/{NO_SUCH_KERNEL}/channels", seen.url) == 404
    assert seen.opens(channels, seen.url) == 101


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/api",
            "/api/kernels",
            "/api/contents",
            "/api/contents/queue_status.ipynb",
            "/api/sessions",
            "/api/terminals",
            "/api/kernelspecs",
        ),
        *("/api/status", "/api/me", "/api/config/x", "/api/shutdown", "/files/queue_status.ipynb", "/notebooks/queue_status.ipynb"),
        *("/lab", "/tree", "/terminals/websocket/1", "/proxy/22/", "/scheduler/jobs", "/nbconvert/html/queue_status.ipynb"),
        "/voila/execution/x",
    ],
)
def test_voila_is_no_jupyter_server(seen: Alone, path: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        assert seen.status(path, method=method)[0] in (404, 405), method


def test_voila_gives_out_names_of_dashboards_and_no_sources(seen: Alone) -> None:
    listed = httpx.get(f"{seen.url}/voila/api/contents").json()
    assert {each["name"] for each in listed["content"]} == {path.name for path in (ROOT / "dashboards").glob("*.ipynb")}
    assert httpx.get(f"{seen.url}/voila/api/contents/queue_status.ipynb").json()["content"] is None
    for name in ("queue_status.ipynb", "queue_status.py", "results.py", "../conf/voila.json", "..%2fdocs%2fx.png", ".jupyter/x.png"):
        assert seen.status(f"/voila/files/{name}")[0] in (403, 404), name


@pytest.mark.parametrize(
    "name",
    [
        "../notebooks/{name}",
        "%2e%2e/notebooks/{name}",
        "..%2fnotebooks%2f{name}",
        "..%5cnotebooks%5c{name}",
        "%2f{folder}/{name}",
        "/{folder}/{name}",
        "../../../../../../../..{folder}/{name}",
        "..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{folder}/{name}",
        "queue_status.ipynb/../../notebooks/{name}",
        "queue_status.ipynb%00/../{name}",
        "file://{folder}/{name}",
        "http://{evil}/{name}",
        "~root/{name}",
        "none.ipynb",
    ],
)
def test_no_notebook_but_the_dashboards_is_run(seen: Alone, tmp_path: Path, name: str) -> None:
    """Neither what lies elsewhere nor what ships for people to run: a page is run by whoever opens it."""
    mark = tmp_path / "ran"
    write_notebook(tmp_path / "mark.ipynb", f"open({str(mark)!r}, 'w')")
    named = "segment_images.ipynb" if "notebooks" in name else "mark.ipynb"
    kernels = len(seen.process.children())
    status, answer = seen.status(f"/voila/render/{name.format(name=named, folder=tmp_path, evil=EVIL)}")
    assert status in (400, 403, 404), answer[:500]
    assert len(seen.process.children()) == kernels, "no kernel was started for it"
    assert not mark.exists()


def test_an_address_chooses_neither_template_nor_theme(seen: Alone) -> None:
    """A theme of an address was written into the page as it stood there, and so ran as a script."""
    page = httpx.get(f"{seen.url}{PAGE}", params={"theme": SCRIPT, "template": "base", "x": SCRIPT}, timeout=120)
    assert page.status_code == 200
    assert SCRIPT not in page.text
    assert "The server is not reachable" in page.text, "it is of our template"
    for path in ("/voila/tree", f"/voila/render/{SCRIPT}.ipynb", f"/voila/tree/{SCRIPT}", f"/voila/api/themes/{SCRIPT}"):
        assert SCRIPT not in httpx.get(f"{seen.url}{path}", params={"theme": SCRIPT, "classic-tree": "true"}).text, path


def test_a_page_may_speak_with_its_widgets_and_run_nothing(seen: Alone, kernel: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    run = {"code": f"open({str(mark)!r}, 'w')", "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    asked = [("execute_request", run, channel) for channel in ("shell", "control")]
    asked += [("inspect_request", {"code": "kit", "cursor_pos": 1, "detail_level": 1}, "shell")]
    asked += [("complete_request", {"code": "kit.", "cursor_pos": 4}, "shell"), ("input_reply", {"value": "x"}, "stdin")]
    asked += [("history_request", {"hist_access_type": "tail", "n": 9, "output": True, "raw": True}, "shell")]
    asked += [("debug_request", {"type": "request", "seq": 1, "command": "initialize", "arguments": {}}, "control")]
    asked += [("kernel_info_request", {}, "shell")]
    told: set[str] = set()
    with seen.socket(f"/api/kernels/{kernel}/channels?session_id=x", seen.url) as speaking:
        for kind, content, channel in asked:
            header = {"msg_id": uuid.uuid4().hex, "session": "x", "username": "", "date": "", "msg_type": kind, "version": "5.3"}
            message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel, "buffers": []}
            speaking.send(json.dumps(message))
        while "kernel_info_reply" not in told:
            told.add(json.loads(speaking.recv(60))["msg_type"])
        with suppress(TimeoutError):  # what comes later
            while True:
                told.add(json.loads(speaking.recv(1))["msg_type"])
    assert told <= {"kernel_info_reply", "status", "comm_msg"}, "widgets may tell their news meanwhile"
    assert not mark.exists()


def test_browsers_are_told_what_not_to_do_with_voilas_pages(seen: Alone) -> None:
    for path in ("/", PAGE, "/voila/api/contents", "/voila/render/none.ipynb"):
        given = httpx.get(f"{seen.url}{path}", timeout=120).headers
        assert given["x-content-type-options"] == "nosniff"
        assert given["content-security-policy"].startswith("frame-ancestors 'self'; base-uri 'self'; object-src 'none'")
        assert (given["referrer-policy"], given["cross-origin-opener-policy"]) == ("same-origin", "same-origin")
        assert not [name for name in given if name.startswith("access-control")]


# Voila where a token is set


@pytest.mark.parametrize(
    "path", ["/", "/voila/tree", PAGE, "/voila/render/performance.ipynb", "/voila/api/contents", f"/api/kernels/{NO_SUCH_KERNEL}"]
)
def test_where_a_token_is_set_voila_shows_nothing_without_it(asking: Alone, path: str) -> None:
    kernels = len(asking.process.children())
    for headers in ({}, {"Authorization": "token wrong"}, {"Authorization": f"Bearer {TOKEN}x"}, {"Cookie": "username=x"}):
        refused = httpx.get(f"{asking.url}{path}", headers=headers)
        assert refused.status_code == 403 or (refused.status_code == 302 and refused.headers["location"].startswith("/login?")), headers
        assert "kernelId" not in refused.text
    assert len(asking.process.children()) == kernels, "no kernel was started for it"


def test_where_a_token_is_set_nobody_reaches_a_kernel_without_it(asking: Alone) -> None:
    """Whether there is such a kernel is not even looked at: with the token it is not found, without it nobody is told."""
    for headers, status in (({}, 403), ({"Authorization": "token wrong"}, 403), ({"Authorization": f"token {TOKEN}"}, 404)):
        channels = f"/api/kernels/{NO_SUCH_KERNEL}/channels"
        assert asking.opens(channels, asking.url, additional_headers=headers) == status
        assert httpx.delete(f"{asking.url}/api/kernels/{NO_SUCH_KERNEL}", headers=headers).status_code == status
        assert httpx.get(f"{asking.url}/voila/render/none.ipynb", headers=headers).status_code == (302 if status == 403 else 404)
    for headers in ({}, {"Authorization": "token wrong"}):
        assert httpx.post(f"{asking.url}/voila/api/shutdown/{NO_SUCH_KERNEL}", headers=headers).status_code == 403


def test_with_the_token_it_shows_them_and_tells_it_to_nobody(asking: Alone) -> None:
    with httpx.Client(base_url=asking.url, follow_redirects=True, timeout=120) as person:
        assert "queue_status" in person.get("/voila/api/contents", params={"token": TOKEN}).text
        assert person.get("/voila/api/contents").status_code == 200, "a cookie was set"
        assert TOKEN not in str(person.cookies.jar)
    assert TOKEN not in " ".join(asking.process.cmdline())
    assert TOKEN not in (asking.folder / "server.log").read_text()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "lab.example"])
def test_voila_opens_to_other_machines_only_where_somebody_asks(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="SEGKIT_TOKEN"):
        voila(home=str(tmp_path), host=host, port=1, root_path="", show=False)


def test_behind_a_proxy_the_proxy_says_who_and_by_which_name() -> None:
    behind, plain = command_of(1, show=False, root_path="/voila"), command_of(1, show=False)
    assert [each for each in behind if "'allow_remote_access': True" in each]
    assert [each for each in plain if "'allow_remote_access': False" in each]
    assert "--Voila.auto_token=False" in behind


# panel serve


def test_panel_listens_on_this_machine_alone_and_shows_the_pages(served: Alone) -> None:
    assert served.listening() == {"127.0.0.1"}
    for name in DASHBOARDS:
        assert SHOWN in served.status(f"/{name}")[1], "otherwise the tests below would pass with a server that shows nothing"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panel_shows_nothing_to_another_sites_page(served: Alone, name: str) -> None:
    for host in (EVIL, served.rebound(), f"127.0.0.1.{EVIL}", "10.0.0.7"):
        assert SHOWN not in served.status(f"/{name}", host)[1], host
    framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}
    assert SHOWN not in served.status(f"/{name}", **framed)[1]
    assert SHOWN in served.status(f"/{name}", **framed | {"Sec-Fetch-Dest": "document"})[1], "a link may lead here"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panel_opens_sockets_to_its_own_pages_alone(served: Alone, name: str) -> None:
    for origin in (f"http://{EVIL}", "null", f"http://{served.netloc}.{EVIL}", "http://127.0.0.1:1", f"http://{served.rebound()}"):
        assert served.opens(f"/{name}/ws", origin, subprotocols=[Subprotocol("bokeh"), token()]) == 403, origin


def test_a_socket_that_begins_a_session_by_itself_gets_no_page(served: Alone) -> None:
    """Sessions are not signed: a page whose name points here can write the headers that a session is told of, but not its own Host."""
    for host, shown in ((served.rebound(), False), (served.netloc, True)):
        protocols = [Subprotocol("bokeh"), token({"Host": served.netloc})]
        with served.socket("/queue_status/ws", f"http://{host}", host, subprotocols=protocols, max_size=None) as speaking:
            for _ in range(3):
                assert speaking.recv(60)
            header = json.dumps({"msgid": "1", "msgtype": "PULL-DOC-REQ"})
            for part in (header, "{}", "{}"):
                speaking.send(part)
            answer = " ".join(str(speaking.recv(60)) for _ in range(3))
        assert ('"counts"' in answer) is shown, "what a card shows"
        assert ("asked for this one" in answer) is not shown, mounting.FOREIGN


def token(headers: dict[str, str] | None = None) -> Subprotocol:
    """Write a session's token as Bokeh does, with headers of our choice."""
    said = {"headers": headers, "cookies": {}, "arguments": {}} if headers else None
    return Subprotocol(generate_jwt_token(uuid.uuid4().hex, extra_payload=said))


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/rest",
            "/rest/session_info",
            "/session_info",
            "/admin",
            "/liveness",
            "/static/../../secret",
            "/static/%2e%2e/%2e%2e/__init__.py",
        ),
        *("/queue_status/static/../x", "/dashboards/queue_status.py", "/queue_status.py", "/login", "/api/kernels"),
    ],
)
def test_panel_gives_out_nothing_but_pages_and_scripts(served: Alone, path: str) -> None:
    assert served.status(path)[0] in (403, 404)


@pytest.mark.parametrize(
    ("options", "settings"), [(["--address", "127.0.0.1"], {"SEGKIT_TOKEN": TOKEN}), ([], {})], ids=["token is set", "others reach it"]
)
def test_panel_shows_nothing_where_somebody_would_have_to_be_asked(tmp_path: Path, options: list[str], settings: dict[str, str]) -> None:
    with panel(tmp_path, *options, names=("queue_status",), **settings) as server:
        status, answer = server.status("/queue_status")
        assert status == 200
        assert SHOWN not in answer
        assert (server.listening() <= {"127.0.0.1"}) is bool(options), "panel serve listens everywhere by itself"


def test_the_command_itself_refuses_with_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "segkit", "voila", "--no-open", "--host", "0.0.0.0", "--home", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode != 0
    assert "SEGKIT_TOKEN" in ended.stderr
    assert "Traceback" not in ended.stderr
