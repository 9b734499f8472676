"""Every row of every table, as lines of JSON: the same for SQLite and PostgreSQL, so that one is restored into the other."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson
import zstandard
from sqlalchemy import JSON, Column, Connection, MetaData, NullPool, Table, create_engine, delete, func, insert, inspect, select, text

from segkit.database import Database
from segkit.database.faults import sqlite_fault
from segkit.errors import DatabaseCorruptError
from segkit.files import PIECE
from segkit.schema import Base, Moment

#: Rows that are fetched, and inserted, at once.
AT_ONCE = 2000
Values = dict[str, Any]


@contextmanager
def snapshot(database: Database, beside: Path) -> Iterator[Connection]:
    """Open a connection that sees the database as it is at one moment, however long it is read and whatever others write meanwhile.

    SQLite: a copy by its backup API, in the folder `beside`, which holds nobody up and is tried for damage. PostgreSQL: one transaction
    that sees one state (`REPEATABLE READ`), which needs no program of PostgreSQL's and no more rights than to read.

    Raises
    ------
    DatabaseCorruptError
        The copy is damaged, so the database is.
    """
    if database.path is None:
        with database.write() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield connection
        return
    with tempfile.TemporaryDirectory(dir=beside, prefix=".part-") as folder:
        copy = Path(folder) / "segkit.db"
        copy_sqlite(database.path, copy)
        engine = create_engine(f"sqlite:///{copy}", poolclass=NullPool)
        with engine.connect() as connection:
            yield connection


def copy_sqlite(path: Path, copy: Path) -> None:
    """Copy a SQLite database that others use, and have SQLite read all of the copy."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as given, closing(sqlite3.connect(copy)) as taken:
            given.backup(taken)
            said = taken.execute("PRAGMA integrity_check").fetchone()
            if said != ("ok",):
                raise DatabaseCorruptError(f"SQLite says of {path}: {said[0]}. Restore the newest backup that was made before.")
            taken.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise sqlite_fault(error, path) from error


def tables() -> list[Table]:
    """Every table of segkit's, each after those that it leads to."""
    return list(Base.metadata.sorted_tables)


def dump(connection: Connection, table: Table, file: IO[bytes]) -> int:
    """Write all rows of a table in order of their keys, one to a line, compressed; how many there are."""
    number = 0
    chosen = select(table).order_by(*table.primary_key.columns)
    streamed = connection.execute(chosen, execution_options={"yield_per": AT_ONCE})
    with zstandard.ZstdCompressor(3).stream_writer(file, closefd=False) as packed:
        for rows in streamed.partitions():
            packed.write(b"".join(orjson.dumps(dict(row._mapping), default=str) + b"\n" for row in rows))
            number += len(rows)
    return number


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """Read the lines of a compressed file."""
    rest = b""
    with zstandard.ZstdDecompressor().stream_reader(file, closefd=False) as unpacked:
        while piece := unpacked.read(PIECE):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
    if rest:
        yield rest


def load(connection: Connection, table: Table, rows: Iterable[Values]) -> int:
    """Insert rows; how many."""
    number, pending = 0, iter(rows)
    while some := list(islice(pending, AT_ONCE)):
        connection.execute(insert(table), some)
        number += len(some)
    return number


def read_rows(table: Table, file: IO[bytes]) -> Iterator[Values]:
    """Read what `dump` wrote, with the types of the table."""
    moments = [column.name for column in table.columns if isinstance(column.type, Moment)]
    for line in lines(file):
        row: Values = orjson.loads(line)
        for name in moments:
            if row.get(name) is not None:
                row[name] = datetime.fromisoformat(row[name])
        yield row


def as_then(connection: Connection, table: Table) -> Table:
    """Return a table as it is in this database, which may be at an older revision: its columns, with the types that we know."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    return Table(table.name, MetaData(), *(_plain(column) for column in table.columns if column.name in there))


def _plain(column: Column[Any]) -> Column[Any]:
    """Return a column without its links; nothing is SQL's NULL in it, also where JSON has one of its own."""
    return Column(column.name, JSON(none_as_null=True) if isinstance(column.type, JSON) else column.type, primary_key=column.primary_key)


def numbers(connection: Connection) -> dict[str, int]:
    """Return the last number that was given to a row of each table, which may be gone: it is not given again."""
    if connection.dialect.name == "sqlite":
        return {row.name: row.seq for row in connection.execute(text("SELECT name, seq FROM sqlite_sequence"))}
    chosen = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = current_schema() AND last_value IS NOT NULL"
    return {name.removesuffix("_id_seq"): number for name, number in connection.execute(text(chosen))}


def set_numbers(connection: Connection, last: Mapping[str, int]) -> None:
    """Go on numbering after these."""
    for name, number in last.items():
        if name not in Base.metadata.tables:
            continue
        if connection.dialect.name == "sqlite":
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :number)"), {"name": name, "number": number})
        else:
            connection.execute(text("SELECT setval(:sequence, :number)"), {"sequence": f"{name}_id_seq", "number": number})


def counts(connection: Connection) -> dict[str, int]:
    """Count the rows of every table."""
    return {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables()}


def holds_any(connection: Connection) -> bool:
    """Whether any table has a row."""
    return any(connection.execute(select(table.primary_key.columns.values()[0]).limit(1)).first() is not None for table in tables())


def empty(connection: Connection) -> None:
    """Delete all rows of all tables."""
    for table in reversed(tables()):
        connection.execute(delete(table))
