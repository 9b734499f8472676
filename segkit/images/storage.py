"""Bytes of one file, local or in any fsspec store, read from any thread and never short; and what its content hash is."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import fsspec

from segkit.errors import ImageFormatError, ImageReadError, ImageTruncatedError, MissingExtraError

#: How much is read at a time to hash a file.
BLOCK = 2**20
#: A file changed within this many seconds may change again without its times telling, so its hash is not remembered.
SETTLED_SECONDS = 2.0

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


def is_url(uri: str) -> bool:
    """Tell whether a string is a URL for fsspec; otherwise it is a local path."""
    return bool(_URL.match(uri))


def normalise(uri: str | Path) -> str:
    """Return the one way to write where an image is: an absolute local path, or the URL as it is.

    Examples
    --------
    >>> normalise("file:///data/a b.tif")
    '/data/a b.tif'
    >>> normalise("s3://lab/plate.zarr/")
    's3://lab/plate.zarr'
    """
    text = os.fspath(uri)
    if text.startswith(("file://", "local://")):
        text = text.partition("://")[2]
    if is_url(text):
        return text.rstrip("/") if not text.endswith("://") else text
    if text == "~" or text.startswith("~/"):
        text = os.path.expanduser(text)
    return os.path.abspath(text)


def name_of(uri: str) -> str:
    """Return what people call an image: the last part of its path, and for an image inside a Zarr all from there on.

    Examples
    --------
    >>> name_of("/data/plate7.zarr/A/1/0")
    'plate7.zarr/A/1/0'
    """
    parts = uri.partition("::")[0].split("/") if is_url(uri) else uri.split(os.sep)
    outermost = next((number for number, part in enumerate(parts[:-1]) if part.endswith(".zarr")), len(parts) - 1)
    return "/".join(parts[outermost:])


def file_system(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    Raises
    ------
    ImageReadError
        When no such kind of store is known.
    MissingExtraError
        When its package is not installed.
    """
    try:
        system, path = fsspec.core.url_to_fs(uri)
    except ImportError as fault:
        protocol = uri.partition("://")[0]
        if protocol in ("s3", "s3a"):
            raise MissingExtraError(f"Reading {protocol}://", "s3") from fault
        raise ImageReadError(f"Reading {protocol}:// needs another package: {fault}") from fault
    except ValueError as fault:
        raise ImageReadError(f"There is no way to read this address: {fault}") from fault
    return system, path


#: Device, number, size and time of the last write of a file.
State = tuple[int, int, int, int]


def state_of(path: str) -> State | None:
    """Return what tells a file from what it was before; None of what is none, or lies in a store."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


class Source(ABC):
    """The bytes of one file. Safe to read from many threads at once."""

    uri: str
    size: int

    @abstractmethod
    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset` on.

        Raises
        ------
        ImageTruncatedError
            When the file ends before.
        """

    @abstractmethod
    def file(self) -> IO[bytes]:
        """Return a new seekable binary file of it, for parsers that want one; used by one thread."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def head(self, count: int) -> bytes:
        """Return the first `count` bytes, or all there are."""
        return self.read(0, min(count, self.size))

    def digest(self) -> str:
        """Return the content hash: blake2b-160 of the bytes, in hex."""
        state = hashlib.blake2b(digest_size=20)
        for offset in range(0, self.size, BLOCK):
            state.update(self.read(offset, min(BLOCK, self.size - offset)))
        return state.hexdigest()

    def _whole(self, data: bytes, offset: int, count: int) -> bytes:
        if len(data) != count:
            raise ImageTruncatedError(f"It ends before its pixels do: {count} bytes were expected at {offset}, {len(data)} are there.")
        return data


class LocalSource(Source):
    """A regular file on a disk, read at given places without a position that threads would share."""

    def __init__(self, path: str) -> None:
        self.uri = path
        # Without O_NONBLOCK a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise ImageFormatError(f"It is not a file but a {'folder' if stat.S_ISDIR(status.st_mode) else 'pipe, socket or device'}.")
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self.size = status.st_size
        self._identity = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset` on."""
        descriptor = self._file.fileno()
        data = os.pread(descriptor, count, offset)
        if len(data) == count or not data:
            return self._whole(data, offset, count)
        parts = [data]  # the system reads at most 2 GiB at a time
        while missing := count - sum(map(len, parts)):
            part = os.pread(descriptor, missing, offset + count - missing)
            if not part:
                break
            parts.append(part)
        return self._whole(b"".join(parts), offset, count)

    def file(self) -> IO[bytes]:
        """Return a new seekable binary file of it."""
        return os.fdopen(os.open(self.uri, os.O_RDONLY | os.O_CLOEXEC), "rb")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def digest(self) -> str:
        """Return the content hash; an unchanged file is not read again for it."""
        if time.time_ns() - max(self._identity[4:]) < SETTLED_SECONDS * 1e9:
            return super().digest()
        return _digests.get(self._identity, super().digest)


class StoreSource(Source):
    """An object in an fsspec store; every read is a request of its own, so threads do not disturb each other."""

    def __init__(self, uri: str, inside: str = "") -> None:
        self.uri = uri
        self._system, self._path = file_system(uri)
        if inside:
            self._path = f"{self._path.rstrip('/')}/{inside}"
        details = self._system.info(self._path)
        if details["type"] == "directory":
            raise IsADirectoryError(uri)
        if details.get("size") is None:
            raise ImageReadError("Its store does not tell its size, so it cannot be read in parts. Download it first.")
        self.size = int(details["size"])

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset` on."""
        if not count:
            return b""
        return self._whole(self._system.cat_file(self._path, start=offset, end=offset + count), offset, count)

    def file(self) -> IO[bytes]:
        """Return a new seekable binary file of it."""
        return io.BufferedReader(_Reads(self), buffer_size=2**18)

    def close(self) -> None:
        """Nothing is held open."""


class _Reads(io.RawIOBase):
    """A file with a position on top of a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._source.size - self._position))
        buffer[:count] = self._source.read(self._position, count)
        self._position += count
        return count


class _Digests:
    """Content hashes of files that have not changed since, so that opening an image again does not read it whole again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[tuple[Any, ...], str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, identity: tuple[Any, ...], compute: Callable[[], str]) -> str:
        """Return the hash of a file by its path, number, size and times."""
        with self._lock:
            if identity in self._known:
                self._known.move_to_end(identity)
                return self._known[identity]
        digest = compute()
        with self._lock:
            self._known[identity] = digest
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return digest


_digests = _Digests(most=2**16)
