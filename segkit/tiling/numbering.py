"""Pass 4: the objects of all tiles and clusters, numbered in raster order of their first pixel, and their table.

Objects that start in one row of tiles are numbered before those of the next, so the coordinator holds one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segkit.errors import TooManyObjectsError
from segkit.tiling.borders import Cluster
from segkit.tiling.clusters import cluster_name
from segkit.tiling.provisional import tile_name
from segkit.tiling.work import Work

LARGEST = 2**31 - 1

#: Most rows that are handed on at once.
ROWS = 4096


def numbers_name(source: str) -> str:
    """Name of the record of the final numbers of a tile's or a cluster's objects."""
    return f"numbers/{source}"


@dataclass
class Source:
    """Objects of one tile or cluster that wait for their numbers."""

    name: str  #: of its record
    firsts: NDArray[np.int64]  #: (objects,) first pixel of each, counted in raster order of the image
    numbers: NDArray[np.int32]  #: (objects + 1,) final number of each, from 1; 0 where it is not known yet
    bottom: int  #: row after its last


def number_objects(work: Work, clusters: Sequence[Cluster], write_objects: Callable[[pa.Table], None]) -> int:
    """Number all objects, leave their numbers for the last pass, hand their rows on in order, and return how many there are.

    Raises
    ------
    TooManyObjectsError
        There are more than labels can tell apart.
    """
    waiting = sorted(clusters, key=lambda cluster: cluster.box.top, reverse=True)
    open_clusters: list[Source] = []
    count = 0
    for row in range(work.grid.rows):
        stop = min((row + 1) * work.edges[0], work.shape[0])
        while waiting and waiting[-1].box.top < stop:
            cluster = waiting.pop()
            open_clusters.append(_load(work, cluster_name(cluster.number), cluster.box.bottom))
        sources = [*(_load(work, tile_name(tile), stop) for tile in work.grid.row(row)), *open_clusters]
        count = _number_row(work, sources, stop, count, write_objects)
        for source in sources:
            if source.bottom <= stop and len(source.firsts):
                work.scratch.write(numbers_name(source.name), {"numbers": source.numbers})
        open_clusters = [source for source in open_clusters if source.bottom > stop]
    return count


def _load(work: Work, name: str, bottom: int) -> Source:
    firsts = work.scratch.read(name)["objects"]
    return Source(name, firsts[:, 0] * work.shape[1] + firsts[:, 1], np.zeros(len(firsts) + 1, np.int32), bottom)


def _number_row(work: Work, sources: Sequence[Source], stop: int, count: int, write_objects: Callable[[pa.Table], None]) -> int:
    """Number the objects that start in one row of tiles; some of a cluster's may have started before, or start later."""
    here = [np.flatnonzero((source.firsts < stop * work.shape[1]) & (source.numbers[1:] == 0)) for source in sources]
    firsts = np.concatenate([source.firsts[rows] for source, rows in zip(sources, here, strict=True)])
    if count + len(firsts) > LARGEST:
        raise TooManyObjectsError
    numbers = np.empty(len(firsts), np.int32)
    numbers[np.argsort(firsts)] = np.arange(count + 1, count + 1 + len(firsts))
    ends = np.cumsum([len(rows) for rows in here])
    for source, rows, mine in zip(sources, here, np.split(numbers, ends[:-1]), strict=True):
        source.numbers[rows + 1] = mine
    for first in range(count + 1, count + 1 + len(firsts), ROWS):
        tables = [_rows(work, source, first, first + ROWS) for source in sources]
        write_objects(pa.concat_tables(table for table in tables if table is not None).sort_by("label"))
    return count + len(firsts)


def _rows(work: Work, source: Source, first: int, stop: int) -> pa.Table | None:
    """Return the rows of a source's objects that have a number from `first` to before `stop`."""
    rows = np.flatnonzero((source.numbers[1:] >= first) & (source.numbers[1:] < stop))
    if not len(rows):
        return None
    # Its objects are numbered from 1 in its own table, one row for each.
    table = work.scratch.read(source.name).table("table").take(rows)
    column = table.schema.get_field_index("label")
    label = table.schema.field(column)
    return table.set_column(column, label, pa.array(source.numbers[rows + 1]).cast(label.type))
