"""History: a row a minute, hours and days of them, nothing counted twice, and nothing kept for ever."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select

from segkit import history
from segkit.database import Database, now
from segkit.errors import DatabaseError
from segkit.history import DAY, HOUR, MINUTE, Sampler


def rows(database: Database, window_s: int) -> list[history.Sample]:
    with database.read() as connection:
        return history.read(connection, window_s, datetime(2000, 1, 1, tzinfo=UTC))


def record(database: Database, at: datetime, measured: dict[str, float], source: str = "server") -> None:
    with database.write() as connection:
        history.record(connection, source, measured, at=at)


def test_what_was_measured_comes_back_oldest_first(database: Database) -> None:
    with database.write() as connection:
        moment = now(connection)
        for minutes in (3, 1, 2):
            history.record(connection, "server", {"requests_total": minutes}, at=moment - timedelta(minutes=minutes))
    with database.read() as connection:
        found = history.read(connection, MINUTE, moment - timedelta(minutes=2, seconds=30))
    assert [sample.measured for sample in found] == [{"requests_total": 2}, {"requests_total": 1}]
    assert found[0].at == moment - timedelta(minutes=2)


def test_no_number_is_left_out(database: Database) -> None:
    record(database, datetime.now(UTC), {"good": 1.5, "bad": float("nan"), "worse": float("inf")})
    assert rows(database, MINUTE)[0].measured == {"good": 1.5}


def test_the_newest_minute_of_each_process(database: Database) -> None:
    with database.write() as connection:
        moment = now(connection)
        for source, minutes in (("server", 2), ("server", 1), ("worker", 1), ("gone", 10)):
            history.record(connection, source, {"age": minutes}, at=moment - timedelta(minutes=minutes))
    with database.read() as connection:
        assert {sample.source: sample.measured["age"] for sample in history.latest(connection)} == {"server": 1, "worker": 1}


def test_minutes_become_hours_and_hours_become_days_once(database: Database) -> None:
    with database.write() as connection:
        end = datetime.fromtimestamp(now(connection).timestamp() // DAY * DAY, UTC)
        for minutes in range(180):
            at = end - timedelta(minutes=minutes)
            for source in ("server", "worker"):
                history.record(connection, source, {"jobs_total": 1, "peak_memory": minutes, "queued": minutes % 60}, at=at)
    for _ in range(3):
        with database.write() as connection:
            history.thin(connection)
    hours = rows(database, HOUR)
    assert [hour.measured["jobs_total"] for hour in hours] == [60] * 6
    assert {hour.measured["peak_memory"] for hour in hours} == {59, 119, 179}
    assert {hour.measured["queued"] for hour in hours} == {29.5}
    days = rows(database, DAY)
    assert [(day.at, day.source, day.measured["jobs_total"]) for day in days] == [(end, "server", 180), (end, "worker", 180)]


def test_what_is_old_goes(database: Database) -> None:
    with database.write() as connection:
        moment = now(connection)
        for days in (0.5, 1.5, 50):
            history.record(connection, "server", {"a": days}, at=moment - timedelta(days=days))
        history.record(connection, "server", {"a": 1}, HOUR, moment - timedelta(days=91))
        history.record(connection, "server", {"a": 1}, DAY, moment - timedelta(days=4 * 365))
    with database.write() as connection:
        assert history.thin(connection) == 4
    assert [sample.measured["a"] for sample in rows(database, MINUTE)] == [0.5]


def test_two_that_thin_at_once_count_once(database: Database) -> None:
    with database.write() as connection:
        end = datetime.fromtimestamp(now(connection).timestamp() // HOUR * HOUR, UTC)
        for minutes in range(60):
            history.record(connection, "server", {"jobs_total": 1}, at=end - timedelta(minutes=minutes))
    start = threading.Barrier(2)

    def thin() -> None:
        start.wait()
        with database.write() as connection:
            history.thin(connection)

    threads = [threading.Thread(target=thin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [hour.measured for hour in rows(database, HOUR)] == [{"jobs_total": 60}]


def test_a_sampler_samples_until_it_is_closed(database: Database) -> None:
    sampler = Sampler(database, "server", lambda: {"queued": 3.0}, seconds=0.05).start()
    until = time.monotonic() + 5
    while not rows(database, 1) and time.monotonic() < until:
        time.sleep(0.02)
    sampler.close()
    kept = len(rows(database, 1))
    assert kept >= 1
    time.sleep(0.15)
    assert len(rows(database, 1)) == kept


def test_a_fault_of_the_database_ends_no_sampler(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def measure() -> dict[str, float]:
        asked.append(1)
        if len(asked) == 1:
            raise DatabaseError("away for a moment")
        return {"queued": 1.0}

    sampler = Sampler(database, "server", measure, seconds=0.05).start()
    until = time.monotonic() + 5
    while not rows(database, 1) and time.monotonic() < until:
        time.sleep(0.02)
    sampler.close()
    assert rows(database, 1)
    assert "away for a moment" in caplog.text


def test_an_hour_of_a_thousand_processes_is_gathered_whole(database: Database) -> None:
    """More rows than a dashboard ever reads at once: none is left out of its hour."""
    with database.write() as connection:
        end = history._floor(now(connection), history.HOUR) - timedelta(hours=1)
        rows = [
            {"at": end - timedelta(minutes=minute), "window_s": 60, "source": f"worker {number}", "measured": {"jobs_total": 1.0}}
            for number in range(410)
            for minute in range(50)
        ]
        assert len(rows) > history.MOST_READ
        connection.execute(insert(history.table), rows)
        history.thin(connection)
        hours = connection.execute(select(history.table.c.source, history.table.c.measured).where(history.table.c.window_s == 3600)).all()
    assert len(hours) == 410
    assert {measured["jobs_total"] for _, measured in hours} == {50.0}
