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
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distributed
import pytest
from plates import write_plate
from plugins import install
from services import service

import segkit
from segkit import logs
from segkit.settings import Settings, process_environment

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


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Read a file of lines of JSON."""
    text = log.read_text()
    assert PASSWORD not in text
    assert TOKEN not in text
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_lines_of_tasks_name_run_job_and_attempt_on_a_dask_worker_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Dask worker is a process of its own, started by hand with conf/dask.yaml as in docker-compose.yml."""
    home, log, plate = tmp_path / "home", tmp_path / "dask.log", write_plate(tmp_path / "plate", [1, 2])
    write_plate(plate, [1], first=1500)  # brighter than 200: fails
    site = install(tmp_path / "site", "talkative", TALKATIVE)
    monkeypatch.syspath_prepend(site)
    scheduler = distributed.LocalCluster(
        n_workers=0, host="127.0.0.1", scheduler_kwargs={"dashboard": False}, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    )
    given = {"PYTHONPATH": str(site), "DASK_CONFIG": str(ROOT / "conf" / "dask.yaml")}
    options = ["--nthreads", "2", "--no-nanny", "--no-dashboard", "--memory-limit", "2GiB", "--local-directory", tmp_path / "spill"]
    dask = ["distributed.cli.dask_worker", scheduler.scheduler_address, "--host", "127.0.0.1", *options]
    with (
        scheduler,
        process(*dask, log=log, **given) as process_of_dask,
        segkit.open(home, cluster=scheduler.scheduler_address, max_attempts=1, threads_per_worker=2) as kit,
    ):
        project = kit.project("plate", create=True)
        project.add(plate)
        run = project.segment("talkative").number
        kit.work_off()
        jobs = {job.id: job.status for job in kit.run(run).jobs().items}
    assert sorted(jobs.values()) == ["done", "done", "failed"]
    lines = lines_of(log)
    talked = [line for line in lines if line["logger"] == "lab.method"]
    assert sorted((line["run"], line["job"], line["attempt"]) for line in talked) == sorted((run, job, 1) for job in jobs)
    assert {line["message"] for line in talked} == {"asked postgresql://********@db/lab with Authorization: Bearer ********"}
    assert {line["process"] for line in talked} == {process_of_dask.pid}
    (failed,) = [job for job, status in jobs.items() if status == "failed"]
    (fault,) = [line for line in lines if "exception" in line]
    assert (fault["job"], fault["logger"], fault["level"]) == (failed, "segkit.tasks", "INFO")
    assert fault["exception"].endswith("RuntimeError: https://db/?token=********")
    (name,) = {line["worker"] for line in talked}
    records = logs.tail(str(home), name, failed, 10)
    assert len(records) == 1
    assert f"job {failed}, run {run}, attempt 1, " in records[0]
    assert TOKEN not in records[0]


CONFIGURED = f"""
import logging, sys
from segkit import logs
logs.configure("INFO", sys.argv[1])
with logs.about(request="5f2c-1a"):
    logging.getLogger("segkit.worker").info("redis://:{PASSWORD}@host/0 does not answer")
    logging.getLogger("uvicorn.error").warning('"WebSocket /api/events?token={TOKEN}" [accepted]')
    logging.getLogger("uvicorn.access").info("GET /")
    logs.record.setLevel("INFO")
    logs.record.info("job 7: done")
    try:
        raise OSError("postgresql://me:{PASSWORD}@db/lab")
    except OSError:
        logging.getLogger("segkit").exception("It failed.")
"""


def configured(form: str) -> list[str]:
    """What a process says that set its logging up by conf/logging.toml."""
    done = subprocess.run([sys.executable, "-c", CONFIGURED, form], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert PASSWORD not in done.stderr
    assert TOKEN not in done.stderr
    return done.stderr.splitlines()


def test_lines_for_people() -> None:
    lines = configured("text")
    assert lines[:3] == [
        "INFO redis://********@host/0 does not answer [request=5f2c-1a]",
        'WARNING "WebSocket /api/events?token=********" [accepted] [request=5f2c-1a]',
        "ERROR It failed. [request=5f2c-1a]",
    ]
    assert lines[-1] == "OSError: postgresql://********@db/lab"


def test_lines_for_machines() -> None:
    lines = [json.loads(line) for line in configured("json")]
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("INFO", "segkit.worker"),
        ("WARNING", "uvicorn.error"),
        ("INFO", "segkit-record"),
        ("ERROR", "segkit"),
    ]
    assert {line["request"] for line in lines} == {"5f2c-1a"}
    assert lines[3]["exception"].endswith("OSError: postgresql://********@db/lab")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["time"]) for line in lines)
    assert "about" not in lines[0]


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    """A file of what this process logs, put down as conf/logging.toml says of machines."""
    log = tmp_path / "log"
    handler = logging.FileHandler(log)
    said = tomllib.loads((ROOT / "conf" / "logging.toml").read_text())["formatters"]["json"]
    handler.setFormatter(logs.Json(said["fmt"], rename_fields=said["rename_fields"], timestamp=said["timestamp"]))
    handler.addFilter(logs.About())
    logger = logging.getLogger("segkit")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield log
    logger.setLevel(level)
    logger.removeHandler(handler)
    handler.close()


def test_lines_of_the_service_name_their_request(make_settings: Callable[..., Settings], lines: Path) -> None:
    settings = make_settings("sqlite", token=TOKEN)
    with service(settings, Authorization=f"Bearer {TOKEN}") as client:
        mine = client.get("/api/projects", headers={"X-Request-ID": "from-nginx-0123"})
        made = client.get(f"/api/nowhere?token={TOKEN}")
        forged = client.get("/api/projects", headers={"X-Request-ID": 'x" level="ERROR'})
        assert client.get("/api/projects", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
        (Path(settings.home) / "segkit.db").rename(Path(settings.home) / "away.db")
        client.app.state.kit.database.engine.dispose()
        assert client.get("/health", headers={"X-Request-ID": "without-database"}).status_code == 503
    assert mine.headers["x-request-id"] == "from-nginx-0123"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", forged.headers["x-request-id"])
    told = lines_of(lines)
    accesses = {line["request"]: line["message"] for line in told if line["logger"] == "segkit.access"}
    assert accesses["from-nginx-0123"].startswith("GET /api/projects 200, ")
    assert accesses[made.headers["x-request-id"]].startswith("GET /api/nowhere 404, ")
    assert len(accesses) == 5
    (down,) = [line for line in told if line["logger"] == "segkit.server.health"]  # from a thread of the service
    assert down["request"] == "without-database"
