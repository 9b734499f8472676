"""Nuclei in stained tissue by a small network of our own, trained on public-domain images by `notebooks/train_segmenter.ipynb`.

It is shown the negative of the brightness, as the network of `nuclei-net` from which it was trained further, and how dense the two stains
are, as the forests of `tissue` are. The size of the nuclei is estimated as in fluorescence: dark ones on a bright slide are bright ones in
its negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segkit.kernels.filters import gaussian_weights
from segkit.kernels.sizes import DIAMETERS
from segkit.kernels.stains import COLOUR_BINS, stain_planes
from segkit.segmenters import nuclei_forest
from segkit.segmenters.evidence import REFERENCE_DIAMETER
from segkit.segmenters.lens import Lens
from segkit.segmenters.network import TISSUE, load_network
from segkit.segmenters.nuclei_forest import NucleiPlan
from segkit.segmenters.nuclei_net import contrast, relative_plane
from segkit.segmenters.optional import with_model_hash
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey, trimmed
from segkit.segmenters.registry import Segmenter
from segkit.segmenters.sight import Run, Scale, Sight, confidence_of, foreground_of, sight_through, split_by_depth
from segkit.segmenters.stains import is_dark
from segkit.segmenters.tissue_forest import BLOCK, LOOK_SIGMA, Asked, TissuePlan, stained
from segkit.segmenters.tissue_forest import RECIPE as CLASSICAL

#: Density that is shown as 1: half of the darkest stain of the image.
HALF = 50.0
#: A larger estimate is that of cells or clumps, as on a smear, and says nothing of the nuclei.
LARGEST_ESTIMATE = 80.0
#: Histograms that tell of sizes: of brightness, and of what each opening leaves of it.
SIZES = 1 + len(DIAMETERS)
#: Numbers of a block that tell of its colours.
RANGES = 6


class TissueNetParameters(SizedParameters):
    """What the learned segmenter of stained tissue can be told."""

    diameter: float | None = parameter(
        None, "Typical nucleus diameter; leave empty to estimate it from the image.", unit="px", ge=4, le=500, step=1
    )
    stain: Literal["auto", "hematoxylin-eosin", "hematoxylin-dab", "giemsa"] = parameter(
        "auto", "The stains of the slide: auto follows the colours of the image, a named pair has its known colours."
    )
    background: Literal["auto", "bright", "dark"] = parameter("auto", "Whether the nuclei lie on a bright or a dark background.")
    threshold: float = parameter(0.5, "How likely a pixel must be nucleus to count as one.", ge=0.05, le=0.95, step=0.05)
    separation: float = parameter(
        0.35, "How far the depth must drop between two nuclei, in parts of the deepest; more merges more.", ge=0, le=2, step=0.01
    )
    min_area: int = parameter(30, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)
    model: str = parameter(
        "", "Path or URL of a network of one's own, an .onnx file with its card beside it; empty for the one segkit carries."
    )
    model_hash: str | None = parameter(None, "Content hash of that file; filled in from it, so that a run remembers which network it used.")

    @model_validator(mode="before")
    @classmethod
    def _name_the_model(cls, values: Any) -> Any:
        return with_model_hash(values)


@dataclass(frozen=True, eq=False)
class TissueNetPlan:
    """The global numbers of one image."""

    #: what the classical segmenter knows of it: the tables of its stains
    ground: TissuePlan
    #: what that of nuclei knows of its brightness: background, contrast, and the size of the nuclei
    light: NucleiPlan
    #: whether nuclei are brighter than what surrounds them
    dark: bool
    model: str = ""
    model_hash: str | None = None

    @property
    def scale(self) -> Scale:
        """In pixels of what size it is shown."""
        return Scale(self.light.diameter, self.ground.shape)


def survey(pixels: NDArray[np.uint8], row: int, column: int, parameters: Asked, margins: Margins) -> Survey:
    """Count colours, and brightness with the sizes of what is dark, or bright: of both, when it is not told on which background it lies."""
    colours = CLASSICAL.survey(pixels, row, column, parameters, margins)
    ways = [parameters.background == "dark"] if parameters.background != "auto" else [False, True]
    parts = [nuclei_forest.RECIPE.survey(_brightness(pixels, way), row, column, parameters, margins) for way in ways]
    return _side_by_side([colours, *parts], pixels.dtype)


def _brightness(pixels: NDArray[np.uint8], dark: bool) -> NDArray[np.uint8]:
    """Return a plane in which nuclei are bright: the negative, unless they lie on a dark background."""
    bright = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
    return bright if dark else 255 - bright


def _side_by_side(surveys: list[Survey], dtype: np.dtype[Any]) -> Survey:
    """Put surveys of one region together: histograms below each other, numbers of a block beside each other."""
    stop = max(each.first_bin + each.counts.shape[1] for each in surveys)
    counts = [np.pad(each.counts, ((0, 0), (each.first_bin, stop - each.first_bin - each.counts.shape[1]))) for each in surveys]
    return trimmed(np.concatenate(counts), np.concatenate([each.grid for each in surveys], axis=2), surveys[0].corner, dtype)


def _part(survey: Survey, histograms: slice, numbers: slice) -> Survey:
    """Take one survey out of those that are side by side."""
    counts, grid = survey.counts[histograms], survey.grid[..., numbers]
    part = trimmed(counts, grid, survey.corner, np.dtype(survey.dtype))
    return replace(part, first_bin=survey.first_bin + part.first_bin)


def settle(survey: Survey, shape: tuple[int, int], parameters: Asked, pixel_size_um: float | None) -> tuple[TissuePlan, NucleiPlan, bool]:
    """Return what the classical segmenters know of an image by its colours and by its brightness, and whether its background is dark."""
    colours = _part(survey, slice(0, 1), slice(0, RANGES))
    counts = np.zeros(COLOUR_BINS, dtype=np.int64)
    counts[colours.first_bin : colours.first_bin + colours.counts.shape[1]] = colours.counts[0]
    dark = is_dark(counts, parameters.background)
    way = int(dark and parameters.background == "auto")
    brightness = _part(survey, slice(1 + way * SIZES, 1 + (way + 1) * SIZES), slice(RANGES + way, RANGES + way + 1))
    light: NucleiPlan = nuclei_forest.RECIPE.settle(brightness, shape, parameters, pixel_size_um)
    ground: TissuePlan = CLASSICAL.settle(colours, shape, parameters, pixel_size_um)
    if parameters.diameter_px(pixel_size_um) is None and (one_stain(ground) or light.diameter > LARGEST_ESTIMATE):
        light = replace(light, diameter=REFERENCE_DIAMETER)
    return ground, light, dark


def _settle(survey: Survey, shape: tuple[int, int], parameters: TissueNetParameters, pixel_size_um: float | None) -> TissueNetPlan:
    return TissueNetPlan(*settle(survey, shape, parameters, pixel_size_um), parameters.model, parameters.model_hash)


def plan_of(pixels: NDArray[np.uint8], parameters: TissueNetParameters, pixel_size_um: float | None = None) -> TissueNetPlan:
    """Return the global numbers of a whole image that is in memory."""
    plan: TissueNetPlan = RECIPE.plan(pixels, parameters, pixel_size_um)
    return plan


def planes_of(pixels: NDArray[np.uint8], plan: TissueNetPlan) -> NDArray[np.float32]:
    """Return what is known of each pixel of a region: its brightness with nuclei bright, and the densities of its two stains."""
    bright = _brightness(pixels, plan.dark).astype(np.float32)
    return np.concatenate([bright[None], stain_planes(pixels, plan.ground.tables)])


def one_stain(ground: TissuePlan) -> bool:
    """Tell whether only the nuclear stain of a slide is looked at: then its brightness, which is also that of the other, is left out."""
    return not ground.tables[1].any()


def relative_planes(planes: NDArray[np.float32], plan: TissueNetPlan, lens: Lens) -> NDArray[np.float32]:
    """Return those of a region in the pixels that are shown: 0 on the background, 1 at the threshold and at half the full density."""
    light = relative_plane(planes[0], plan.light, lens) if np.isfinite(plan.light.rise) else np.zeros_like(lens.focus(planes[0]))
    stains = [lens.focus(np.ascontiguousarray(plane)) * np.float32(1 / HALF) for plane in planes[1:]]
    return np.stack([stains[0] if one_stain(plan.ground) else light, *stains])


def shown_planes(relative: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return them as the network is shown them: brightness as to `nuclei-net`."""
    return np.concatenate([contrast(relative[:1]), relative[1:]])


