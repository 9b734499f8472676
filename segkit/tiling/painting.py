"""Pass 5: provisional labels become final ones, in regions that lie on whole chunks of the label image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from segkit.kernels.merging import paint_labels, replace_labels
from segkit.segmenters import LabelArray
from segkit.tiling.borders import Cluster
from segkit.tiling.clusters import cluster_name, piece_name
from segkit.tiling.grid import Box, Grid
from segkit.tiling.numbering import numbers_name
from segkit.tiling.provisional import read_labels, tile_name
from segkit.tiling.work import Work

NONE = np.zeros(1, np.int32)


class LabelSink(Protocol):
    """Where final labels go; picklable. `segkit.labels.LabelWriter` is one."""

    @property
    def path(self) -> str:
        """Names the label image, so that an attempt knows whether it goes on with the same."""

    @property
    def chunk(self) -> tuple[int, ...]:
        """Size of a chunk along each axis; rows and columns last, time points before them if there are any."""

    def write(self, labels: ArrayLike, origin: Sequence[int] | None = None) -> None:
        """Store a region that lies on whole chunks. Called from many processes and threads, never twice for one chunk at a time."""


def regions(work: Work, sink: LabelSink, clusters: Sequence[Cluster]) -> Iterator[tuple[Box, tuple[int, ...]]]:
    """Yield the regions to paint, each with the clusters that may reach into it; regions without an object are left out."""
    rows, columns = (chunk * -(-work.tile // chunk) for chunk in sink.chunk[-2:])
    grid = Grid(work.shape, (rows, columns))
    boxes = np.array([cluster.box for cluster in clusters]).reshape(-1, 4)
    for region in map(grid.box, grid.tiles):
        apart = (boxes[:, :2] >= region[2:]).any(axis=1) | (boxes[:, 2:] <= region[:2]).any(axis=1)
        reaching = tuple(clusters[k].number for k in np.flatnonzero(~apart).tolist())
        if reaching or any(work.scratch.find(numbers_name(tile_name(tile))) for tile in work.grid.meeting(region)):
            yield region, reaching


def paint_region(work: Work, box: Box, clusters: Sequence[int], sink: LabelSink) -> bool:
    """Write the final labels of one region; return False if that was done."""
    name = f"painted/{'-'.join(map(str, box))}"
    record = work.scratch.find(name)
    if record is not None and record["path"].tobytes().decode() == sink.path:
        return False
    labels = read_labels(work, box)
    for tile in work.grid.meeting(box):
        record = work.scratch.find(numbers_name(tile_name(tile)))
        replace_labels(labels[work.grid.box(tile).overlap(box).inside(box)], NONE if record is None else record["numbers"], 0)
    for number in clusters:
        _paint_cluster(work, box, labels, cluster_name(number))
    put(work, sink, labels, box)
    work.scratch.write(name, {"path": np.frombuffer(sink.path.encode(), np.uint8)})
    return True


def put(work: Work, sink: LabelSink, labels: LabelArray, box: Box) -> None:
    """Hand a region's final labels on: a plane of its own, or one of a time series."""
    if len(sink.chunk) == 2:
        sink.write(labels, box[:2])
    else:
        sink.write(labels[None], (work.time, *box[:2]))


def _paint_cluster(work: Work, box: Box, labels: LabelArray, name: str) -> None:
    record = work.scratch.read(name)
    whole = Box(*record["box"].tolist())
    for tile in work.grid.meeting(whole.overlap(box)):
        if piece_name(tile) in record:
            there = work.grid.box(tile).overlap(whole)
            shared = there.overlap(box)
            numbers = work.scratch.read(numbers_name(name))["numbers"]
            paint_labels(labels[shared.inside(box)], record[piece_name(tile)][shared.inside(there)], numbers)
