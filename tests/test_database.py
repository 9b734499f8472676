"""Transactions, the clock and the write lock, on real SQLite files and a real PostgreSQL server."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from segkit.database import Database, now, now_sql, open_database
from segkit.errors import DatabaseBusyError, DatabaseError, DatabaseReadOnlyError
from segkit.schema import Image, Project
from segkit.settings import Settings
from tests.project_rows import MakeSettings, add_project, bulky_rows, names, write_many

# Transactions


def test_a_write_is_kept_when_its_block_ends(database: Database) -> None:
    add_project(database, "kept")
    assert names(database) == ["kept"]


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        add_and_fail(connection)
    assert names(database) == []


def add_and_fail(connection: Connection) -> None:
    connection.execute(insert(Project).values(name="lost", created_at=now_sql()))
    raise ZeroDivisionError


def test_a_read_can_change_nothing(database: Database) -> None:
    with pytest.raises(DatabaseReadOnlyError), database.read() as connection:
        connection.execute(insert(Project).values(name="no", created_at=now_sql()))
    assert names(database) == []
    add_project(database, "the same connection can write again")


def test_a_read_sees_one_state_on_sqlite(make_settings: MakeSettings) -> None:
    with open_database(make_settings()) as database, database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(Project)) == 0
        add_project(database, "meanwhile")
        assert connection.scalar(select(func.count()).select_from(Project)) == 0


def test_a_new_process_sees_what_was_committed(database: Database, database_settings: Settings) -> None:
    add_project(database, "told")
    database.close()
    with open_database(database_settings) as other:
        assert names(other) == ["told"]


def test_foreign_keys_hold(database: Database) -> None:
    values = {"project_id": 99, "content_hash": "0", "uri": "u", "name": "n", "created_at": now_sql()}
    with pytest.raises(DatabaseError, match=r"(?i)foreign key"), database.write() as connection:
        connection.execute(insert(Image).values(values))


def test_sqlite_is_durable(make_settings: MakeSettings) -> None:
    with open_database(make_settings()) as database, database.read() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA mmap_size")) == 0


def test_connections_are_limited(make_settings: MakeSettings) -> None:
    with open_database(make_settings(db_pool_max=1)) as database, database.read():
        database.engine.pool._timeout = 0.1  # type: ignore[attr-defined]
        with pytest.raises(DatabaseBusyError, match="SEGKIT_DB_POOL_MAX"), database.read():
            pass


# The clock


def test_the_clock_gives_utc_with_microseconds(database: Database) -> None:
    with database.read() as connection:
        moments = [now(connection) for _ in range(20)]
    assert all(moment.utcoffset() == timedelta(0) for moment in moments)
    assert abs(moments[0] - datetime.now(UTC)) < timedelta(seconds=5)
    assert any(moment.microsecond % 1000 for moment in moments)
    assert moments == sorted(moments)


def test_the_clock_in_a_statement_compares_with_stored_times(database: Database) -> None:
    add_project(database, "now")
    with database.read() as connection:
        earlier = now(connection)
        assert connection.scalar(select(func.count()).where(Project.created_at <= now_sql())) == 1
        assert connection.scalar(select(func.count()).where(Project.created_at <= earlier)) == 1
        assert connection.execute(select(Project.created_at)).scalar_one().utcoffset() == timedelta(0)


def test_the_clock_goes_on_within_a_transaction(database: Database) -> None:
    with database.write() as connection:
        before = now(connection)
        time.sleep(0.01)
        assert now(connection) - before >= timedelta(milliseconds=9)


# Many writers


def test_threads_write_side_by_side(database: Database) -> None:
    threads = [threading.Thread(target=write_many, args=(database, f"t{number}", 20)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 80


WRITER = """
import sys
from sqlalchemy import insert
from segkit.database import now_sql, open_database
from segkit.schema import Project
from segkit.settings import load
database = open_database(load(home=sys.argv[1], **({"database_url": sys.argv[2]} if sys.argv[2] else {})))
print("ready", flush=True)
for number in range(int(sys.argv[4])):
    with database.write() as connection:
        connection.execute(insert(Project).values(name=f"{sys.argv[3]}-{number}", created_at=now_sql()))
    print(number, flush=True)