def sight_of(run: Run, pixels: NDArray[np.uint8], plan: TissueNetPlan, row: int, column: int) -> Sight:
    """Return what a network says of a region that starts at (row, column)."""
    planes = planes_of(pixels, plan)

    def show(upper: int, left: int, lens: Lens) -> NDArray[np.float32]:
        return shown_planes(relative_planes(planes[:, upper:, left:], plan, lens))

    return sight_through(run, stained(planes[1:]), plan.scale, row, column, show)


def _see(pixels: NDArray[np.uint8], plan: TissueNetPlan, row: int, column: int, wanted: BoolArray | None) -> Sight:
    return sight_of(load_network(plan.model, plan.model_hash, TISSUE).run, pixels, plan, row, column)


def _halo(plan: TissueNetPlan) -> int:
    return plan.scale.reach + len(gaussian_weights(LOOK_SIGMA))


def _foreground(seen: Sight, plan: TissueNetPlan, row: int, column: int) -> BoolArray:
    return foreground_of(seen, plan.ground)


def _split(seen: Sight, components: LabelArray, plan: TissueNetPlan, row: int, column: int) -> LabelArray:
    return split_by_depth(seen, components, plan.ground, row, column)


def _empty(survey: Survey, plan: TissueNetPlan) -> bool:
    return CLASSICAL.empty(survey, plan.ground)


def _told(plan: TissueNetPlan) -> dict[str, float]:
    return {"typical_diameter_px": round(plan.light.diameter, 2)}


RECIPE = Recipe(
    block=BLOCK,
    survey=survey,
    settle=_settle,
    halo=_halo,
    foreground=_foreground,
    split=_split,
    survey_halo=nuclei_forest.RECIPE.survey_halo,
    see=_see,
    empty=_empty,
    confidence=confidence_of,
    told=_told,
)

SEGMENTER = Segmenter(
    name="tissue-net",
    version="1",
    summary="Nuclei in stained tissue by a small network that segkit carries: crowded, pale and uneven ones too.",
    parameters=TissueNetParameters,
    colour=True,
    function=RECIPE.apply,
    recipe=RECIPE,
)
