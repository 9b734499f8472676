"""Objects of a run: by page and filter, or all of them as a stream, in the form that a reader likes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Annotated, Any
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pyarrow import csv

from segkit import objects as tables
from segkit.exports import binary
from segkit.exports.spool import disarmed
from segkit.results.selecting import LONGEST_FILTER, MOST_FILTERS
from segkit.runs import Run
from segkit.server.answers import answer
from segkit.server.parameters import After, AnyId, CleanText, Number, Opened, Rows
from segkit.server.problems import told
from segkit.server.replies import to_json

router = APIRouter(tags=["results"])

MOST_COLUMNS = 1000
#: Gathered before they are sent as one batch, or one row group.
ROWS_AT_ONCE = tables.ROW_GROUP


class Form(StrEnum):
    """What objects are written as."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


MEDIA_TYPES = {
    Form.JSON: "application/json",
    Form.CSV: "text/csv; charset=utf-8",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.stream",
}
Limit = Annotated[Rows | None, Query(description="Rows on the page. Without `limit` and `after`, all rows come, except as JSON.")]
Columns = Annotated[CleanText | None, Query(max_length=10_000, description="Names of columns, with commas between; default: all.")]
Where = Annotated[
    list[Annotated[CleanText, Query(max_length=LONGEST_FILTER)]],
    Query(max_length=MOST_FILTERS, description="Filters such as `area_um2>=10` (`>= <= > < = !=`); all must hold."),
]
ImageId = Annotated[AnyId | None, Query(description="Only objects of this image.")]


@dataclass(frozen=True)
class Objects:
    """A page of objects."""

    items: list[dict[str, Any]]  #: one of each object: column and value
    total: int | None  #: objects of the run; None with a filter, which nobody counted
    next: str | None  #: a page may hold fewer rows than asked for, even none, while this is there


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    columns: tuple[str, ...]
    where: tuple[str, ...]
    image: int | None

    @property
    def arguments(self) -> dict[str, Any]:
        """The same, as the library takes it."""
        return {"columns": self.columns, "where": self.where, "image": self.image}


DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
            for form, media_type in MEDIA_TYPES.items()
            if form != Form.JSON
        },
        "headers": {"Link": {"description": "The next page, when there is one.", "schema": {"type": "string"}}},
    },
    **told(400, 404),
}


@router.get("/api/runs/{run_id}/objects", response_model=Objects, responses=DESCRIBED)
async def list_objects(
    request: Request,
    kit: Opened,
    run_id: Number,
    format: Form = Form.JSON,
    limit: Limit = None,
    after: After = None,
    columns: Columns = None,
    where: Where = [],  # noqa: B006, FastAPI copies it
    image_id: ImageId = None,
) -> Response:
    """List the objects of a run in the order of its jobs: a page of them, or all as CSV, Parquet or an Arrow stream."""
    asked = Asked(tuple(name.strip() for name in (columns or "").split(",") if name.strip())[:MOST_COLUMNS], tuple(where), image_id)
    if format is Form.JSON:
        return await answer(request, None, None, lambda: page_as_json(kit.run(run_id), asked, limit or 100, after))
    if limit is None and after is None:
        return await to_thread.run_sync(lambda: everything(kit.run(run_id), asked, format))
    return await to_thread.run_sync(lambda: page_as_file(request, kit.run(run_id), asked, format, limit or 100, after))


def page_as_json(run: Run, asked: Asked, limit: int, after: str | None) -> bytes:
    """Write a page of objects as JSON."""
    page = run.objects_page(limit=limit, after=after, **asked.arguments)
    counted = None if asked.where or asked.image is not None else run.record.objects
    return to_json(Objects([row for table in page.tables for row in table.to_pylist()], counted, page.next))


def page_as_file(request: Request, run: Run, asked: Asked, form: Form, limit: int, after: str | None) -> Response:
    """Write a page of objects as a file; the header `Link` leads to the next."""
    page = run.objects_page(limit=limit, after=after, **asked.arguments)
    joined = page.joined()
    headers = disposition(run, form)
    if page.next is not None:
        query = [(name, value) for name, value in request.query_params.multi_items() if name != "after"]
        headers["Link"] = f'<{request.url.path}?{urlencode([*query, ("after", page.next)])}>; rel="next"'
    return Response(b"".join(WRITERS[form](joined.schema, [joined])), 200, headers, MEDIA_TYPES[form])


def everything(run: Run, asked: Asked, form: Form) -> Response:
    """Stream all objects of a run; a fault on the way breaks the answer off, so that nobody takes a part for the whole."""
    schema, found = run.stream_objects(**asked.arguments)
    return StreamingResponse(WRITERS[form](schema, found), 200, disposition(run, form), MEDIA_TYPES[form])


def disposition(run: Run, form: Form) -> dict[str, str]:
    """Name the file that a browser saves."""
    return {"Content-Disposition": f'attachment; filename="run-{run.number}-objects.{form}"', "Cache-Control": "private, no-cache"}


# Writing


def gathered(found: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables, one of each image, to larger ones."""
    waiting: list[pa.Table] = []
    for table in found:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROWS_AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


class Taken(io.RawIOBase):
    """A file that is sent away as it is written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        """It is there to be written."""
        return True

    def write(self, data: Any) -> int:
        """Keep bytes until they are taken."""
        piece = bytes(data)
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        """Return what was written since."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def write_csv(schema: pa.Schema, found: Iterable[pa.Table]) -> Iterator[bytes]:
    """Write CSV; text that a spreadsheet would run as a formula gets a quote before it."""
    # an empty table first: it gives the header even when there is no row
    for number, table in enumerate(chain([schema.empty_table()], gathered(found))):
        out = io.BytesIO()
        csv.write_csv(disarmed(table), out, csv.WriteOptions(include_header=number == 0, quoting_style="needed"))
        yield out.getvalue()


def write_arrow(schema: pa.Schema, found: Iterable[pa.Table]) -> Iterator[bytes]:
    """Write an Arrow IPC stream, packed, with the seven digits that measurements have."""
    out, narrow = Taken(), binary.narrowed(schema)
    with pa.ipc.new_stream(out, narrow, options=binary.options()) as writer:
        for table in gathered(found):
            writer.write_table(table.cast(narrow), ROWS_AT_ONCE)
            yield out.take()
    yield out.take()


def write_parquet(schema: pa.Schema, found: Iterable[pa.Table]) -> Iterator[bytes]:
    """Write a Parquet file from its beginning to its end."""
    out = Taken()
    with pq.ParquetWriter(out, schema, **tables.options(3)) as writer:
        for table in gathered(found):
            writer.write_table(table, ROWS_AT_ONCE)
            yield out.take()
    yield out.take()


WRITERS: dict[Form, Callable[[pa.Schema, Iterable[pa.Table]], Iterator[bytes]]] = {
    Form.CSV: write_csv,
    Form.ARROW: write_arrow,
    Form.PARQUET: write_parquet,
}
