"""The outlines of an image's objects, a band of rows at a time, so that memory does not grow with the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from segkit.exports.items import Item
from segkit.kernels.extents import Extents
from segkit.kernels.rings import Rings, trace

#: Planes up to so many pixels are taken whole; larger ones in bands of about so many.
BAND_PIXELS = 2**24

#: The pieces of an object, each the number of its outer ring and then those of the holes in it.
Polygons = list[list[int]]


@dataclass(frozen=True)
class Band:
    """Some rows of a plane, and the objects that begin in them, each of them whole."""

    plane: int
    row: int  #: where the band lies in the plane
    labels: NDArray[np.int32]  #: (rows, columns)
    rings: Rings  #: of the objects that begin in the band; rows and columns of the plane

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Return the first ring of each object, and after them the number of rings."""
        return np.concatenate([np.flatnonzero(np.diff(self.rings.labels, prepend=-1)), [len(self.rings.labels)]])

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Return the objects, ascending."""
        return self.rings.labels[self.firsts[:-1]]

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Return each object's pixels."""
        return np.add.reduceat(self.rings.areas, self.firsts[:-1]) if len(self.ids) else np.zeros(0, dtype=np.int64)

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """Return each object's first row and column, and the row and column after its last, in the plane."""
        if not len(self.ids):
            return np.zeros((0, 4), dtype=np.int64)
        starts = self.rings.starts[self.firsts[:-1]]
        least, most = (edge.reduceat(self.rings.corners, starts, axis=0) for edge in (np.minimum, np.maximum))
        return np.hstack([least, most]).astype(np.int64)

    def cut_out(self, number: int) -> NDArray[np.bool_]:
        """Return the mask of one object in its box."""
        top, left, bottom, right = self.boxes[number]
        return self.labels[top - self.row : bottom - self.row, left:right] == self.ids[number]

    def polygons(self) -> Iterator[Polygons]:
        """Yield each object's polygons, by the numbers of their rings."""
        holes, firsts = (self.rings.areas < 0).tolist(), self.firsts.tolist()
        for first, end in pairwise(firsts):
            pieces: Polygons = []
            for ring in range(first, end):
                if holes[ring]:
                    pieces[-1].append(ring)
                else:
                    pieces.append([ring])
            yield pieces

    def write_points(self, form: str) -> list[list[str]]:
        """Return the points of every ring as text, such as "[%d,%d]" of x and y."""
        rows, columns = self.rings.corners.T.tolist()
        points = list(map(form.__mod__, zip(columns, rows, strict=True)))
        return [points[start:end] for start, end in pairwise(self.rings.starts.tolist())]


def bands(item: Item) -> Iterator[Band]:
    """Yield the objects of every plane, band by band; in a stack, an object has an outline in each of its planes."""
    for plane in range(item.planes):
        if item.rows * item.columns <= BAND_PIXELS:
            labels = item.read(plane)
            yield Band(plane, 0, labels, trace(labels))
        else:
            yield from _narrow_bands(item, plane)


def _narrow_bands(item: Item, plane: int) -> Iterator[Band]:
    step = max(1, BAND_PIXELS // item.columns)
    extents = Extents()
    for start in range(0, item.rows, step):
        extents.add(item.read(plane, slice(start, start + step)), start)
    for start in range(0, item.rows, step):
        begins = (extents.first >= start) & (extents.first < start + step)
        if begins.any():
            labels = item.read(plane, slice(start, int(extents.last[begins].max()) + 1))
            yield Band(plane, start, labels, _chosen(trace(labels), begins, start))


def _chosen(rings: Rings, wanted: NDArray[np.bool_], row: int) -> Rings:
    """Keep the rings of the labels that are wanted, and move them to their rows in the plane."""
    kept = wanted[rings.labels]
    sizes = np.diff(rings.starts)
    corners = rings.corners[np.repeat(kept, sizes)] + np.array([row, 0], dtype=np.int32)
    return Rings(corners, np.concatenate([[0], np.cumsum(sizes[kept])]), rings.labels[kept], rings.areas[kept])


def listed(parts: list[str]) -> str:
    """Return parts of JSON as a list."""
    return f"[{','.join(parts)}]"
