"""Spheroids, organoids and other few large objects in bright-field or phase contrast: dark, bright, or only of another texture.

A pixel is foreground where there is texture or an edge, or where the brightness is not that of the background. The background
is a surface fitted to the smooth blocks of the image, so uneven light does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.kernels.components import find_boxes
from segkit.kernels.edges import block_means, differs, edge_energy, energy_reach
from segkit.kernels.filters import bin_values, gaussian_weights, smooth, smoothed_counts
from segkit.kernels.persistence import split_by_persistence
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey, trimmed, walls
from segkit.segmenters.registry import Segmenter
from segkit.segmenters.threshold import otsu

BLOCK = 16

#: Width of the neighbourhood over which edges are averaged.
SIGMA = 2.5
#: Foreground has at least this many times the edges of the background, and differs from it by so many of its own wobbles.
ABOVE_BACKGROUND, ABOVE_WOBBLE = 2.0, 6.0
#: How far the threshold lies from where faint edges begin towards where strong ones do.
STRICT = 0.4
#: Foreground differs from the background by at least this share of what objects differ by.
SHARE_OF_CONTRAST = 0.4
#: Averaging carries an edge outwards by about this many widths.
CREEP = 0.9
#: Half the largest diameter that can be estimated, in blocks.
FARTHEST = 128
#: An object touches about this many blocks more than it is wide.
BLOCKY = 1.0


class SpheroidParameters(SizedParameters):
    """What the segmenter of spheroids can be told."""

    sensitivity: float = parameter(1.0, "More finds fainter objects, less only strong ones.", ge=0.1, le=10, step=0.1)
    smoothness: float = parameter(
        0.08, "Radius below which bumps of the outline are taken off, as a share of the diameter.", ge=0, le=0.5, step=0.01
    )
    split: bool = parameter(True, "Whether touching objects are split at their neck.")
    min_diameter: float = parameter(0.5, "Objects smaller than this share of the diameter are dropped.", ge=0, le=1, step=0.05)


@dataclass(frozen=True, eq=False)
class SpheroidPlan:
    """The global numbers of one image."""

    shape: tuple[int, int]
    #: typical diameter in pixels; 0 when there is nothing
    diameter: float
    #: more edges than this is foreground
    edges: float
    #: (6,) float64: the background's surface
    surface: NDArray[np.float64]
    #: a larger difference to the background than this is foreground
    contrast: float
    smoothness: float
    split: bool
    min_diameter: float


def _survey(pixels: NDArray[Any], row: int, column: int, parameters: SpheroidParameters, margins: Margins) -> Survey:
    upper, left, lower, right = margins
    counted = np.s_[upper : pixels.shape[0] - lower, left : pixels.shape[1] - right]
    energy = edge_energy(pixels, SIGMA)
    counts = smoothed_counts(energy, gaussian_weights(0), margins)
    grid = np.concatenate(
        [block_means(np.ascontiguousarray(pixels[counted]), BLOCK), block_means(np.ascontiguousarray(energy[counted]), BLOCK)[..., :1]],
        axis=2,
    )
    return trimmed(counts, grid, (row // BLOCK, column // BLOCK), energy.dtype)


def _survey_halo(parameters: SpheroidParameters) -> int:
    return energy_reach(SIGMA)


def _settle(survey: Survey, shape: tuple[int, int], parameters: SpheroidParameters, pixel_size_um: float | None) -> SpheroidPlan:
    edges = _edge_threshold(survey) / parameters.sensitivity
    mean, spread, energy = np.moveaxis(survey.grid, 2, 0)
    smooth_blocks = energy < edges
    surface, wobble = _fit_surface(mean, smooth_blocks, shape)
    away = np.abs(mean - _surface_at(surface, mean.shape, shape))
    noise = float(np.median(spread[smooth_blocks])) if smooth_blocks.any() else 0.0
    typical = float(np.median(away[~smooth_blocks])) if (~smooth_blocks).any() else 0.0
    contrast = max(ABOVE_WOBBLE * wobble, noise, SHARE_OF_CONTRAST * typical, 1e-6) / parameters.sensitivity
    diameter = parameters.diameter_px(pixel_size_um) or _typical_diameter(~smooth_blocks | (away > contrast))
    return SpheroidPlan(shape, diameter, edges, surface, contrast, parameters.smoothness, parameters.split, parameters.min_diameter)


def _edge_threshold(survey: Survey) -> float:
    """Divide the edge energies in two, between where their logarithms divide and where they do, but not within the background's."""
    counts = survey.counts[0]
    values = bin_values(np.arange(survey.first_bin, survey.first_bin + len(counts)), np.dtype(survey.dtype))
    counts, values = counts[values > 0], values[values > 0]
    if not counts.sum():
        return float("inf")
    quiet = values[np.searchsorted(np.cumsum(counts), 0.1 * counts.sum())]
    low, high = float(np.exp(otsu(counts, np.log(values)))), otsu(counts, values)
    return max(low ** (1 - STRICT) * high**STRICT, ABOVE_BACKGROUND * float(quiet))


