"""Taking a backup, while workers and servers go on.

First the rows of one moment, then the files that they name. A result's files are never changed where they lie, but a whole result may be
replaced or deleted by then: so what is not found as the rows say is looked up again in the rows of a later moment, which find most files
taken already.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
import zstandard
from sqlalchemy import Connection, select

from segkit import __version__, results
from segkit.archives.making import members
from segkit.backups import records, rows
from segkit.backups.records import FILES, FORM, TABLES, Kept, Manifest
from segkit.backups.store import Store
from segkit.database import Database, check, current, now
from segkit.errors import NotWritableError, ResultCorruptError
from segkit.files import PART, digest_of, faults_in_words, flush_tree, folder, is_local, remove
from segkit.schema import Base

#: What else lies in the home folder and cannot be made again.
FOLDERS = ("uploads", "classifiers", "batches")
#: The home folder's own note of the last backup, for `segkit doctor`.
NOTE = "last-backup.json"
#: Moments that are tried until all files are found as the rows say.
ROUNDS = 3

Progress = Callable[[int, int | None], None]
correction, result = Base.metadata.tables["correction"], Base.metadata.tables["result"]


@dataclass
class Taken:
    """What one round took."""

    files: int = 0
    bytes: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)  #: path and checksum of results


def take(
    database: Database,
    home: str,
    target: Path,
    *,
    link: bool = False,
    keep: int | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, Manifest]:
    """Back everything up: all tables, results, corrections, uploads, classifiers and executed notebooks.

    What can be made again is left out: exports, indices of archives, tiles of unfinished images, logs. Registered images stay where they
    are; only uploads lie in the home folder.

    Parameters
    ----------
    database, home
        What is backed up.
    target : Path
        Folder of all backups, best on another disk. A file that an older backup there holds is not copied again.
    link : bool
        Give files second names instead of copying them, where `target` is on the same disk: quick, and no help when that disk dies.
    keep : int, optional
        Delete older backups until so many are left.
    progress : callable
        Told how many results and files are done, and of how many.

    Returns
    -------
    Path, Manifest
        The new backup's folder, and what it says of itself. `damaged` names results that were damaged before.

    Raises
    ------
    DatabaseError
        The database cannot be read, or is not of this segkit.
    DiskFullError, NotWritableError
        The disk says so; nothing half-written stays but files of the store, which the next backup finds or deletes.
    """
    check(database)
    if is_local(home) and target.resolve().is_relative_to(Path(results.root(home)).resolve() / results.places.RESULTS):
        raise NotWritableError("A backup among the results would back itself up. Choose another folder, best on another disk.")
    part = target / f"{PART}{uuid.uuid4().hex}"
    try:
        with faults_in_words(target):
            (part / TABLES).mkdir(parents=True, mode=0o700)
            manifest = _take(database, home, target, part, link, progress)
            manifest.write(part)
            flush_tree(part)
            there = _free_name(target, manifest.at)
            os.rename(part, there)
    finally:
        remove(part)
    _note(home, there, manifest)
    if keep is not None:
        forget(target, keep)
    return there, manifest


def _free_name(target: Path, at: datetime) -> Path:
    name = f"{at.astimezone(UTC):%Y-%m-%dT%H%M%SZ}"
    numbers = ("", *(f"-{number:02}" for number in range(2, 100)))
    return next(target / f"{name}{number}" for number in numbers if not (target / f"{name}{number}").exists())


def _take(database: Database, home: str, target: Path, part: Path, link: bool, progress: Progress) -> Manifest:
    store = Store(target)
    known = _known(target)
    for number in range(ROUNDS):
        with rows.snapshot(database, part) as connection:
            at = _moment(database)
            counted = {table.name: _dump(connection, part, table.name) for table in rows.tables()}
            last = rows.numbers(connection)
        # Named by the rows that were written, so that the database need not keep its old state for as long as copying takes.
        taken = _take_files(home, store, known, part, counted["result"], link, progress)
        if not taken.missing or number == ROUNDS - 1 or _still_named(database, taken.missing):
            break
    names = [FILES, *(f"{TABLES}/{name}.jsonl.zst" for name in counted)]
    return Manifest(
        form=FORM,
        at=at,
        segkit=__version__,
        revision=current(database) or "",
        dialect=database.dialect,
        home=results.root(home),
        rows=counted,
        last=last,
        files=taken.files,
        bytes=taken.bytes,
        checksums={name: _checksum(part / name) for name in names},
        damaged=[path for path, _ in taken.missing],
        added_files=store.added,
        added_bytes=store.added_bytes,
    )


def _moment(database: Database) -> datetime:
    with database.read() as connection:
        return now(connection)


def _dump(connection: Connection, part: Path, name: str) -> int:
    with open(part / TABLES / f"{name}.jsonl.zst", "wb") as file:
        return rows.dump(connection, Base.metadata.tables[name], file)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return digest_of(file)[1]


def _results(part: Path) -> Iterator[tuple[str, str]]:
    """Path and checksum of every result and every version of one, from the rows that were written."""
    seen: set[tuple[str, str]] = set()
    for table in (correction, result):
        with open(part / TABLES / f"{table.name}.jsonl.zst", "rb") as file:
            for row in rows.read_rows(table, file):
                named = (row["path"], row["checksum"])
                if named not in seen:
                    yield named
                if table is correction:
                    seen.add(named)


def _still_named(database: Database, missing: list[tuple[str, str]]) -> bool:
    """Whether the database still names all that was not found: then it is damaged, and another moment does not help."""
    both = select(result.c.path, result.c.checksum).union(select(correction.c.path, correction.c.checksum)).subquery()
    with database.read() as connection:
        named = {tuple(row) for row in connection.execute(select(both).where(both.c.path.in_([path for path, _ in missing])))}
    return set(missing) <= named


def _known(target: Path) -> dict[tuple[str, str], Kept]:
    """What the newest backup there holds, which need not be looked at again."""
    there = records.all_of(target)
    if not there:
        return {}
    with open(there[-1] / FILES, "rb") as file:
        return {(each.place, each.mark): each for each in records.read_files(file)}


def _take_files(
    home: str, store: Store, known: dict[tuple[str, str], Kept], part: Path, expected: int, link: bool, progress: Progress
) -> Taken:
    taken = Taken()
    others = list(_other_files(home))
    with open(part / FILES, "wb") as file, zstandard.ZstdCompressor(3).stream_writer(file, closefd=False) as packed:
        for done, kept in enumerate(_each(home, store, known, _results(part), others, link, taken), 1):
            if kept is not None:
                packed.write(kept.line())
                taken.files += len(kept.files)
                taken.bytes += sum(size for _, size, _ in kept.files)
            progress(done, max(done, expected + len(others)))
    return taken


def _each(
    home: str,
    store: Store,
    known: dict[tuple[str, str], Kept],
    wanted: Iterator[tuple[str, str]],
    others: list[tuple[str, str]],
    link: bool,
    taken: Taken,
) -> Iterator[Kept | None]:
    for path, checksum in wanted:
        kept = known.get((path, checksum))
        try:
            yield kept if kept is not None and _complete(store, kept) else _take_result(home, store, path, checksum, link)
        except (ResultCorruptError, FileNotFoundError):
            taken.missing.append((path, checksum))
            yield None
    for place, mark in others:
        kept = known.get((place, mark))
        try:
            yield kept if kept is not None and _complete(store, kept) else _take_file(home, store, place, mark, link)
        except FileNotFoundError:  # a batch that is being written, or a project that was deleted just now
            yield None


def _complete(store: Store, kept: Kept) -> bool:
    return all(store.holds(checksum, size) for _, size, checksum in kept.files)


def _take_result(home: str, store: Store, path: str, checksum: str, link: bool) -> Kept:
    place = results.locate(home, path)
    files = tuple(members(place, checksum))
    for name, size, check_ in files:
        store.take(folder(place), name, (size, check_), link=link)
    return Kept(path, checksum, files)


def _take_file(home: str, store: Store, place: str, mark: str, link: bool) -> Kept:
    size, checksum = store.take(folder(results.root(home)), place, link=link and place.startswith("uploads/"))
    return Kept(place, mark, (("", size, checksum),))


def _other_files(home: str) -> Iterator[tuple[str, str]]:
    """Yield place and mark of every file that no row names by its checksum."""
    for name in FOLDERS:
        there = folder(results.locate(home, name))
        for below in there.names():
            if below.rpartition("/")[2].startswith("."):
                continue
            mark = ""
            if is_local(home):
                with suppress(FileNotFoundError):
                    status = os.stat(os.path.join(there.url, below))
                    mark = f"{status.st_size} {status.st_mtime_ns}"
            yield f"{name}/{below}", mark or f"store {uuid.uuid4().hex}"


def _note(home: str, there: Path, manifest: Manifest) -> None:
    """Tell the home folder of its last backup."""
    said = {"at": manifest.at.isoformat(), "folder": str(there.resolve()), "damaged": len(manifest.damaged)}
    folder(results.root(home)).write(NOTE, json.dumps(said).encode())


def last_note(home: str) -> tuple[datetime, str] | None:
    """When the home folder was last backed up, and where to; None when it never was."""
    try:
        said = orjson.loads(folder(results.root(home)).read(NOTE))
        return datetime.fromisoformat(said["at"]), str(said["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(target: Path, keep: int) -> int:
    """Delete backups but the newest so many, and files that none of these holds; returns how many bytes of files went."""
    there = records.all_of(target)
    for old in there[: max(0, len(there) - max(1, keep))]:
        remove(old)
    held: set[str] = set()
    for each in records.all_of(target):
        with open(each / FILES, "rb") as file:
            held.update(checksum for kept in records.read_files(file) for _, _, checksum in kept.files)
    return Store(target).keep_only(held)
