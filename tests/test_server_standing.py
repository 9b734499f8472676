"""What Prometheus is told of the queue, batches, the backup, the disk and the parts; who may ask; and what while the database is down."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import orjson
import pytest
from plates import write_plate
from prometheus_client.parser import text_string_to_metric_families
from services import TOKEN, Service, service
from sqlalchemy import update

import segkit
from segkit import backups, jobs
from segkit.schema import Base
from segkit.settings import Settings

METRICS_TOKEN = "for-prometheus-in-tests-only"
FOR_PROMETHEUS = {"Authorization": f"Bearer {METRICS_TOKEN}"}


def told(client: Service, **headers: str) -> dict[tuple[str, ...], float]:
    """All that Prometheus reads, by name and the values of labels."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    samples = (sample for family in text_string_to_metric_families(answer.text) for sample in family.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_what_waits_is_late_and_failed(database_settings: Settings, tmp_path: Path) -> None:
    url = database_settings.database_url and database_settings.database_url.get_secret_value()
    with segkit.open(database_settings.home, database_url=url) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(tmp_path / "plate", [1, 2]))
        run = project.segment("threshold").number
        tables = Base.metadata.tables
        with kit.database.write() as connection:
            (claim,) = jobs.claim(connection, "one that died", 1, 60)
            late = update(tables["job"]).where(tables["job"].c.id == claim.job_id)
            connection.execute(late.values(lease_until=datetime.now(UTC) - timedelta(minutes=5)))
            connection.execute(update(tables["run"]).values(created_at=datetime.now(UTC) - timedelta(hours=30)))
    with service(database_settings) as client:
        found = told(client)
        assert found["segkit_jobs_counted", "queued"] == 1
        assert found["segkit_leases_lapsed",] == 1
        assert found["segkit_workers_held",] == 1
        assert found["segkit_queue_waited_seconds",] == pytest.approx(30 * 3600, abs=600)
        assert found["segkit_batches_counted", "failed"] == 0
        assert found["segkit_backup_wanted_seconds",] == 7 * 86400
        assert ("segkit_backup_taken_timestamp_seconds",) not in found
        assert 0 < found["segkit_home_left_bytes",] < found["segkit_home_limited_bytes",]
        assert {value for (name, *_), value in found.items() if name == "segkit_health_reported"} == {0}
        client.app.state.kit.run(run).cancel()
        assert told(client)["segkit_queue_waited_seconds",] == 0


def test_the_last_backup_is_told(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings("sqlite")
    with segkit.open(settings.home) as kit:
        backups.take(kit.database, settings.home, tmp_path / "backup")
    with service(settings) as client:
        assert told(client)["segkit_backup_taken_timestamp_seconds",] == pytest.approx(time.time(), abs=600)


def test_while_the_database_is_down_prometheus_is_told_so(make_settings: Callable[..., Settings]) -> None:
    """By its own token, which needs no database."""
    settings = make_settings("sqlite", token=TOKEN, metrics_token=METRICS_TOKEN)
    with service(settings) as client:
        assert told(client, **FOR_PROMETHEUS)["segkit_health_reported", "database"] == 0
        (Path(settings.home) / "segkit.db").rename(Path(settings.home) / "away.db")
        client.app.state.kit.database.engine.dispose()
        found = told(client, **FOR_PROMETHEUS)
        assert found["segkit_health_reported", "database"] == 2
        assert ("segkit_jobs_counted", "queued") not in found
        assert found["segkit_process_used_cpu_seconds_total",] > 0


def test_the_token_for_metrics_opens_nothing_else(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("sqlite", token=TOKEN, metrics_token=METRICS_TOKEN)
    with service(settings) as client:
        for path in ("/metrics", "/health"):
            assert client.get(path, headers=FOR_PROMETHEUS).status_code == 200
        assert client.post("/metrics", headers=FOR_PROMETHEUS).status_code == 403
        for path in (
            "/",
            "/api/projects",
            "/api/metrics/summary",
            "/metrics/",
            "/health/x",
            "/api/admission/read",
            "/dashboards/queue_status",
        ):
            assert client.get(path, headers=FOR_PROMETHEUS).status_code == 401, path
    with service(make_settings("sqlite", token=TOKEN, metrics_token=METRICS_TOKEN, server_root_path="/lab")) as client:
        assert client.get("/lab/metrics", headers=FOR_PROMETHEUS).status_code == 200
        assert client.get("/metrics", headers=FOR_PROMETHEUS).status_code == 200
        assert client.get("/lab/lab/metrics", headers=FOR_PROMETHEUS).status_code == 401


def test_who_may_write_is_told_to_nginx(make_settings: Callable[..., Settings]) -> None:
    with service(make_settings("sqlite", token=TOKEN)) as client:
        _, reader = client.app.state.kit.new_token("reader")

        def admitted(scope: str, token: str | None) -> httpx.Response:
            return client.get(f"/api/admission/{scope}", headers={"Authorization": f"Bearer {token}"} if token else {})

        asked = [(scope, token) for token in (TOKEN, reader, None) for scope in ("read", "write")]
        assert [admitted(*each).status_code for each in asked] == [204, 204, 204, 403, 401, 401]
        assert admitted("all", TOKEN).status_code == 422
        assert admitted("write", TOKEN).headers["cache-control"] == "no-store"
        assert orjson.loads(admitted("write", reader).content)["status"] == 403