def _fit_surface(mean: NDArray[np.float64], usable: BoolArray, shape: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """Fit a quadratic surface to the block means, leaving out what lies far off; return it and how far the rest wobbles about it."""
    terms = _terms(mean.shape, shape)
    used = usable.reshape(-1) if usable.sum() >= 12 else np.ones(mean.size, dtype=bool)
    values, factors, wobble = mean.reshape(-1), np.zeros(6), 0.0
    for _ in range(8):
        factors = np.zeros(6)
        few = 6 if used.sum() >= 24 and min(mean.shape) >= 4 else 1
        factors[:few] = np.linalg.lstsq(terms[used][:, :few], values[used], rcond=None)[0]
        off = np.abs(values - terms @ factors)
        wobble = 1.4826 * float(np.median(off[used]))
        kept = used & (off <= max(4 * wobble, 1e-6))
        if kept.sum() < 6 or (kept == used).all():
            break
        used = kept
    return _in_pixels(factors, shape), wobble


def _terms(blocks: tuple[int, ...], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the terms of the surface at the middle of every block, rows and columns counted in parts of the image."""
    y, x = (_middles(count, size) / size for count, size in zip(blocks, shape, strict=True))
    y, x = (grid.reshape(-1) for grid in np.meshgrid(y, x, indexing="ij"))
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=1)


def _middles(blocks: int, size: int) -> NDArray[np.float64]:
    edges = np.minimum(np.arange(blocks + 1) * BLOCK, size)
    return (edges[:-1] + edges[1:] - 1) / 2


def _in_pixels(factors: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = shape
    return factors / np.array([1, rows, columns, rows * rows, rows * columns, columns * columns], dtype=np.float64)


def _surface_at(surface: NDArray[np.float64], blocks: tuple[int, ...], shape: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = shape
    scaled = surface * np.array([1, rows, columns, rows * rows, rows * columns, columns * columns], dtype=np.float64)
    return (_terms(blocks, shape) @ scaled).reshape(blocks)


def _typical_diameter(busy: BoolArray) -> float:
    """Estimate the diameter from the blocks that hold objects: that of the circle that fits where the median of them lies."""
    if not busy.any():
        return 0.0
    widest = min(max(busy.shape), FARTHEST)
    depth = ndimage.distance_transform_edt(np.pad(busy, widest, mode="edge"))[widest:-widest, widest:-widest]
    peaks = np.sort(depth[(depth == ndimage.maximum_filter(depth, size=3)) & (depth > 0)])
    weights = np.cumsum(peaks**3)
    typical = min(peaks[np.searchsorted(weights, weights[-1] / 2)], widest)
    return float((2 * typical - BLOCKY) * BLOCK)


def _halo(plan: SpheroidPlan) -> int:
    return energy_reach(SIGMA) + 1


def _foreground(pixels: NDArray[Any], plan: SpheroidPlan, row: int, column: int) -> BoolArray:
    if not plan.diameter:
        return np.zeros(pixels.shape, dtype=bool)
    busy = edge_energy(pixels, SIGMA) > np.float32(plan.edges)
    return busy | differs(smooth(pixels, gaussian_weights(SIGMA)), plan.surface, row, column, plan.contrast)


def _split(pixels: NDArray[Any], components: LabelArray, plan: SpheroidPlan, row: int, column: int) -> LabelArray:
    sides = walls(components.shape, row, column, plan.shape)
    labels, count = np.zeros(components.shape, dtype=np.int32), 0
    for number, box in enumerate(find_boxes(components, int(components.max(initial=0)))):
        at_wall = sides & np.array([box[0] == 0, box[1] == 0, box[2] == components.shape[0], box[3] == components.shape[1]])
        smallest = _smallest(plan, at_wall)
        if box[2] - box[0] < 0.7 * smallest or box[3] - box[1] < 0.7 * smallest:
            continue
        place = np.s_[box[0] : box[2], box[1] : box[3]]
        found = _shape(components[place], number, at_wall, plan)
        labels[place][found > 0] = found[found > 0] + count
        count += int(found.max(initial=0))
    return labels


def _smallest(plan: SpheroidPlan, at_wall: BoolArray) -> float:
    """Return the diameter below which objects are dropped: half as much where the image's border may have cut them."""
    return plan.min_diameter * plan.diameter * (0.5 if at_wall.any() else 1.0)


def _shape(window: LabelArray, number: int, at_wall: BoolArray, plan: SpheroidPlan) -> LabelArray:
    """Turn one component into objects: filled, its creep taken back, smooth in outline, split at its necks."""
    margin = max(1, round(plan.smoothness * plan.diameter), round(CREEP * SIGMA)) + 2
    mask = _filled(_padded(window == number, at_wall, margin))
    mask &= ~_padded((window != 0) & (window != number), at_wall, margin)
    mask = _eroded(mask, CREEP * SIGMA)
    radius = plan.smoothness * plan.diameter
    mask = _dilated(_eroded(mask, radius), radius) & mask
    inner = np.ascontiguousarray(mask[margin:-margin, margin:-margin])
    rise = 0.12 * plan.diameter if plan.split else 1e9
    smallest = max(1, round(np.pi / 4 * _smallest(plan, at_wall) ** 2))
    evidence = np.ones(inner.shape, dtype=np.float32)
    return split_by_persistence(inner.astype(np.int32), evidence, at_wall, inside=0.5, weight=0, rise=rise, smallest=smallest)


def _padded(mask: BoolArray, at_wall: BoolArray, margin: int) -> BoolArray:
    """Add a margin: objects go on beyond the image's own border, and nowhere else."""
    out = np.zeros((mask.shape[0] + 2 * margin, mask.shape[1] + 2 * margin), dtype=bool)
    out[margin:-margin, margin:-margin] = mask
    top, left, bottom, right = at_wall
    if top:
        out[:margin] = out[margin]
    if bottom:
        out[-margin:] = out[-margin - 1]
    if left:
        out[:, :margin] = out[:, margin : margin + 1]
    if right:
        out[:, -margin:] = out[:, -margin - 1 : -margin]
    return out


def _filled(mask: BoolArray) -> BoolArray:
    return np.asarray(ndimage.binary_fill_holes(mask), dtype=bool)


def _eroded(mask: BoolArray, radius: float) -> BoolArray:
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] > radius)


def _dilated(mask: BoolArray, radius: float) -> BoolArray:
    if not mask.any():
        return mask
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius)


RECIPE = Recipe(block=BLOCK, survey=_survey, settle=_settle, halo=_halo, foreground=_foreground, split=_split, survey_halo=_survey_halo)

SEGMENTER = Segmenter(
    name="spheroid",
    version="1",
    summary="Few large objects in bright-field or phase contrast: edges and texture, filled, smooth in outline.",
    parameters=SpheroidParameters,
    colour=False,
    function=RECIPE.apply,
    recipe=RECIPE,
)
