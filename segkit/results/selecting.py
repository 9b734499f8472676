"""Objects of a run by page and by filter, read from the object tables a piece at a time.

A filter is a column, a comparison and a value, such as `area_um2>=10`. It is never part of a statement: the value is read as the
column's type and compared by Arrow. A page is found again by the job and the row that it ended at, so its cost does not grow with
its depth; a page that reads many tables and finds little is ended early, and says where to go on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from segkit.errors import FilterError, SelectionError
from segkit.files import corrupt
from segkit.objects import located
from segkit.pages import EPOCH, Place, check_page, decode_cursor, encode_cursor
from segkit.results.places import locate, objects_path
from segkit.results.rows import Record

#: Columns that every table is given, before its own.
GIVEN = pa.schema([("image_id", pa.int64()), ("image", pa.string())])
#: A page reads no more tables than this.
MOST_TABLES = 999
MOST_FILTERS = 20
LONGEST_FILTER = 300

COMPARISONS: dict[str, Callable[..., Any]] = {
    ">=": pc.greater_equal,
    "<=": pc.less_equal,
    "!=": pc.not_equal,
    "==": pc.equal,
    "=": pc.equal,
    ">": pc.greater,
    "<": pc.less,
}
FORM = re.compile(r"\s*([A-Za-z_]\w{0,99})\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """What rows must fulfil."""

    column: str
    comparison: str
    value: str

    def mask(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """Tell which values fulfil it; missing ones do not.

        Raises
        ------
        FilterError
            The value is not one of the column's type.
        """
        return pc.fill_null(COMPARISONS[self.comparison](values, self._scalar(values.type)), False)

    def _scalar(self, kind: pa.DataType) -> pa.Scalar:
        try:
            if pa.types.is_boolean(kind):
                return pa.scalar({"true": True, "false": False}[self.value.lower()])
            if pa.types.is_integer(kind) and re.fullmatch(r"[+-]?\d{1,18}", self.value):
                return pa.scalar(int(self.value), pa.int64())
            if pa.types.is_integer(kind) or pa.types.is_floating(kind):
                return pa.scalar(finite(self.value), pa.float64())
            return pa.scalar(self.value)
        except (ValueError, KeyError):
            raise FilterError(f"{self.column} is compared with {self.value!r}, which is no value of its kind ({kind}).") from None


def finite(text: str) -> float:
    """Read a number that is one."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def parse_filter(text: str) -> Filter:
    """Read a filter.

    Raises
    ------
    FilterError
        It is none.

    Examples
    --------
    >>> parse_filter("area_um2 >= 10")
    Filter(column='area_um2', comparison='>=', value='10')
    """
    found = FORM.fullmatch(text) if len(text) <= LONGEST_FILTER else None
    if found is None or not found[3]:
        raise FilterError(f"{text[:40]!r} is no filter. {FilterError()}")
    return Filter(*found.groups())


@dataclass(frozen=True)
class Wanted:
    """Which rows and columns are asked for."""

    columns: tuple[str, ...] = ()  #: empty: all
    filters: tuple[Filter, ...] = ()

    @property
    def named(self) -> set[str]:
        """Every column that the request names."""
        return {*self.columns, *(each.column for each in self.filters)}

    def apply(self, table: pa.Table) -> pa.Table:
        """Return the rows and columns that are wanted; a table without a column that is filtered by has none."""
        for each in self.filters:
            if each.column not in table.schema.names:
                return self._shown(table.slice(0, 0))
            table = table.filter(each.mask(table[each.column]))
        return self._shown(table)

    def _shown(self, table: pa.Table) -> pa.Table:
        return table.select([name for name in self.columns if name in table.schema.names]) if self.columns else table


def parse_wanted(columns: Sequence[str] = (), where: Sequence[str] = ()) -> Wanted:
    """Read which columns and rows are asked for.

    Raises
    ------
    FilterError
        A filter is none, or there are too many.
    """
    if len(where) > MOST_FILTERS:
        raise FilterError(f"There are more than {MOST_FILTERS} filters.")
    return Wanted(tuple(dict.fromkeys(columns)), tuple(parse_filter(each) for each in where))


@dataclass(frozen=True)
class ObjectPage:
    """Some objects of a run."""

    tables: tuple[pa.Table, ...]  #: one of each image that has some; their columns may differ
    next: str | None

    @property
    def rows(self) -> int:
        """How many objects."""
        return sum(len(table) for table in self.tables)

    def joined(self) -> pa.Table:
        """All as one table; what an image does not have is empty."""
        return pa.concat_tables(self.tables, promote_options="permissive") if self.tables else GIVEN.empty_table()


