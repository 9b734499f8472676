"""The classical recipe of `tissue`: stain densities, two small forests that know nuclei from their surroundings, a split by depth.

The forests were trained by `benchmarks/train_tissue.py` on one part of a public collection, and are judged on the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.kernels.filters import gaussian_weights, smooth_above
from segkit.kernels.stains import COLOUR_BINS, block_ranges, colour_counts, stain_planes
from segkit.segmenters import nuclei_forest
from segkit.segmenters.evidence import REFERENCE_DIAMETER, evidence_of, split_by_evidence
from segkit.segmenters.forest import BACKGROUND, BORDER, OBJECT, Forest, load_forest
from segkit.segmenters.nuclei_forest import Sight, confidence_of
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey, trimmed
from segkit.segmenters.stains import read_tables

BLOCK = 64
#: The first forest looks at the stains alone, the second also at what the first thought of the neighbourhood.
FOREST_FILES = (Path(__file__).with_name("tissue.npz"), Path(__file__).with_name("tissue_context.npz"))

#: Pixels of less nuclear stain than this are not looked at: 0 is the background, 100 the darkest of the image.
LOOK_ABOVE = 12.0
LOOK_SIGMA = 1.0
#: A region whose density cannot reach this part of that is empty; the rest is for sums that are rounded.
SURELY = 0.99

#: The inside of a nucleus looks at least this much more like inside than like border.
INSIDE = 0.55
#: Nuclei must also stand out from a neck by this share of their own depth.
SHARE = 0.15


class Asked(nuclei_forest.Asked, Protocol):
    """What the recipe is told: as for nuclei, and of the slide."""

    @property
    def stain(self) -> str:
        """The stains of the slide, or "auto"."""

    @property
    def background(self) -> str:
        """Whether the background is "bright" or "dark", or "auto"."""


@dataclass(frozen=True, eq=False)
class TissuePlan:
    """The global numbers of one image."""

    shape: tuple[int, int]
    #: (2, 3, 256) float32: from colours to densities
    tables: NDArray[np.float32]
    #: by how much the nuclei are larger than those that the forests were trained on
    scale: float
    threshold: float
    separation: float
    min_area: int


@cache
def trained_forests(scale: float = 1.0) -> tuple[Forest, Forest]:
    """Return the forests that segkit carries, looking at nuclei that are `scale` times as large."""
    first, second = (load_forest(file.read_bytes(), file.name) for file in FOREST_FILES)
    return _scaled(first, scale), _scaled(second, scale)


def _scaled(forest: Forest, scale: float) -> Forest:
    return replace(forest, sigmas=tuple(sigma * scale for sigma in forest.sigmas))


def stained(planes: NDArray[np.float32]) -> BoolArray:
    """Tell which pixels hold enough of the nuclear stain to be looked at."""
    return smooth_above(planes[0], gaussian_weights(LOOK_SIGMA), LOOK_ABOVE)


def with_context(planes: NDArray[np.float32], guess: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put beside the stain planes what the first forest thought: how likely object and border are, in percent."""
    return np.concatenate([planes, 100 * np.moveaxis(guess[..., (OBJECT, BORDER)], -1, 0)])


def probabilities(planes: NDArray[np.float32], scale: float, wanted: BoolArray | None = None) -> NDArray[np.float32]:
    """Tell how likely each pixel is background, the inside of a nucleus, or its border.

    Parameters
    ----------
    planes : (2, rows, columns) float32
        Densities of the stains.
    scale : float
        By how much nuclei are larger than those that the forests were trained on.
    wanted : (rows, columns) bool, optional
        The pixels that are asked for, all of them stained; without it every stained pixel.

    Returns
    -------
    (rows, columns, 3) float32
    """
    first, second = trained_forests(scale)
    near = stained(planes)
    if wanted is None:
        wanted = near
    else:
        near &= cv2.dilate(wanted.view(np.uint8), np.ones((2 * second.reach + 1,) * 2, dtype=np.uint8)) > 0
    guess = first.probabilities(planes, near)
    return second.probabilities(with_context(planes, guess), wanted)


def _survey(pixels: NDArray[np.uint8], row: int, column: int, parameters: Asked, margins: Margins) -> Survey:
    upper, left, lower, right = margins
    counted = np.ascontiguousarray(pixels[upper : pixels.shape[0] - lower, left : pixels.shape[1] - right])
    grid = block_ranges(pixels, BLOCK, survey_halo(parameters), margins)
    return trimmed(colour_counts(counted), grid, (row // BLOCK, column // BLOCK), pixels.dtype)


def survey_halo(parameters: Asked) -> int:
    """Return how wide the margin of a survey is."""
    return len(gaussian_weights(LOOK_SIGMA)) - 1


def _settle(survey: Survey, shape: tuple[int, int], parameters: Asked, pixel_size_um: float | None) -> TissuePlan:
    counts = np.zeros(COLOUR_BINS, dtype=np.int64)
    counts[survey.first_bin : survey.first_bin + survey.counts.shape[1]] = survey.counts[0]
    tables = read_tables(counts, parameters.stain, parameters.background)
    diameter = parameters.diameter_px(pixel_size_um) or REFERENCE_DIAMETER
    scale = min(max(diameter / REFERENCE_DIAMETER, 0.4), 8.0)
    return TissuePlan(shape, tables, scale, parameters.threshold, parameters.separation, parameters.min_area)


def _halo(plan: TissuePlan) -> int:
    return sum(forest.reach for forest in trained_forests(plan.scale)) + len(gaussian_weights(LOOK_SIGMA))


def _see(pixels: NDArray[np.uint8], plan: TissuePlan, row: int, column: int, wanted: BoolArray | None) -> Sight:
    likely = probabilities(stain_planes(pixels, plan.tables), plan.scale, wanted)
    background = np.ascontiguousarray(likely[..., BACKGROUND])
    return Sight(background.shape, background, evidence_of(likely), 1 - plan.threshold)


def _foreground(seen: Sight, plan: TissuePlan, row: int, column: int) -> BoolArray:
    if seen.background is None:
        return np.zeros(seen.shape, dtype=bool)
    return seen.background < seen.limit


def _split(seen: Sight, components: LabelArray, plan: TissuePlan, row: int, column: int) -> LabelArray:
    if seen.evidence is None:
        return np.zeros(components.shape, dtype=np.int32)
    return split_by_evidence(components, seen.evidence, plan, row, column, scale=plan.scale, inside=INSIDE, share=SHARE)


def _empty(survey: Survey, plan: TissuePlan) -> bool:
    """Tell whether the colours of a region, and of what is smoothed into it, can make no pixel stained enough to be looked at."""
    darkest = np.zeros(survey.grid.shape[:2])
    for channel, table in enumerate(plan.tables[0]):
        low, high = (survey.grid[..., 2 * channel + end].astype(int) for end in (0, 1))
        darkest += np.maximum(table[low], table[high])
    return bool((darkest < SURELY * LOOK_ABOVE).all())


RECIPE = Recipe(
    block=BLOCK,
    survey=_survey,
    settle=_settle,
    halo=_halo,
    foreground=_foreground,
    split=_split,
    survey_halo=survey_halo,
    see=_see,
    empty=_empty,
    confidence=confidence_of,
)
