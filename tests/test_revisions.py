"""Revisions: whoever writes, in whatever process, who listens knows before the writer can tell anybody."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from segkit import catalog
from segkit.database import Database, open_database
from segkit.errors import UnknownProjectError
from segkit.revisions import PostgresqlRevisions, Scope, SqliteRevisions, Stamp, revision
from segkit.settings import Settings
from tests.images_in_a_project import add_images


class Known:
    """Either way to know, asked alike."""

    def __init__(self, database: Database) -> None:
        self.known = SqliteRevisions(database) if database.dialect == "sqlite" else PostgresqlRevisions(database)
        if isinstance(self.known, PostgresqlRevisions):
            self.known.connect()

    def stamp(self, scope: Scope) -> Stamp | None:
        """What is known now of a scope."""
        if isinstance(self.known, PostgresqlRevisions) and not self.known.confirm(everything=scope == "everything"):
            return None
        return self.known.stamp(scope)


@pytest.fixture
def known(database: Database) -> Iterator[Known]:
    known = Known(database)
    yield known
    known.known.close()


@pytest.fixture
def two(database: Database) -> tuple[int, int]:
    """Two projects."""
    with database.write() as connection:
        return catalog.create_project(connection, "first").id, catalog.create_project(connection, "second").id


def test_a_write_changes_the_stamps_of_its_project_alone(database: Database, known: Known, two: tuple[int, int]) -> None:
    first, second = two
    scopes: tuple[Scope, ...] = (first, second, "projects", "everything")
    before = [known.stamp(scope) for scope in scopes]
    assert before == [known.stamp(scope) for scope in scopes]
    add_images(database, first, 3)
    after = [known.stamp(scope) for scope in scopes]
    assert [was == now for was, now in zip(before, after, strict=True)] == [False, True, False, False]


def test_what_is_no_change_of_a_project_leaves_its_stamp(database: Database, known: Known, two: tuple[int, int]) -> None:
    before = [known.stamp(scope) for scope in (two[0], "projects")]
    everything = known.stamp("everything")
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE project SET unreadable = unreadable + 1")
    assert before == [known.stamp(scope) for scope in (two[0], "projects")]
    assert known.stamp("everything") != everything


def raise_revision_and_give_up(database: Database, project_id: int) -> None:
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE project SET revision = revision + 1 WHERE id = {project_id}")
        raise LookupError


def test_what_is_taken_back_is_no_change(database: Database, known: Known, two: tuple[int, int]) -> None:
    before = known.stamp(two[0])
    with pytest.raises(LookupError):
        raise_revision_and_give_up(database, two[0])
    assert known.stamp(two[0]) == before


def test_a_project_that_comes_or_goes_is_a_change_of_all(database: Database, known: Known, two: tuple[int, int]) -> None:
    stamps = [known.stamp("projects")]
    with database.write() as connection:
        catalog.create_project(connection, "third")
    stamps.append(known.stamp("projects"))
    with database.write() as connection:
        catalog.delete_project(connection, two[0])
    stamps.append(known.stamp("projects"))
    assert len(set(stamps)) == 3


def test_each_of_many_commits_is_known_at_once(database_settings: Settings, known: Known, two: tuple[int, int]) -> None:
    """Without waiting: the stamp that is asked for after a commit is never the one from before."""
    with open_database(database_settings) as writer:
        last = known.stamp(two[0])
        for _ in range(200):
            with writer.write() as connection:
                connection.exec_driver_sql(f"UPDATE project SET revision = revision + 1 WHERE id = {two[0]}")
            now = known.stamp(two[0])
            assert now != last
            last = now


def test_a_revision_that_is_asked_for(database: Database, two: tuple[int, int]) -> None:
    def ask() -> list[object]:
        with database.read() as connection:
            return [revision(connection, scope) for scope in (*two, "projects")]

    before = ask()
    add_images(database, two[0], 1)
    assert [was == now for was, now in zip(before, ask(), strict=True)] == [False, True, False]
    with database.read() as connection, pytest.raises(UnknownProjectError):
        revision(connection, 999)


def test_only_postgresql_has_a_revision_of_everything_that_others_understand(database: Database, two: tuple[int, int]) -> None:
    with database.read() as connection:
        before = revision(connection, "everything")
        assert revision(connection, "everything") == before
    assert (before is None) == (database.dialect == "sqlite")


# PostgreSQL


@pytest.fixture
def postgresql(make_settings: object) -> Iterator[Database]:
    with open_database(make_settings("postgresql")) as database:  # type: ignore[operator]
        yield database


@pytest.fixture
def listener(postgresql: Database) -> Iterator[PostgresqlRevisions]:
    listener = PostgresqlRevisions(postgresql)
    listener.connect()
    yield listener
    listener.close()


def kill(database: Database, backend: int) -> None:
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute("SELECT pg_terminate_backend(%s, 2000)", [backend])


def test_a_listener_that_was_cut_off_knows_nothing(postgresql: Database, listener: PostgresqlRevisions) -> None:
    before = listener.stamp("projects")
    kill(postgresql, listener.backend)
    assert not listener.confirm()
    assert listener.stamp("projects") is None
    listener.connect()
    assert listener.confirm()
    assert listener.stamp("projects") not in (None, before), "a commit of the time between would be missed"


def test_an_empty_question_is_no_statement(postgresql: Database, listener: PostgresqlRevisions) -> None:
    for _ in range(20):
        assert listener.confirm()
    with postgresql.read() as connection:
        asked = connection.exec_driver_sql("SELECT query FROM pg_stat_activity WHERE pid = %s", (listener.backend,)).scalar()
    assert asked in ("", "LISTEN segkit_revision")


def test_a_table_that_is_emptied_by_hand_is_a_change(postgresql: Database, listener: PostgresqlRevisions) -> None:
    before = [listener.stamp(scope) for scope in (1, "projects")]
    with postgresql.write() as connection:
        connection.exec_driver_sql("TRUNCATE project CASCADE")
    assert listener.confirm()
    assert all(was != listener.stamp(scope) for was, scope in zip(before, (1, "projects"), strict=True))


def test_asking_takes_less_than_a_statement(postgresql: Database, listener: PostgresqlRevisions) -> None:
    def fastest(ask: object) -> float:
        times = []
        for _ in range(300):
            started = time.perf_counter()
            ask()  # type: ignore[operator]
            times.append(time.perf_counter() - started)
        return min(times)

    def statement() -> None:
        with postgresql.read() as connection:
            revision(connection, "projects")

    assert fastest(listener.confirm) < fastest(statement)


# SQLite


def test_a_file_that_was_replaced_is_seen(make_settings: object) -> None:
    settings = make_settings("sqlite")  # type: ignore[operator]
    with open_database(settings) as database:
        known = SqliteRevisions(database)
        before = known.stamp("projects")
        assert database.path is not None
        copy = database.path.with_suffix(".copy")
        copy.write_bytes(database.path.read_bytes())
        copy.replace(database.path)
        assert known.stamp("everything") != before
        database.path.unlink()
        assert known.stamp("everything") is None
        known.close()
