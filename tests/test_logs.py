"""Lines of logs: whose request, run and job they are about, on every machine that has to do with it, and never a secret in one."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from plates import write_plate
from plugins import install

import segkit
from segkit import logs
from segkit.settings import process_environment

ROOT = Path(__file__).parent.parent
TOKEN = "a-token-for-tests-only-0123456789"
PASSWORD = "hunter2-the-secret"

#: Logs as a lab's own method would, with all that it should not say.
TALKATIVE = f"""
import logging
from scipy import ndimage
from segkit.segmenters import Parameters, Segmenter

class TalkativeParameters(Parameters):
    pass

def talk(pixels, parameters, pixel_size_um):
    logging.getLogger("lab.method").warning("asked postgresql://me:{PASSWORD}@db/lab with Authorization: Bearer {TOKEN}")
    if pixels.max() > 200:
        raise RuntimeError("https://db/?token={TOKEN}")
    return ndimage.label(pixels > 100)[0].astype("int32")

SEGMENTER = Segmenter("talkative", "1", "Logs", TalkativeParameters, colour=False, function=talk)
"""


def test_the_lines_of_one_job_are_found(tmp_path: Path) -> None:
    with logs.kept(str(tmp_path), "host:1/2"):
        logs.record.info("job %d: done", 7)
        logs.record.info("job %d: failed", 70)
        logging.getLogger("segkit.worker").warning("the lease of job 7 ran out")
    logs.record.info("job 7: after the end")
    lines = logs.tail(str(tmp_path), "host:1/2", 7, 10)
    assert [line.split(" ", 3)[3] for line in lines] == ["job 7: done", "the lease of job 7 ran out"]
    assert len(logs.tail(str(tmp_path), "host:1/2", 7, 1)) == 1
    assert logs.tail(str(tmp_path), "another", 7, 10) == []
    assert logs.tail("s3://bucket", "host", 7, 10) == []


def test_logs_of_workers_long_gone_are_deleted_and_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    old = tmp_path / "logs" / "old.log"
    old.parent.mkdir()
    old.write_text("x")
    os.utime(old, (time.time() - 100 * 86400,) * 2)
    with logs.kept(str(tmp_path), "new"):
        assert not old.exists()
    (tmp_path / "file").write_text("")
    with logs.kept(str(tmp_path / "file"), "worker"):
        logs.record.info("nowhere")


def test_what_is_named_ends_with_its_block() -> None:
    with logs.about(run=1):
        with logs.about(job=2):
            assert dict(logs.names()) == {"run": 1, "job": 2}
        assert dict(logs.names()) == {"run": 1}
        assert logs.under({"job": 3}, logs.names) == {"run": 1, "job": 3}
    assert not logs.names()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("redis://:pass@host:6379/0", "redis://********@host:6379/0"),
        ("postgresql+psycopg://me:p%40ss@db/lab failed", "postgresql+psycopg://********@db/lab failed"),
        ('"WebSocket /ws?token=abc" [accepted]', '"WebSocket /ws?token=********" [accepted]'),
        ("{'authorization': 'bearer abc.def'}", "{'authorization': 'bearer ********'}"),
        ("two: a://b:c@d e://f:g@h", "two: a://********@d e://********@h"),
        ("http://host:8765/a@b and s3://bucket/key", "http://host:8765/a@b and s3://bucket/key"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(said: str, kept: str) -> None:
    assert logs.redacted(said) == kept


def test_whoever_set_logging_up_already_is_left_alone() -> None:
    """Pytest has, and so has a notebook or a program that `segkit.open` is called in."""
    before = list(logging.root.handlers)
    logs.configure("DEBUG", "json")
    assert logging.root.handlers == before


@contextmanager
def process(*command: str | Path, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module until the block ends, or it does; what it says goes to a file."""
    with log.open("wb") as file:
        started = subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=file, env=process_environment(**variables))
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(60)
            finally:
                started.kill()


