"""The classical recipe of `nuclei`: brightness against the background, a small forest that knows insides from borders, a split by depth.

The forest is a classical one, of decision trees over Gaussian features; no network. `benchmarks/train_nuclei.py` trained it on one part
of a public collection, and `benchmarks/accuracy.py` judges it on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.kernels.background import REACH, block_levels, flatten, lowest_around
from segkit.kernels.filters import gaussian_weights, smooth
from segkit.kernels.sizes import ALIGNED, size_counts, value_of
from segkit.segmenters.evidence import REFERENCE_DIAMETER, evidence_of, split_by_evidence
from segkit.segmenters.forest import BACKGROUND, Forest, load_forest
from segkit.segmenters.lens import Lens
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey, trimmed
from segkit.segmenters.sizes import estimate_diameter
from segkit.segmenters.threshold import otsu

BLOCK = 64
FOREST_FILE = Path(__file__).with_name("nuclei.npz")
SIGMA = 1.0
#: The background of a block is the brightness that this share of its pixels stays below.
DARKEST = 0.05
#: Pixels brighter than the background by less than this part of the way to Otsu's threshold are not looked at.
LOOK_ABOVE = 0.15
#: Nor are those that lie fewer of the background's deviations above it.
ABOVE_NOISE = 3.0
#: Brightness is compared as its logarithm, softened near the background by this part of that way.
SOFTENING = 0.15
#: An image whose threshold lies fewer of its background's deviations above the background has nothing in it.
LEAST_CONTRAST = 3.0
#: The inside of a nucleus looks at least this much more like inside than like border.
INSIDE = 0.2
#: How far around a region its survey looks: whole blocks, openings, and what smoothing needs.
SURVEY_HALO = REACH * BLOCK + ALIGNED
#: Nuclei smaller than this share of those that the forest was trained on are looked at in half pixels.
SMALL = 0.4


class Asked(Protocol):
    """What the recipe is told."""

    @property
    def threshold(self) -> float:
        """How likely a pixel must be nucleus to count as one."""

    @property
    def separation(self) -> float:
        """How far nuclei must stand out from the neck between them to be split."""

    @property
    def min_area(self) -> int:
        """Objects with fewer pixels are dropped."""

    def diameter_px(self, pixel_size_um: float | None) -> float | None:
        """Return the diameter in pixels, or None when it is left to be estimated."""


@dataclass(frozen=True, eq=False)
class NucleiPlan:
    """The global numbers of one image."""

    shape: tuple[int, int]
    #: typical diameter of the nuclei in pixels, told or estimated
    diameter: float
    #: (block rows, block columns) float32: how high the background lies around each block
    surface: NDArray[np.float32]
    #: brightness of the background above that, and how far above it Otsu's threshold lies; infinite when there is nothing
    background: float
    rise: float
    #: how far above the surface a pixel must lie to be looked at
    faintest: float
    threshold: float
    separation: float
    min_area: int

    @property
    def scale(self) -> float:
        """By how much the nuclei are larger than those that the forest was trained on."""
        return self.diameter / REFERENCE_DIAMETER

    @property
    def step(self) -> int:
        """Edge in pixels of the squares that are looked at."""
        return int(2 ** np.clip(np.floor(np.log2(self.scale)), 0, 3))

    @property
    def finer(self) -> int:
        """Into how many each pixel's edge is divided before it is looked at."""
        return 2 if self.scale < SMALL else 1


@cache
def trained_forest() -> Forest:
    """Return the forest that segkit carries."""
    return load_forest(FOREST_FILE.read_bytes(), FOREST_FILE.name)


