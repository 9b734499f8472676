"""Where copies of files lie: each once, under its checksum, however many backups and results hold it."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO

from segkit.errors import BackupDamagedError
from segkit.files import PART, PIECE, Folder, LocalFolder, digest_of, faults_in_words, flush_path, remove


class Store:
    """A folder of files by checksum: `objects/3f/3fa2...`. What is there is never written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "objects"
        self.added = self.added_bytes = 0

    def place(self, checksum: str) -> Path:
        """Where a file of this checksum lies."""
        return self.folder / checksum[:2] / checksum

    def holds(self, checksum: str, size: int) -> bool:
        """Whether a file is there, by name and size; `segkit restore` reads its bytes."""
        try:
            return self.place(checksum).stat().st_size == size
        except FileNotFoundError:
            return False

    def take(self, source: Folder, name: str, wanted: tuple[int, str] | None = None, *, link: bool = False) -> tuple[int, str]:
        """Copy a file in, unless it is there.

        Parameters
        ----------
        source, name
            Where it lies.
        wanted : (size, checksum), optional
            What it must be; a file that is something else is not taken.
        link : bool
            Make another name of the same bytes instead of a copy, where both are on one disk.

        Returns
        -------
        (size, checksum)

        Raises
        ------
        FileNotFoundError
            It is not there, or not what it must be.
        DiskFullError, NotWritableError
            The disk says so; nothing half-written stays.
        """
        if wanted is not None and self.holds(wanted[1], wanted[0]):
            return wanted
        part = self.folder / f"{PART}{uuid.uuid4().hex}"
        with faults_in_words(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                found = self._copy(source, name, part, link)
                if wanted is not None and found != wanted:
                    raise FileNotFoundError(f"{source.url}/{name} is not what it was")
                self._keep(part, found)
            finally:
                remove(part)
        return found

    def _copy(self, source: Folder, name: str, part: Path, link: bool) -> tuple[int, str]:
        if not isinstance(source, LocalFolder):
            part.write_bytes(source.read(name))
        elif not (link and linked(os.path.join(source.url, name), part)):
            with open(os.path.join(source.url, name), "rb") as given, open(part, "xb") as file:
                return copied(given, file)
        with open(part, "rb") as file:
            return digest_of(file)

    def _keep(self, part: Path, found: tuple[int, str]) -> None:
        size, checksum = found
        there = self.place(checksum)
        if self.holds(checksum, size):
            return
        there.parent.mkdir(exist_ok=True)
        flush_path(part)
        os.replace(part, there)
        self.added += 1
        self.added_bytes += size

    def give(self, checksum: str, size: int, target: Path) -> None:
        """Write a copy to its place, comparing every byte with its checksum.

        Raises
        ------
        BackupDamagedError
            It is missing, or not what was backed up.
        """
        part = target.parent / f"{PART}{uuid.uuid4().hex}"
        with faults_in_words(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(self.place(checksum), "rb") as given, open(part, "xb") as file:
                    found = copied(given, file)
                if found != (size, checksum):
                    raise BackupDamagedError(f"{self.place(checksum)} is damaged, which is {target.name}. {BackupDamagedError()}")
                os.replace(part, target)
            except FileNotFoundError as error:
                raise BackupDamagedError(f"{self.place(checksum)} is missing, which is {target.name}. {BackupDamagedError()}") from error
            finally:
                remove(part)

    def keep_only(self, checksums: set[str]) -> int:
        """Delete what no backup holds any more, and what killed backups left; returns how many bytes went."""
        gone = 0
        for path in self.folder.glob("*/*") if self.folder.is_dir() else ():
            if path.name not in checksums:
                gone += path.stat().st_size
                path.unlink()
        for path in self.folder.glob(f"{PART}*"):
            remove(path)
        return gone


def linked(path: str, part: Path) -> bool:
    """Give a file a second name; false where disk or system will not."""
    with suppress(OSError):
        os.link(path, part)
        return True
    return False


def copied(given: IO[bytes], file: IO[bytes]) -> tuple[int, str]:
    """Copy piece by piece; size and checksum of what was copied."""
    size, check = 0, blake2b(digest_size=16)
    while piece := given.read(PIECE):
        size += len(piece)
        check.update(piece)
        file.write(piece)
    return size, check.hexdigest()


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that may not be there yet."""
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    return shutil.disk_usage(there).free
