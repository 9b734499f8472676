"""The database's clock, the only one by which leases are measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from segkit.schema import Moment


class now_sql(FunctionElement[datetime]):
    """The database's clock as an SQL expression, in microseconds; one moment for a whole PostgreSQL statement."""

    type = Moment()
    inherit_cache = True


@compiles(now_sql, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "statement_timestamp()"


@compiles(now_sql, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "segkit_now()"


def now(connection: Connection) -> datetime:
    """Ask the database what time it is. Leases are measured by this clock alone."""
    moment: datetime = connection.execute(select(now_sql())).scalar_one()
    return moment


def sqlite_now() -> str:
    """Give the time as SQLite stores it; its own functions stop at milliseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
