"""COCO: one JSON file for all images. Masks as run lengths, exact with all holes, or as polygons where those are exact too.

Each annotation keeps the number of its object under "object_id"; COCO's own "id" counts through the file. Planes of a stack or
series are images of their own, with "plane" and "z" or "t".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from segkit import __version__
from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.exports.shapes import Band, bands, listed
from segkit.kernels import run_lengths

CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}

#: Writes the masks of a band's objects as JSON.
Segmentations = Callable[[Band, Item], Iterator[str]]


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write masks as run lengths."""
    _write(items, output, report, as_run_lengths)


def write_polygons(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write masks as polygons; COCO's polygons have no holes, so an object with a hole is written as run lengths."""
    _write(items, output, report, as_polygons)


def _write(items: Iterable[Item], output: Output, report: Callable[[Item], None], segmentations: Segmentations) -> None:
    """Stream annotations into the file and images into another, which is appended at the end."""
    images = output.scratch()
    with output.place(output.single).open("w") as file:
        file.write('{"info":' + json.dumps({"description": "Objects found by segkit", "version": __version__}))
        file.write(f',"licenses":[],"categories":[{json.dumps(CATEGORY)}],"annotations":[')
        with images.open("w") as described:
            _write_annotations(items, file, described, report, segmentations)
        file.write('\n],"images":[')
        with images.open() as described:
            shutil.copyfileobj(described, file)
        file.write("\n]}\n")


def _write_annotations(
    items: Iterable[Item], file: TextIO, described: TextIO, report: Callable[[Item], None], segmentations: Segmentations
) -> None:
    image_number = annotation_number = 0
    for item in items:
        for plane in range(item.planes):
            document = json.dumps(image_document(item, plane, image_number + plane + 1), default=str)
            described.write(f"{',' if image_number + plane else ''}\n{document}")
        for band in bands(item):
            for annotation in annotate(band, segmentations(band, item), image_number + band.plane + 1, annotation_number):
                file.write(f"{',' if annotation_number else ''}\n{annotation}")
                annotation_number += 1
        image_number += item.planes
        report(item)


def image_document(item: Item, plane: int, number: int) -> dict[str, Any]:
    """Describe one plane of one image."""
    kept = {"segkit_image_id": item.image_id, "uri": item.uri, "pixel_size_um": item.pixel_size_um, "provenance": dict(item.provenance)}
    where = {"plane": plane, **item.position(plane)} if item.planes > 1 else {}
    return {"id": number, "file_name": Path(item.name).name or item.name, "width": item.columns, "height": item.rows, **where, **kept}


def annotate(band: Band, segmentations: Iterator[str], image: int, before: int) -> Iterator[str]:
    """Yield one annotation per object, as JSON."""
    parts = zip(band.ids.tolist(), band.areas.tolist(), band.boxes.tolist(), segmentations, strict=True)
    for number, (label, area, (top, left, bottom, right), segmentation) in enumerate(parts, before + 1):
        yield (
            f'{{"id":{number},"image_id":{image},"category_id":{CATEGORY["id"]},"object_id":{label},"area":{area},'
            f'"bbox":[{left},{top},{right - left},{bottom - top}],"iscrowd":0,"segmentation":{segmentation}}}'
        )


def as_run_lengths(band: Band, item: Item) -> Iterator[str]:
    """Yield each object's mask as compressed run lengths."""
    boxes = band.boxes - np.array([band.row, 0, band.row, 0])
    for counts in run_lengths.encode(band.labels, band.ids, boxes, (band.row, 0), item.rows, item.columns):
        yield f'{{"size":[{item.rows},{item.columns}],"counts":{json.dumps(counts.decode())}}}'


def as_polygons(band: Band, item: Item) -> Iterator[str]:
    """Yield each object's mask as polygons, or as run lengths where it has a hole."""
    points = band.write_points("%d,%d")
    for pieces, counted in zip(band.polygons(), as_run_lengths(band, item), strict=True):
        if any(len(piece) > 1 for piece in pieces):
            yield counted
        else:
            yield listed([listed(points[outer]) for (outer,) in pieces])
