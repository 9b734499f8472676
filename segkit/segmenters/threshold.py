"""The plain recipe: smooth, Otsu's threshold, fill holes, split at the peaks of the distance to the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.filters import bin_values, gaussian_weights, smooth_above, smoothed_counts
from segkit.kernels.splitting import split_at_distance_peaks
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey, trimmed, walls
from segkit.segmenters.registry import Segmenter

BLOCK = 64

#: Diameter that is taken when none is given, in pixels.
USUAL_DIAMETER = 21.0


class ThresholdParameters(SizedParameters):
    """What the plain recipe can be told."""

    diameter: float | None = parameter(
        None, "Typical object diameter, by which touching objects are split; 21 px when empty.", unit="px", ge=2, le=2000, step=1
    )
    sigma: float = parameter(1.0, "Width of the Gaussian that smooths the image first.", unit="px", ge=0, le=50, step=0.1)
    threshold: float | None = parameter(
        None, "Smoothed values above this are foreground; leave empty for Otsu's threshold.", unit="intensity"
    )
    fill_holes: bool = parameter(True, "Whether background enclosed by an object becomes part of it.")
    split: bool = parameter(True, "Whether touching objects are split; the diameter, 21 px unless given, says how far apart they are.")
    min_area: int = parameter(0, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)


@dataclass(frozen=True)
class ThresholdPlan:
    """The global numbers of one image."""

    shape: tuple[int, int]
    sigma: float
    threshold: float
    spacing: int
    fill_holes: bool
    min_area: int


def otsu(counts: NDArray[np.int64], values: NDArray[np.float64], bins: int = 256) -> float:
    """Return the value that divides a histogram so that the variance between the two classes is largest.

    Parameters
    ----------
    counts, values : (fine bins,)
        How many pixels each bin has, and its value, rising.
    bins : int
        The fine bins are gathered in this many even ones first: finer, and noise would choose among nearly equal dividers.

    Returns
    -------
    float
        The middle of the last even bin of the lower class; infinite when there is one value only.
    """
    filled = counts > 0
    counts, values = counts[filled], values[filled]
    if counts.size < 2:
        return float("inf")
    even, edges = np.histogram(values, bins, weights=counts.astype(np.float64))
    middles = (edges[:-1] + edges[1:]) / 2
    below, weighted = np.cumsum(even), np.cumsum(even * middles)
    above = below[-1] - below[:-1]
    means_apart = weighted[:-1] / below[:-1] - (weighted[-1] - weighted[:-1]) / above
    return float(middles[np.argmax(below[:-1] * above * means_apart**2)])


def _survey(pixels: NDArray[Any], row: int, column: int, parameters: ThresholdParameters, margins: Margins) -> Survey:
    corner = (row // BLOCK, column // BLOCK)
    rows, columns = pixels.shape[0] - margins[0] - margins[2], pixels.shape[1] - margins[1] - margins[3]
    grid = np.zeros((-(-rows // BLOCK), -(-columns // BLOCK), 0))
    if parameters.threshold is not None:
        return trimmed(np.zeros((1, 0), dtype=np.int64), grid, corner, pixels.dtype)
    return trimmed(smoothed_counts(pixels, gaussian_weights(parameters.sigma), margins), grid, corner, pixels.dtype)


def _survey_halo(parameters: ThresholdParameters) -> int:
    return len(gaussian_weights(parameters.sigma)) - 1


def _settle(survey: Survey, shape: tuple[int, int], parameters: ThresholdParameters, pixel_size_um: float | None) -> ThresholdPlan:
    threshold = parameters.threshold
    if threshold is None:
        counts = survey.counts[0]
        bins = np.arange(survey.first_bin, survey.first_bin + len(counts))
        threshold = otsu(counts, bin_values(bins, np.dtype(survey.dtype)))
    diameter = parameters.diameter_px(pixel_size_um) or USUAL_DIAMETER
    spacing = max(1, round(diameter / 3)) if parameters.split else 0
    return ThresholdPlan(shape, parameters.sigma, threshold, spacing, parameters.fill_holes, parameters.min_area)


def _halo(plan: ThresholdPlan) -> int:
    return len(gaussian_weights(plan.sigma)) - 1


def _empty(survey: Survey, plan: ThresholdPlan) -> bool:
    beyond = survey.first_bin + survey.counts.shape[1]
    return bool(survey.counts.any() and bin_values(np.array(beyond), np.dtype(survey.dtype)) <= plan.threshold)


def _foreground(pixels: NDArray[Any], plan: ThresholdPlan, row: int, column: int) -> BoolArray:
    return smooth_above(pixels, gaussian_weights(plan.sigma), plan.threshold)


def _split(pixels: NDArray[Any], components: LabelArray, plan: ThresholdPlan, row: int, column: int) -> LabelArray:
    sides = walls(components.shape, row, column, plan.shape)
    return split_at_distance_peaks(components, sides, plan.spacing, plan.min_area, plan.fill_holes)


RECIPE = Recipe(
    block=BLOCK, survey=_survey, settle=_settle, halo=_halo, foreground=_foreground, split=_split, survey_halo=_survey_halo, empty=_empty
)

SEGMENTER = Segmenter(
    name="threshold",
    version="1",
    summary="The plain recipe: Gaussian, Otsu's threshold, filled holes, watershed on the distance to the edge.",
    parameters=ThresholdParameters,
    colour=False,
    function=RECIPE.apply,
    recipe=RECIPE,
)
