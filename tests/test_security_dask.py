"""What has no login of its own listens on this machine alone, or asks for certificates; and a notebook gets the parameters it declares."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from distributed import LocalCluster, Security

from segkit.batches.notebooks import prepare_source
from segkit.batches.parameters import declared, from_text
from segkit.cli.dashboards import command_of
from segkit.cluster import connect, refuse_open
from segkit.dashboards import mounting
from segkit.errors import ClusterError, NotebookParameterError
from segkit.lab import starting
from segkit.settings import load

NOWHERE = "127.0.0.1:0"

# Dask


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A real scheduler with a worker that asks for certificates; its address, and the settings of who has one."""
    folder, made = tmp_path_factory.mktemp("tls"), Security.temporary()
    files = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in files.items():
        (folder / name).write_text(text)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tls://", security=made, dashboard_address=NOWHERE
    ) as cluster:
        yield cluster.scheduler_address, {f"dask_tls_{name}": str(folder / name) for name in files}


def test_who_has_a_certificate_works(scheduler: tuple[str, dict[str, str]]) -> None:
    address, certificates = scheduler
    assert address.startswith("tls://")
    with connect(load(cluster=address, **certificates)) as cluster:
        assert cluster.client.submit(abs, -21).result(timeout=60) == 21


def test_who_has_none_is_refused(scheduler: tuple[str, dict[str, str]]) -> None:
    address, certificates = scheduler
    with pytest.raises(ClusterError, match="SEGKIT_DASK_TLS_CERT"):
        connect(load(cluster=address))
    host, _, port = address.removeprefix("tls://").partition(":")
    foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    foreign.check_hostname, foreign.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), timeout=60) as plain:
        plain.sendall(b"\0" * 64)
        assert told(plain) == b""
    with socket.create_connection((host, int(port)), timeout=60) as plain:
        assert not is_answered(plain, foreign)
    with connect(load(cluster=address, **certificates)) as cluster:
        assert cluster.client.submit(abs, -1).result(timeout=60) == 1


def is_answered(plain: socket.socket, context: ssl.SSLContext) -> bool:
    """Whether a client with TLS and without a certificate gets any answer; with TLS 1.3 the refusal comes after the greeting."""
    try:
        with context.wrap_socket(plain) as wrapped:
            wrapped.sendall(b"\0" * 64)
            return bool(told(wrapped))
    except (ssl.SSLError, ConnectionError):
        return False


def told(connection: Any) -> bytes:
    """Read until the end; a connection that is reset has ended. A TLS server's word that something is wrong is no answer."""
    try:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except ConnectionError:
        return b""
    return b"" if answer[:1] == b"\x15" else answer


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.7:8786", "tcp://dask:8786", "tcp://0.0.0.0:1", "ucx://a:1", "ws://a:1", "tcp://localhost.x:1"]
)
def test_a_scheduler_elsewhere_without_tls_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="SEGKIT_DASK_WITHOUT_TLS"):
        connect(load(cluster=address))
    refuse_open(load(cluster=address, dask_without_tls=True))


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:1", "tls://dask:8786", "wss://a:1", "local", "slurm"]
)
def test_others_are_not(address: str) -> None:
    refuse_open(load(cluster=address))


def test_batch_jobs_without_certificates_are_refused() -> None:
    with pytest.raises(ClusterError, match="TLS"):
        refuse_open(load(cluster="slurm", cluster_options={"security": False}))


# Voila, Panel, JupyterLab


def test_what_has_no_login_is_told_to_listen_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    voila = command_of(8866, show=False)
    assert [each for each in voila if "ip=" in each] == ["--Voila.ip=127.0.0.1"]
    assert not [each for each in voila if "token" in each.lower() and each.endswith("=")]
    lab = starting.command(load(home=str(tmp_path)), tmp_path, port=None, show=False)
    assert "--ServerApp.ip=127.0.0.1" in lab
    assert not [each for each in lab if "token" in each.lower() or "password" in each.lower() or "allow_origin" in each]


def test_documents_start_panel_on_this_machine_alone() -> None:
    root = Path(__file__).parent.parent
    texts = [
        path for folder in ("docs", "dashboards", "conf", "segkit") for path in (root / folder).rglob("*") if path.suffix in (".md", ".py")
    ]
    for path in [root / "README.md", *texts]:
        for line in path.read_text().splitlines():
            if re.search(r"panel serve [^`]*dashboards/", line):
                assert "panel serve --address 127.0.0.1" in line, f"{path}: {line}"


@pytest.mark.parametrize(("host", "closed"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_page_alone_shows_nothing_where_others_reach_it(host: str, closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`panel serve` listens on every address unless it is told otherwise, and asks nobody for anything."""
    shown: list[str] = []

    class Shown:
        def servable(self) -> None:
            shown.append("page")

    def page(kit: Any) -> Any:
        return Shown()

    page.__module__ = f"{mounting.SERVED}1"
    monkeypatch.setattr(mounting.pn.state, "as_cached", lambda key, make: SimpleNamespace(settings=load()))
    asked = SimpleNamespace(session_context=SimpleNamespace(request=SimpleNamespace(host="127.0.0.1:5006", headers={})))
    monkeypatch.setattr(type(mounting.pn.state), "curdoc", asked)
    monkeypatch.setattr(mounting.pn.pane, "Str", lambda text: type("Refusal", (), {"servable": lambda self: shown.append(text)})())
    with socket.create_server((host, 0)):
        assert (mounting.open_to_others() == []) is closed
        mounting.serve_alone(page)
    assert shown == (["page"] if closed else [mounting.NO_LOGIN])


# Parameters of notebooks


def notebook(source: str = "diameter: float = 9.0\nname = 'x'") -> Any:
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}})


@pytest.mark.parametrize(
    "name",
    [
        "a=1\nopen('x', 'w')\nb",
        "diameter\nopen('x')",
        "diameter = 1; import os",
        "diameter ",
        "x",
        "class",
        "",
        "__import__('os')",
        "ｄiameter",
    ],
)
def test_only_declared_names_reach_papermill(tmp_path: Path, name: str) -> None:
    """papermill pastes names into the notebook as they are: one with a newline in it ran as code."""
    page = notebook()
    for as_text in (False, True):
        with pytest.raises(NotebookParameterError, match="no parameter"):
            prepare_source(load(home=str(tmp_path)), "n", nbformat.writes(page), {name: "1"}, as_text=as_text)
    with pytest.raises(NotebookParameterError):
        from_text("n", declared(page), {name: "1"})


def test_what_a_cell_declares_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    source = f"a = open({str(mark)!r}, 'w')\nb: __import__('os').system('touch {mark}') = 1\nc = 'x'  # type: open({str(mark)!r}, 'w')"
    known = declared(notebook(source))
    assert {"a", "b", "c"} >= set(known)
    from_text("n", known, {name: f"open({str(mark)!r}, 'w')" for name in known if name != "c"})
    assert not mark.exists()
