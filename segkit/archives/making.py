"""Which files an archive holds, and when its index must be made anew."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

from sqlalchemy import Connection, func, select

from segkit import results
from segkit.archives import index
from segkit.archives.archive import Archive, Bytes, Opener, as_member_name, inside
from segkit.archives.index import File, Index
from segkit.archives.records import packed_moment
from segkit.database import Database
from segkit.errors import NoResultError
from segkit.files import corrupt, digest, fetch, folder, is_local, join
from segkit.labels import open_labels
from segkit.results.places import LABELS, OBJECTS, PROVENANCE
from segkit.schema import Base

#: Folder of the indices, in a home folder.
ARCHIVES = "archives"
PAGE = 1000
result = Base.metadata.tables["result"]


def of_run(database: Database, home: str, run_id: int, opener: Opener) -> Archive:
    """Return the archive of all results of a run, a folder for each image.

    Parameters
    ----------
    database, home
        Where the results are listed, and where they lie: a folder or fsspec URL.
    run_id : int
        The run.
    opener : callable
        Opens a file by its place relative to `home`.

    Raises
    ------
    UnknownRunError
        There is no such run.
    NoResultError
        Nothing is done yet.
    ResultCorruptError
        A result does not say what belongs to it.
    """
    with database.read() as connection:
        mark = fingerprint(connection, run_id)
        if mark is None:
            results.of_run(connection, run_id, 1)  # tells whether there is such a run
            raise NoResultError(f"Run {run_id} has no results yet. Work it off first: segkit worker --until-idle")
    place = index_place(home, f"run-{run_id}")
    found = Index.find(place, mark) or index.make(place, mark, files_of_run(database, home, run_id))
    return Archive(found, opener)


def fingerprint(connection: Connection, run_id: int) -> str | None:
    """Tell cheaply whether the results of a run are still the same: any that is added, deleted or made again changes it."""
    newest, ids, attempts = func.max(result.c.created_at), func.sum(result.c.job_id), func.sum(result.c.attempt)
    row = connection.execute(select(func.count(), newest, ids, attempts, func.sum(result.c.bytes)).where(result.c.run_id == run_id)).one()
    return " ".join(map(str, row)) if row[0] else None


def files_of_run(database: Database, home: str, run_id: int) -> Iterator[File]:
    """Go through all files of a run, a page of results at a time."""
    after: str | None = None
    while True:
        with database.read() as connection:
            page = results.of_run(connection, run_id, PAGE, after=after)
        for record in page.items:
            yield from files_of_result(home, record)
        if page.next is None:
            return
        after = page.next


def files_of_result(home: str, record: results.Record) -> Iterator[File]:
    """Go through the files of one result."""
    top = f"{record.image_id}_{as_member_name(record.image)}"
    moment = packed_moment(record.created_at.astimezone(UTC))
    for name, size, checksum in members(results.locate(home, record.path), record.checksum):
        yield File(inside(top, name), join(record.path, name), size, moment, checksum)


def members(path: str, checksum: str) -> list[tuple[str, int, str]]:
    """List the files of a result: name, bytes and checksum, as its own documents tell them.

    Raises
    ------
    ResultCorruptError
        The documents are missing or damaged.
    """
    data = fetch(folder(path), PROVENANCE, None, checksum)
    try:
        listed = {name: (int(size), str(check)) for name, (size, check) in json.loads(data)["files"].items()}
        labels = open_labels(results.labels_path(path), listed[f"{LABELS}/zarr.json"][1])
    except (ValueError, KeyError, TypeError) as error:
        raise corrupt(join(path, PROVENANCE), "cannot be read") from error
    chunks = {f"{LABELS}/{name}": told for name, told in labels.files.items()}
    ordered = {PROVENANCE: (len(data), checksum), OBJECTS: listed[OBJECTS], **listed, **chunks}
    return [(name, size, check) for name, (size, check) in ordered.items()]


def of_exports(home: str, stored: str, opener: Callable[[str, str], Bytes]) -> Archive:
    """Return the archive of everything in a folder of a local home folder.

    Parameters
    ----------
    home, stored : str
        The home folder, and where the folder lies below it. Links in it are left out.
    opener : callable
        Opens a file by a folder and its place relative to that.

    Raises
    ------
    FileNotFoundError
        It is not there, or not below the home folder.
    """
    path = results.locate(home, stored)
    if os.path.realpath(path) != join(os.path.realpath(results.root(home)), stored):
        raise FileNotFoundError(stored)
    files = list(files_of_folder(Path(path)))
    mark = digest("\0".join(f"{file.name}:{file.checksum}:{file.size}" for file in files).encode("utf-8", "surrogateescape"))
    place = index_place(home, f"folder-{digest(stored.encode('utf-8', 'surrogateescape'))}")
    found = Index.find(place, mark) or index.make(place, mark, files)
    return Archive(found, partial(opener, path))


def files_of_folder(path: Path) -> Iterator[File]:
    """Go through all files below a folder, by name."""
    for top, folders, names in os.walk(path, onerror=_raise):
        folders.sort()
        for name in sorted(names):
            place = os.path.join(top, name)
            if os.path.islink(place) or name.startswith(".part-"):
                continue
            status = os.stat(place)
            stored = os.path.relpath(place, path)
            shown = "/".join(as_member_name(part) for part in stored.split(os.sep))
            moment = packed_moment(datetime.fromtimestamp(status.st_mtime, UTC))
            yield File(shown, stored, status.st_size, moment, f"{status.st_mtime_ns:x}-{status.st_ino:x}")


def _raise(error: OSError) -> None:
    raise error


def index_place(home: str, name: str) -> Path:
    """Where the index of an archive lies: in the home folder, or for a home in a store in a folder of this process."""
    return Path(results.locate(home, ARCHIVES) if is_local(home) else _own_folder().name) / name


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="segkit-archives-", ignore_cleanup_errors=True)
