"""How a segmenter is cut into steps so that the tiles of an image give exactly the labels of the whole.

Three passes, and what makes each of them exact:

1. `survey` looks at block-aligned regions, with a margin of `survey_halo` pixels that is looked at but not counted. Its
   counts are integers, which add up the same in any order, and its per-block numbers each have one place on a grid that
   is the same for every tiling. `settle` turns the merged survey into all global numbers.
2. `foreground` is local: beyond `halo` pixels from a cut, it does not see the cut.
3. `split` finishes connected components, each by itself, so it does not matter which others are in view.

Where 2 and 3 start from the same costly look at the pixels, `see` takes it once, and both are given what it saw.

`apply` runs these very steps once over a whole image: untiled is the tiling of one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.components import label_components, number_in_raster_order
from segkit.segmenters.parameters import Parameters

LabelArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
Margins = tuple[int, int, int, int]
NO_MARGINS: Margins = (0, 0, 0, 0)


@dataclass(frozen=True)
class Survey:
    """Statistics of one block-aligned region, or of a whole image once merged."""

    #: (histograms, bins) int64: bins `first_bin` and onward of each histogram, the empty ends cut off.
    counts: NDArray[np.int64]
    #: number of the first bin held in `counts`
    first_bin: int
    #: (block rows, block columns, numbers) float64: numbers of each block
    grid: NDArray[np.float64]
    #: block row and block column of the grid's first entry
    corner: tuple[int, int]
    #: type of the pixels, which says what the bins stand for
    dtype: str


def trimmed(counts: NDArray[Any], grid: NDArray[Any], corner: tuple[int, int], dtype: np.dtype[Any]) -> Survey:
    """Make a survey of full histograms (histograms, bins), holding only the span of bins that occur."""
    used = np.flatnonzero(counts.any(axis=0))
    first, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    return Survey(counts[:, first:stop].astype(np.int64), first, np.asarray(grid, dtype=np.float64), corner, dtype.name)


def merge(surveys: Iterable[Survey], shape: tuple[int, int], block: int) -> Survey:
    """Merge the surveys of regions that cover an image of `shape` without overlap, in any order.

    A merged survey may itself be merged further, so the parts can be folded together as they arrive.
    """
    grid: NDArray[np.float64] | None = None
    counts, first, dtype = np.zeros((0, 0), dtype=np.int64), 0, ""
    for survey in surveys:
        if grid is None:
            grid = np.zeros((-(-shape[0] // block), -(-shape[1] // block), survey.grid.shape[2]))
        row, column = survey.corner
        grid[row : row + survey.grid.shape[0], column : column + survey.grid.shape[1]] += survey.grid
        counts, first = _added(counts, first, survey)
        dtype = survey.dtype
    if grid is None:
        raise ValueError("there is no survey to merge")
    return Survey(counts, first, grid, (0, 0), dtype)


def _added(counts: NDArray[np.int64], first: int, survey: Survey) -> tuple[NDArray[np.int64], int]:
    if survey.counts.size == 0:
        return counts, first
    if counts.size == 0:
        return survey.counts.copy(), survey.first_bin
    start = min(first, survey.first_bin)
    stop = max(first + counts.shape[1], survey.first_bin + survey.counts.shape[1])
    total = np.zeros((len(counts), stop - start), dtype=np.int64)
    total[:, first - start : first - start + counts.shape[1]] += counts
    total[:, survey.first_bin - start : survey.first_bin - start + survey.counts.shape[1]] += survey.counts
    return total, start


def walls(region: tuple[int, ...], row: int, column: int, shape: tuple[int, int]) -> BoolArray:
    """Tell which sides of a region that starts at (row, column) are sides of the image: upper, left, lower, right."""
    return np.array([row == 0, column == 0, row + region[0] == shape[0], column + region[1] == shape[1]])


def _no_halo(parameters: Parameters) -> int:
    return 0


def _as_they_are(pixels: NDArray[Any], plan: Any, row: int, column: int, wanted: BoolArray | None) -> NDArray[Any]:
    return pixels


def _nothing(plan: Any) -> dict[str, float]:
    return {}


def _not_known(survey: Survey, plan: Any) -> bool:
    return False


@dataclass(frozen=True)
class Recipe:
    """The steps of a tile-exact segmenter.

    `pixels` is everywhere what `segkit.segmenters.pixels` makes of the image: (rows, columns) uint8, uint16 or float32,
    or (rows, columns, 3) uint8, cut at the image's own border and nowhere beyond it.
    """

    #: tiles start at multiples of this many pixels, so that the blocks of a survey lie on one grid
    block: int
    #: (pixels, row, column, parameters, margins): statistics of a region whose first counted pixel is at (row, column), multiples
    #: of `block`; `margins` says how many rows and columns at the upper, left, lower and right side are not counted
    survey: Callable[[NDArray[Any], int, int, Any, Margins], Survey]
    #: (survey, shape, parameters, pixel_size_um): every global number, in a small frozen picklable plan
    settle: Callable[[Survey, tuple[int, int], Any, float | None], Any]
    #: (plan): how many pixels from a cut `foreground` is exact, and how far `pixels` must reach around a component in `split`
    halo: Callable[[Any], int]
    #: (seen, plan, row, column): (rows, columns) bool, True on foreground
    foreground: Callable[[Any, Any, int, int], BoolArray]
    #: (seen, components, plan, row, column): int32 labels of the components with an id > 0, counted from 1, 0 elsewhere;
    #: -1 is foreground that belongs to others. Ids index a table, so they should be small. Labels may come in any order.
    split: Callable[[Any, LabelArray, Any, int, int], LabelArray]
    #: 1: components are joined by edges, 2: by corners too
    connectivity: int = 2
    #: (parameters): how wide the margin of `survey` is wherever the image goes on
    survey_halo: Callable[[Any], int] = _no_halo
    #: (pixels, plan, row, column, wanted): what `foreground` and `split` are given of a region, the pixels themselves unless said
    #: otherwise; with a mask `wanted`, only what `split` needs to finish the components in it
    see: Callable[[NDArray[Any], Any, int, int, BoolArray | None], Any] = _as_they_are
    #: (survey, plan): True only when no pixel counted in that survey of a region can be foreground; such a region is not read again
    empty: Callable[[Survey, Any], bool] = _not_known
    #: (seen, labels, rows, columns): how sure it is of each object, (objects,) float64 from 0 to 1; `labels`, counted from 1 without a
    #: gap, lie in these rows and columns of what was seen. Depends on an object's own pixels alone; None: it does not say
    confidence: Callable[[Any, LabelArray, slice, slice], NDArray[np.float64]] | None = None
    #: (plan): what of the global numbers is worth telling: by name, with the unit in it; part of the summary of an image's result
    told: Callable[[Any], dict[str, float]] = _nothing

    def merge(self, surveys: Iterable[Survey], shape: tuple[int, int]) -> Survey:
        """Return the survey of the whole image, whatever the order of its parts."""
        return merge(surveys, shape, self.block)

    def plan(self, pixels: NDArray[Any], parameters: Parameters, pixel_size_um: float | None = None) -> Any:
        """Return the global numbers of a whole image that is in memory."""
        shape = (pixels.shape[0], pixels.shape[1])
        survey = self.merge([self.survey(pixels, 0, 0, parameters, NO_MARGINS)], shape)
        return self.settle(survey, shape, parameters, pixel_size_um)

    def apply(self, pixels: NDArray[Any], parameters: Parameters, pixel_size_um: float | None = None) -> LabelArray:
        """Segment a whole image that is in memory: the steps once, over everything.

        Returns
        -------
        (rows, columns) int32
            0 on background, 1..n on objects, numbered in raster order of their first pixel.
        """
        return self.finish(pixels, self.plan(pixels, parameters, pixel_size_um))

    def finish(self, pixels: NDArray[Any], plan: Any) -> LabelArray:
        """Segment a whole image that is in memory, by its global numbers; what comes back is as from `apply`."""
        return self._labels(self.see(pixels, plan, 0, 0, None), plan)

    def judge(self, pixels: NDArray[Any], plan: Any) -> tuple[LabelArray, NDArray[np.float64] | None]:
        """Segment as `finish` does; return the labels, and how sure it is of each object, None where it does not say."""
        seen = self.see(pixels, plan, 0, 0, None)
        labels = self._labels(seen, plan)
        return labels, self.confidence(seen, labels, slice(0, labels.shape[0]), slice(0, labels.shape[1])) if self.confidence else None

    def _labels(self, seen: Any, plan: Any) -> LabelArray:
        components, _ = label_components(self.foreground(seen, plan, 0, 0), self.connectivity)
        labels = self.split(seen, components, plan, 0, 0)
        number_in_raster_order(labels)
        return labels
