"""The two ways into the database: a read transaction and a write transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, exc, text

from segkit import telemetry
from segkit.database import engines
from segkit.database.engines import Mode, database_url, postgresql_engine, sqlite_engine
from segkit.database.faults import postgresql_fault, sqlite_fault
from segkit.database.writelock import WriteLock
from segkit.errors import DatabaseBusyError, DatabaseError, SegkitError
from segkit.settings import Settings

UPGRADE_SECONDS = 600.0
#: Any number will do, as long as no other program that shares the database locks the same.
ADVISORY_LOCK = 7_354_108_226


class Database:
    """An open database. Made by `open_database`; safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        url = database_url(settings)
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"
        self.path = Path(url.database or "") if self.dialect == "sqlite" else None  #: the SQLite file
        self.engine = sqlite_engine(self.path, settings) if self.path else postgresql_engine(url, settings)
        self.timings = telemetry.watch(self.engine, settings.slow_query_ms) if settings.enable_performance_monitoring else None
        self._lock = WriteLock(self.path) if self.path else None
        self._settings = settings

    def read(self) -> AbstractContextManager[Connection]:
        """Open a read transaction, which can change nothing.

        All its statements see one state on SQLite; on PostgreSQL each sees what is committed when it starts.

        Raises
        ------
        DatabaseError
            The database cannot be reached or read; the message says why.
        """
        return self._transaction("read")

    def write(self) -> AbstractContextManager[Connection]:
        """Open a write transaction. It is committed when the block ends well, rolled back when it raises.

        Raises
        ------
        DatabaseError
            The database cannot be reached or written; the message says why.
        DiskFullError
            There is no room left; nothing of the transaction was kept.
        """
        return self._transaction("write")

    def driver_arguments(self) -> dict[str, Any]:
        """Return by what PostgreSQL's driver connects, for who asks it without SQLAlchemy; `engines.SESSION` is to be executed first."""
        return {**engines.DEFAULTS, **self.engine.dialect.create_connect_args(self.engine.url)[1]}

    def close(self) -> None:
        """Close all connections. The database may be used again afterwards."""
        self.engine.update_execution_options(**{engines.CLOSED: True})
        self.engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def revise(self) -> Iterator[Connection]:
        """Open a transaction in which the tables may be changed, by one process at a time."""
        with self._transaction("revise") as connection:
            if self.dialect == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = '{UPGRADE_SECONDS:.0f}s'"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
                yield connection
                return
            connection.detach()
            yield connection
            if connection.execute(text("PRAGMA foreign_key_check")).first() is not None:
                raise DatabaseError("The database was left as it was: changing its tables would have broken links between rows.")

    @contextmanager
    def _transaction(self, mode: Mode) -> Iterator[Connection]:
        with (
            self._faults_in_words(),
            self._writing(mode),
            self.engine.connect().execution_options(segkit_mode=mode) as connection,
            connection.begin(),
        ):
            yield connection

    def _writing(self, mode: Mode) -> AbstractContextManager[None]:
        if self._lock is None or mode == "read":
            return nullcontext()
        return self._lock.held(UPGRADE_SECONDS if mode == "revise" else engines.BUSY_SECONDS)

    @contextmanager
    def _faults_in_words(self) -> Iterator[None]:
        """Turn what the drivers raise into errors that say what to do. The only place that does."""
        try:
            yield
        except exc.DBAPIError as error:
            raise self._in_words(error.orig or error) from error
        except exc.TimeoutError as error:
            most = self._settings.db_pool_max
            raise DatabaseBusyError(f"All {most} database connections are in use. Raise SEGKIT_DB_POOL_MAX.") from error
        except self.engine.dialect.loaded_dbapi.Error as error:
            raise self._in_words(error) from error

    def _in_words(self, error: BaseException) -> SegkitError:
        return sqlite_fault(error, self.path) if self.path else postgresql_fault(error, self.engine.url)
