"""Timings of statements: right, bounded, without parameters, and cheap."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.pool import StaticPool

from segkit import telemetry
from segkit.database import Database
from segkit.telemetry import MOST_SLOW, MOST_STATEMENTS, OTHERS, Statements, counted, watch


@pytest.fixture
def engine() -> Engine:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


def run(engine: Engine, statement: str, **parameters: object) -> None:
    with engine.connect() as connection:
        connection.execute(text(statement), parameters).all()


def test_statements_are_counted_by_their_text(engine: Engine) -> None:
    statements = watch(engine, slow_ms=1000)
    for number in range(5):
        run(engine, "SELECT :x", x=number)
    run(engine, "SELECT 1")
    counts = {timing.statement: timing.count for timing in statements.timings()}
    assert counts == {"SELECT ?": 5, "SELECT 1": 1}
    assert statements.count() == 6


def test_times_are_those_that_passed(engine: Engine) -> None:
    statements = watch(engine, slow_ms=1000)
    with engine.connect() as connection:
        connection.connection.driver_connection.create_function("wait", 1, time.sleep)  # type: ignore[union-attr]
    run(engine, "SELECT wait(0.02)")
    run(engine, "SELECT wait(0.05)")
    run(engine, "SELECT 1")
    slowest = statements.timings()[0]
    assert slowest.statement == "SELECT wait(0.05)"
    assert 0.05 <= slowest.seconds == slowest.slowest < 0.5


def test_slow_ones_are_listed_newest_first_and_without_parameters(engine: Engine) -> None:
    statements = watch(engine, slow_ms=10)
    with engine.connect() as connection:
        connection.connection.driver_connection.create_function("wait", 2, lambda seconds, _: time.sleep(seconds))  # type: ignore[union-attr]
    run(engine, "SELECT wait(:seconds, :secret)", seconds=0.02, secret="patient name")
    run(engine, "SELECT wait(0.03, 'first')")
    run(engine, "SELECT 1")
    assert [slow.statement for slow in statements.slow()] == ["SELECT wait(0.03, 'first')", "SELECT wait(?, ?)"]
    assert all(slow.seconds >= 0.02 for slow in statements.slow())
    assert "patient" not in repr(statements.slow()) + repr(statements.timings())


def test_memory_is_bounded() -> None:
    statements = Statements(slow_ms=0)
    for number in range(MOST_STATEMENTS + 500):
        statements.add(f"SELECT {number}", 0.5)
    timings = {timing.statement: timing.count for timing in statements.timings()}
    assert len(timings) == MOST_STATEMENTS + 1
    assert timings[OTHERS] == 500
    assert len(statements.slow()) == MOST_SLOW
    assert statements.slow()[0].statement == f"SELECT {MOST_STATEMENTS + 499}"


def test_threads_lose_no_count() -> None:
    statements = Statements(slow_ms=1000)

    def work() -> None:
        for _ in range(5000):
            statements.add("SELECT 1", 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statements.count() == 20_000
    assert statements.timings()[0].seconds == pytest.approx(20)


def test_a_statement_that_fails_is_no_trouble(engine: Engine) -> None:
    statements = watch(engine, slow_ms=1000)
    with pytest.raises(Exception, match="no such table"):
        run(engine, "SELECT * FROM nowhere")
    run(engine, "SELECT 1")
    assert statements.count() == 1


def test_counted_sees_only_its_block(engine: Engine) -> None:
    run(engine, "SELECT 1")
    with counted(engine) as seen:
        run(engine, "SELECT 2")
        run(engine, "SELECT 3")
    run(engine, "SELECT 4")
    assert seen.statements == ["SELECT 2", "SELECT 3"]
    assert seen.count == 2


def test_begin_and_commit_are_not_counted(database: Database) -> None:
    with counted(database.engine) as seen:
        with database.read() as connection:
            connection.execute(select(1))
        with database.write() as connection:
            connection.execute(select(1))
    assert seen.count == 2


def test_watching_costs_little() -> None:
    """A bound that noise does not reach: some microseconds a statement (a list of 50 rows takes about 600)."""
    plain, watched = create_engine("sqlite://"), create_engine("sqlite://")
    telemetry.watch(watched, slow_ms=1000)
    fastest = {"plain": 1.0, "watched": 1.0}
    with plain.connect() as first, watched.connect() as second:
        statement = text("SELECT 1")
        for _ in range(300):
            for name, connection in (("plain", first), ("watched", second)):
                started = time.perf_counter()
                connection.execute(statement)
                fastest[name] = min(fastest[name], time.perf_counter() - started)
    assert fastest["watched"] - fastest["plain"] < 20e-6
