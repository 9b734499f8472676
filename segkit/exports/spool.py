"""The objects of all images as rows of one table whose columns are known only after the last image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from segkit.exports.items import Item
from segkit.exports.output import Output

#: Rows that are in memory at once.
BATCH = 16_384


class Spool:
    """Gathers object tables on the disk, then gives them back with all columns, a batch of rows at a time."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._schemas: list[pa.Schema] = []
        self._files: list[Path] = []

    def fill(self, items: Iterable[Item], report: Callable[[Item], None]) -> None:
        """Take in the objects of every image: `image_id`, `image`, then the measurements."""
        writer: pa.RecordBatchStreamWriter | None = None
        for item in items:
            table = named(item)
            if writer is None or table.schema != self._schemas[-1]:
                if writer is not None:
                    writer.close()
                self._schemas.append(table.schema)
                self._files.append(self._output.scratch())
                writer = pa.ipc.new_stream(str(self._files[-1]), table.schema)
            writer.write_table(table, BATCH)
            report(item)
        if writer is not None:
            writer.close()

    @property
    def schema(self) -> pa.Schema:
        """Every column of every image, in the order they came."""
        start = pa.schema([("image_id", pa.int64()), ("image", pa.string()), ("label", pa.int64())])
        return pa.unify_schemas([start, *self._schemas], promote_options="permissive")

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows, with every column; what an image does not have is empty."""
        schema = self.schema
        for path in self._files:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    part = pa.Table.from_batches([batch])
                    columns = [
                        part[field.name].cast(field.type) if field.name in part.schema.names else pa.nulls(len(part), field.type)
                        for field in schema
                    ]
                    yield pa.Table.from_arrays(columns, schema=schema)


def named(item: Item) -> pa.Table:
    """Return an image's objects with the image's number and name before them."""
    table = item.objects().replace_schema_metadata(None)
    keep = [name for name in table.schema.names if name not in ("image_id", "image")]
    count = len(table)
    ids, names = pa.repeat(pa.scalar(item.image_id, pa.int64()), count), pa.repeat(pa.scalar(item.name, pa.string()), count)
    return pa.Table.from_arrays([ids, names, *(table[name] for name in keep)], names=["image_id", "image", *keep])


def disarmed(table: pa.Table) -> pa.Table:
    """Put a quote before every text that a spreadsheet would take for a formula."""
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            text = table[field.name]
            risky = pc.match_substring_regex(text, r"^(\s*[=+\-@＝＋－＠]|[\t\r\n])")
            safe = pc.if_else(risky, pc.binary_join_element_wise(pa.scalar("'", field.type), text, pa.scalar("", field.type)), text)
            table = table.set_column(number, field, safe)
    return table
