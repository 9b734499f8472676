"""An archive, read from any byte on."""

from __future__ import annotations

import os
from typing import Protocol

from isal import isal_zlib

from segkit.archives.index import Index
from segkit.archives.records import central_record, end_records, local_header, local_size
from segkit.errors import ArchiveChangedError

#: Read at a time to compute a CRC.
BLOCK = 2**20


class Bytes(Protocol):
    """The bytes of one file."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly so many bytes."""

    def close(self) -> None:
        """Let go of the file."""


class Opener(Protocol):
    """Opens what an archive holds."""

    def __call__(self, stored: str, /) -> Bytes:
        """Open a file by where it lies, relative to the archive's folder or URL; OSError when it is gone."""


class Archive:
    """A ZIP file that exists only as its index and its members. Safe to read from several threads."""

    def __init__(self, index: Index, opener: Opener) -> None:
        about = index.about
        self.tag = about.tag  #: changes when any member does
        self.members = about.members
        self.modified = about.modified  #: seconds since 1970
        self._index = index
        self._open = opener
        self._directory_at = about.directory_at
        self._end_at = about.directory_at + about.directory_size
        self._end = end_records(about.members, about.directory_at, about.directory_size)
        self.size = self._end_at + len(self._end)

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset` on.

        Raises
        ------
        ArchiveChangedError
            A member is gone, or has another size than when the index was made.
        """
        parts: list[bytes] = []
        while count > 0:
            part = self._piece(offset, count)
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Nothing is held open but the index, which others may use."""

    def _piece(self, offset: int, count: int) -> bytes:
        """Return some of the bytes wanted, at least one."""
        if offset < self._directory_at:
            return self._member_piece(self._index.at(offset), offset, count)
        if offset < self._end_at:
            number, start = self._index.central_at(offset - self._directory_at)
            return self._record(number)[offset - self._directory_at - start :][:count]
        return self._end[offset - self._end_at :][:count]

    def _member_piece(self, number: int, offset: int, count: int) -> bytes:
        member = self._index.member(number)
        inside = offset - member.at
        head = local_size(len(member.name), member.size)
        if inside >= head:
            return self._contents(number, inside - head, min(count, head + member.size - inside))
        self._ensure_crc(number)
        part = local_header(self._index.member(number))[inside:][:count]
        wanted = min(count - len(part), member.size)
        return part + self._contents(number, 0, wanted) if wanted else part

    def _record(self, number: int) -> bytes:
        self._ensure_crc(number)
        return central_record(self._index.member(number))

    def _ensure_crc(self, number: int) -> None:
        if not self._index.knows_crc(number):
            self._index.keep_crc(number, self._crc(number))

    def _crc(self, number: int) -> int:
        crc, size = 0, self._index.member(number).size
        for offset in range(0, size, BLOCK):
            crc = isal_zlib.crc32(self._contents(number, offset, min(BLOCK, size - offset)), crc)
        return crc

    def _contents(self, number: int, offset: int, count: int) -> bytes:
        """Read a member's own bytes, which must be as many as the index says."""
        try:
            file = self._open(self._index.stored(number))
        except OSError as error:
            raise ArchiveChangedError from error
        try:
            if file.size != self._index.member(number).size:
                raise ArchiveChangedError
            return file.read(offset, count)
        finally:
            file.close()


def as_member_name(text: str) -> str:
    """Make a name that every system takes as one part of a path.

    Examples
    --------
    >>> as_member_name("plate7.zarr/A/1:0")
    'plate7.zarr_A_1_0'
    """
    safe = "".join(letter if letter.isprintable() and letter not in '<>:"/\\\\|?*' else "_" for letter in text)
    safe = safe.encode("utf-8", "replace").decode()[:150].strip(". ")
    return safe or "_"


def inside(folder: str, name: str) -> str:
    """Join a member's name to its folder, which is how archives are unpacked."""
    return os.path.join(folder, name).replace(os.sep, "/")
