"""Nuclei in stained tissue. It looks through the network of `tissue-net`, or through two small forests.

Both recipes take the same numbers, and give the same kind of labels; `tissue_net` and `tissue_forest` hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segkit.segmenters import nuclei_forest, sight, tissue_forest, tissue_net
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey
from segkit.segmenters.registry import Segmenter
from segkit.segmenters.tissue_forest import BLOCK
from segkit.segmenters.tissue_net import TissueNetPlan

#: Names of what there was to say before there was a network: numbers that come with all of them, as a run's do, mean the forests.
BEFORE = ("diameter", "diameter_um", "stain", "background", "threshold", "separation", "min_area")
#: Odds of the network that mean what even odds of the forests do: their defaults are 0.5 and 0.45.
ODDS = 11 / 9
#: Pixels of the forests' depth that mean what the whole depth of a nucleus does to the network: their defaults are 1 and 0.35.
DEEP = 20 / 7


class TissueParameters(SizedParameters):
    """What the segmenter of stained tissue can be told."""

    diameter: float | None = parameter(
        None,
        "Typical nucleus diameter; leave empty for the network to estimate it; the forests need no telling of 12 to 70 px.",
        unit="px",
        ge=4,
        le=500,
        step=1,
    )
    stain: Literal["auto", "hematoxylin-eosin", "hematoxylin-dab", "giemsa"] = parameter(
        "auto", "The stains of the slide: auto follows the colours of the image, a named pair has its known colours."
    )
    background: Literal["auto", "bright", "dark"] = parameter("auto", "Whether the nuclei lie on a bright or a dark background.")
    threshold: float = parameter(0.45, "How likely a pixel must be nucleus to count as one.", ge=0.05, le=0.95, step=0.05)
    separation: float = parameter(
        1.0, "How far nuclei must stand out from the neck between them to be split; more merges more.", unit="px", ge=0, le=50, step=0.1
    )
    min_area: int = parameter(30, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)
    recipe: Literal["auto", "network", "classical"] = parameter(
        "auto", "What looks at the pixels: a small network, or forests of decision trees; auto takes the network where it can run."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_recipe(cls, values: Any) -> Any:
        """Say which recipe it is, so that a run means the same on every machine."""
        if not isinstance(values, Mapping) or values.get("recipe", "auto") != "auto":
            return values
        old = "recipe" not in values and all(name in values for name in BEFORE)
        return {**values, "recipe": "classical" if old or find_spec("onnxruntime") is None else "network"}


def _survey(pixels: NDArray[np.uint8], row: int, column: int, parameters: TissueParameters, margins: Margins) -> Survey:
    return _asked(parameters).survey(pixels, row, column, parameters, margins)


def _survey_halo(parameters: TissueParameters) -> int:
    return _asked(parameters).survey_halo(parameters)


def _asked(parameters: TissueParameters) -> Recipe:
    return tissue_forest.RECIPE if parameters.recipe == "classical" else tissue_net.RECIPE


def _settle(survey: Survey, shape: tuple[int, int], parameters: TissueParameters, pixel_size_um: float | None) -> Any:
    if parameters.recipe == "classical":
        return tissue_forest.RECIPE.settle(survey, shape, parameters, pixel_size_um)
    ground, light, dark = tissue_net.settle(survey, shape, parameters, pixel_size_um)
    odds = ODDS * ground.threshold / (1 - ground.threshold)
    return TissueNetPlan(replace(ground, threshold=odds / (1 + odds), separation=ground.separation / DEEP), light, dark)


def _recipe(plan: Any) -> Recipe:
    return tissue_net.RECIPE if isinstance(plan, TissueNetPlan) else tissue_forest.RECIPE


def _halo(plan: Any) -> int:
    return _recipe(plan).halo(plan)


def _see(pixels: NDArray[np.uint8], plan: Any, row: int, column: int, wanted: BoolArray | None) -> Any:
    return _recipe(plan).see(pixels, plan, row, column, wanted)


def _foreground(seen: Any, plan: Any, row: int, column: int) -> BoolArray:
    return _recipe(plan).foreground(seen, plan, row, column)


def _split(seen: Any, components: LabelArray, plan: Any, row: int, column: int) -> LabelArray:
    return _recipe(plan).split(seen, components, plan, row, column)


def _empty(survey: Survey, plan: Any) -> bool:
    return _recipe(plan).empty(survey, plan)


def _confidence(seen: Any, labels: LabelArray, rows: slice, columns: slice) -> NDArray[np.float64]:
    looked = sight.confidence_of if isinstance(seen, sight.Sight) else nuclei_forest.confidence_of
    return looked(seen, labels, rows, columns)


def _told(plan: Any) -> dict[str, float]:
    return _recipe(plan).told(plan)


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
    confidence=_confidence,
    told=_told,
)

SEGMENTER = Segmenter(
    name="tissue",
    version="2",
    summary="Nuclei in stained tissue: colour deconvolution, a small network or two small trained forests, and a split by depth.",
    parameters=TissueParameters,
    colour=True,
    function=RECIPE.apply,
    recipe=RECIPE,
)
