"""What a large image leaves on disk between its passes: records of arrays, one for each piece of work.

A record is written whole or not at all, and carries a checksum, so one that can be read is a finished piece of work. That is
all that a later attempt needs to go on from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numcodecs import Zstd
from numpy.typing import NDArray

from segkit.errors import ResultCorruptError
from segkit.files import Folder, folder

#: Changes whenever the passes write something else than they did, so that no attempt goes on from another version's files.
LAYOUT = 1

#: Name of the document that says for what work the records are.
WORK = "work.json"

_DIGEST = 16
_CODEC = Zstd(level=1)


class Record(Mapping[str, NDArray[Any]]):
    """The arrays of one piece of work, decompressed as they are asked for.

    The bytes are a digest of all that follows, the length of the header, the header (JSON: name, type, shape, place and
    compressed length of each array), and the arrays.

    Raises
    ------
    ResultCorruptError
        The bytes are not those that were written.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < _DIGEST + 4 or hashlib.blake2b(data[_DIGEST:], digest_size=_DIGEST).digest() != data[:_DIGEST]:
            raise ResultCorruptError("A record of an unfinished large image is damaged. `segkit retry` makes it again.")
        start = _DIGEST + 4 + int.from_bytes(data[_DIGEST : _DIGEST + 4], "little")
        self._arrays = {name: rest for name, *rest in json.loads(data[_DIGEST + 4 : start])}
        self._data = memoryview(data)[start:]

    def __getitem__(self, name: str) -> NDArray[Any]:
        kind, shape, start, length = self._arrays[name]
        plain = np.empty(shape, kind)
        if plain.size:
            _CODEC.decode(self._data[start : start + length], out=plain)
        return plain

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def table(self, name: str) -> pa.Table:
        """Return the table that was put in as `pack_table` makes it."""
        with pa.ipc.open_stream(pa.py_buffer(self[name])) as stream:
            return stream.read_all()


def pack_table(table: pa.Table) -> NDArray[np.uint8]:
    """Return a table as an array that goes into a record."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)


def pack_record(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the bytes of a record."""
    header: list[tuple[str, str, tuple[int, ...], int, int]] = []
    packed: list[bytes] = []
    start = 0
    for name, array in arrays.items():
        packed.append(bytes(_CODEC.encode(np.ascontiguousarray(array))) if array.size else b"")
        header.append((name, array.dtype.str, array.shape, start, len(packed[-1])))
        start += len(packed[-1])
    described = json.dumps(header).encode()
    content = b"".join([len(described).to_bytes(4, "little"), described, *packed])
    return hashlib.blake2b(content, digest_size=_DIGEST).digest() + content


@dataclass(frozen=True)
class Scratch:
    """The folder of one image's records; a small value that travels to the tasks."""

    url: str  #: path or fsspec URL, the same for every attempt

    @cached_property
    def _folder(self) -> Folder:
        return folder(self.url)

    def begin(self, work: Mapping[str, Any]) -> None:
        """Make ready for some work: keep what an earlier attempt at the very same work left, and nothing else."""
        wanted = json.dumps({"layout": LAYOUT, **work}, sort_keys=True, default=str).encode()
        try:
            if self._folder.read(WORK) == wanted:
                return
        except FileNotFoundError:
            pass
        self._folder.remove()
        self._folder.write(WORK, wanted)

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a record."""
        self._folder.write(name, pack_record(arrays))

    def read(self, name: str) -> Record:
        """Return a record that must be there."""
        return Record(self._folder.read(name))

    def find(self, name: str) -> Record | None:
        """Return a record if it is there and whole; None means that its work must be done."""
        try:
            return self.read(name)
        except (FileNotFoundError, ResultCorruptError):
            return None

    def remove(self) -> None:
        """Delete everything."""
        self._folder.remove()
