"""What drivers and disks report, in words that say what to do."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from pathlib import Path

from sqlalchemy import URL

from segkit.errors import (
    DatabaseBusyError,
    DatabaseCorruptError,
    DatabaseError,
    DatabaseMissingError,
    DatabaseReadOnlyError,
    DiskFullError,
    SegkitError,
)


def folder_fault(error: OSError, path: Path) -> SegkitError:
    """Say why a file cannot be made beside the database."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError()
    if error.errno == errno.ENOENT:
        return DatabaseError(f"There is no folder {path.parent}. Make the database with `segkit init`, or check SEGKIT_HOME.")
    return DatabaseReadOnlyError(f"The folder {path.parent} cannot be written ({error.strerror}), so nothing can be queued or stored.")


def sqlite_fault(error: BaseException, path: Path) -> SegkitError:
    """Say in words what SQLite reports."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError()
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusyError()
    if code == sqlite3.SQLITE_READONLY:
        return DatabaseReadOnlyError(f"{path} can only be read, so nothing can be stored. Check its permissions and its folder's.")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return DatabaseCorruptError(f"{path} is damaged or no database ({error}). Restore it from a copy, or choose another SEGKIT_HOME.")
    if code == sqlite3.SQLITE_CANTOPEN:
        return _cannot_open(path)
    if "no such table" in str(error):
        return DatabaseMissingError()
    return DatabaseError(f"SQLite cannot go on with {path}: {error}.")


def _cannot_open(path: Path) -> SegkitError:
    if not os.access(path.parent, os.X_OK) and path.parent.is_dir():
        return DatabaseReadOnlyError(f"The folder {path.parent} may not be opened. Ask for permission, or choose another SEGKIT_HOME.")
    if not path.exists():
        return DatabaseMissingError(f"There is no database {path}. Make it with `segkit init`, or check SEGKIT_HOME.")
    if path.is_dir():
        return DatabaseError(f"{path} is a folder, not a database.")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return DatabaseReadOnlyError(f"{path} and its folder must be writable, even for reading.")
    return DatabaseError(f"{path} cannot be opened. Check that its folder is on a local disk and that not too many files are open.")


NO_WRITES = "The PostgreSQL server accepts no writes (it is a standby, or set read-only). Use the one that does in SEGKIT_DATABASE_URL."
#: SQLSTATE classes and codes of PostgreSQL, the longest that fits first, with what to tell.
POSTGRESQL_FAULTS: list[tuple[str, type[SegkitError], str]] = [
    ("42P01", DatabaseMissingError, ""),
    ("25006", DatabaseReadOnlyError, NO_WRITES),
    ("42501", DatabaseError, "The database user lacks a permission ({error}). Ask for it, or use another user in SEGKIT_DATABASE_URL."),
    ("53100", DiskFullError, "The disk of the PostgreSQL server is full. Nothing half-written was kept."),
    ("53300", DatabaseBusyError, "PostgreSQL has no connection left. Lower SEGKIT_DB_POOL_MAX, or raise max_connections."),
    ("55P03", DatabaseBusyError, ""),
    ("40", DatabaseBusyError, "PostgreSQL gave this transaction up in favour of another one. Try again."),
    ("28", DatabaseError, "PostgreSQL refused user and password. Check them in SEGKIT_DATABASE_URL ({url})."),
    ("3D", DatabaseError, "PostgreSQL has no such database. Create it, or correct SEGKIT_DATABASE_URL ({url})."),
    ("57P", DatabaseError, "The PostgreSQL server is shutting down or starting. Try again in a moment."),
    ("XX001", DatabaseCorruptError, "PostgreSQL reports damaged data: {error}."),
]
#: What psycopg says when there is no connection yet, so no code either, and the code that it stands for.
CONNECTING = {
    "password authentication failed": "28",
    "no password supplied": "28",
    "pg_hba.conf": "28",
    "role .* does not exist|not permitted to log in": "28",
    "database .* does not exist": "3D",
    "too many clients|connection slots": "53300",
    "starting up|shutting down": "57P",
}


def postgresql_fault(error: BaseException, url: URL) -> SegkitError:
    """Say in words what PostgreSQL or psycopg reports. The password is never in it."""
    words = str(error)
    state = getattr(error, "sqlstate", None) or next((code for said, code in CONNECTING.items() if re.search(said, words)), "")
    shown = url.render_as_string(hide_password=True)
    lines = [line for line in words.strip().splitlines() if not line.startswith("\t")]  # what is indented are libpq's guesses
    last = lines[-1] if lines else type(error).__name__
    if "during recovery" in words:
        return DatabaseReadOnlyError(NO_WRITES)
    for code, kind, message in POSTGRESQL_FAULTS:
        if state.startswith(code):
            return kind(message.format(url=shown, error=last) or None)
    if state or type(error).__name__ not in ("OperationalError", "InterfaceError", "ConnectionTimeout"):
        return DatabaseError(f"PostgreSQL cannot go on: {words.strip().splitlines()[0]}.")
    return DatabaseError(f"The database {shown} cannot be reached: {last.rstrip('.')}. Check SEGKIT_DATABASE_URL and that the server runs.")