def said_in(log: Path, pattern: str, running: subprocess.Popen[bytes], seconds: float = 60) -> re.Match[str]:
    """Wait for something that must come to be said."""
    deadline = time.monotonic() + seconds
    while not (found := re.search(pattern, log.read_text())):
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Read a file of lines of JSON."""
    text = log.read_text()
    assert PASSWORD not in text
    assert TOKEN not in text
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_lines_of_tasks_name_run_job_and_attempt_wherever_dask_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker, and a Dask scheduler and worker that were started by hand with conf/dask.yaml."""
    home, plate = tmp_path / "home", write_plate(tmp_path / "plate", [1, 2])
    write_plate(plate, [1], first=1500)  # brighter than 200: fails
    monkeypatch.syspath_prepend(install(tmp_path / "site", "talkative", TALKATIVE))
    variables = {"PYTHONPATH": str(tmp_path / "site"), "DASK_CONFIG": str(ROOT / "conf" / "dask.yaml")}
    told = {name: tmp_path / f"{name}.log" for name in ("scheduler", "dask", "worker")}
    dask = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with process(*dask, log=told["scheduler"], **variables) as scheduler:
        address = said_in(told["scheduler"], r"tcp://127\.0\.0\.1:\d+", scheduler)[0]
        hands = ["distributed.cli.dask_worker", address, "--nthreads", "2", "--no-dashboard", "--memory-limit", "2GiB", "--host", "127.0.0.1"]
        with process(*hands, log=told["dask"], **variables):
            with segkit.open(home) as kit:
                project = kit.project("plate", create=True)
                project.add(plate)
                run = project.segment("talkative").number
            given = {"SEGKIT_CLUSTER": address, "SEGKIT_LOG_FORMAT": "json", "SEGKIT_LOG_LEVEL": "INFO", "SEGKIT_MAX_ATTEMPTS": "1"}
            with process("segkit", "worker", "--until-idle", "--home", home, log=told["worker"], **variables, **given) as worker:
                assert worker.wait(120) == 0, told["worker"].read_text()
    with segkit.open(home) as kit:
        jobs = {job.id: job.status for job in kit.run(run).jobs().items}
    assert sorted(jobs.values()) == ["done", "done", "failed"]
    talked = [line for line in lines_of(told["dask"]) if line["logger"] == "lab.method"]
    assert sorted((line["run"], line["job"], line["attempt"]) for line in talked) == sorted((run, job, 1) for job in jobs)
    assert {line["message"] for line in talked} == {"asked postgresql://********@db/lab with Authorization: Bearer ********"}
    (failed,) = [job for job, status in jobs.items() if status == "failed"]
    (fault,) = [line for line in lines_of(told["dask"]) if "exception" in line]
    assert (fault["job"], fault["logger"], fault["level"]) == (failed, "segkit.tasks", "INFO")
    assert fault["exception"].endswith("RuntimeError: https://db/?token=********")
    records = [line for line in lines_of(told["worker"]) if line["logger"] == "segkit-record"]
    assert sorted((line["run"], line["job"], line["attempt"]) for line in records) == sorted((run, job, 1) for job in jobs)
    assert {line["worker"] for line in records} == {line["worker"] for line in talked}
    assert {line["process"] for line in records} != {line["process"] for line in talked}


def test_lines_of_the_service_name_their_request(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    given = {"SEGKIT_LOG_FORMAT": "json", "SEGKIT_LOG_LEVEL": "DEBUG", "SEGKIT_TOKEN": TOKEN, "SEGKIT_SLOW_QUERY_MS": "0"}
    with process("segkit", "serve", "--port", "0", "--no-work", "--home", tmp_path / "home", log=log, **given) as server:
        link = said_in(log, r"http://[^/]+/", server)[0]
        with httpx.Client(base_url=link, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client:
            mine = client.get("api/projects", headers={"X-Request-ID": "from-nginx-0123"})
            made = client.get(f"api/nowhere?token={TOKEN}")
            forged = client.get("api/projects", headers={"X-Request-ID": 'x" level="ERROR'})
            client.get("api/projects", headers={"Authorization": f"Bearer {TOKEN}x"})
    assert mine.headers["x-request-id"] == "from-nginx-0123"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", forged.headers["x-request-id"])
    lines = lines_of(log)
    accesses = {line["request"]: line["message"] for line in lines if line["logger"] == "segkit.access"}
    assert accesses["from-nginx-0123"].startswith("GET /api/projects 200, ")
    assert accesses[made.headers["x-request-id"]].startswith("GET /api/nowhere 404, ")
    assert len(accesses) == 4
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["time"]) for line in lines)
    assert "from-nginx-0123" in {line["request"] for line in lines if line["logger"] != "segkit.access" and "request" in line}
