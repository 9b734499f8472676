"""Revisions: up, down and up again; no difference from the models; whole or not at all; two at once do no harm."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from segkit import catalog, jobs, migrations, results
from segkit.database import Database, check, current, downgrade, open_database, upgrade
from segkit.errors import DatabaseError, DatabaseMissingError, DatabaseNewerError
from segkit.migrations.revise import configuration
from segkit.schema import Base
from segkit.settings import Settings, load

HEAD = migrations.known()[-1]


def tables(database: Database) -> set[str]:
    with database.read() as connection:
        return set(inspect(connection).get_table_names())


def test_up_down_and_up_again(empty_database: Database) -> None:
    upgrade(empty_database)
    check(empty_database)
    assert tables(empty_database) == {*Base.metadata.tables, "alembic_version"}
    downgrade(empty_database, "base")
    assert current(empty_database) is None
    assert tables(empty_database) == {"alembic_version"}
    with pytest.raises(DatabaseMissingError):
        check(empty_database)
    upgrade(empty_database)
    check(empty_database)
    assert current(empty_database) == HEAD


@pytest.mark.parametrize("revision", migrations.known())
def test_each_revision_can_be_taken_back(empty_database: Database, revision: str) -> None:
    upgrade(empty_database, revision)
    there = tables(empty_database)
    assert current(empty_database) == revision
    downgrade(empty_database, "-1")
    upgrade(empty_database, "+1")
    assert tables(empty_database) == there


def test_the_tables_are_those_of_the_models(database: Database) -> None:
    """Autogenerate finds nothing to do: every table, column, type, index and constraint is there, and no other."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": Base.metadata})
        assert compare_metadata(context, Base.metadata) == []


def test_partial_and_descending_indexes_are_those_of_the_models(empty_database: Database) -> None:
    """Autogenerate does not compare conditions and directions; the databases' own words do."""
    upgrade(empty_database)
    migrated = index_definitions(empty_database)
    with empty_database.write() as connection:
        for index in [index for table in Base.metadata.tables.values() for index in table.indexes]:
            index.drop(connection)
            index.create(connection)
    assert migrated == index_definitions(empty_database)
    assert len(migrated) >= 10


def index_definitions(database: Database) -> dict[str, str]:
    sqlite = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    postgresql = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND indexname LIKE 'ix%'"
    with database.read() as connection:
        rows = connection.execute(text(sqlite if database.dialect == "sqlite" else postgresql)).all()
    return {name: " ".join(sql.split()).replace('"', "") for name, sql in rows}


def test_file_names_are_the_revisions() -> None:
    """`check` must know the revisions without loading Alembic, so it reads their numbers off the files."""
    script = ScriptDirectory.from_config(configuration(None))  # type: ignore[arg-type]
    assert [step.revision for step in reversed(list(script.walk_revisions()))] == list(migrations.known())
    assert script.get_current_head() == HEAD


def test_rows_outlive_an_upgrade_that_has_nothing_to_do(database: Database) -> None:
    with database.write() as connection:
        connection.execute(
            text("INSERT INTO project (name, created_at, revision, images, unreadable) VALUES ('p', CURRENT_TIMESTAMP, 0, 0, 0)")
        )
    upgrade(database)
    with database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM project")) == 1


#: What a laboratory had before all later revisions: projects, images, a run, jobs in every state, a result.
FIRST_ROWS = (
    "INSERT INTO project (name, created_at, revision, images, unreadable) VALUES ('plate é', :at, 3, 2, 1)",
    "INSERT INTO image (project_id, content_hash, uri, name, format, axes, shape, dtype, channels, pixel_size_um, bytes, error, "
    "created_at) VALUES (1, 'abc', '/data/a.tif', 'a.tif', 'tiff', 'YX', '[64, 64]', 'uint8', '[\"DAPI\"]', 0.325, 4096, NULL, :at)",
    "INSERT INTO image (project_id, content_hash, uri, name, bytes, error, created_at) "
    "VALUES (1, 'unreadable:1', '/data/b.tif', 'b.tif', 0, 'It is cut short.', :at)",
    "INSERT INTO run (project_id, fingerprint, segmenter, version, parameters, selection, segkit_version, priority, created_at, queued, "
    "running, done, failed, cancelled, objects) VALUES (1, 'f', 'nuclei', '1', '{\"diameter_um\": 9.5}', '{}', '0.1', 2, :at, "
    "1, 0, 1, 0, 0, 61)",
    "INSERT INTO job (run_id, image_id, status, priority, attempt, max_attempts, not_before, worker, created_at, started_at, finished_at) "
    "VALUES (1, 1, 'done', 0, 1, 3, :at, 'lab1:7', :at, :at, :at)",
    "INSERT INTO job (run_id, image_id, status, priority, attempt, max_attempts, not_before, created_at) "
    "VALUES (1, 2, 'queued', 2, 0, 3, :at, :at)",
    "INSERT INTO result (job_id, run_id, image_id, attempt, path, checksum, objects, summary, bytes, seconds, created_at) "
    "VALUES (1, 1, 1, 1, 'results/1/1', 'c', 61, '{\"objects\": 61}', 90000, 0.4, :at)",
)
AT = datetime(2024, 2, 29, 12, 30, 0, 123456, UTC)


