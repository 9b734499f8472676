"""`segkit lab`: real JupyterLab with everything wired, and its own Notebook Jobs page going through the queue of batches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import free_port
from notebook_files import write_notebook

import segkit
from segkit import batches, lab
from segkit.errors import NoParametersCellError
from segkit.settings import load

TOKEN = "a-token-of-this-test"

# JupyterLab takes ten seconds to start, and far longer on a machine that is busy.
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that `segkit lab` started."""

    folder: Path
    client: httpx.Client
    process: subprocess.Popen[bytes]

    def job(self, notebook: str, **parameters: str) -> dict[str, Any]:
        """Ask for a notebook job as JupyterLab's form does, where all parameters are text; returns it when it has ended."""
        (runtime,) = self.client.get("scheduler/runtime_environments").raise_for_status().json()
        asked = {
            "input_uri": notebook,
            "name": notebook,
            "runtime_environment_name": runtime["name"],
            "output_formats": ["ipynb", "html"],
            "parameters": parameters,
        }
        made = self.client.post("scheduler/jobs", json=asked).raise_for_status().json()["job_id"]
        return until(lambda: self.ended(made))

    def ended(self, job: str) -> dict[str, Any] | None:
        found = self.client.get(f"scheduler/jobs/{job}").raise_for_status().json()
        return found if found["status"] in {"COMPLETED", "FAILED"} else None


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`segkit lab` in a folder of its own."""
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    write_notebook(folder / "notebooks" / "add.ipynb", "print('sum', x + 1, kind)", parameters='x: int = 1\nkind: str = ""')
    write_notebook(folder / "notebooks" / "slow.ipynb", "import time", "time.sleep(100)")
    places = {f"JUPYTER_{name}_DIR": str(folder / ".jupyter" / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    quick = {"SEGKIT_POLL_SECONDS": "0.1", "SEGKIT_CLUSTER": "threads", "SEGKIT_NOTEBOOK_FOLDERS": str(folder / "notebooks")}
    command = [sys.executable, "-m", "segkit", "lab", "--no-open", "--port", str(port)]
    environment = {**os.environ, **places, **quick, "JUPYTER_TOKEN": TOKEN, "JUPYTER_PREFER_ENV_PATH": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"token {TOKEN}"}, timeout=20)
    with client:
        try:
            until(lambda: is_up(client, process, folder / "log"), 240)
            yield Lab(folder, client, process)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) is not None


def is_up(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return client.get("api/status").status_code == 200
    except httpx.TransportError:
        return False


def batches_in(folder: Path) -> list[Any]:
    with segkit.open(folder / "segkit-data") as kit:
        return list(kit.batches().items)


@pytest.mark.slow
def test_the_notebooks_are_there_and_strangers_are_not_let_in(running: Lab) -> None:
    listed = {each["name"] for each in running.client.get("api/contents/notebooks").raise_for_status().json()["content"]}
    assert {"segment_images.ipynb", "run_batch.ipynb", "add.ipynb"} <= listed
    assert running.client.get("lab/tree/notebooks/segment_images.ipynb").status_code == 200
    assert httpx.get(running.client.base_url.join("/api/contents")).status_code == 403


@pytest.mark.slow
def test_a_notebook_job_is_a_batch_and_its_parameters_get_their_types(running: Lab) -> None:
    done = running.job("notebooks/add.ipynb", x="41", kind="7")
    assert done["status"] == "COMPLETED", done
    record = batches_in(running.folder)[0]
    assert (record.status, record.notebook, record.parameters) == ("done", "add.ipynb", {"x": 41, "kind": "7"})
    page = next((running.folder / ".jupyter" / "DATA").rglob(f"{done['job_id']}/*.html"))
    assert "sum 42 7" in page.read_text()


@pytest.mark.slow
def test_a_notebook_job_that_will_not_do_says_why_and_is_recorded(running: Lab) -> None:
    failed = running.job("notebooks/add.ipynb", kin="1")
    assert failed["status"] == "FAILED"
    assert 'Did you mean "kind"' in failed["status_message"]
    assert 'Did you mean "kind"' in batches_in(running.folder)[0].error


def test_only_without_parameters_a_notebook_job_needs_no_cell_for_them(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "bare.ipynb", parameters=None).read_text()
    settings = load(home=str(tmp_path))
    assert batches.may_lack_parameters(settings, "bare", source, {}, tmp_path).parameters == {}
    with pytest.raises(NoParametersCellError):
        batches.may_lack_parameters(settings, "bare", source, {"x": "1"}, tmp_path)


@pytest.mark.slow
def test_a_notebook_job_that_is_stopped_takes_its_batch_with_it(running: Lab) -> None:
    (runtime,) = running.client.get("scheduler/runtime_environments").json()
    asked = {"input_uri": "notebooks/slow.ipynb", "name": "slow", "runtime_environment_name": runtime["name"]}
    job = running.client.post("scheduler/jobs", json=asked).json()["job_id"]
    until(lambda: batches_in(running.folder)[0].status == "running")
    stopped = running.client.patch(f"scheduler/jobs/{job}", json={"status": "STOPPED"})
    assert stopped.status_code < 300, stopped.text
    assert until(lambda: batches_in(running.folder)[0].status == "cancelled")


def test_settings_and_dask_reach_the_kernels(tmp_path: Path) -> None:
    chosen = load(home=str(tmp_path / "home"), cluster="threads", prefetch=7)
    variables = lab.environment(chosen)
    assert (variables["SEGKIT_HOME"], variables["SEGKIT_PREFETCH"]) == (str(tmp_path / "home"), "7")
    assert variables["DASK_DISTRIBUTED__DASHBOARD__LINK"] == "/proxy/{port}/status"


def test_notebooks_that_a_person_changed_stay_as_they_are(tmp_path: Path) -> None:
    copied = lab.place_notebooks(tmp_path)
    assert "run_batch.ipynb" in {path.name for path in copied}
    (tmp_path / "notebooks" / "run_batch.ipynb").write_text("mine")
    (tmp_path / "notebooks" / "segment_images.ipynb").unlink()
    assert [path.name for path in lab.place_notebooks(tmp_path)] == ["segment_images.ipynb"]
    assert (tmp_path / "notebooks" / "run_batch.ipynb").read_text() == "mine"
