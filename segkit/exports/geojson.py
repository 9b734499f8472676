"""GeoJSON for QuPath: one FeatureCollection per image, polygons with holes along pixel edges, measurements as properties.

Coordinates are pixels of the full-size image, (0, 0) its upper left corner, as QuPath has them. A feature's `name` and
`object_id` are the object's number; its `id` is a UUID that is the same each time the same object is exported.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.exports.shapes import Band, Polygons, bands, listed

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "segkit/object").bytes


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write one file per image."""
    for item in items:
        with output.place(f"{output.stem(item.name)}.geojson").open("w") as file:
            file.writelines(pieces(item))
        report(item)


def pieces(item: Item) -> Iterator[str]:
    """Write the FeatureCollection of an image, a feature at a time."""
    source = json.dumps({"image": item.name, "uri": item.uri, **item.provenance}, default=str)
    yield f'{{"type":"FeatureCollection","segkit":{source},"features":['
    comma = ""
    measured = Measurements(item.objects())
    for band in bands(item):
        for feature in features(item, band, measured):
            yield f"{comma}\n{feature}"
            comma = ","
    yield "\n]}\n"


class Measurements:
    """Finds the measurements of objects by their numbers; in a series, by time point and number."""

    def __init__(self, table: pa.Table) -> None:
        numbers = [field.name for field in table.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
        self._table = table.select([name for name in numbers if name not in ("label", "time")]).combine_chunks()
        self._labels = table["label"].to_numpy().astype(np.int64)
        self._times = table["time"].to_numpy() if "time" in table.schema.names else None

    def of(self, ids: NDArray[np.int64], time: int) -> list[str]:
        """Return the measurements of each object as JSON; of one that the table does not have, none."""
        at = np.arange(len(self._labels)) if self._times is None else np.flatnonzero(self._times == time)
        at = at[np.argsort(self._labels[at], kind="stable")]
        places = np.searchsorted(self._labels[at], ids)
        found = np.append(at, 0)[places]
        known = np.append(self._labels[at], -1)[places] == ids
        rows = self._table.take(pa.array(found, mask=~known))
        pairs = [pair(name, column) for name, column in zip(rows.schema.names, rows.columns, strict=True)]
        joined = pc.binary_join_element_wise(*pairs, "").to_pylist() if pairs else [""] * len(ids)
        return [f"{{{text[1:]}}}" for text in joined]


def pair(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as JSON pairs, each after a comma; JSON has no NaN and no infinity, so those are empty."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    return pc.fill_null(pc.binary_join_element_wise(pa.scalar(f",{json.dumps(name)}:"), column.cast(pa.string()), ""), "")


def features(item: Item, band: Band, measured: Measurements) -> Iterator[str]:
    """Yield one feature per object of a band, as JSON."""
    position = item.position(band.plane)
    source = f"{item.provenance.get('content_hash') or item.uri or item.name}/{item.provenance.get('run', '')}/{band.plane}"
    plane = f',"plane":{{"c":-1,"z":{position.get("z", 0)},"t":{position.get("t", 0)}}}' if position else ""
    points = band.write_points("[%d,%d]")
    for label, pieces, values in zip(band.ids.tolist(), band.polygons(), measured.of(band.ids, position.get("t", 0)), strict=True):
        yield (
            f'{{"type":"Feature","id":"{name_uuid(f"{source}/{label}")}","geometry":{{{geometry(pieces, points)}{plane}}},'
            f'"properties":{{"objectType":"detection","name":"{label}","object_id":{label},"measurements":{values}}}}}'
        )


def geometry(pieces: Polygons, points: list[list[str]]) -> str:
    """Return polygons as a geometry's type and coordinates; GeoJSON repeats a ring's first point at its end."""
    closed = [listed([listed([*points[ring], points[ring][0]]) for ring in piece]) for piece in pieces]
    if len(closed) == 1:
        return f'"type":"Polygon","coordinates":{closed[0]}'
    return f'"type":"MultiPolygon","coordinates":{listed(closed)}'


def name_uuid(name: str) -> str:
    """Return the name's UUID of version 5, as `uuid.uuid5` does, which takes several times as long."""
    text = hashlib.sha1(NAMESPACE + name.encode(), usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:32]}"
