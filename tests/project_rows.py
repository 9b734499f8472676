"""Rows of projects, written and read back, for tests of the database itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import insert, select

from segkit.database import Database, now_sql
from segkit.schema import Project
from segkit.settings import Settings

MakeSettings = Callable[..., Settings]


def add_project(database: Database, name: str) -> None:
    with database.write() as connection:
        connection.execute(insert(Project).values(name=name, created_at=now_sql()))


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(select(Project.name).order_by(Project.id)))


def write_many(database: Database, tag: str, count: int) -> None:
    for number in range(count):
        add_project(database, f"{tag}-{number}")


def bulky_rows(number: int, count: int) -> list[dict[str, object]]:
    return [{"name": f"{number}-{row:0190}", "created_at": datetime.now(UTC)} for row in range(count)]
