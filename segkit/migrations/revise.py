"""Run Alembic on an open transaction. Apart from `database`, so that only what changes tables loads Alembic."""

from __future__ import annotations

from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from segkit.errors import DatabaseError
from segkit.migrations import FOLDER


def run(connection: Connection, step: Literal["upgrade", "downgrade"], revision: str) -> None:
    """Take the tables to a revision, inside the transaction that `connection` is in."""
    try:
        (command.upgrade if step == "upgrade" else command.downgrade)(configuration(connection), revision)
    except CommandError as error:
        raise DatabaseError(f"The tables cannot be changed to {revision}: {error}.") from error


def configuration(connection: Connection) -> Config:
    """Make Alembic's configuration; there is no ini file to find in an installed wheel."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
