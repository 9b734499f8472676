"""Nuclei in fluorescence by a small network of our own, trained on public-domain images by `notebooks/train_segmenter.ipynb`.

The global numbers are those of `nuclei`: background, contrast, and the size of the nuclei, by which the image is shown to the
network in pixels that suit it. It says how likely each pixel is nucleus, and how deep inside; touching nuclei are split where that
depth drops between them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segkit.errors import InvertedContrastError
from segkit.kernels.background import flatten
from segkit.kernels.filters import gaussian_weights, smooth
from segkit.kernels.sizes import value_of
from segkit.segmenters.lens import Lens
from segkit.segmenters.network import load_network
from segkit.segmenters.nuclei_forest import BLOCK, LOOK_ABOVE, SIGMA, NucleiPlan
from segkit.segmenters.nuclei_forest import RECIPE as CLASSICAL
from segkit.segmenters.optional import with_model_hash
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey
from segkit.segmenters.registry import Segmenter
from segkit.segmenters.sight import Run, Scale, Sight, confidence_of, foreground_of, sight_through, split_by_depth

#: Brightness in parts of the threshold's, below which it is shown as it is and beyond which as its logarithm.
SOFT = 0.1
#: An image whose middle pixel lies higher than this between its darkest and its brightest is bright where nothing is.
INVERTED = 0.5


class NucleiNetParameters(SizedParameters):
    """What the learned segmenter of fluorescent nuclei can be told."""

    diameter: float | None = parameter(
        None, "Typical nucleus diameter; leave empty to estimate it from the image.", unit="px", ge=4, le=500, step=1
    )
    objects: Literal["auto", "bright", "dark"] = parameter(
        "auto", "Whether nuclei are brighter or darker than what surrounds them; auto takes bright ones, and refuses what looks inverted."
    )
    threshold: float = parameter(0.6, "How likely a pixel must be nucleus to count as one.", ge=0.05, le=0.95, step=0.05)
    separation: float = parameter(
        0.25, "How far the depth must drop between two nuclei, in parts of the deepest; more merges more.", ge=0, le=2, step=0.01
    )
    min_area: int = parameter(20, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)
    model: str = parameter(
        "", "Path or URL of a network of one's own, an .onnx file with its card beside it; empty for the one segkit carries."
    )
    model_hash: str | None = parameter(None, "Content hash of that file; filled in from it, so that a run remembers which network it used.")

    @model_validator(mode="before")
    @classmethod
    def _name_the_model(cls, values: Any) -> Any:
        return with_model_hash(values)


@dataclass(frozen=True, eq=False)
class NucleiNetPlan:
    """The global numbers of one image."""

    #: what the classical segmenter knows of it: its background, contrast, and the size of its nuclei
    ground: NucleiPlan
    model: str
    model_hash: str | None
    #: whether nuclei are darker than what surrounds them
    dark: bool = False

    @property
    def rise(self) -> float:
        """How far above the background the threshold lies; infinite when there is nothing in the image."""
        return self.ground.rise

    @property
    def scale(self) -> Scale:
        """In pixels of what size it is shown."""
        return Scale(self.ground.diameter, self.ground.shape)


def negative(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels of the same type, dark where they were bright."""
    return np.iinfo(pixels.dtype).max - pixels if pixels.dtype.kind == "u" else -pixels


def _survey(pixels: NDArray[Any], row: int, column: int, parameters: NucleiNetParameters, margins: Margins) -> Survey:
    return CLASSICAL.survey(negative(pixels) if parameters.objects == "dark" else pixels, row, column, parameters, margins)


def _settle(survey: Survey, shape: tuple[int, int], parameters: NucleiNetParameters, pixel_size_um: float | None) -> NucleiNetPlan:
    ground = CLASSICAL.settle(survey, shape, parameters, pixel_size_um)
    if parameters.objects == "auto" and typical_height(survey) > INVERTED:
        raise InvertedContrastError
    return net_plan(ground, parameters.model, parameters.model_hash, dark=parameters.objects == "dark")


def net_plan(ground: NucleiPlan, model: str = "", model_hash: str | None = None, *, dark: bool = False) -> NucleiNetPlan:
    """Return the global numbers for a network; it looks at what is faint in noise too, and tells one from the other itself."""
    faintest = min(ground.faintest, ground.background + LOOK_ABOVE * ground.rise)
    return NucleiNetPlan(replace(ground, faintest=faintest), model, model_hash, dark)