def _survey(pixels: NDArray[Any], row: int, column: int, parameters: Asked, margins: Margins) -> Survey:
    smoothed = smooth(pixels, gaussian_weights(SIGMA))
    before, after = margins[:2], margins[2:]
    counted = (pixels.shape[0] - before[0] - after[0], pixels.shape[1] - before[1] - after[1])
    skip = (before[0] % BLOCK, before[1] % BLOCK)
    levels = block_levels(
        smoothed[skip[0] : _last_block(pixels.shape[0], after[0]), skip[1] : _last_block(pixels.shape[1], after[1])], BLOCK, DARKEST
    )
    counts = size_counts(smoothed, lowest_around(levels), BLOCK, (-skip[0], -skip[1]), before, counted)
    first, blocks = (before[0] // BLOCK, before[1] // BLOCK), (-(-counted[0] // BLOCK), -(-counted[1] // BLOCK))
    grid = levels[first[0] : first[0] + blocks[0], first[1] : first[1] + blocks[1], None]
    return trimmed(counts, grid, (row // BLOCK, column // BLOCK), np.dtype(np.float32))


def _last_block(size: int, margin: int) -> int:
    """Return where the last block of an axis ends that is whole, or ends with the image."""
    return size - (margin % BLOCK if margin == SURVEY_HALO else 0)


def _survey_halo(parameters: Asked) -> int:
    return SURVEY_HALO


def levels_of(counts: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the background's brightness, how far above it Otsu's threshold lies, and how much the background varies.

    Parameters
    ----------
    counts, values : (bins,)
        Histogram of the smoothed image.

    Returns
    -------
    float, float, float
        The second is infinite when there is nothing in the image.
    """
    divider = otsu(counts, values)
    if not np.isfinite(divider):
        return 0.0, float("inf"), 0.0
    lower = np.cumsum(np.where(values <= divider, counts, 0))
    low, middle = (float(values[np.searchsorted(lower, share * lower[-1])]) for share in (0.16, 0.5))
    if divider - middle < LEAST_CONTRAST * (middle - low):
        return middle, float("inf"), middle - low
    return middle, divider - middle, middle - low


def _settle(survey: Survey, shape: tuple[int, int], parameters: Asked, pixel_size_um: float | None) -> NucleiPlan:
    bins = survey.first_bin + np.arange(survey.counts.shape[1] + 1)
    values = (value_of(bins[:-1]) + value_of(bins[1:])) / 2
    background, rise, noise = levels_of(survey.counts[0], values)
    diameter = parameters.diameter_px(pixel_size_um) or estimate_diameter(survey.counts, values, background + rise) or REFERENCE_DIAMETER
    return NucleiPlan(
        shape,
        diameter,
        lowest_around(survey.grid[..., 0].astype(np.float32)),
        background,
        rise,
        background + max(LOOK_ABOVE * rise, ABOVE_NOISE * noise),
        parameters.threshold,
        parameters.separation,
        parameters.min_area,
    )


def _halo(plan: NucleiPlan) -> int:
    return plan.step * (trained_forest().reach // plan.finer + 3) + len(gaussian_weights(SIGMA))


@dataclass(frozen=True)
class Sight:
    """What the forest thinks of a region."""

    shape: tuple[int, int]
    #: (rows, columns) float32: how likely a pixel is background; None when there is nothing to see
    background: NDArray[np.float32] | None = None
    #: (rows, columns) float32: from -1 on what looks like the border of a nucleus to 1 on what looks like its inside
    evidence: NDArray[np.float32] | None = None
    #: pixels less likely to be background than this are nucleus
    limit: float = 0.0


def lens_on(shape: tuple[int, ...], plan: NucleiPlan, row: int, column: int) -> Lens:
    """Return the lens for a region that starts at (row, column)."""
    return Lens((shape[0], shape[1]), row, column, plan.step, plan.finer)


def planes_of(pixels: NDArray[Any], plan: NucleiPlan, lens: Lens) -> NDArray[np.float32]:
    """Return what the forest is shown of a region: (1, rows, columns) float32."""
    flat = lens.focus(flatten(pixels, plan.surface, BLOCK, lens.row, lens.column))
    relative = np.maximum((flat - np.float32(plan.background)) / np.float32(plan.rise), np.float32(0))
    return np.log(relative + np.float32(SOFTENING))[None]


def looked_at(pixels: NDArray[Any], plan: NucleiPlan, lens: Lens) -> BoolArray:
    """Tell which pixels, of the size that the forest is shown, have any that is bright enough to be looked at."""
    smoothed = smooth(pixels, gaussian_weights(SIGMA))
    return lens.focus_mask(flatten(smoothed, plan.surface, BLOCK, lens.row, lens.column) > np.float32(plan.faintest))


def _see(pixels: NDArray[Any], plan: NucleiPlan, row: int, column: int, wanted: BoolArray | None) -> Sight:
    lens = lens_on(pixels.shape, plan, row, column)
    if not np.isfinite(plan.rise):
        return Sight(lens.shape)
    near = looked_at(pixels, plan, lens)
    if wanted is not None:  # what lies beside a component is blended into it
        near &= cv2.dilate(lens.focus_mask(wanted).view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
    if not near.any():
        return Sight(lens.shape)
    likely = trained_forest().probabilities(planes_of(pixels, plan, lens), near)
    background = lens.restore(np.ascontiguousarray(likely[..., BACKGROUND]))
    background[~lens.restore_mask(near)] = 1
    return Sight(lens.shape, background, lens.restore(evidence_of(likely)), 1 - plan.threshold)


def _foreground(seen: Sight, plan: NucleiPlan, row: int, column: int) -> BoolArray:
    if seen.background is None:
        return np.zeros(seen.shape, dtype=bool)
    return seen.background < seen.limit


def _split(seen: Sight, components: LabelArray, plan: NucleiPlan, row: int, column: int) -> LabelArray:
    if seen.evidence is None:
        return np.zeros(components.shape, dtype=np.int32)
    return split_by_evidence(components, seen.evidence, plan, row, column, scale=plan.step, inside=INSIDE)


def confidence_of(seen: Sight, labels: LabelArray, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Return how unlike background an object's pixels are in the mean, times how much the surest of them looks like an inside.

    Holes that were filled do not count: whether they were looked at depends on the tile.
    """
    if seen.background is None or seen.evidence is None:
        return np.zeros(int(labels.max(initial=0)))
    background = seen.background[rows, columns]
    own = np.where(background < seen.limit, labels, 0)
    return mean_times_summit(own, 1 - background, seen.evidence[rows, columns], int(labels.max(initial=0)))


def mean_times_summit(labels: LabelArray, likely: NDArray[np.float32], depth: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return the mean likelihood of the pixels of each of `count` objects, times their largest depth, both from 0 to 1.

    Likelihoods are summed as whole numbers, so that the sum does not depend on where a tile is cut.
    """
    own = labels.reshape(-1)
    parts = np.rint(likely.reshape(-1) * 1000)
    deepest = np.zeros(count + 1, dtype=np.float32)
    np.maximum.at(deepest, own, depth.reshape(-1))
    sums, areas = np.bincount(own, parts, count + 1), np.bincount(own, minlength=count + 1)
    return np.asarray((sums[1:] / (1000 * np.maximum(areas[1:], 1))) * np.clip(deepest[1:], 0, 1), dtype=np.float64)


def _empty(survey: Survey, plan: NucleiPlan) -> bool:
    """Tell whether a region, by its own survey, has nothing that would be looked at."""
    brightest = value_of(np.array([survey.first_bin + survey.counts.shape[1]]))[0]
    return not np.isfinite(plan.rise) or bool(survey.counts.any() and brightest <= plan.faintest)


def _told(plan: NucleiPlan) -> dict[str, float]:
    return {"typical_diameter_px": round(plan.diameter, 2)} if np.isfinite(plan.rise) else {}


RECIPE = Recipe(
    block=BLOCK,
    survey=_survey,
    settle=_settle,
    halo=_halo,
    foreground=_foreground,
    split=_split,
    survey_halo=_survey_halo,
    see=_see,
    empty=_empty,
    confidence=confidence_of,
    told=_told,
)
