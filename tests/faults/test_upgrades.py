"""Upgrades that meet each other, or are killed: the tables are of the old revision or the new one, never between, with all rows."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from segkit import migrations
from segkit.database import Database, check, current, open_database, upgrade
from segkit.settings import Settings, load
from tests.faults.report import record
from tests.faults.scenes import url_of
from tests.test_migrations import AT, FIRST_ROWS, rows_of, tables

HEAD = migrations.known()[-1]
DIALECTS = ["sqlite", "postgresql"]


@pytest.fixture(params=DIALECTS)
def first_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a database of the first revision with rows in it, once for each engine."""
    named = {"database_url": request.getfixturevalue("postgresql_server").create()} if request.param == "postgresql" else {}
    settings = load(home=str(tmp_path / "home"), **named)
    with open_database(settings, check=False) as database:
        upgrade(database, migrations.known()[0])
        fill(database)
    return settings


def fill(database: Database) -> None:
    """Put in what a laboratory had before all later revisions."""
    with database.write() as connection:
        moment = AT if database.dialect == "postgresql" else f"{AT:%Y-%m-%d %H:%M:%S.%f}"
        for statement in FIRST_ROWS:
            connection.execute(text(statement), {"at": moment} if ":at" in statement else {})


def start(settings: Settings) -> subprocess.Popen[str]:
    """Run `segkit db upgrade`."""
    url = url_of(settings)
    environment = {**os.environ, "SEGKIT_HOME": settings.home, **({"SEGKIT_DATABASE_URL": url} if url else {})}
    command = [sys.executable, "-m", "segkit", "db", "upgrade"]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def kept(database: Database, before: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether every value of these tables is as it was."""
    after = rows_of(database, set(before))
    return {name: [{key: row[key] for key in old} for row, old in zip(after[name], before[name], strict=True)] for name in before} == before


def rows(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Every row but the revision's."""
    with open_database(settings, check=False) as database:
        return rows_of(database, tables(database) - {"alembic_version"})


def all_at_once(settings: Settings, number: int) -> list[tuple[int, str]]:
    """Run so many upgrades at once; returns how each ended, and what it said."""
    processes = [start(settings) for _ in range(number)]
    said = [process.communicate(timeout=240)[0] for process in processes]
    return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]


def test_two_upgrades_at_once_wait_for_each_other(first_settings: Settings) -> None:
    before = rows(first_settings)
    ended = all_at_once(first_settings, 2)
    assert [code for code, _ in ended] == [0, 0], ended
    with open_database(first_settings) as database:
        assert kept(database, before)
        dialect = database.dialect
    record(
        "Two upgrades at once",
        f"`segkit db upgrade` of the first revision, 2 processes ({dialect})",
        1,
        "Both end well; all rows are there",
    )


@pytest.mark.faults
def test_eight_upgrades_at_once_wait_for_each_other(first_settings: Settings) -> None:
    before = rows(first_settings)
    ended = all_at_once(first_settings, 8)
    assert [code for code, _ in ended] == [0] * 8, ended
    with open_database(first_settings) as database:
        assert kept(database, before)
        dialect = database.dialect
    record(
        "Two upgrades at once", f"`segkit db upgrade` of the first revision, 8 processes ({dialect})", 1, "All end well; all rows are there"
    )


#: Says when it begins a statement and waits to be told to go on, so that it can be killed between any two.
STEPWISE = """
import sys
from sqlalchemy import event
from segkit.database import open_database, upgrade
from segkit.settings import load
database = open_database(load(home=sys.argv[1], **({"database_url": sys.argv[2]} if sys.argv[2] else {})), check=False)
def pause(conn, cursor, statement, parameters, context, executemany):
    if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA", "SHOW", "SET")):
        print(statement.split()[0], flush=True)
        sys.stdin.readline()
event.listen(database.engine, "before_cursor_execute", pause)
event.listen(database.engine, "commit", lambda connection: pause(None, None, "COMMIT", None, None, False))
upgrade(database)
"""


def killed_at(settings: Settings, step: int) -> bool:
    """Upgrade, and kill it before its statement of this number; False when it has not so many."""
    command = [sys.executable, "-c", STEPWISE, settings.home, url_of(settings) or ""]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(step):
            if not process.stdout.readline():
                break
            process.stdin.write("\n")
            process.stdin.flush()
        there = bool(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        return there


def steps_of(settings: Settings) -> int:
    """Count the statements of an upgrade, which is then undone by killing it at its COMMIT."""
    command = [sys.executable, "-c", STEPWISE, settings.home, url_of(settings) or ""]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        number = 0
        while process.stdout.readline() not in ("COMMIT\n", ""):
            number += 1
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    return number


@pytest.mark.faults
def test_an_upgrade_killed_before_any_of_its_statements_has_done_nothing_and_is_repeated(first_settings: Settings) -> None:
    before, chance = rows(first_settings), random.Random(3)
    steps = steps_of(first_settings)
    assert steps >= 10
    chosen = sorted({0, 1, steps // 2, steps - 1, steps, *chance.sample(range(steps), 4)})
    for step in chosen:
        assert killed_at(first_settings, step), step
        with open_database(first_settings, check=False) as database:
            assert current(database) == migrations.known()[0], step
            assert rows_of(database, set(before)) == before
            assert tables(database) - {"alembic_version"} == set(before)
    with open_database(first_settings, check=False) as database:
        upgrade(database)
        check(database)
        assert kept(database, before)
        dialect = database.dialect
    told = f"The tables are as before each time ({steps} statements); repeated, all rows are there"
    record("Upgrade killed half-way", f"SIGKILL before one of its statements or its COMMIT ({dialect})", len(chosen), told)


@pytest.mark.faults
def test_upgrades_killed_at_random_while_others_run_end_well_in_the_end(first_settings: Settings) -> None:
    """Two at a time, one of them killed at any moment, until one has ended well; then once more without a kill."""
    before, chance, kills = rows(first_settings), random.Random(9), 0
    for _ in range(6):
        processes = [start(first_settings) for _ in range(2)]
        time.sleep(chance.uniform(0.5, 3.0))
        kills += processes[0].poll() is None
        processes[0].kill()
        said = [process.communicate(timeout=240)[0] for process in processes]
        assert processes[1].returncode == 0, said
        with open_database(first_settings, check=False) as database:
            assert current(database) in (HEAD, migrations.known()[0])
            assert kept(database, before)
    with open_database(first_settings) as database:
        check(database)
        dialect = database.dialect
    record("Upgrade killed half-way", f"SIGKILL at a random moment while another one waits ({dialect})", kills, "The other one ends well")
