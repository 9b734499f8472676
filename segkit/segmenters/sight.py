"""What a network says of a region of an image, and what is made of it: foreground, splits, and how sure it is of each object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.persistence import split_by_persistence
from segkit.segmenters.evidence import Plan
from segkit.segmenters.lens import Lens
from segkit.segmenters.network import REACH, STRIDE
from segkit.segmenters.nuclei_forest import mean_times_summit
from segkit.segmenters.recipe import BoolArray, LabelArray, walls

#: A network is shown nuclei of at least this diameter in pixels, where they are that large, and less than twice it.
SHOWN = 22.0
#: Nuclei smaller than this are shown in half pixels.
SMALL = 11.0
#: Images of up to this many pixels are looked at a second time, upside down: larger ones are to be done in time.
LOOKED_AT_TWICE = 500_000
#: Pixels of what is restored that may depend on one more pixel of what the network says.
BLENDED = 4

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Ground(Plan, Protocol):
    """What the labels need of the global numbers."""

    @property
    def threshold(self) -> float:
        """How likely a pixel must be nucleus to count as one."""


@dataclass(frozen=True)
class Scale:
    """In pixels of what size an image is shown to a network, so that its nuclei are of a size that the network knows."""

    #: typical diameter of the nuclei in pixels of the image
    diameter: float
    #: rows and columns of the image
    shape: tuple[int, int]

    @property
    def step(self) -> int:
        """Edge in pixels of the squares that are shown as one pixel."""
        return int(2 ** np.clip(np.floor(np.log2(self.diameter / SHOWN)), 0, 4))

    @property
    def finer(self) -> int:
        """Into how many each pixel's edge is divided before it is shown."""
        return 2 if self.diameter < SMALL else 1

    @property
    def twice(self) -> bool:
        """Whether the network looks a second time, upside down; what it says is the mean of both."""
        return self.shape[0] * self.shape[1] <= LOOKED_AT_TWICE

    @property
    def grid(self) -> int:
        """What is shown starts at multiples of so many pixels of the image, for any tile."""
        return self.step * STRIDE // self.finer

    @property
    def reach(self) -> int:
        """How many pixels of the image away from a cut what the network says is exact."""
        return -(-self.step * (REACH + STRIDE + BLENDED) // self.finer)

    def lens(self, shape: tuple[int, ...], row: int, column: int) -> Lens:
        """Return the lens for a region that starts at (row, column)."""
        return Lens((shape[0], shape[1]), row, column, self.step, self.finer)


@dataclass(frozen=True)
class Sight:
    """What the network says of a region."""

    shape: tuple[int, int]
    #: (rows, columns) float32: how likely a pixel is nucleus; None when there is nothing to see
    likely: NDArray[np.float32] | None = None
    #: (rows, columns) float32: how deep in its nucleus a pixel lies
    depth: NDArray[np.float32] | None = None


def sight_through(
    run: Run, near: BoolArray, scale: Scale, row: int, column: int, show: Callable[[int, int, Lens], NDArray[np.float32]]
) -> Sight:
    """Look at a region that starts at (row, column) through a network.

    Parameters
    ----------
    run : callable
        As `segkit.segmenters.network.Network.run`.
    near : (rows, columns) bool
        Pixels that may be nucleus at all.
    scale : Scale
    row, column : int
    show : callable
        (upper, left, lens): what the network is shown of the region without its first rows and columns, (planes, rows, columns)
        float32.
    """
    shape = (near.shape[0], near.shape[1])
    upper, left = -row % scale.grid, -column % scale.grid
    if not near[upper:, left:].any():
        return Sight(shape)
    lens = scale.lens(near[upper:, left:].shape, row + upper, column + left)
    shown = show(upper, left, lens)
    padded = np.pad(shown, [(0, 0), *((0, -size % STRIDE) for size in shown.shape[1:])])
    # Both ends of what is padded lie on the network's grid, so what is upside down is the same for any tile.
    maps = (run(padded) + run(padded[:, ::-1].copy())[:, ::-1]) * np.float32(0.5) if scale.twice else run(padded)
    maps = maps[:, : shown.shape[1], : shown.shape[2]]
    likely, depth = np.zeros((2, *shape), dtype=np.float32)
    likely[upper:, left:], depth[upper:, left:] = (lens.restore(np.ascontiguousarray(plane)) for plane in maps)
    likely[~near] = 0
    return Sight(shape, likely, depth)


def foreground_of(seen: Sight, ground: Ground) -> BoolArray:
    """Return the pixels that are likely enough to be nucleus."""
    if seen.likely is None:
        return np.zeros(seen.shape, dtype=bool)
    return seen.likely > np.float32(ground.threshold)


def split_by_depth(seen: Sight, components: LabelArray, ground: Ground, row: int, column: int) -> LabelArray:
    """Split the components of a region that starts at (row, column) where the depth drops between two nuclei."""
    if seen.depth is None:
        return np.zeros(components.shape, dtype=np.int32)
    return split_by_persistence(
        components,
        seen.depth,
        walls(components.shape, row, column, ground.shape),
        inside=float("inf"),
        weight=1.0,
        rise=ground.separation,
        smallest=ground.min_area,
    )


def confidence_of(seen: Sight, labels: LabelArray, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Return how sure it is of each object: low where it is faint, ragged, or hardly an object."""
    count = int(labels.max(initial=0))
    if seen.likely is None or seen.depth is None:
        return np.zeros(count)
    return mean_times_summit(labels, seen.likely[rows, columns], seen.depth[rows, columns], count)
