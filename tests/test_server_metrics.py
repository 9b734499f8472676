"""Metrics, health and timing: true, bounded, cheap, and in the form that Prometheus wants."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from services import Service, running, service

from segkit import catalog, history
from segkit.database import open_database
from segkit.kit import Kit
from segkit.server.app import create_app
from segkit.server.metrics import Metrics
from segkit.settings import Settings
from segkit.telemetry import METRICS, SCALE, Histogram, MemoryUse, Requests, memory_limit, memory_used, normal
from tests.images_in_a_project import add_images


@pytest.fixture
def client(database_settings: Settings) -> Iterator[Service]:
    with open_database(database_settings) as database:
        with database.write() as connection:
            project_id = catalog.create_project(connection, "cells").id
        add_images(database, project_id, 3)
    with service(database_settings) as client:
        yield client


def metrics_of(client: Service) -> Metrics:
    metrics: Metrics = client.app.state.metrics
    return metrics


# Performance


def test_requests_are_timed_by_route(client: Service) -> None:
    for _ in range(5):
        assert client.get("/api/projects/1/images").status_code == 200
    assert client.get("/api/projects/999/images").status_code == 404
    assert client.get("/nowhere").status_code == 404
    found = client.get("/api/metrics/performance").json()
    routes = {(each["method"], each["route"]): each for each in found["requests"]}
    images = routes["GET", "/api/projects/{project_id}/images"]
    assert images["count"] == 6
    assert 0 < images["p50_seconds"] <= images["p95_seconds"] <= images["p99_seconds"] <= images["most_seconds"]
    assert routes["GET", "(no route)"]["count"] == 1
    assert found["monitored"]
    assert found["statements"] >= 2
    assert (found["cache"]["hits"], found["cache"]["misses"]) == (4, 1)
    assert found["cache"]["hit_rate"] == pytest.approx(0.8)
    assert {each["part"] for each in found["memory"]} == {"server", "cache"}


def test_switched_off_nothing_is_timed(make_settings: Callable[..., Settings]) -> None:
    with service(make_settings(enable_performance_monitoring=False)) as client:
        client.get("/api/projects")
        found = client.get("/api/metrics/performance").json()
        assert (found["monitored"], found["requests"], found["statements"]) == (False, [], 0)
        assert client.get("/metrics").status_code == 200
        assert not client.app.state.kit.database.timings


def test_percentiles_are_true() -> None:
    taken = Histogram()
    for number in range(1, 10_001):
        taken.add(number / 10_000)
    for share in (0.5, 0.95, 0.99):
        assert taken.quantile(share) == pytest.approx(share, rel=0.06)
    assert taken.quantile(1) == pytest.approx(1)
    assert Histogram().quantile(0.5) == 0
    taken.add(1e6)
    assert taken.quantile(1) == 1e6


def test_routes_are_bounded() -> None:
    requests = Requests()
    for number in range(2000):
        requests.add("GET", f"/{number}", 200, 0.001)
    assert len(requests.histograms()) <= 501
    assert requests.all().count == 2000


# Summary and history


def test_the_summary_counts(client: Service) -> None:
    found = client.get("/api/metrics/summary").json()
    assert (found["projects"], found["images"], found["unreadable"], found["warnings"]) == (1, 3, 0, [])
    assert found["jobs"]["queued"] == 0


def test_memory_warns_before_its_limit() -> None:
    assert MemoryUse("server", 80, 100).warning is None
    assert "server uses" in str(MemoryUse("server", 90 * 2**20, 100 * 2**20).warning)
    assert 0 < memory_used() < memory_limit()


def test_a_worker_close_to_its_limit_is_warned_of(client: Service, caplog: pytest.LogCaptureFixture) -> None:
    metrics = metrics_of(client)
    with metrics.kit.database.write() as connection:
        history.record(connection, "worker lab7:1", {"peak_memory_bytes": 95 * 2**20, "memory_limit_bytes": 100 * 2**20})
    assert "worker lab7:1 uses 95 of 100 MiB" in client.get("/api/metrics/summary").json()["warnings"][0]
    metrics.minute()
    metrics.minute()
    assert caplog.text.count("worker lab7:1 uses") == 1


def test_minutes_are_kept_and_read(client: Service) -> None:
    metrics = metrics_of(client)
    metrics.minute()
    for _ in range(7):
        client.get("/api/projects")
    with metrics.kit.database.write() as connection:
        history.record(connection, metrics.source, metrics.minute())
    (minute,) = client.get("/api/metrics/history?hours=1").json()
    assert minute["measured"]["requests_total"] == 7
    assert minute["measured"]["p95_seconds"] > 0
    assert client.get("/api/metrics/history?window_s=61").status_code == 422


# Slow queries


def test_slow_queries_and_their_plans(make_settings: Callable[..., Settings]) -> None:
    for dialect in ("sqlite", "postgresql"):
        with service(make_settings(dialect, slow_query_ms=0)) as client:
            client.get("/api/projects?limit=7")
            client.get("/api/runs?limit=7")
            rows = client.get("/api/metrics/slow-queries").json()
            assert rows
            assert all(row["worst_seconds"] >= row["mean_seconds"] > 0 and "\n" not in row["statement"] for row in rows)
            plans = [client.get(f"/api/metrics/slow-queries/{row['id']}/plan") for row in rows]
            assert {reply.status_code for reply in plans} == {200}
            assert any(re.search("(?i)scan|search", "\n".join(reply.json()["plan"])) for reply in plans)
            assert client.get(f"/api/metrics/slow-queries/{'0' * 16}/plan").status_code == 404


def test_statements_that_differ_in_the_length_of_a_list_are_one() -> None:
    assert normal("SELECT a FROM t\n WHERE id IN (?, ?, ?)") == normal("SELECT a FROM t WHERE id IN (?)")
    assert normal("SELECT f(?)") != normal("SELECT g(?)")


# Health


def parts(client: Service) -> tuple[int, dict[str, str]]:
    reply = client.get("/health")
    return reply.status_code, {part["name"]: part["health"] for part in reply.json()["parts"]}


def test_a_service_that_is_well(client: Service) -> None:
    status, found = parts(client)
    assert status == 200
    assert set(found.values()) == {"ok"}
    assert set(found) == {"database", "changes", "cache", "home", "memory"}


def test_without_its_database_it_cannot_serve(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("sqlite")
    with service(settings) as client:
        (Path(settings.home) / "segkit.db").rename(Path(settings.home) / "away.db")
        client.app.state.kit.database.engine.dispose()
        assert parts(client)[0] == 503
        (Path(settings.home) / "away.db").rename(Path(settings.home) / "segkit.db")
        assert parts(client)[0] == 200


def test_without_its_home_it_cannot_serve(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("postgresql")
    with service(settings) as client:
        shutil.rmtree(settings.home)
        status, found = parts(client)
        assert (status, found["home"], found["database"]) == (503, "down", "ok")


def test_without_redis_it_serves(make_settings: Callable[..., Settings]) -> None:
    with service(make_settings("sqlite", redis_url="redis://127.0.0.1:1")) as client:
        client.get("/api/projects")
        status, found = parts(client)
        assert (status, found["cache"]) == (200, "degraded")


# Prometheus


def test_the_text_is_what_prometheus_reads(client: Service) -> None:
    client.get("/api/projects")
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    told = {name.removesuffix("_total") for name in (metric.name for metric in METRICS.values())}
    assert set(families) == told
    seconds = families["segkit_requests_answered_seconds"]
    count = next(s.value for s in seconds.samples if s.name.endswith("_count") and s.labels["route"] == "/api/projects")
    assert count == 1
    steps = [s.value for s in seconds.samples if s.name.endswith("_bucket") and s.labels["route"] == "/api/projects"]
    assert steps == sorted(steps)
    assert steps[-1] == 1


UNITS = "milli|micro|nano|minutes|hours|days|kilo|mega|giga|percent|celsius|bits|ms|us|kb|mb"


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_names_pass_the_lint_of_promtool(metric: object) -> None:
    """The rules of `promtool check metrics`, and ours: noun, verb, unit."""
    name, kind, words, labels = metric.name, metric.kind, metric.help, metric.labels  # type: ignore[attr-defined]
    assert re.fullmatch(r"segkit(_[a-z]+){2,}", name)
    assert words.endswith(".")
    assert (kind == "counter") == name.endswith("_total")
    assert not re.search(rf"_({UNITS})(_|$)", name)
    assert not re.search(r"_(count|sum|bucket|info|counter|gauge|histogram|summary)$", name)
    assert not re.search(r"_(counter|gauge|histogram|summary)(_|$)", name)
    assert all(re.fullmatch("[a-z_]+", label) and label not in ("le", "quantile") for label in labels)
    if "seconds" in name or "bytes" in name:
        assert re.search(r"_(seconds|bytes)(_total)?$", name)


def test_names_are_given_once() -> None:
    assert len({metric.name for metric in METRICS.values()}) == len(METRICS)
    assert list(SCALE) == sorted(SCALE)


def test_timing_a_request_costs_microseconds(client: Service) -> None:
    """A bound that noise does not reach; `benchmarks/service.py` measures the share."""
    requests = Requests()
    fastest = 1.0
    for _ in range(2000):
        started = time.perf_counter()
        requests.add("GET", "/api/projects", 200, 0.0123)
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 20e-6


def test_a_kit_that_is_open_already(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("sqlite")
    with Kit(settings, open_database(settings)) as kit, running(create_app(settings, kit)) as address:
        assert httpx.get(f"{address}/health").json()["health"] == "ok"