def typical_height(survey: Survey) -> float:
    """Return how high the middle one of an image's pixels lies between its darkest and its brightest: from 0 to 1."""
    if not survey.counts.size:
        return 0.0
    below = np.cumsum(survey.counts[0])
    middle, brightest = (survey.first_bin + int(np.searchsorted(below, share * below[-1])) for share in (0.5, 0.999))
    low, middle_value, high = value_of(np.array([0, middle, brightest]))
    return float((middle_value - low) / (high - low)) if high > low else 0.0


def plan_of(pixels: NDArray[Any], parameters: NucleiNetParameters, pixel_size_um: float | None = None) -> NucleiNetPlan:
    """Return the global numbers of a whole image that is in memory."""
    plan: NucleiNetPlan = RECIPE.plan(pixels, parameters, pixel_size_um)
    return plan


def relative_plane(pixels: NDArray[Any], ground: NucleiPlan, view: Lens) -> NDArray[np.float32]:
    """Return brightness above the background, 1 at the threshold, in the pixels that are shown."""
    flat = view.focus(flatten(pixels, ground.surface, BLOCK, view.row, view.column))
    return np.asarray((flat - np.float32(ground.background)) / np.float32(ground.rise))


def contrast(relative: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return brightness as the network is shown it: dim and bright nuclei alike, 0 on the background."""
    return np.asarray(np.arcsinh(relative * np.float32(1 / SOFT)) * np.float32(0.5))


def looked_at(pixels: NDArray[Any], plan: NucleiNetPlan, view: Lens) -> BoolArray:
    """Tell which pixels of a region are bright enough to be nucleus at all."""
    smoothed = smooth(pixels, gaussian_weights(SIGMA))
    return np.asarray(flatten(smoothed, plan.ground.surface, BLOCK, view.row, view.column) > np.float32(plan.ground.faintest))


def sight_of(run: Run, pixels: NDArray[Any], plan: NucleiNetPlan, row: int, column: int) -> Sight:
    """Return what a network says of a region that starts at (row, column)."""
    if not np.isfinite(plan.rise):
        return Sight((pixels.shape[0], pixels.shape[1]))
    bright = negative(pixels) if plan.dark else pixels
    near = looked_at(bright, plan, plan.scale.lens(pixels.shape, row, column))

    def show(upper: int, left: int, lens: Lens) -> NDArray[np.float32]:
        return contrast(relative_plane(bright[upper:, left:], plan.ground, lens))[None]

    return sight_through(run, near, plan.scale, row, column, show)


def _see(pixels: NDArray[Any], plan: NucleiNetPlan, row: int, column: int, wanted: BoolArray | None) -> Sight:
    return sight_of(load_network(plan.model, plan.model_hash).run, pixels, plan, row, column)


def _halo(plan: NucleiNetPlan) -> int:
    return plan.scale.reach + len(gaussian_weights(SIGMA))


def _foreground(seen: Sight, plan: NucleiNetPlan, row: int, column: int) -> BoolArray:
    return foreground_of(seen, plan.ground)


def _split(seen: Sight, components: LabelArray, plan: NucleiNetPlan, row: int, column: int) -> LabelArray:
    return split_by_depth(seen, components, plan.ground, row, column)


def _empty(survey: Survey, plan: NucleiNetPlan) -> bool:
    return CLASSICAL.empty(survey, plan.ground)


def _told(plan: NucleiNetPlan) -> dict[str, float]:
    return CLASSICAL.told(plan.ground)


RECIPE = Recipe(
    block=BLOCK,
    survey=_survey,
    settle=_settle,
    halo=_halo,
    foreground=_foreground,
    split=_split,
    survey_halo=CLASSICAL.survey_halo,
    see=_see,
    empty=_empty,
    confidence=confidence_of,
    told=_told,
)

SEGMENTER = Segmenter(
    name="nuclei-net",
    version="4",
    summary="Nuclei in fluorescence by a small network that segkit carries: crowded, dim and uneven ones too.",
    parameters=NucleiNetParameters,
    colour=False,
    function=RECIPE.apply,
    recipe=RECIPE,
)
