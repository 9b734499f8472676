"""CSV: one file, one row per object of all images, in UTF-8. Text that a spreadsheet would run as a formula gets a quote before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pyarrow import csv

from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.exports.spool import Spool, disarmed


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write the table."""
    spool = Spool(output)
    spool.fill(items, report)
    options = csv.WriteOptions(quoting_style="needed")
    with csv.CSVWriter(str(output.place(output.single)), spool.schema, write_options=options) as file:
        for rows in spool.batches():
            file.write_table(disarmed(rows))
