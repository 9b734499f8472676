"""Nuclei in stained tissue. It looks through the network of `tissue-net`, or through two small forests.

Both recipes take the same numbers, and give the same kind of labels; `tissue_net` and `tissue_forest` hold them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segkit.segmenters import tissue_forest, tissue_net
from segkit.segmenters.choosing import Either, named_recipe
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import Margins, Recipe, Survey
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
        return named_recipe(values, BEFORE)


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


RECIPE = Either(tissue_net.RECIPE, tissue_forest.RECIPE, TissueNetPlan).recipe(BLOCK, _survey, _settle, _survey_halo)

SEGMENTER = Segmenter(
    name="tissue",
    version="2",
    summary="Nuclei in stained tissue: colour deconvolution, a small network or two small trained forests, and a split by depth.",
    parameters=TissueParameters,
    colour=True,
    function=RECIPE.apply,
    recipe=RECIPE,
)
