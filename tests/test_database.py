"""Transactions, the clock, the write lock, and every fault in words, on real SQLite files and a real PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from segkit.database import Database, check, current, now, now_sql, open_database
from segkit.errors import (
    DatabaseBusyError,
    DatabaseCorruptError,
    DatabaseError,
    DatabaseMissingError,
    DatabaseNewerError,
    DatabaseOutdatedError,
    DatabaseReadOnlyError,
    DiskFullError,
    NotWritableError,
    SegkitError,
)
from segkit.migrations import known
from segkit.schema import Image, Project
from segkit.settings import Settings, load

MakeSettings = Callable[..., Settings]


def add_project(database: Database, name: str) -> None:
    with database.write() as connection:
        connection.execute(insert(Project).values(name=name, created_at=now_sql()))


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(select(Project.name).order_by(Project.id)))


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


def write_many(database: Database, tag: str, count: int) -> None:
    for number in range(count):
        add_project(database, f"{tag}-{number}")


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


def bulky_rows(number: int, count: int) -> list[dict[str, object]]:
    return [{"name": f"{number}-{row:0190}", "created_at": datetime.now(UTC)} for row in range(count)]


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


# Faults in words


def test_a_missing_home_is_made(tmp_path: Path) -> None:
    home = tmp_path / "new" / "folder with a % and an é"
    with open_database(load(home=str(home))) as database:
        assert names(database) == []
    assert (home / "segkit.db").is_file()


def test_a_named_database_is_not_made_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "mine.db"
    with pytest.raises(DatabaseMissingError, match="segkit init"):
        open_database(load(home=str(tmp_path), database_url=f"sqlite:///{path}"))
    assert not path.parent.exists()


def test_reading_a_file_that_is_not_there_does_not_make_it(tmp_path: Path) -> None:
    with open_database(load(home=str(tmp_path)), check=False) as database:
        assert current(database) is None
        with pytest.raises(DatabaseMissingError, match=r"no database .*segkit\.db"), database.read():
            pass
    assert not (tmp_path / "segkit.db").exists()


def test_tables_that_are_missing_are_told(empty_database: Database) -> None:
    with pytest.raises(DatabaseMissingError, match="segkit init"):
        check(empty_database)


def test_a_newer_database_is_left_alone(database: Database, database_settings: Settings) -> None:
    set_revision(database, "9999")
    with pytest.raises(DatabaseNewerError, match="Upgrade segkit"):
        open_database(database_settings)
    set_revision(database, known()[-1])


def test_an_older_database_is_told(database: Database, database_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = known()
    monkeypatch.setattr("segkit.migrations.known", lambda: (*revisions, "9999"))
    with pytest.raises(DatabaseOutdatedError, match="segkit db upgrade"):
        open_database(database_settings)


def set_revision(database: Database, revision: str) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "segkit.db").write_bytes(b"\x89PNG not a database, but long enough to look like a file" * 100)
    with pytest.raises(DatabaseCorruptError, match="no database"):
        open_database(load(home=str(tmp_path)))


def test_a_damaged_database(make_settings: MakeSettings) -> None:
    settings = make_settings()
    path = Path(settings.home) / "segkit.db"
    with open_database(settings) as database:
        write_many(database, "x", 50)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(DatabaseCorruptError, match="Restore it"), open_database(settings, check=False) as database:
        names(database)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "segkit.db").mkdir()
    with pytest.raises(DatabaseError, match="is a folder"):
        open_database(load(home=str(tmp_path)))


def test_a_file_in_place_of_the_home(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    with pytest.raises(NotWritableError, match="is a file"):
        open_database(load(home=str(tmp_path / "home")))


def test_a_deleted_database_takes_no_more_writes(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with open_database(settings) as database:
        add_project(database, "one")
        (Path(settings.home) / "segkit.db").unlink()
        with pytest.raises(DatabaseMissingError, match="deleted or moved"):
            add_project(database, "two")


def test_a_replaced_database_takes_no_writes_meant_for_the_old(make_settings: MakeSettings, migrated_sqlite: Path) -> None:
    settings = make_settings()
    path = Path(settings.home) / "segkit.db"
    with open_database(settings) as database:
        add_project(database, "one")
        path.rename(path.with_name("old.db"))
        path.write_bytes(migrated_sqlite.read_bytes())
        with pytest.raises(DatabaseError, match="replaced"):
            add_project(database, "two")


AS_NOBODY = """
import os, sys
from segkit.errors import SegkitError
from segkit.database import open_database
from segkit.settings import load
from sqlalchemy import text
homes = [load(home=home) for home in sys.argv[1:]]
os.setgid(65534); os.setuid(65534)
for settings in homes:
    try:
        with open_database(settings) as database, database.write() as connection:
            connection.execute(text("UPDATE project SET images = 1"))
            print("written")
    except SegkitError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, and root may write everywhere")
