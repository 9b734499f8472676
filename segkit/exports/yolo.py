"""YOLO segmentation: one text file of outlines per image, `data.yaml`, and links to the images.

    images/NAME.tif     link to the image, where it is a local file of one plane that YOLO trainers read
    labels/NAME.txt     one object a line: class, then x and y of its outline as fractions of width and height
    ids/NAME.txt        the number of each line's object, because a YOLO line has no room for it
    data.yaml

Points are the middles of the outermost pixels, as trainers draw them: filled with OpenCV, an outline gives back its object's
pixels exactly. What a YOLO outline cannot hold is lost: holes are filled, and an object of several pieces becomes as many lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.exports.shapes import Band, bands
from segkit.files import is_local, local_path

#: Endings that YOLO trainers read.
READ = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
LEAST_POINTS = 3


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write a data set."""
    document = {"path": ".", "train": "images", "val": "images", "names": {0: "object"}}
    output.place("data.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()).replace('"0"', "0"))
    output.place("images").mkdir()
    for item in items:
        stem = output.stem(item.name)
        _link(item, output, stem)
        names = [f"{stem}{_suffix(item, plane)}" for plane in range(item.planes)]
        for name in names:
            output.place(f"labels/{name}.txt").touch()
            output.place(f"ids/{name}.txt").touch()
        for band in bands(item):
            lines = list(outlines(band, item))
            name = names[band.plane]
            with output.place(f"labels/{name}.txt").open("a") as file, output.place(f"ids/{name}.txt").open("a") as ids:
                file.writelines(f"0 {points}\n" for _, points in lines)
                ids.writelines(f"{label}\n" for label, _ in lines)
        report(item)


def outlines(band: Band, item: Item) -> Iterator[tuple[int, str]]:
    """Yield the outlines of a band's objects as text, each with its object's number."""
    labels, contours = [], []
    for number, (label, (top, left, _, _)) in enumerate(zip(band.ids.tolist(), band.boxes.tolist(), strict=True)):
        mask: NDArray[np.uint8] = band.cut_out(number).view(np.uint8)
        for contour in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))[0]:
            labels.append(label)
            contours.append(contour if len(contour) >= LEAST_POINTS else np.resize(contour, (LEAST_POINTS, 1, 2)))
    ends = np.cumsum([2 * len(contour) for contour in contours], dtype=np.int64).tolist()
    texts = fractions(np.concatenate(contours), item) if contours else []
    for label, (start, end) in zip(labels, pairwise([0, *ends]), strict=True):
        yield label, " ".join(texts[start:end])


def fractions(points: NDArray[Any], item: Item) -> list[str]:
    """Return pixels as fractions of the image's width and height, at their middles."""
    values = (points.reshape(-1, 2) + 0.5) / [item.columns, item.rows]
    return list(map("%.9g".__mod__, values.ravel().tolist()))


def _suffix(item: Item, plane: int) -> str:
    """Tell the planes of a stack or series apart."""
    return "".join(f"_{axis}{at:04d}" for axis, at in item.position(plane).items())


def _link(item: Item, output: Output, stem: str) -> None:
    path = Path(local_path(item.uri)) if item.uri and is_local(item.uri) else None
    if path is not None and item.planes == 1 and path.suffix.lower() in READ and path.is_file():
        os.symlink(path.resolve(), output.place(f"images/{stem}{path.suffix.lower()}"))
