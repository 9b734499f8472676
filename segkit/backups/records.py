"""What a backup says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from segkit.backups.rows import lines
from segkit.errors import BackupDamagedError, NoBackupError
from segkit.files import digest_of

MANIFEST, FILES, TABLES = "manifest.json", "files.jsonl.zst", "tables"
#: Raised when the files of a backup change their form.
FORM = 1


@dataclass(frozen=True)
class Kept:
    """Files that were backed up together: a result, or one file that stands alone."""

    place: str  #: relative to the home folder
    mark: str  #: changes when they do: a result's checksum, or a file's size and time
    files: tuple[tuple[str, int, str], ...]  #: name below `place` ("" for the file itself), bytes, checksum

    def line(self) -> bytes:
        """Write it as a line."""
        return orjson.dumps([self.place, self.mark, self.files]) + b"\n"


@dataclass(frozen=True)
class Manifest:
    """One backup."""

    form: int
    at: datetime  #: of the moment that it shows, by the database's clock
    segkit: str  #: version that made it
    revision: str  #: of the tables
    dialect: str  #: "sqlite" or "postgresql"
    home: str  #: the home folder or URL that it is of
    rows: dict[str, int]  #: of each table
    last: dict[str, int]  #: the last number that each table gave to a row
    files: int
    bytes: int
    checksums: dict[str, str]  #: of the backup's own files
    damaged: list[str] = field(default_factory=list)  #: results whose files were missing or damaged already
    added_files: int = 0  #: that no backup held before
    added_bytes: int = 0

    def write(self, folder: Path) -> None:
        """Write it, last of all: a backup without it is none."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self) | {"at": self.at.isoformat()}, indent=1))


def read(folder: Path) -> Manifest:
    """Read what a backup says of itself.

    Raises
    ------
    BackupDamagedError
        It cannot be read, or is of a later segkit.
    """
    try:
        said: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        manifest = Manifest(**said | {"at": datetime.fromisoformat(said["at"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupDamagedError(f"{folder / MANIFEST} cannot be read. {BackupDamagedError()}") from error
    if manifest.form != FORM:
        raise BackupDamagedError(f"{folder} was made by a later segkit ({manifest.segkit}). Upgrade segkit, then restore it.")
    return manifest


def all_of(folder: Path) -> list[Path]:
    """List the backups in a folder, oldest first; the folder may be a backup itself."""
    if (folder / MANIFEST).is_file():
        return [folder]
    return sorted(each.parent for each in folder.glob(f"*/{MANIFEST}"))


def newest(folder: Path) -> Path:
    """Return the newest backup in a folder.

    Raises
    ------
    NoBackupError
        There is none.
    """
    found = all_of(folder)
    if not found:
        raise NoBackupError(f"There is no backup in {folder}. {NoBackupError()}")
    return found[-1]


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare the tables and lists of a backup with their checksums.

    Raises
    ------
    BackupDamagedError
        One is missing or damaged.
    """
    for name, checksum in manifest.checksums.items():
        with suppress(FileNotFoundError), open(folder / name, "rb") as file:
            if digest_of(file)[1] == checksum:
                continue
        raise BackupDamagedError(f"{folder / name} is missing or damaged. {BackupDamagedError()}")


def read_files(file: BinaryIO) -> Iterator[Kept]:
    """Read what `Kept.line` wrote."""
    for line in lines(file):
        place, mark, files = orjson.loads(line)
        yield Kept(place, mark, tuple((name, size, checksum) for name, size, checksum in files))