def test_databases_that_may_only_be_read(migrated_sqlite: Path, open_folder: Path) -> None:
    homes = []
    for folder, file in ((0o755, 0o644), (0o700, 0o666), (0o777, 0o444), (0o755, 0o666), (0o777, 0o666)):
        home = open_folder / f"{folder:o}-{file:o}"
        home.mkdir()
        shutil.copy(migrated_sqlite, home / "segkit.db")
        home.chmod(folder)
        (home / "segkit.db").chmod(file)
        homes.append(str(home))
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, *homes], capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout.splitlines()
    assert [line.split()[0] for line in said] == [*["DatabaseReadOnlyError"] * 4, "written"], done.stdout + done.stderr
    assert all(home in line for home, line in zip(homes[:4], said[:4], strict=True))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; real, so only where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user cannot mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """The write fails whole, reads go on, and writing works again when there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    with open_database(load(home=str(small_disk))) as database:
        add_project(database, "before")
        with pytest.raises(DiskFullError, match="disk is full"), database.write() as connection:
            connection.execute(insert(Project), bulky_rows(0, 20_000))
        assert names(database) == ["before"]
        ballast.unlink()
        add_project(database, "after")
        assert names(database) == ["before", "after"]
        with database.read() as connection:
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("postgresql://u:secret@127.0.0.1:1/x", DatabaseError, "cannot be reached"),
        ("postgresql://u:secret@no-such-host.invalid/x", DatabaseError, "cannot be reached"),
        ("mysql://u:secret@h/x", DatabaseError, "PostgreSQL or SQLite"),
        ("sqlite://", DatabaseError, "without a file"),
        ("not a url", DatabaseError, "cannot be read"),
    ],
)
def test_a_url_that_leads_nowhere(tmp_path: Path, url: str, kind: type[SegkitError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        open_database(load(home=str(tmp_path), database_url=url))
    assert "secret" not in str(caught.value)


def test_a_server_without_such_a_database(migrated_postgresql: str, tmp_path: Path) -> None:
    url = migrated_postgresql.replace("/test", "/no-such-test")
    with pytest.raises(DatabaseError, match="no such database"):
        open_database(load(home=str(tmp_path), database_url=url))


def test_a_wrong_password(migrated_postgresql: str, tmp_path: Path) -> None:
    with psycopg.connect(migrated_postgresql, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS locked_out")
        connection.execute("CREATE ROLE locked_out NOLOGIN")
    with pytest.raises(DatabaseError, match="refused user and password") as caught:
        open_database(load(home=str(tmp_path), database_url=migrated_postgresql.replace("postgres:", "locked_out:secret")))
    assert "secret" not in str(caught.value)


def test_a_lacking_permission(migrated_postgresql: str, tmp_path: Path) -> None:
    with psycopg.connect(migrated_postgresql, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
    with pytest.raises(DatabaseError, match="lacks a permission"):
        open_database(load(home=str(tmp_path), database_url=migrated_postgresql.replace("postgres:", "reader:")))


def test_a_server_that_takes_no_writes(make_settings: MakeSettings) -> None:
    settings = make_settings("postgresql")
    with administrator(settings) as connection:
        connection.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        with open_database(settings) as database, pytest.raises(DatabaseReadOnlyError, match="accepts no writes"):
            add_project(database, "no")
    finally:
        with administrator(settings) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("ALTER ROLE postgres RESET default_transaction_read_only")


def administrator(settings: Settings) -> psycopg.Connection:
    assert settings.database_url is not None
    return psycopg.connect(settings.database_url.get_secret_value(), autocommit=True)


def test_a_connection_that_broke_while_idle_is_replaced(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings("postgresql")
    with open_database(settings) as database:
        monkeypatch.setattr("segkit.database.engines.IDLE_SECONDS", 0)
        end_other_connections(settings)
        add_project(database, "as if nothing happened")


def test_a_connection_that_breaks_in_use_is_an_error_once(make_settings: MakeSettings) -> None:
    settings = make_settings("postgresql")
    with open_database(settings) as database:
        with pytest.raises(DatabaseError, match="shutting down or starting"), database.write() as connection:
            break_and_go_on(connection, settings)
        add_project(database, "again")


def break_and_go_on(connection: Connection, settings: Settings) -> None:
    connection.execute(update(Project).values(images=1))
    end_other_connections(settings)
    connection.execute(update(Project).values(images=1))


def end_other_connections(settings: Settings) -> None:
    with administrator(settings) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_value_that_no_database_takes_is_told(make_settings: MakeSettings) -> None:
    with open_database(make_settings("postgresql")) as database, pytest.raises(DatabaseError, match="NUL"):
        add_project(database, "zero \0 byte")


def test_the_driver_fault_stays_the_cause(database: Database) -> None:
    """People read words; whoever looks for the bug finds what the driver said."""
    with pytest.raises(DatabaseError) as caught, database.read() as connection:
        connection.execute(text("SELECT * FROM no_such_table"))
    assert isinstance(caught.value, DatabaseMissingError)
    assert "no_such_table" in str(caught.value.__cause__)


def test_monitoring_can_be_switched_off(make_settings: MakeSettings) -> None:
    with open_database(make_settings(enable_performance_monitoring=False)) as database:
        assert database.timings is None
    with open_database(make_settings()) as database:
        assert database.timings is not None
        assert database.timings.count() > 0
