"""Where tiles lie: rectangles of an image, and the grid that cuts it into tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle of pixels: first row and column, and the row and column after the last."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def rows(self) -> slice:
        """Its rows in the image."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """Its columns in the image."""
        return slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns it has."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        """How many pixels it has."""
        return (self.bottom - self.top) * (self.right - self.left)

    def grown(self, margin: int, shape: tuple[int, int]) -> Box:
        """Return it with a margin on all sides, as far as the image goes."""
        return Box(
            max(self.top - margin, 0),
            max(self.left - margin, 0),
            min(self.bottom + margin, shape[0]),
            min(self.right + margin, shape[1]),
        )

    def overlap(self, other: Box) -> Box:
        """Return what both share; without pixels when they share nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Box(top, left, max(min(self.bottom, other.bottom), top), max(min(self.right, other.right), left))

    def moved(self, rows: int, columns: int) -> Box:
        """Return it so many rows and columns farther down and right."""
        return Box(self.top + rows, self.left + columns, self.bottom + rows, self.right + columns)

    def inside(self, view: Box) -> tuple[slice, slice]:
        """Return the slices that cut it out of an array that holds the pixels of `view`."""
        return slice(self.top - view.top, self.bottom - view.top), slice(self.left - view.left, self.right - view.left)

    def __str__(self) -> str:
        return f"rows {self.top} to {self.bottom - 1}, columns {self.left} to {self.right - 1}"


class Tile(NamedTuple):
    """A tile's place in the grid."""

    row: int
    column: int


@dataclass(frozen=True)
class Grid:
    """An image cut into tiles of one size; those at its lower and right end are smaller."""

    shape: tuple[int, int]  #: rows and columns of the image
    edges: tuple[int, int]  #: rows and columns of a tile

    @property
    def rows(self) -> int:
        """How many rows of tiles there are."""
        return -(-self.shape[0] // self.edges[0])

    @property
    def columns(self) -> int:
        """How many columns of tiles there are."""
        return -(-self.shape[1] // self.edges[1])

    @property
    def tiles(self) -> Iterator[Tile]:
        """All tiles, row by row."""
        return (Tile(row, column) for row in range(self.rows) for column in range(self.columns))

    def row(self, row: int) -> Iterator[Tile]:
        """The tiles of one row, from the left."""
        return (Tile(row, column) for column in range(self.columns))

    def box(self, tile: Tile) -> Box:
        """Return the pixels of a tile."""
        top, left = tile.row * self.edges[0], tile.column * self.edges[1]
        return Box(top, left, min(top + self.edges[0], self.shape[0]), min(left + self.edges[1], self.shape[1]))

    def meeting(self, box: Box) -> Iterator[Tile]:
        """The tiles that share pixels with a box."""
        for row in range(box.top // self.edges[0], -(-box.bottom // self.edges[0])):
            for column in range(box.left // self.edges[1], -(-box.right // self.edges[1])):
                yield Tile(row, column)
