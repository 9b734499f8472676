"""What can be downloaded: bytes of a known size in a file on the disk, in a store, or in an archive."""

from __future__ import annotations

import mimetypes
import os
import stat
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from segkit.errors import UnknownFileError
from segkit.files import is_local, join
from segkit.images.storage import StoreSource

MEDIA_TYPES = {
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.file",
    "json": "application/json",
    "geojson": "application/geo+json",
    "csv": "text/csv; charset=utf-8",
    "zip": "application/zip",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "tif": "image/tiff",
}
ANYTHING = "application/octet-stream"


class Source(Protocol):
    """Bytes that can be read from any place on, from several threads."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly so many bytes."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True)
class Body:
    """Something to download."""

    name: str  #: that the file is saved under
    source: Source
    tag: str  #: strong ETag, with its quotes
    modified: float  #: seconds since 1970
    place: str | None = None  #: path below the home folder, when nginx can find it there

    @property
    def media_type(self) -> str:
        """Its media type, by its name."""
        ending = self.name.rpartition(".")[2].lower()
        return MEDIA_TYPES.get(ending) or mimetypes.guess_type(self.name)[0] or ANYTHING

    @property
    def descriptor(self) -> int | None:
        """The open file, when it is one on the disk."""
        return self.source.descriptor if isinstance(self.source, LocalFile) else None


class LocalFile:
    """A regular file below a folder. No link is followed on the way to it, so nothing outside can be meant."""

    def __init__(self, root: str, name: str) -> None:
        self.descriptor = open_below(root, name)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.descriptor)
            raise FileNotFoundError(name)
        self.size = status.st_size
        self.modified = status.st_mtime
        self.identity = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"

    @property
    def nginx_tag(self) -> str:
        """The ETag that nginx makes of it."""
        return f'"{int(self.modified):x}-{self.size:x}"'

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly so many bytes.

        Raises
        ------
        EOFError
            The file became shorter.
        """
        parts: list[bytes] = []
        while count:
            part = os.pread(self.descriptor, count, offset)
            if not part:
                raise EOFError("The file became shorter while it was being read.")
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def is_plain(name: str) -> bool:
    """Whether a name is that of a file further down, and neither hidden nor anything that a system reads as more than a name.

    Examples
    --------
    >>> is_plain("a/b.csv"), is_plain("../b.csv"), is_plain("/etc/passwd"), is_plain("a//b")
    (True, False, False, False)
    """
    return all(part and not part.startswith((".part-", "..")) and part != "." and "\0" not in part for part in name.split("/"))


def open_below(root: str, name: str) -> int:
    """Open a file below a folder for reading, step by step, so that neither "..", nor a link, nor an absolute path leads out of it.

    Raises
    ------
    FileNotFoundError
        There is none, or the name is not a plain one.
    """
    if not is_plain(name):
        raise FileNotFoundError(name)
    parts = name.split("/")
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
        # Without O_NONBLOCK a named pipe would wait for a writer for ever.
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    except (OSError, UnicodeEncodeError) as error:
        raise FileNotFoundError(name) from error
    finally:
        os.close(here)


def open_source(root: str, name: str) -> LocalFile | StoreSource:
    """Open a file below a folder or fsspec URL.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    if is_local(root):
        return LocalFile(root, name)
    return StoreSource(join(root, name))


def unknown(name: str) -> UnknownFileError:
    """Say that there is no such file."""
    return UnknownFileError(f'There is no file "{name[:200]}" to download here.')


def disposition(name: str) -> str:
    r"""Write under which name a download is saved; nothing in it can end the header or leave the folder.

    Examples
    --------
    >>> disposition('naïve "plate"/7.csv')
    'attachment; filename="na_ve _plate__7.csv"; filename*=UTF-8\'\'na%C3%AFve%20_plate__7.csv'
    """
    safe = "".join(letter if letter.isprintable() and letter not in '"\\/' else "_" for letter in name)
    safe = safe.encode("utf-8", "replace").decode().strip(". ") or "download"
    plain = "".join(letter if letter.isascii() else "_" for letter in safe)
    extended = "" if plain == safe else f"; filename*=UTF-8''{quote(safe, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
