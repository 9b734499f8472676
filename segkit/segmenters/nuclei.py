"""Nuclei in fluorescence: what `segment` takes by default. It looks through the network of `nuclei-net`, or through a small forest.

Both recipes take the same numbers, and give the same kind of table; `nuclei_net` and `nuclei_forest` hold them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import model_validator

from segkit.segmenters import nuclei_forest, nuclei_net
from segkit.segmenters.choosing import Either, named_recipe
from segkit.segmenters.nuclei_forest import BLOCK
from segkit.segmenters.nuclei_net import NucleiNetPlan
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import Survey
from segkit.segmenters.registry import Segmenter

#: Names of what there was to say before there was a network: numbers that come with all of them, as a run's do, mean the forest.
BEFORE = ("diameter", "diameter_um", "threshold", "separation", "min_area")
#: Odds of the network that mean what even odds of the forest do: their defaults are 0.6 and 0.5.
ODDS = 1.5
#: Pixels of the forest's depth that mean what the whole depth of a nucleus does to the network: their defaults are 0.75 and 0.25.
DEEP = 3.0


class NucleiParameters(SizedParameters):
    """What the segmenter of fluorescent nuclei can be told."""

    diameter: float | None = parameter(
        None, "Typical nucleus diameter; leave empty to estimate it from the image.", unit="px", ge=4, le=500, step=1
    )
    threshold: float = parameter(0.5, "How likely a pixel must be nucleus to count as one.", ge=0.05, le=0.95, step=0.05)
    separation: float = parameter(
        0.75, "How far nuclei must stand out from the neck between them to be split; more merges more.", unit="px", ge=0, le=50, step=0.05
    )
    min_area: int = parameter(20, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)
    recipe: Literal["auto", "network", "classical"] = parameter(
        "auto", "What looks at the pixels: a small network, or a forest of decision trees; auto takes the network where it can run."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_recipe(cls, values: Any) -> Any:
        return named_recipe(values, BEFORE)


def _survey(pixels: NDArray[Any], row: int, column: int, parameters: NucleiParameters, margins: tuple[int, int, int, int]) -> Survey:
    return nuclei_forest.RECIPE.survey(pixels, row, column, parameters, margins)


def _settle(
    survey: Survey, shape: tuple[int, int], parameters: NucleiParameters, pixel_size_um: float | None
) -> NucleiNetPlan | nuclei_forest.NucleiPlan:
    ground: nuclei_forest.NucleiPlan = nuclei_forest.RECIPE.settle(survey, shape, parameters, pixel_size_um)
    if parameters.recipe == "classical":
        return ground
    odds = ODDS * ground.threshold / (1 - ground.threshold)
    return nuclei_net.net_plan(replace(ground, threshold=odds / (1 + odds), separation=ground.separation / DEEP))


RECIPE = Either(nuclei_net.RECIPE, nuclei_forest.RECIPE, NucleiNetPlan).recipe(BLOCK, _survey, _settle, nuclei_forest.RECIPE.survey_halo)

SEGMENTER = Segmenter(
    name="nuclei",
    version="5",
    summary="Nuclei in fluorescence: brightness above the background, a small network or a small trained forest, and a split by depth.",
    parameters=NucleiParameters,
    colour=False,
    function=RECIPE.apply,
    recipe=RECIPE,
)
