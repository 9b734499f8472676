"""Pass 3, first half: which components are one across the borders of tiles, and which of them are finished together.

Runs in the coordinator. Its memory goes with the number of components that meet a border, never with that of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.errors import ComponentTooLargeError
from segkit.kernels.merging import join_lines, join_nested, number_groups
from segkit.tiling.grid import Box, Tile
from segkit.tiling.provisional import tile_name
from segkit.tiling.work import Work, memory_of

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Cluster:
    """Components that cross borders, lie near each other, and are finished as one piece of work."""

    number: int  #: from 0
    box: Box  #: of all of them


@dataclass(frozen=True)
class Groups:
    """The whole components that meet borders, put together from their parts in the tiles."""

    boxes: Numbers  #: (n, 4) first row, first column, row after the last, column after the last
    pixels: Numbers  #: (n,)
    firsts: Numbers  #: (n,) first pixel, counted in raster order of the image


def members_name(tile: Tile) -> str:
    """Name of the record that tells in which cluster, and under which number there, a tile's components are finished."""
    return f"members/{tile.row}-{tile.column}"


def join_tiles(work: Work, memory_bytes: int) -> list[Cluster]:
    """Join components across all borders and form the clusters; leave a record for each tile of where its components went.

    Raises
    ------
    ComponentTooLargeError
        One of them cannot be finished within `memory_bytes`; the message says where it is.
    """
    forest = Forest()
    tiles = _grow(work, forest)
    if not forest.size:
        return []
    group_of = forest.groups()
    groups = _put_together(np.concatenate(forest.nodes), group_of, work.shape[1])
    _check_memory(work, groups, memory_bytes)
    clusters, cluster_of = _form_clusters(work, groups)
    number_of = _number_within(cluster_of, groups.firsts)
    for tile, nodes in tiles:
        mine = group_of[nodes]
        work.scratch.write(members_name(tile), {"cluster": cluster_of[mine], "number": number_of[mine]})
    return clusters


class Forest:
    """Union-find over the parts of components that meet borders, which are added tile by tile."""

    def __init__(self) -> None:
        self.size = 0
        self.nodes: list[Numbers] = []  #: (parts, 7) box, pixels and first pixel of each, one array per tile
        self._parents = np.arange(1024, dtype=np.int32)

    def add(self, nodes: Numbers) -> slice:
        """Add the parts of one tile and return their numbers."""
        mine = slice(self.size, self.size + len(nodes))
        self.size = mine.stop
        self.nodes.append(nodes)
        if self.size > len(self._parents):
            more = np.arange(2 * self.size, dtype=np.int32)
            more[: len(self._parents)] = self._parents
            self._parents = more
        return mine

    def join(self, one: NDArray[np.int32], other: NDArray[np.int32], connectivity: int) -> None:
        """Join what faces each other on both sides of a border."""
        join_lines(self._parents, one, other, connectivity - 1)

    def groups(self) -> NDArray[np.int32]:
        """Return the group of each part, counted from 0."""
        return number_groups(self._parents[: self.size])[0]


def _grow(work: Work, forest: Forest) -> list[tuple[Tile, slice]]:
    """Add all tiles, row by row, and return which parts are whose. Only two lines across the image are held."""
    tiles = []
    above = np.full(work.shape[1], -1, np.int32)
    for row in range(work.grid.rows):
        upper, lower = np.full((2, work.shape[1]), -1, np.int32)
        beside = None
        for tile in work.grid.row(row):
            record = work.scratch.read(tile_name(tile))
            if "crossing" not in record:
                beside = None
                continue
            mine = forest.add(record["crossing"])
            tiles.append((tile, mine))
            columns = work.grid.box(tile).columns
            upper[columns] = _shifted(record["upper"], mine.start)
            lower[columns] = _shifted(record["lower"], mine.start)
            if beside is not None:
                forest.join(beside, _shifted(record["left"], mine.start), work.recipe.connectivity)
            beside = _shifted(record["right"], mine.start)
        forest.join(above, upper, work.recipe.connectivity)
        above = lower
    return tiles


def _shifted(line: NDArray[np.int32], start: int) -> NDArray[np.int32]:
    return np.where(line < 0, np.int32(-1), line + np.int32(start))


def _put_together(nodes: Numbers, group_of: NDArray[np.int32], width: int) -> Groups:
    nodes, starts = _sorted_by(nodes, group_of)
    return Groups(
        _bounds(nodes, starts),
        np.add.reduceat(nodes[:, 4], starts),
        np.minimum.reduceat(nodes[:, 5] * width + nodes[:, 6], starts),
    )


