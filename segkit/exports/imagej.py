"""ImageJ: one RoiSet.zip per image, for the ROI Manager. Outlines lie on pixel edges; holes and several pieces make a composite.

A ROI's name is the object's number, in a stack or series after the number of its plane: "0003-0017".
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from segkit.exports.items import Item
from segkit.exports.output import Output
from segkit.exports.shapes import bands

#: The format keeps corners as 16-bit numbers; farther out they are kept as floats.
FARTHEST = 32767
MOVE, LINE, CLOSE = 0.0, 1.0, 4.0
#: Archives hold no moment of their own, so that the same objects make the same file.
MADE = (1980, 1, 1, 0, 0, 0)


def write(items: Iterable[Item], output: Output, report: Callable[[Item], None]) -> None:
    """Write one archive per image."""
    for item in items:
        path = output.place(f"{output.stem(item.name)}_RoiSet.zip")
        with zipfile.ZipFile(path, "w") as archive:
            for band in bands(item):
                points = np.split(band.rings.corners[:, ::-1], band.rings.starts[1:-1])
                for label, (first, end), box in zip(band.ids.tolist(), pairwise(band.firsts.tolist()), band.boxes.tolist(), strict=True):
                    roi = roi_of(points[first:end], box)
                    roi.name = place(roi, item, band.plane, label)
                    archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi", MADE), roi.tobytes())
        report(item)


def place(roi: ImagejRoi, item: Item, plane: int, label: int) -> str:
    """Tell the ROI its plane, counted from 1 as ImageJ does, and return its name."""
    if item.planes == 1:
        return f"{label:04d}"
    position = item.position(plane)
    roi.position = plane + 1
    roi.z_position, roi.t_position = position.get("z", -1) + 1, position.get("t", -1) + 1
    return f"{plane + 1:04d}-{label:04d}"


def roi_of(rings: list[NDArray[np.int32]], box: list[int]) -> ImagejRoi:
    """Make the ROI of one object from all its rings."""
    far = max(box) > FARTHEST
    roi = ImagejRoi()
    if not far:
        roi.top, roi.left, roi.bottom, roi.right = box
    if len(rings) > 1:
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([path_of(ring) for ring in rings])
        roi.shape_roi_size = len(roi.multi_coordinates)
        return roi
    roi.roitype, roi.n_coordinates = ROI_TYPE.TRACED, len(rings[0])
    roi.integer_coordinates = np.zeros_like(rings[0]) if far else rings[0] - np.array([roi.left, roi.top], dtype=np.int32)
    if far:
        roi.options = ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.subpixel_coordinates = rings[0].astype(np.float32)
    return roi


def path_of(ring: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return a ring as the steps of a path."""
    steps = np.column_stack([np.full(len(ring), LINE), ring]).astype(np.float32)
    steps[0, 0] = MOVE
    return np.append(steps.ravel(), np.float32(CLOSE))
