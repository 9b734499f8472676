"""Excel: one workbook, one row per object of all images, on as many sheets as that takes, and a sheet on where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
from xlsxwriter import Workbook
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

from segkit import __version__
from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.exports.spool import Spool

#: Rows that Excel has on a sheet, the one with the names included.
SHEET_ROWS = 1_048_576
LONGEST_TEXT = 32_767


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write the workbook, a row at a time."""
    spool, origin = Spool(output), Origin()
    spool.fill(origin.watch(items), report)
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "nan_inf_to_errors": False}
    try:
        with Workbook(str(output.place(output.single)), options) as book:
            book.use_zip64()
            sheets = Sheets(book, spool.schema)
            for rows in spool.batches():
                sheets.add(rows)
            origin.write(book.add_worksheet("about"))
    except FileCreateError as error:
        raise error.args[0] from error  # what the disk said


class Sheets:
    """Puts rows on a sheet, and begins another when it is full."""

    def __init__(self, book: Workbook, schema: pa.Schema) -> None:
        self._book = book
        self._schema = schema
        self._count = 0
        self._begin()

    def _begin(self) -> None:
        self._count += 1
        self._sheet = self._book.add_worksheet("objects" if self._count == 1 else f"objects {self._count}")
        self._sheet.freeze_panes(1, 0)
        self._row = 1
        for column, name in enumerate(self._schema.names):
            self._sheet.write_string(0, column, name)

    def add(self, rows: pa.Table) -> None:
        """Write rows. Cells are written by their type, so no text is ever taken for a formula."""
        writers = [writer_of(field.type) for field in self._schema]
        for values in zip(*(plain(column) for column in rows.columns), strict=True):
            if self._row == SHEET_ROWS:
                self._begin()
            for column, value in enumerate(values):
                if value is not None:
                    writers[column](self._sheet, self._row, column, value)
            self._row += 1


def writer_of(kind: pa.DataType) -> Callable[[Worksheet, int, int, Any], Any]:
    """Return how a cell of a type is written."""
    if pa.types.is_boolean(kind):
        return Worksheet.write_boolean
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Worksheet.write_number
    return lambda sheet, row, column, value: sheet.write_string(row, column, str(value)[:LONGEST_TEXT])


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values; a number that Excel does not have becomes an empty cell."""
    if not pa.types.is_floating(column.type):
        return list(column.to_pylist())
    return [value if value is not None and abs(value) < float("inf") else None for value in column.to_pylist()]


class Origin:
    """Remembers where objects come from: the provenance of the first image, and how many images there are."""

    def __init__(self) -> None:
        self._images = 0
        self._provenance: dict[str, Any] = {}

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass images on, and remember them."""
        for item in items:
            self._images += 1
            self._provenance = self._provenance or dict(item.provenance)
            yield item

    def write(self, sheet: Worksheet) -> None:
        """Write names and values."""
        shared = {key: value for key, value in self._provenance.items() if key not in ("image", "uri", "content_hash")}
        for row, (key, value) in enumerate({"written by": f"segkit {__version__}", "images": self._images, **shared}.items()):
            sheet.write_string(row, 0, str(key))
            sheet.write_string(row, 1, value if isinstance(value, str) else json.dumps(value, default=str))
