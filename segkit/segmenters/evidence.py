"""The last step of the segmenters that look through a forest: components split by what looks like inside and what like border."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.persistence import split_by_persistence
from segkit.segmenters.forest import BORDER, OBJECT
from segkit.segmenters.recipe import LabelArray, walls

#: Diameter of the nuclei that the forests were trained on, in pixels.
REFERENCE_DIAMETER = 22.0
#: What evidence weighs against depth, in pixels of such nuclei.
WEIGHT = 2.0


class Plan(Protocol):
    """What splitting needs of the global numbers."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""

    @property
    def separation(self) -> float:
        """How far nuclei must stand out to be split."""

    @property
    def min_area(self) -> int:
        """Objects with fewer pixels are dropped."""


def evidence_of(likely: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return, of what a forest says, how much more each pixel looks like inside than like border: from -1 to 1."""
    return np.asarray(likely[..., OBJECT] - likely[..., BORDER])


def split_by_evidence(
    components: LabelArray,
    evidence: NDArray[np.float32],
    plan: Plan,
    row: int,
    column: int,
    *,
    scale: float,
    inside: float,
    share: float = 0.0,
) -> LabelArray:
    """Split the components of a region that starts at (row, column); as `segkit.kernels.persistence.split_by_persistence`.

    `scale` says by how much nuclei are larger than those that the forest was trained on.
    """
    return split_by_persistence(
        components,
        evidence,
        walls(components.shape, row, column, plan.shape),
        inside=inside,
        weight=WEIGHT * scale,
        rise=plan.separation * scale,
        smallest=plan.min_area,
        share=share,
    )