"""


def start_writer(settings: Settings, tag: str, count: int) -> subprocess.Popen[str]:
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    return subprocess.Popen([sys.executable, "-c", WRITER, settings.home, url, tag, str(count)], stdout=subprocess.PIPE, text=True)


def await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def read_rest(process: subprocess.Popen[str]) -> list[str]:
    with process:
        assert process.stdout is not None
        return process.stdout.read().splitlines()


def test_processes_write_side_by_side_and_a_killed_one_loses_nothing_it_was_told(database_settings: Settings) -> None:
    """Three processes write as fast as they can; one is killed in the middle. SQLite stays whole, told commits are there."""
    writers = {tag: start_writer(database_settings, tag, 100 if tag != "killed" else 1_000_000) for tag in ("a", "b", "killed")}
    for writer in writers.values():
        await_ready(writer)
    time.sleep(0.3)
    writers["killed"].send_signal(signal.SIGKILL)
    told = {tag: read_rest(writers[tag]) for tag in ("killed", "a", "b")}
    with open_database(database_settings) as database:
        there = set(names(database))
        add_project(database, "the lock is free")
        if database.dialect == "sqlite":
            with database.read() as connection:
                assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    assert [writers[tag].returncode for tag in ("a", "b", "killed")] == [0, 0, -signal.SIGKILL]
    assert len(told["a"]) == len(told["b"]) == 100
    assert len(told["killed"]) >= 1
    assert {f"{tag}-{number}" for tag, numbers in told.items() for number in numbers} <= there


def test_no_commit_happens_while_another_process_holds_the_write_lock(make_settings: MakeSettings) -> None:
    """The WAL-reset bug needs a checkpoint during another connection's commit; the lock spans both."""
    settings = make_settings()
    with open_database(settings) as database:
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with database.write() as connection:
                connection.execute(insert(Project).values(name="first", created_at=now_sql()))
                entered.set()
                leave.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        entered.wait(10)
        writer = start_writer(settings, "second", 1)
        await_ready(writer)
        time.sleep(0.2)
        assert writer.poll() is None
        assert names(database) == []
        leave.set()
        holder.join()
        assert writer.wait(20) == 0
        assert names(database) == ["first", "second-0"]
        writer.communicate()


def test_readers_never_checkpoint(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with open_database(settings) as database, open_database(settings) as reader:
        add_project(database, "in the log")
        log = Path(settings.home) / "segkit.db-wal"
        size = log.stat().st_size
        for _ in range(50):
            assert names(reader) == ["in the log"]
        assert log.stat().st_size == size > 0
        reader.close()
        assert log.stat().st_size == size


def test_the_log_of_sqlite_stays_small(make_settings: MakeSettings) -> None:
    """Checkpoints do happen: in the commits."""
    settings = make_settings()
    with open_database(settings) as database:
        for number in range(40):
            with database.write() as connection:
                connection.execute(insert(Project), bulky_rows(number, 100))
        assert (Path(settings.home) / "segkit.db-wal").stat().st_size < 8 * 1024**2
        assert (Path(settings.home) / "segkit.db").stat().st_size > 512 * 1024


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.database.engines.BUSY_SECONDS", 0.2)
    monkeypatch.setattr("segkit.database.engines.SESSION", "SET lock_timeout = '200ms'")


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_does_not_go_away_is_told(database_settings: Settings) -> None:
    with open_database(database_settings) as first, open_database(database_settings) as second:
        add_project(first, "one")
        with first.write() as connection:
            connection.execute(update(Project).values(images=1))
            with pytest.raises(DatabaseBusyError, match="locked"), second.write() as other:
                other.execute(update(Project).values(images=2))
        add_project(second, "two")


@pytest.mark.usefixtures("impatient")
def test_another_programs_lock_is_told(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with open_database(settings) as database:
        other = sqlite3.connect(Path(settings.home) / "segkit.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusyError, match="locked"):
            add_project(database, "no")
        other.close()
        add_project(database, "yes")
