"""The revision of the tables: which one it is, which it should be, and how to get there."""

from __future__ import annotations

import os
import re
from typing import Literal

import lazy_loader
from sqlalchemy import Connection, inspect, text

from segkit import migrations
from segkit.database.faults import folder_fault
from segkit.database.transactions import Database
from segkit.errors import DatabaseError, DatabaseMissingError, DatabaseNewerError, DatabaseOutdatedError, NotWritableError, suggest

# Alembic takes 0.4 s to import, which only those pay who change tables.
revise = lazy_loader.load("segkit.migrations.revise", suppress_warning=True)


def current(database: Database) -> str | None:
    """Return the revision of the tables; None when there are none."""
    if database.path is not None and not os.path.exists(database.path):
        return None
    with database.read() as connection:
        return _revision(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def check(database: Database) -> None:
    """Make sure that the tables are those of this segkit.

    Raises
    ------
    DatabaseMissingError, DatabaseOutdatedError, DatabaseNewerError
        They are not; the message says what to do.
    """
    revision = current(database)
    if revision is None:
        raise DatabaseMissingError
    if revision not in migrations.known():
        raise DatabaseNewerError
    if revision != migrations.known()[-1]:
        raise DatabaseOutdatedError


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the tables up to a revision, making the database file and its folder when they are not there.

    All steps are one transaction: killed at any moment, the tables are as before. Two processes at once wait for each other.

    Raises
    ------
    DatabaseNewerError
        The tables are newer than this segkit.
    DatabaseError
        There is no such revision, or the database cannot be changed.
    """
    _make_file(database)
    _revise(database, "upgrade", revision)


def downgrade(database: Database, revision: str) -> None:
    """Take the tables back to an older revision; "base" removes them, and all they hold."""
    _revise(database, "downgrade", revision)


def _make_file(database: Database) -> None:
    if database.path is None:
        return
    try:
        database.path.parent.mkdir(parents=True, exist_ok=True)
        database.path.touch()
    except FileExistsError:
        raise NotWritableError(f"{database.path.parent} is a file, so no folder can be made there. Choose another SEGKIT_HOME.") from None
    except OSError as error:
        raise folder_fault(error, database.path) from error


def _revise(database: Database, step: Literal["upgrade", "downgrade"], revision: str) -> None:
    if revision not in ("head", "base", *migrations.known()) and not re.fullmatch(r"[+-]\d+", revision):
        raise DatabaseError(f'There is no revision "{revision}". {suggest(revision, ["head", "base", *migrations.known()])}')
    with database.revise() as connection:
        found = _revision(connection)
        if found is not None and found not in migrations.known():
            raise DatabaseNewerError
        if not (step == "upgrade" and revision == "head" and found == migrations.known()[-1]):
            revise.run(connection, step, revision)