class Pieces:
    """The object table of one result, read a row group at a time."""

    def __init__(self, home: str, record: Record) -> None:
        self.record = record
        self._path = objects_path(locate(home, record.path))

    def read(self, wanted: Wanted, start: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """Yield the number of the first row of each piece, and the piece itself: all its rows, the columns that are wanted.

        Raises
        ------
        ResultCorruptError
            The table is missing or damaged.
        """
        try:
            with self._open() as file:
                columns = [name for name in file.schema_arrow.names if not wanted.columns or name in wanted.named]
                first = 0
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if first + rows > start:
                        skipped = max(0, start - first)
                        yield first + skipped, self._named(file.read_row_group(group, columns, use_threads=False), rows).slice(skipped)
                    first += rows
        except FileNotFoundError as error:
            raise corrupt(self._path, "is missing") from error
        except (pa.ArrowException, OSError) as error:
            raise corrupt(self._path, "is damaged") from error

    def schema(self) -> pa.Schema:
        """Names and types of the columns, those given to every table first."""
        try:
            with self._open() as file:
                own = file.schema_arrow.remove_metadata()
        except FileNotFoundError as error:
            raise corrupt(self._path, "is missing") from error
        except (pa.ArrowException, OSError) as error:
            raise corrupt(self._path, "is damaged") from error
        return pa.schema([*GIVEN, *(field for field in own if field.name not in GIVEN.names)])

    def _open(self) -> pq.ParquetFile:
        inside, system = located(self._path)
        return pq.ParquetFile(system.open_input_file(inside), page_checksum_verification=True)

    def _named(self, table: pa.Table, rows: int) -> pa.Table:
        """Put the image's number and name before the columns."""
        ids = pa.repeat(pa.scalar(self.record.image_id, pa.int64()), rows)
        names = pa.repeat(pa.scalar(self.record.image, pa.string()), rows)
        own = [name for name in table.schema.names if name not in GIVEN.names]
        return pa.Table.from_arrays([ids, names, *(table[name] for name in own)], names=[*GIVEN.names, *own])


def objects_page(
    home: str, run_id: int, find: Callable[[int, int], Sequence[Record]], wanted: Wanted, limit: int = 100, after: str | None = None
) -> ObjectPage:
    """Read a page of a run's objects, in the order of its jobs and of their rows.

    Parameters
    ----------
    home : str
        Where results lie.
    run_id : int
        The run.
    find : callable
        Given a job's number and how many, returns the results of jobs from that number on, in order.
    wanted : Wanted
        Which rows and columns.
    limit : int
        Rows, at most. There may be fewer, even none, while there is a `next`: where filters match little, many tables are read.
    after : str, optional
        The `next` of the page before.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    SelectionError
        No table has a column of that name.
    FilterError
        A value is not of its column's type.
    """
    check_page(limit, after, None)
    scope = f"objects of run {run_id}: {wanted.filters}"
    place = Place(EPOCH, 0) if after is None else decode_cursor(after, scope)
    start = (place.created_at - EPOCH) // timedelta(microseconds=1)
    records = find(place.id, MOST_TABLES + 1)
    taken: list[pa.Table] = []
    known: dict[str, None] = dict.fromkeys(GIVEN.names)
    for record in records[:MOST_TABLES]:
        for first, piece in Pieces(home, record).read(wanted, start if record.job_id == place.id else 0):
            known |= dict.fromkeys(piece.schema.names)
            rows, end = cut(piece, wanted, limit - sum(map(len, taken)))
            taken += [rows] if len(rows) else []
            if end is not None:
                return ObjectPage(tuple(taken), _cursor(record.job_id, first + end, scope))
    if after is None and records:
        refuse_unknown(wanted, known)
    return ObjectPage(tuple(taken), _cursor(records[MOST_TABLES].job_id, 0, scope) if len(records) > MOST_TABLES else None)


def cut(piece: pa.Table, wanted: Wanted, room: int) -> tuple[pa.Table, int | None]:
    """Return the first `room` wanted rows of a piece, and the row of the piece to go on at when there are more."""
    numbered = piece.append_column("", pa.array(range(len(piece)), pa.int64())) if wanted.filters else piece
    chosen = Wanted((), wanted.filters).apply(numbered)
    end = None
    if len(chosen) > room:
        end = chosen[""][room].as_py() if wanted.filters else room
        chosen = chosen.slice(0, room)
    return wanted._shown(chosen.drop_columns([""]) if wanted.filters else chosen), end


def _cursor(job_id: int, row: int, scope: str) -> str:
    return encode_cursor(Place(EPOCH + timedelta(microseconds=row), job_id), scope)


def refuse_unknown(wanted: Wanted, known: Iterable[str]) -> None:
    """Refuse columns that no table has."""
    names = list(known)
    unknown = sorted(wanted.named - set(names))
    if unknown:
        raise SelectionError(f"The objects have no column {', '.join(unknown)}. They have {', '.join(names)}.")


# All objects of a run

#: Footers of no more tables than this are read to learn their columns; beyond, one of each kind of summary is.
MOST_FOOTERS = 2000


def schema_of(home: str, records: Iterable[Record], wanted: Wanted) -> pa.Schema:
    """Learn the columns of a run's objects before the first is sent.

    Raises
    ------
    SelectionError
        No table has a column of that name.
    ResultCorruptError
        A table is missing or damaged.
    """
    schemas: dict[pa.Schema, None] = {GIVEN: None}
    seen: set[tuple[str, ...]] = set()
    for number, record in enumerate(records):
        kind = tuple(sorted(record.summary))
        if number < MOST_FOOTERS or kind not in seen:
            seen.add(kind)
            schemas[Pieces(home, record).schema()] = None
    schema = pa.unify_schemas(list(schemas), promote_options="permissive")
    if len(schemas) > 1:
        refuse_unknown(wanted, schema.names)
    return pa.schema([schema.field(name) for name in wanted.columns or schema.names if name in schema.names])


def stream_objects(home: str, records: Iterable[Record], wanted: Wanted, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the objects of a run, a row group at a time, all with the columns of `schema`.

    Raises
    ------
    ResultCorruptError
        A table is missing or damaged, or has other columns than it should.
    """
    for record in records:
        for _, piece in Pieces(home, record).read(wanted):
            rows = wanted.apply(piece)
            if set(rows.schema.names) - set(schema.names):
                raise corrupt(record.path, "has columns that the other tables of its run do not have")
            if len(rows):
                yield aligned(rows, schema)


def aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema; what it does not have is empty."""
    there = set(table.schema.names)
    columns = [table[field.name].cast(field.type) if field.name in there else pa.nulls(len(table), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)
