"""Outlines of the objects of one image: GeoJSON for QuPath and browsers, or Arrow in a tenth of its bytes for programs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from segkit.exports import binary, geojson
from segkit.exports.items import Item
from segkit.runs import Result
from segkit.server.downloads import result_of
from segkit.server.parameters import Number, Opened
from segkit.server.problems import told

router = APIRouter(tags=["results"])

#: Features that are sent at once.
FEATURES = 500


class Form(StrEnum):
    """What outlines are written as."""

    GEOJSON = "geojson"
    ARROW = "arrow"


MEDIA_TYPES = {Form.GEOJSON: "application/geo+json", Form.ARROW: binary.MEDIA_TYPE}
DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            MEDIA_TYPES[Form.GEOJSON]: {"schema": {"type": "object", "required": ["type", "features"]}},
            MEDIA_TYPES[Form.ARROW]: {"schema": {"type": "string", "format": "binary"}},
        }
    },
    304: {"description": "They are those you have."},
    **told(404),
}


@router.get("/api/runs/{run_id}/images/{image_id}/outlines", response_class=Response, responses=DESCRIBED)
async def show_outlines(request: Request, kit: Opened, run_id: Number, image_id: Number, format: Form = Form.GEOJSON) -> Response:
    """Write the outlines of an image's objects along pixel edges, (0, 0) the image's upper left corner.

    GeoJSON is one feature for each object, with its measurements. Arrow is one row for each ring: `segkit.exports.binary.read_outlines`
    reads it, and its columns are the first corner of the ring and the steps from corner to corner.
    """
    result = await to_thread.run_sync(result_of, kit, run_id, image_id)
    tag = f'W/"{result.record.checksum}-{format}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Content-Disposition": f'inline; filename="{file_name(result, format)}"'}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if format is Form.ARROW:
        body = await to_thread.run_sync(lambda: binary.outlines_arrow(result.item))
        return Response(body, 200, headers, MEDIA_TYPES[format])
    return StreamingResponse(joined(result.item), 200, headers, MEDIA_TYPES[format])


def file_name(result: Result, form: Form) -> str:
    """Name the file that a browser saves."""
    return f"run-{result.record.run_id}-image-{result.record.image_id}.{form}"


def joined(item: Item) -> Iterator[str]:
    """Join features, so that many are sent at once."""
    pieces = geojson.pieces(item)
    while several := "".join(islice(pieces, FEATURES)):
        yield several
