"""One segmenter of two recipes: the kind of the plan says which of them takes the later steps of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.segmenters.recipe import BoolArray, LabelArray, Recipe, Survey
from segkit.segmenters.sight import Sight


@dataclass(frozen=True)
class Either:
    """A recipe that looks through a network, and one that does not; the steps after the plan are those of whichever made it."""

    network: Recipe
    classical: Recipe
    #: kind of the network's plans
    kind: type

    def of(self, plan: Any) -> Recipe:
        """Return the recipe that a plan is of."""
        return self.network if isinstance(plan, self.kind) else self.classical

    def halo(self, plan: Any) -> int:
        """See `Recipe`."""
        return self.of(plan).halo(plan)

    def see(self, pixels: NDArray[Any], plan: Any, row: int, column: int, wanted: BoolArray | None) -> Any:
        """See `Recipe`."""
        return self.of(plan).see(pixels, plan, row, column, wanted)

    def foreground(self, seen: Any, plan: Any, row: int, column: int) -> BoolArray:
        """See `Recipe`."""
        return self.of(plan).foreground(seen, plan, row, column)

    def split(self, seen: Any, components: LabelArray, plan: Any, row: int, column: int) -> LabelArray:
        """See `Recipe`."""
        return self.of(plan).split(seen, components, plan, row, column)

    def empty(self, survey: Survey, plan: Any) -> bool:
        """See `Recipe`."""
        return self.of(plan).empty(survey, plan)

    def confidence(self, seen: Any, labels: LabelArray, rows: slice, columns: slice) -> NDArray[np.float64]:
        """See `Recipe`."""
        looked = self.network.confidence if isinstance(seen, Sight) else self.classical.confidence
        assert looked is not None, "both recipes say how sure they are"
        return looked(seen, labels, rows, columns)

    def told(self, plan: Any) -> dict[str, float]:
        """See `Recipe`."""
        return self.of(plan).told(plan)

    def recipe(self, block: int, survey: Any, settle: Any, survey_halo: Any) -> Recipe:
        """Return both as one recipe, with the steps that come before there is a plan."""
        return Recipe(
            block=block,
            survey=survey,
            settle=settle,
            halo=self.halo,
            foreground=self.foreground,
            split=self.split,
            survey_halo=survey_halo,
            see=self.see,
            empty=self.empty,
            confidence=self.confidence,
            told=self.told,
        )


def named_recipe(values: Any, before: tuple[str, ...]) -> Any:
    """Say in what was asked for which recipe it is, so that a run means the same on every machine.

    Numbers that come with all names of `before`, as those of a run from before there was a choice do, mean the classical one.
    """
    if not isinstance(values, Mapping) or values.get("recipe", "auto") != "auto":
        return values
    old = "recipe" not in values and all(name in values for name in before)
    return {**values, "recipe": "classical" if old or find_spec("onnxruntime") is None else "network"}
