"""Label images to export: what is hard to outline, and series of planes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segkit.exports import Item, item_of_arrays
from segkit.measure import measure

Labels = NDArray[np.int32]


def puzzle() -> Labels:
    """Draw what is hard to outline: a hole, a hole in an island in a hole, corners, pieces, one pixel, the edge."""
    labels = np.zeros((40, 60), dtype=np.int32)
    labels[2:20, 2:20] = 3
    labels[4:18, 4:18] = 0
    labels[6:16, 6:16] = 3
    labels[9:12, 9:12] = 0
    labels[5, 5] = 7
    labels[22:26, 2:6] = labels[26:30, 6:10] = 4
    labels[22:30, 20:30] = 5
    labels[24:26, 22:24] = labels[26:28, 24:26] = 0
    labels[30:40, 40:60] = 70_001
    labels[0, 59] = 1
    labels[10:14, 30:50] = 12
    labels[11:13, 32:48] = 13
    return labels


def item(labels: Labels, name: str = "a.tif", **options: object) -> Item:
    return item_of_arrays(name, labels, measure(labels, pixel_size_um=0.5), pixel_size_um=0.5, **options)  # type: ignore[arg-type]


def series(axes: str = "TYX") -> Item:
    labels = np.zeros((3, 20, 30), dtype=np.int32)
    for time in range(3):
        labels[time, 2 + time : 9, 3:12] = 1
        labels[time, 12:18, 5 * time : 5 * time + 4] = 2
    labels[1] = np.where(labels[1] == 2, 0, labels[1])
    tables = [measure(frame, pixel_size_um=0.5) for frame in labels]
    objects = pa.concat_tables(table.append_column("time", pa.array([time] * len(table), pa.int32())) for time, table in enumerate(tables))
    return item_of_arrays("series.tif", labels, objects, axes=axes, pixel_size_um=0.5, z_step_um=2.0)
