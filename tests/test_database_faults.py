"""Every fault of a database in words, on real SQLite files and a real PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, insert, text, update

from segkit.database import Database, check, current, open_database
from segkit.errors import (
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
from segkit.schema import Project
from segkit.settings import Settings, load
from tests.project_rows import MakeSettings, add_project, bulky_rows, names, write_many

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