def rows_of(database: Database, names: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Every value of these tables, as the database gives it."""
    found: dict[str, list[dict[str, Any]]] = {}
    with database.read() as connection:
        for name in sorted(names):
            found[name] = [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY 1"))]
    return found


def test_rows_of_the_first_revision_outlive_every_later_one(empty_database: Database) -> None:
    """Each step up, and each step down and up again, leaves every value as it was; then they are worked on."""
    upgrade(empty_database, migrations.known()[0])
    with empty_database.write() as connection:
        moment = AT if empty_database.dialect == "postgresql" else f"{AT:%Y-%m-%d %H:%M:%S.%f}"
        for statement in FIRST_ROWS:
            connection.execute(text(statement), {"at": moment} if ":at" in statement else {})
    names = tables(empty_database) - {"alembic_version"}
    before = rows_of(empty_database, names)
    assert [len(rows) for rows in before.values()] == [2, 2, 1, 1, 1]
    for revision in migrations.known()[1:]:
        for step in (upgrade, downgrade, upgrade):
            step(empty_database, revision if step is upgrade else "-1")
            after = rows_of(empty_database, names)
            assert {
                name: [{key: row[key] for key in old} for row, old in zip(after[name], before[name], strict=True)] for name in before
            } == before
    check(empty_database)
    with empty_database.write() as connection:
        claimed = jobs.claim(connection, "w", 5, 60)
        assert [(claim.job_id, claim.name, claim.parameters) for claim in claimed] == [(2, "b.tif", {"diameter_um": 9.5})]
        assert jobs.recount(connection) == []
        assert catalog.images(connection, 1).items[-1].created_at == AT
        assert results.of_run(connection, 1).items[0].summary == {"objects": 61}


def test_an_unknown_revision_is_told_with_the_known(empty_database: Database) -> None:
    with pytest.raises(DatabaseError, match=f"no revision .*{HEAD}"):
        upgrade(empty_database, "head2")
    with pytest.raises(DatabaseError, match="cannot be changed to -7"):
        downgrade(empty_database, "-7")


def test_a_newer_database_is_not_touched(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for step in (lambda: upgrade(database), lambda: downgrade(database, "base")):
        with pytest.raises(DatabaseNewerError):
            step()
    assert set(Base.metadata.tables) <= tables(database)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": HEAD})


UPGRADE = """
import sys
from sqlalchemy import event
from segkit.database import open_database, upgrade
from segkit.settings import load
database = open_database(load(home=sys.argv[1], **({"database_url": sys.argv[2]} if sys.argv[2] else {})), check=False)
def pause(conn, cursor, statement, parameters, context, executemany):
    if sys.argv[3] == "stop" and "CREATE TABLE job" in statement:
        print("half way", flush=True)
        sys.stdin.read()
event.listen(database.engine, "before_cursor_execute", pause)
print("ready", flush=True)
if sys.argv[3] == "together":
    sys.stdin.readline()
upgrade(database)
"""


def start_upgrade(settings: Settings, how: str) -> subprocess.Popen[str]:
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    command = [sys.executable, "-c", UPGRADE, settings.home, url, how]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    arguments = {"database_url": request.getfixturevalue("postgresql_server").create()} if request.param == "postgresql" else {}
    return load(home=str(tmp_path), **arguments)


def test_killed_half_way_the_tables_are_as_before(empty_settings: Settings) -> None:
    process = start_upgrade(empty_settings, "stop")
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with open_database(empty_settings, check=False) as database:
        assert current(database) is None
        assert tables(database) == set()
        upgrade(database)
        check(database)


def test_two_at_once_do_no_harm(empty_settings: Settings) -> None:
    processes = [start_upgrade(empty_settings, "together") for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    with open_database(empty_settings, check=False) as database:
        check(database)
