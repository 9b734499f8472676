"""Putting a backup back: into an empty home folder and database, of either kind, on this machine or another."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from segkit import jobs, migrations, results
from segkit.backups import records, rows
from segkit.backups.records import FILES, TABLES, Kept, Manifest
from segkit.backups.rows import Values
from segkit.backups.store import Store
from segkit.database import Database, current, downgrade, upgrade
from segkit.errors import BackupDamagedError, NotWritableError, RestoreTargetError
from segkit.files import flush_tree, is_local, remove

#: Added to every project's revision, so that no cache that knew the old one takes it for the same.
STEP = 2**32

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Restored:
    """What a restore did."""

    backup: Path
    manifest: Manifest
    rows: dict[str, int]  #: of each table
    files: int
    recounted: list[int]  #: runs whose counters were wrong, and were mended


def restore(database: Database, home: str, source: Path, *, force: bool = False, progress: Progress = lambda done, total: None) -> Restored:
    """Put a backup back: files first, each compared with its checksum, then all rows in one transaction.

    Jobs that were running go back to the queue when their leases run out. Killed at any moment, it is begun again with `force`.

    Parameters
    ----------
    database : Database
        Empty, or without tables; of either kind, whichever the backup is of.
    home : str
        A folder; what the backup names in its old home is named in this one.
    source : Path
        A backup, or the folder of several: the newest is taken.
    force : bool
        Delete all rows, results and other kept files that are there. No worker or server may be running.

    Raises
    ------
    NoBackupError, BackupDamagedError
        There is none, or it is not whole: nothing was changed in the database.
    RestoreTargetError
        Something is there already, and `force` is false.
    """
    backup = records.newest(source)
    manifest = records.read(backup)
    records.verify(backup, manifest)
    if not is_local(home):
        raise NotWritableError("A backup is restored to a folder. Restore it to one, and copy that to the store.")
    if manifest.revision not in migrations.known():
        raise BackupDamagedError(f"{backup} was made by a later segkit ({manifest.segkit}). Upgrade segkit, then restore it.")
    _require_empty(database, Path(results.root(home)), force)
    with open(backup / FILES, "rb") as file:
        files = _give_files(Store(backup.parent), records.read_files(file), Path(results.root(home)), manifest.files, progress)
    counted = _load(database, backup, manifest, results.root(home))
    upgrade(database)
    with database.write() as connection:
        recounted = jobs.recount(connection)
    return Restored(backup, manifest, counted, files, recounted)


def _require_empty(database: Database, home: Path, force: bool) -> None:
    """Make sure that nothing is lost, or, when it is to be, that nothing is left."""
    kept = [home / name for name in ("results", "uploads", "classifiers", "batches", "tiles", "exports", "archives")]
    there = [str(each) for each in kept if each.is_dir() and any(each.iterdir())]
    revision = current(database)
    if revision is not None:
        upgrade(database)
        with database.read() as connection:
            there += ["the database"] if rows.holds_any(connection) else []
    if there and not force:
        raise RestoreTargetError(f"There is something in {', '.join(there)}. {RestoreTargetError()}")
    if revision is not None:
        with database.write() as connection:
            rows.empty(connection)
    for each in kept:
        remove(each)


def _give_files(store: Store, kept: Iterator[Kept], home: Path, total: int, progress: Progress) -> int:
    number = 0
    for each in kept:
        for name, size, checksum in each.files:
            target = Path(os.path.normpath(home / each.place / name if name else home / each.place))
            if not target.is_relative_to(home):
                raise BackupDamagedError(f"The backup names {each.place}/{name}, outside the home folder. {BackupDamagedError()}")
            store.give(checksum, size, target)
            number += 1
            progress(number, total)
    if number != total:
        raise BackupDamagedError(f"The backup lists {number} files of {total}. {BackupDamagedError()}")
    flush_tree(home)
    return number


def _load(database: Database, backup: Path, manifest: Manifest, home: str) -> dict[str, int]:
    """Insert all rows into tables of the revision that they are of, in one transaction."""
    if current(database) is None:
        upgrade(database, manifest.revision)
    elif current(database) != manifest.revision:
        downgrade(database, manifest.revision)
    counted: dict[str, int] = {}
    with database.write() as connection:
        for table in rows.tables():
            if table.name not in manifest.rows:
                continue
            with open(backup / TABLES / f"{table.name}.jsonl.zst", "rb") as file:
                given = rows.read_rows(table, file)
                counted[table.name] = rows.load(connection, rows.as_then(connection, table), _moved(given, table.name, manifest.home, home))
        if counted != manifest.rows:
            raise BackupDamagedError(f"The backup holds other rows than it says. {BackupDamagedError()}")
        rows.set_numbers(connection, manifest.last)
        connection.execute(text("UPDATE project SET revision = revision + :step"), {"step": STEP + secrets.randbelow(STEP)})
    return counted


def _moved(given: Iterator[Values], table: str, old: str, new: str) -> Iterator[Values]:
    """Name uploads where they are now."""
    for row in given:
        if table == "image" and row["uri"].startswith(f"{old}/"):
            row["uri"] = new + row["uri"].removeprefix(old)
        yield row
