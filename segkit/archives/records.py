"""The records of a ZIP file (PKWARE's APPNOTE 6.3), with 64-bit sizes where they are needed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime

#: From here on a size or place needs 64 bits.
LARGE = 2**32 - 1
MANY = 2**16 - 1
PLAIN_VERSION, LARGE_VERSION = 20, 45
UNIX = 3 << 8
UTF_8 = 1 << 11
#: A regular file that all may read.
MODE = 0o100644 << 16
FIRST_YEAR, LAST_YEAR = 1980, 2107


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    name: bytes  #: UTF-8, with slashes
    size: int
    crc: int
    moment: int  #: as `packed_moment` gives it
    at: int  #: where its local header begins


def packed_moment(moment: datetime) -> int:
    """Pack a time as ZIP does, in steps of two seconds.

    Examples
    --------
    >>> hex(packed_moment(datetime(1980, 1, 1)))
    '0x210000'
    """
    year = min(max(moment.year, FIRST_YEAR), LAST_YEAR)
    day = (year - FIRST_YEAR) << 9 | moment.month << 5 | moment.day
    return day << 16 | moment.hour << 11 | moment.minute << 5 | moment.second // 2


def local_size(name_size: int, size: int) -> int:
    """Bytes of a member's local header."""
    return 30 + name_size + (20 if size >= LARGE else 0)


def local_header(member: Member) -> bytes:
    """Return what stands before a member's bytes."""
    large = member.size >= LARGE
    size = LARGE if large else member.size
    extra = struct.pack("<HHQQ", 1, 16, member.size, member.size) if large else b""
    version = LARGE_VERSION if large else PLAIN_VERSION
    head = struct.pack("<4s3HIIII2H", b"PK\3\4", version, UTF_8, 0, member.moment, member.crc, size, size, len(member.name), len(extra))
    return head + member.name + extra


def central_size(name_size: int, size: int, at: int) -> int:
    """Bytes of a member's record in the directory."""
    return 46 + name_size + len(_central_extra(size, at))


def central_record(member: Member) -> bytes:
    """Return a member's record in the directory."""
    extra = _central_extra(member.size, member.at)
    size, at = min(member.size, LARGE), min(member.at, LARGE)
    version = LARGE_VERSION if extra else PLAIN_VERSION
    head = struct.pack("<4s4HIIII", b"PK\1\2", UNIX | version, version, UTF_8, 0, member.moment, member.crc, size, size)
    return head + struct.pack("<5HII", len(member.name), len(extra), 0, 0, 0, MODE, at) + member.name + extra


def end_records(members: int, directory_at: int, directory_size: int) -> bytes:
    """Return what ends an archive."""
    few, small, near = min(members, MANY), min(directory_size, LARGE), min(directory_at, LARGE)
    end = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, few, few, small, near, 0)
    if members < MANY and directory_size < LARGE and directory_at < LARGE:
        return end
    version = UNIX | LARGE_VERSION
    large = struct.pack("<4sQHHII4Q", b"PK\6\6", 44, version, LARGE_VERSION, 0, 0, members, members, directory_size, directory_at)
    return large + struct.pack("<4sIQI", b"PK\6\7", 0, directory_at + directory_size, 1) + end


def _central_extra(size: int, at: int) -> bytes:
    values = ([size, size] if size >= LARGE else []) + ([at] if at >= LARGE else [])
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
