"""Engines for SQLite and PostgreSQL: how connections are made, tried and begun."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, exc, make_url

from segkit.database.clock import sqlite_now
from segkit.errors import DatabaseError, DatabaseMissingError
from segkit.settings import Settings

URL_FORMS = "postgresql://user:password@host/name or sqlite:////folder/name.db"
BUSY_SECONDS = 10.0
CONNECT_SECONDS = 5
IDLE_SECONDS = 1.0
#: A connection that was silent for 10 s is asked for a sign of life every 5 s, and given up after 30 s without one. The system itself
#: begins to ask after two hours, and until then a statement would wait for the answer of a server that was cut off.
KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}
#: What the driver is told unless the URL tells it otherwise.
DEFAULTS = {"connect_timeout": CONNECT_SECONDS, "application_name": "segkit", **KEEP_ALIVE}
#: PostgreSQL: wait this long for a lock; give up the locks of a connection that stops in mid-transaction; give times in UTC.
SESSION = f"""
SET lock_timeout = '{BUSY_SECONDS:.0f}s';
SET idle_in_transaction_session_timeout = '60s';
SET timezone = 'UTC';
SET default_transaction_read_only = on
"""

Mode = Literal["read", "write", "revise"]


def database_url(settings: Settings) -> URL:
    """Read the database URL; `postgresql://` means psycopg 3."""
    try:
        url = make_url(settings.resolved_database_url)
    except (exc.ArgumentError, ValueError):
        raise DatabaseError(f"SEGKIT_DATABASE_URL cannot be read. Write {URL_FORMS}.") from None
    backend = url.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise DatabaseError(f'SEGKIT_DATABASE_URL names "{backend}". segkit uses PostgreSQL or SQLite: {URL_FORMS}.')
    if url.database in (None, "", ":memory:"):
        raise DatabaseError(f"SEGKIT_DATABASE_URL names SQLite without a file. Write {URL_FORMS}.")
    return url.set(drivername="sqlite", database=str(Path(str(url.database)).expanduser().resolve()))


def sqlite_engine(path: Path, settings: Settings) -> Engine:
    """Make an engine for a SQLite file. It never creates the file: one that was deleted is an error, not an empty database."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.create_function("segkit_now", 0, sqlite_now)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def remember_file(driver: Any, record: Any) -> None:
        record.info.update(segkit_path=path, segkit_inode=path.stat().st_ino)

    engine = create_engine(
        "sqlite://", creator=connect, poolclass=QueuePool, pool_size=settings.db_pool_max, max_overflow=0, pool_timeout=BUSY_SECONDS
    )
    event.listen(engine, "connect", remember_file)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _mode(connection: Connection) -> Mode:
    mode: Mode = connection.get_execution_options().get("segkit_mode", "read")
    return mode


def _begin_sqlite(connection: Connection) -> None:
    mode = _mode(connection)
    driver, info = connection.connection.dbapi_connection, connection.connection.info
    assert isinstance(driver, sqlite3.Connection)
    if info.get("segkit_mode") != mode:
        driver.execute(f"PRAGMA query_only={'ON' if mode == 'read' else 'OFF'}")
        info["segkit_mode"] = mode
    if mode == "read":
        driver.execute("BEGIN")
        return
    _require_same_file(info["segkit_path"], info["segkit_inode"])
    if mode == "revise":
        _prepare_revision(driver, info["segkit_path"])
    driver.execute("BEGIN IMMEDIATE")


def _require_same_file(path: Path, inode: int) -> None:
    """Never commit into a file that was deleted or replaced while it was open: the commit would be lost in silence."""
    if not os.path.exists(path):
        raise DatabaseMissingError(f"{path} was deleted or moved while segkit had it open. Put it back and open segkit again.")
    if path.stat().st_ino != inode:
        raise DatabaseError(f"{path} was replaced while segkit had it open. Open segkit again.")


def _prepare_revision(driver: sqlite3.Connection, path: Path) -> None:
    """Set what cannot be set inside a transaction; foreign keys would delete rows when a revision rebuilds a table."""
    driver.execute("PRAGMA foreign_keys=OFF")
    if driver.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
        raise DatabaseError(f"SQLite cannot keep {path} in WAL mode there. Put SEGKIT_HOME on a local disk, or use PostgreSQL.")


def postgresql_engine(url: URL, settings: Settings) -> Engine:
    """Make an engine for PostgreSQL through psycopg 3."""
    try:
        engine = create_engine(
            url,
            pool_size=settings.db_pool_max,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            connect_args={name: value for name, value in DEFAULTS.items() if name not in url.query},
        )
    except exc.ArgumentError as error:
        raise DatabaseError(f"SEGKIT_DATABASE_URL cannot be used: {error}") from None
    event.listen(engine, "connect", partial(_configure_session, engine))
    event.listen(engine, "begin", _begin_postgresql)
    event.listen(engine, "checkout", partial(_try_idle_connection, engine))
    event.listen(engine, "checkin", partial(_remember_checkin, engine))
    return engine


def _begin_postgresql(connection: Connection) -> None:
    """Read without BEGIN and COMMIT, which are two more trips to the server. The session is read-only unless a BEGIN says otherwise."""
    driver: Any = connection.connection.driver_connection
    reading = _mode(connection) == "read"
    read_only = None if reading or connection.connection.info["segkit_no_writes"] else False
    if driver.autocommit != reading:  # setting what is set already takes the driver 10 microseconds
        driver.autocommit = reading
    if driver.read_only != read_only:
        driver.read_only = read_only


def _configure_session(engine: Engine, driver: Any, record: Any) -> None:
    driver.autocommit = True
    record.info["segkit_pool"] = engine.pool
    record.info["segkit_no_writes"] = driver.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
    driver.execute(SESSION)


#: Execution option of an engine whose database was closed.
CLOSED = "segkit_closed"


def _remember_checkin(engine: Engine, driver: Any, record: Any) -> None:
    if record.info.get("segkit_pool", engine.pool) is not engine.pool and driver is not None:
        driver.close()  # it was in use when the pool was closed, which only closes what lies in it
    elif CLOSED in engine.get_execution_options() and driver is not None:
        record.invalidate()  # a thread that came late has opened it since, and nobody will close it
    record.info["segkit_idle_since"] = time.monotonic()


def _try_idle_connection(engine: Engine, driver: Any, record: Any, proxy: Any) -> None:
    """Have the pool replace a connection that broke while nobody used it."""
    if time.monotonic() - record.info.get("segkit_idle_since", math.inf) < IDLE_SECONDS:
        return
    try:
        engine.dialect.do_ping(driver)
    except engine.dialect.loaded_dbapi.Error as error:
        raise exc.DisconnectionError from error
