"""Which projects changed: what the database says when it is asked, and what a process knows without asking each time.

Every write that a list shows raises `project.revision` in its own transaction. A process that keeps answers must know of that
before it gives a kept one out again:

- SQLite: `PRAGMA data_version` on a kept connection takes microseconds and is exact, whoever wrote.
- PostgreSQL: a trigger on `project.revision` notifies a channel in the writer's transaction. The server marks a listener before it
  tells the writer that the commit is done, and sends what a listener missed before it answers the listener's next question. So one
  empty question and its answer (no statement: nothing is parsed, planned or run) prove, over the very connection that carries the
  news, that nothing committed before the question is unknown. There is no time-out to guess and no gap: a connection that is
  dead, or behind a pooler that swallows notifications, proves nothing, and what was kept is not used.

A stamp is a value that is the same only while nothing of its scope changed. Stamps are of one process and mean nothing to another;
revisions mean the same everywhere, so keys in Redis hold those.
"""

from __future__ import annotations

import os
import secrets
import select as readiness
import sqlite3
import threading
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal, cast

import lazy_loader
from sqlalchemy import Connection, Table, func, literal_column, select

from segkit.database import Database
from segkit.errors import UnknownProjectError
from segkit.schema import Project

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn
else:
    psycopg = lazy_loader.load("psycopg")  # 0.1 s that only those pay who use PostgreSQL

table = cast(Table, Project.__table__)
CHANNEL = "segkit_revision"
#: What a question may take before the connection is given up.
ANSWER_SECONDS = 2.0
#: Projects whose revisions are remembered at once.
MOST_KNOWN = 100_000

#: A project, all projects together, or everything that the database holds.
Scope = int | Literal["projects", "everything"]
Stamp = Hashable


def revision_of(connection: Connection, project_id: int) -> int:
    """Read what changes with every change of a project.

    Raises
    ------
    UnknownProjectError
        There is none of this number.
    """
    revision: int | None = connection.execute(select(table.c.revision).where(table.c.id == project_id)).scalar()
    if revision is None:
        raise UnknownProjectError(f"number {project_id}", [])
    return revision


def revision_of_all(connection: Connection) -> tuple[int, int, int]:
    """Read what changes with every change of any project.

    Numbers of projects are never given twice, so as many projects with the same highest number are the same projects; and each
    revision only rises, so with the same sum each is the same.
    """
    number, newest, revisions = connection.execute(select(*_ALL)).one()
    return number, newest, revisions


def revision_of_everything(connection: Connection) -> tuple[Any, ...] | None:
    """Read what changes with every commit of anything; None where only one connection can tell (SQLite).

    Two equal PostgreSQL snapshots see the same rows. The projects' random revisions tell databases apart that share a Redis.
    """
    if connection.dialect.name != "postgresql":
        return None
    return tuple(connection.execute(select(literal_column("pg_current_snapshot()::text"), *_ALL)).one())


_ALL = (func.count(), func.max(table.c.id), func.sum(table.c.revision))


def revision(connection: Connection, scope: Scope) -> Hashable:
    """Ask for the revision of a scope; None when the database has none that other processes understand."""
    if scope == "everything":
        return revision_of_everything(connection)
    return revision_of_all(connection) if scope == "projects" else revision_of(connection, scope)


def own_connection(database: Database) -> Any:
    """Take a driver's connection out of the pool for good, set up as all of them are."""
    borrowed = database.engine.raw_connection()
    driver = borrowed.driver_connection
    borrowed.detach()
    return driver


class SqliteRevisions:
    """What a process knows of a SQLite file's projects. It asks the file itself, which takes microseconds. Thread-safe."""

    def __init__(self, database: Database) -> None:
        assert database.path is not None
        self._path = database.path
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[Scope, Stamp] = {}
        self._version: tuple[int, int] | None = None
        self._driver: sqlite3.Connection | None = None

    def stamp(self, scope: Scope) -> Stamp | None:
        """Return the stamp of now; None when the file cannot be read."""
        with self._lock:
            try:
                return self._stamp(scope)
            except (sqlite3.Error, OSError):
                self._forget()
                return None

    def close(self) -> None:
        """Close the connection; it is opened again when needed."""
        with self._lock:
            self._forget()

    def _stamp(self, scope: Scope) -> Stamp:
        driver = self._driver or self._connect()
        version = (driver.execute("PRAGMA data_version").fetchone()[0], os.stat(self._path).st_ino)
        if version != self._version:
            if self._version is not None and version[1] != self._version[1]:
                self._forget()
                return self._stamp(scope)
            self._known.clear()
            self._version = version
        if scope == "everything":
            return version
        stamp = self._known.get(scope)
        if stamp is None:
            if len(self._known) > MOST_KNOWN:
                self._known.clear()
            stamp = self._known[scope] = self._ask(driver, scope)
        return stamp

    def _ask(self, driver: sqlite3.Connection, scope: Scope) -> Stamp:
        if scope == "projects":
            return cast(Stamp, driver.execute("SELECT count(*), max(id), sum(revision) FROM project").fetchone())
        return driver.execute("SELECT revision FROM project WHERE id = ?", (scope,)).fetchone() or ()

    def _connect(self) -> sqlite3.Connection:
        driver = own_connection(self._database)
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("PRAGMA query_only=ON")
        self._driver = driver
        return driver

    def _forget(self) -> None:
        if self._driver is not None:
            self._driver.close()
        self._driver, self._version = None, None
        self._known.clear()


