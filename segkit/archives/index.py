"""The index of an archive: where every member lies, in two mapped files that several processes may share."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np

from segkit.archives.records import Member, central_size, local_size
from segkit.files import faults_in_words, remove, replace

#: Raised when the files change their form, so that those of another version are made anew.
FORM = 1
ABOUT, ENTRIES, NAMES = "about.json", "entries.bin", "names.bin"
#: Entries that are gathered before they are written.
PIECE = 4096
ENTRY = np.dtype(
    [
        ("at", "<i8"),  # of the local header, in the archive
        ("central_at", "<i8"),  # of the record in the directory, from the directory's beginning
        ("size", "<i8"),
        ("name_at", "<i8"),  # in the names: the member's name, then where its bytes lie
        ("name_size", "<u4"),
        ("stored_size", "<u4"),
        ("moment", "<u4"),
        ("crc", "<u4"),
        ("crc_known", "<u4"),
        ("unused", "<u4"),
    ]
)


@dataclass(frozen=True)
class File:
    """One file to be archived."""

    name: str  #: in the archive
    stored: str  #: relative to the folder or URL that the archive is of
    size: int
    moment: int
    checksum: str  #: of its contents, or of anything that changes when they do


@dataclass(frozen=True)
class About:
    """What is known of the whole archive."""

    form: int
    fingerprint: str
    tag: str  #: changes when any member does
    members: int
    directory_at: int
    directory_size: int
    modified: float  #: seconds since 1970, of the newest member


class Index:
    """An index that was made, open for reading; CRCs are added to it as they become known."""

    def __init__(self, folder: Path, about: About) -> None:
        self.about = about
        shape = (about.members,)
        self._entries: Any = np.memmap(folder / ENTRIES, ENTRY, "r+", shape=shape) if about.members else np.zeros(0, ENTRY)
        self._names: Any = np.memmap(folder / NAMES, np.uint8, "r") if about.members else np.zeros(0, np.uint8)
        self._at, self._central_at = self._entries["at"], self._entries["central_at"]

    @classmethod
    def find(cls, folder: Path, fingerprint: str) -> Self | None:
        """Open the index in a folder; None when there is none, or one of something else."""
        try:
            about = About(**json.loads((folder / ABOUT).read_text()))
            if about.form != FORM or about.fingerprint != fingerprint:
                return None
            return cls(folder, about)
        except (OSError, ValueError, TypeError):
            return None

    def at(self, offset: int) -> int:
        """Return the number of the member that a byte of the archive belongs to."""
        return int(np.searchsorted(self._at, offset, side="right")) - 1

    def central_at(self, offset: int) -> tuple[int, int]:
        """Return the number of the member whose record a byte of the directory belongs to, and where that record begins."""
        number = int(np.searchsorted(self._central_at, offset, side="right")) - 1
        return number, int(self._central_at[number])

    def member(self, number: int) -> Member:
        """Return a member; its CRC is right only when it is known."""
        entry = self._entries[number]
        start = int(entry["name_at"])
        name = self._names[start : start + int(entry["name_size"])].tobytes()
        return Member(name, int(entry["size"]), int(entry["crc"]), int(entry["moment"]), int(entry["at"]))

    def stored(self, number: int) -> str:
        """Where a member's bytes lie."""
        entry = self._entries[number]
        start = int(entry["name_at"]) + int(entry["name_size"])
        return self._names[start : start + int(entry["stored_size"])].tobytes().decode("utf-8", "surrogateescape")

    def knows_crc(self, number: int) -> bool:
        """Whether a member's CRC was computed already."""
        return bool(self._entries[number]["crc_known"])

    def keep_crc(self, number: int, crc: int) -> None:
        """Remember a member's CRC, for other processes too."""
        self._entries["crc"][number] = crc
        self._entries["crc_known"][number] = 1


def make(folder: Path, fingerprint: str, files: Iterable[File]) -> Index:
    """Write the index of these files and open it; one that was there is replaced.

    Raises
    ------
    DiskFullError, NotWritableError
        The disk says so.
    """
    part = folder.parent / f".part-{uuid.uuid4().hex[:8]}"
    with faults_in_words(folder):
        try:
            part.mkdir(parents=True)
            about = _write(part, fingerprint, files)
            (part / ABOUT).write_text(json.dumps(asdict(about)))
            index = Index(part, about)
            replace(part, folder)
        except BaseException:
            remove(part)
            raise
    return index


def _write(folder: Path, fingerprint: str, files: Iterable[File]) -> About:
    """Write entries and names piece by piece."""
    at = central_at = name_at = members = newest = 0
    tag = blake2b(digest_size=16)
    pending: list[tuple[int, ...]] = []
    with open(folder / ENTRIES, "wb") as entries, open(folder / NAMES, "wb") as names:
        for file in files:
            name, stored = file.name.encode(), os.fsencode(file.stored)
            pending.append((at, central_at, file.size, name_at, len(name), len(stored), file.moment, 0, 0, 0))
            names.write(name + stored)
            tag.update(b"%d:%b%d:%b%d" % (len(name), name, len(file.checksum), file.checksum.encode(), file.size))
            central_at += central_size(len(name), file.size, at)
            at += local_size(len(name), file.size) + file.size
            name_at += len(name) + len(stored)
            members += 1
            newest = max(newest, file.moment)
            if len(pending) == PIECE:
                entries.write(np.array(pending, ENTRY).tobytes())
                pending.clear()
        entries.write(np.array(pending, ENTRY).tobytes())
    return About(FORM, fingerprint, tag.hexdigest(), members, at, central_at, _seconds(newest))


def _seconds(moment: int) -> float:
    """Return the time of the newest member as seconds since 1970."""
    if not moment:
        return 0.0
    day, clock = moment >> 16, moment & 0xFFFF
    date = np.datetime64(f"{1980 + (day >> 9)}-{day >> 5 & 15:02}-{day & 31:02}")
    return float(date.astype("datetime64[s]").astype(np.int64)) + (clock >> 11) * 3600 + (clock >> 5 & 63) * 60 + (clock & 31) * 2
