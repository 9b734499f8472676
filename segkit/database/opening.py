"""Open the database that the settings name, and make sure that its tables fit."""

from __future__ import annotations

import os

from segkit.database import revisions
from segkit.database.transactions import Database
from segkit.errors import SegkitError
from segkit.settings import Settings


def open_database(settings: Settings, *, check: bool = True) -> Database:
    """Open the database that the settings name.

    Parameters
    ----------
    settings : Settings
        Name the database, its pool and its monitoring.
    check : bool
        Make sure that its tables fit this segkit. The embedded SQLite file is made when it is not there; a database that
        `SEGKIT_DATABASE_URL` names is not.

    Raises
    ------
    DatabaseError
        It cannot be reached, has no tables, or is older or newer than this segkit.
    """
    database = Database(settings)
    if check:
        _prepare(database, embedded=settings.database_url is None)
    return database


def _prepare(database: Database, *, embedded: bool) -> None:
    try:
        if embedded and database.path is not None and not os.path.exists(database.path):
            revisions.upgrade(database)
        revisions.check(database)
    except SegkitError:
        database.close()
        raise