class PostgresqlRevisions:
    """What a process heard of a PostgreSQL database's projects. One thread or event loop at a time.

    The parts that an event loop needs (`connect`, `ask`, `receive`, `fileno`) are apart; `confirm` is all of them for a thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None
        self._socket = -1
        self._heard: dict[int, int] = {}
        self._heard_of_all = 0
        self._snapshot: bytes | None = None
        self._listening = ""  #: names the connection, so that stamps of another one never fit

    def connect(self) -> None:
        """Listen, on a connection of its own. What was known before is void.

        Raises
        ------
        psycopg.Error, SQLAlchemyError
            The database cannot be reached, or is a standby, where nobody can listen.
        """
        self.close()
        connection = cast("psycopg.Connection[Any]", own_connection(self._database))
        connection.autocommit = True
        try:
            connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error:
            connection.close()
            raise
        connection.pgconn.nonblocking = 1
        self._heard, self._heard_of_all, self._snapshot = {}, 0, None
        self._listening = secrets.token_hex(8)
        self._connection, self._socket = connection, os.dup(connection.pgconn.socket)

    @property
    def listens(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    @property
    def fileno(self) -> int:
        """The socket, for an event loop: a copy, because libpq closes its own when the server hangs up, and no loop could let go of it."""
        return self._socket

    @property
    def backend(self) -> int:
        """The server's process of this connection."""
        return self._pgconn.backend_pid

    def ask(self, *, everything: bool) -> None:
        """Send a question. What was committed before it is known when `receive` says that the answer is there.

        Raises
        ------
        psycopg.Error
            The connection is lost.
        """
        self._pgconn.send_query(b"SELECT pg_current_snapshot()" if everything else b"")
        self._pgconn.flush()

    def receive(self) -> bool:
        """Take in what arrived; True when the question is answered.

        Raises
        ------
        psycopg.Error
            The connection is lost.
        """
        pgconn = self._pgconn
        pgconn.consume_input()
        answered = False
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                answered = True
                break
            if result.status == psycopg.pq.ExecStatus.TUPLES_OK:
                self._snapshot = result.get_value(0, 0)
            elif result.status not in (psycopg.pq.ExecStatus.EMPTY_QUERY, psycopg.pq.ExecStatus.COMMAND_OK):
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
        while (heard := pgconn.notifies()) is not None:
            self._hear(heard.extra)
        return answered

    def stamp(self, scope: Scope) -> Stamp | None:
        """Return the stamp as of the last answer; None while nobody listens."""
        if self._connection is None:
            return None
        if scope == "everything":
            return None if self._snapshot is None else (self._listening, self._snapshot)
        number = self._heard_of_all if scope == "projects" else self._heard.get(scope, 0)
        return self._listening, number

    def confirm(self, *, everything: bool = False) -> bool:
        """Make sure that all that was committed until now is known; False when the connection is lost."""
        if self._connection is None:
            return False
        try:
            self.ask(everything=everything)
            until = time.monotonic() + ANSWER_SECONDS
            while not self.receive():
                if not readiness.select([self.fileno], [], [], max(0, until - time.monotonic()))[0]:
                    raise psycopg.OperationalError("no answer")
        except psycopg.Error:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Stop listening; nothing is known from now on."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._socket >= 0:
            os.close(self._socket)
            self._socket = -1

    @property
    def _pgconn(self) -> PGconn:
        if self._connection is None:
            raise psycopg.OperationalError("not connected")
        return self._connection.pgconn

    def _hear(self, payload: bytes) -> None:
        self._heard_of_all += 1
        if not payload.isdigit() or len(self._heard) > MOST_KNOWN:
            self._heard, self._listening = {}, secrets.token_hex(8)
            return
        number = int(payload)
        self._heard[number] = self._heard.get(number, 0) + 1
