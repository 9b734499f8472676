"""Object tables as Parquet: one row per object, streamed in and out, with the provenance of the image in the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Any

import fsspec
import lazy_loader
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from segkit.errors import ResultCorruptError, SelectionError
from segkit.files import corrupt, fetch, folder, is_local, local_path

if TYPE_CHECKING:
    import pyarrow.dataset as ds
else:
    ds = lazy_loader.load("pyarrow.dataset", suppress_warning=True)  # it loads pandas, which whoever segments does not need

#: Rows that are gathered before they go to the disk as one row group: about 5 MB, of which writing takes a few copies.
ROW_GROUP = 16_384
#: Files up to so many bytes are checked whole when they are read.
WHOLE = 2**24
#: Under this key a table's schema keeps the provenance, as JSON.
PROVENANCE_KEY = b"segkit.provenance"


class ObjectWriter:
    """Streams an object table into one Parquet file, which appears only when the block ends well.

    Parameters
    ----------
    path : str
        Path or fsspec URL of the file.
    provenance : mapping, optional
        Stored in the file's metadata.
    compression_level : int
        Zstandard level from 1 to 19.

    Examples
    --------
    >>> with ObjectWriter(path) as objects:
    ...     for tile in tiles:
    ...         objects.write(measure(tile))
    """

    def __init__(self, path: str, provenance: Mapping[str, Any] | None = None, compression_level: int = 3) -> None:
        self.rows = 0
        self._place, self._name = path.rsplit("/", 1)
        self._provenance = provenance
        self._level = compression_level
        self._stack = ExitStack()
        self._schema: pa.Schema | None = None
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> ObjectWriter:
        return self

    def write(self, table: pa.Table) -> None:
        """Add rows. The first table decides the columns; later ones must have the same.

        Raises
        ------
        DiskFullError, NotWritableError
            The disk says so; the file is not kept.
        """
        if self._schema is None:
            self._open(table.schema)
        self._waiting.append(table.cast(self._schema) if table.schema != self._schema else table)
        self.rows += table.num_rows
        if sum(each.num_rows for each in self._waiting) >= ROW_GROUP:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with self._stack:
                if self._schema is None:
                    self._open(pa.schema([("label", pa.int32())]))
                self._flush()
        else:
            self._stack.__exit__(kind, error, trace)

    def _open(self, schema: pa.Schema) -> None:
        self._schema = with_provenance(schema, self._provenance)
        file = self._stack.enter_context(folder(self._place).create(self._name))
        self._writer = self._stack.enter_context(pq.ParquetWriter(file, self._schema, **options(self._level)))

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks().cast(self._schema), ROW_GROUP)
            self._waiting.clear()


def options(compression_level: int) -> dict[str, Any]:
    """How tables are stored. Measurements hardly repeat, so a dictionary of them would only cost time."""
    return {"compression": "zstd", "compression_level": compression_level, "use_dictionary": False, "write_page_checksum": True}


def with_provenance(schema: pa.Schema, provenance: Mapping[str, Any] | None) -> pa.Schema:
    """Return a schema that remembers where its rows come from."""
    kept = dict(schema.metadata or {})
    if provenance is not None:
        kept[PROVENANCE_KEY] = json.dumps(provenance, default=str).encode()
    return schema.with_metadata(kept)


def provenance_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the provenance that a table remembers; empty when it has none."""
    return dict(json.loads((schema.metadata or {}).get(PROVENANCE_KEY, b"{}")))


def encode(table: pa.Table, provenance: Mapping[str, Any] | None = None, compression_level: int = 3) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    out = BytesIO()
    pq.write_table(table.replace_schema_metadata(with_provenance(table.schema, provenance).metadata), out, **options(compression_level))
    return out.getvalue()


def read(path: str, columns: Sequence[str] | None = None, known: tuple[int, str] | None = None) -> pa.Table:
    """Read an object table, or some of its columns.

    Parameters
    ----------
    path : str
        Path or fsspec URL of the file.
    columns : sequence of str, optional
        Default: all.
    known : (bytes, checksum), optional
        What the file should be. One that is small is checked as a whole; in a larger one, Parquet's checksums of what is read.

    Raises
    ------
    SelectionError
        It has no column of that name.
    ResultCorruptError
        The file is missing or damaged.
    """
    place, name = path.rsplit("/", 1)
    try:
        if known is not None and known[0] > WHOLE and is_local(path):
            with pa.memory_map(local_path(path)) as source:
                return parse(source, columns)
        size, checksum = known or (None, None)
        return parse(pa.BufferReader(fetch(folder(place), name, size, checksum)), columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, SelectionError | ResultCorruptError):
            raise
        raise corrupt(path, "is damaged") from error


def parse(source: pa.NativeFile, columns: Sequence[str] | None) -> pa.Table:
    """Read a table from an open Parquet file."""
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        unknown = [column for column in columns or () if column not in file.schema_arrow.names]
        if unknown:
            raise SelectionError(f"The object table has no column {', '.join(unknown)}. It has {', '.join(file.schema_arrow.names)}.")
        return file.read(None if columns is None else list(columns), use_threads=False)


def read_schema(path: str) -> pa.Schema:
    """Read the names and types of a table's columns, without its rows.

    Raises
    ------
    ResultCorruptError
        The file is missing or damaged.
    """
    inside, system = located(path)
    try:
        return pq.read_schema(inside, filesystem=system)
    except FileNotFoundError as error:
        raise corrupt(path, "is missing") from error
    except (pa.ArrowException, OSError) as error:
        raise corrupt(path, "is damaged") from error


def join_tables(parts: Iterable[tuple[str, int, str]]) -> ds.Dataset:
    """Present many object tables as one, which is read only as it is asked for.

    Parameters
    ----------
    parts : iterable of (path, image id, image name)
        The tables' files.

    Returns
    -------
    pyarrow.dataset.Dataset
        Columns `image_id` and `image` first, then those of the tables; a column that a table lacks is empty in its rows.
        Read it with `to_batches` (streamed), `to_table`, or hand it to DuckDB by name.
    """
    kind = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True))
    fragments, schemas = [], [pa.schema([("image_id", pa.int64()), ("image", pa.string())])]
    for path, image_id, name in parts:
        known = (ds.field("image_id") == image_id) & (ds.field("image") == name)
        fragments.append(kind.make_fragment(*located(path), partition_expression=known))
        schemas.append(fragments[-1].physical_schema.remove_metadata())
    schema = pa.unify_schemas(list(dict.fromkeys(schemas)))
    return ds.FileSystemDataset(fragments, schema, kind)


def located(path: str) -> tuple[str, Any]:
    """Return a path and the pyarrow file system that it lies in."""
    if is_local(path):
        return local_path(path), LocalFileSystem()
    store, inside = fsspec.core.url_to_fs(path)
    return inside, PyFileSystem(FSSpecHandler(store))