def _sorted_by(rows: Numbers, owners: NDArray[np.int32]) -> tuple[Numbers, Numbers]:
    """Sort rows by their owner, each of which has some, and return where those of each start."""
    order = np.argsort(owners, kind="stable")
    return rows[order], np.flatnonzero(np.diff(owners[order], prepend=-1))


def _bounds(boxes: Numbers, starts: Numbers) -> Numbers:
    return np.hstack([np.minimum.reduceat(boxes[:, :2], starts), np.maximum.reduceat(boxes[:, 2:4], starts)])


def _check_memory(work: Work, groups: Groups, memory_bytes: int) -> None:
    sizes = (groups.boxes[:, 2] - groups.boxes[:, 0]) * (groups.boxes[:, 3] - groups.boxes[:, 1])
    largest = int(np.argmax(sizes))
    box = Box(*groups.boxes[largest].tolist())
    need = memory_of(box, work.recipe.halo(work.plan))
    room = memory_bytes // 2  # the other half is for the process itself and what its allocator keeps
    if need > room:
        raise ComponentTooLargeError(
            f"One connected piece of foreground, {groups.pixels[largest]} pixels at {box}, would take {need // 2**20} MiB to segment "
            f"whole, and {room // 2**20} MiB are allowed, half of a worker's memory. Raise SEGKIT_WORKER_MEMORY, or the threshold so "
            "that it falls apart."
        )


def _form_clusters(work: Work, groups: Groups) -> tuple[list[Cluster], NDArray[np.int32]]:
    """Put groups along the same stretch of a border together, up to the size of a tile.

    A group inside the box of another always goes with it: when holes are filled, `split` must see who owns what.

    Returns
    -------
    list of Cluster
        The clusters.
    (n,) int32
        The cluster of each group.
    """
    family_of = _nest(groups.boxes)
    families = _bounds(*_sorted_by(groups.boxes, family_of))
    clusters: list[Cluster] = []
    cluster_of = np.zeros(len(families), np.int32)
    keys = _stretches(families, work.edges, work.shape)
    key, box = None, Box(0, 0, 0, 0)
    for family in np.lexsort((families[:, 1], families[:, 0], *keys.T[::-1])).tolist():
        bounds = families[family].tolist()
        wider = Box(min(box.top, bounds[0]), min(box.left, bounds[1]), max(box.bottom, bounds[2]), max(box.right, bounds[3]))
        if key == tuple(keys[family]) and wider.area <= work.edges[0] * work.edges[1]:
            box = wider
            clusters[-1] = Cluster(clusters[-1].number, box)
        else:
            key, box = tuple(keys[family]), Box(*bounds)
            clusters.append(Cluster(len(clusters), box))
        cluster_of[family] = clusters[-1].number
    return clusters, cluster_of[family_of]


def _nest(boxes: Numbers) -> NDArray[np.int32]:
    """Return the family of each box: boxes that lie inside one another are of one family."""
    order = np.argsort(boxes[:, 0], kind="stable")
    parents = np.arange(len(boxes), dtype=np.int32)
    join_nested(boxes[order].astype(np.int32), parents)
    families = np.empty(len(boxes), np.int32)
    families[order] = number_groups(parents)[0]
    return families


def _stretches(boxes: Numbers, edges: tuple[int, int], shape: tuple[int, int]) -> Numbers:
    """Return the stretch of border that each box meets: 0 for a vertical one, 1 for a horizontal, which one, and beside which tile."""
    vertical = _border(boxes[:, 1], boxes[:, 3], edges[1], shape[1])
    horizontal = _border(boxes[:, 0], boxes[:, 2], edges[0], shape[0])
    upright = vertical > 0
    along = np.where(upright, boxes[:, 0] // edges[0], boxes[:, 1] // edges[1])
    return np.stack([~upright, np.where(upright, vertical, horizontal), along], axis=1).astype(np.int64)


def _border(low: Numbers, high: Numbers, edge: int, size: int) -> Numbers:
    """Return the number of the first border between tiles that spans meet along one axis; 0 for those that meet none."""
    starts_on = (low % edge == 0) & (low > 0)
    ends_on = (-(-high // edge) > low // edge + 1) | ((high % edge == 0) & (high < size))
    return np.where(starts_on, low // edge, np.where(ends_on, low // edge + 1, 0))


def _number_within(cluster_of: NDArray[np.int32], firsts: Numbers) -> NDArray[np.int32]:
    """Number the groups of each cluster from 1, in raster order of their first pixel, as they would be in the whole image."""
    order = np.lexsort((firsts, cluster_of))
    sorted_clusters = cluster_of[order]
    starts = np.flatnonzero(np.diff(sorted_clusters, prepend=-1))
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.arange(len(order)) - starts[sorted_clusters] + 1
    return numbers
