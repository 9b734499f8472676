"""What networks are trained for: each segmenter's way of looking at an image, and how its images are varied for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import TrainingError
from segkit.segmenters import nuclei_net, tissue_net
from segkit.segmenters.network import NUCLEI, TISSUE, Kind
from segkit.segmenters.pixels import colour_plane, gray_plane
from segkit.segmenters.recipe import LabelArray
from segkit.segmenters.registry import Segmenter
from segkit.segmenters.sight import Run, Scale, Sight
from segkit.training import variations

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Purpose:
    """A segmenter that looks through a network, and how images are shown to that in training."""

    kind: Kind
    segmenter: Segmenter
    #: (pixels of a labelled image): in the form that the segmenter takes
    prepare: Callable[[NDArray[Any]], NDArray[Any]]
    #: (pixels, plan): (planes, rows, columns) float32 in the pixels that are shown, before they are varied; None: nothing is seen
    planes: Callable[[NDArray[Any], Any], FloatArray | None]
    #: (planes, labels, draw): planes as another slide or microscope might have given them
    varied: Callable[[FloatArray, LabelArray, np.random.Generator], FloatArray]
    #: (planes): as the network is shown them
    shown: Callable[[FloatArray], FloatArray]
    #: (run, pixels, plan, row, column): what a network says of a region
    sight: Callable[[Run, NDArray[Any], Any, int, int], Sight]
    #: by how much an object is shown larger or smaller, as a natural logarithm
    zoom: float

    def plan(self, pixels: NDArray[Any], **told: Any) -> Any:
        """Return the global numbers of an image."""
        if self.segmenter.recipe is None:
            raise TypeError(f"{self.segmenter.name} has no recipe")
        return self.segmenter.recipe.plan(pixels, self.segmenter.parameters(**told))

    def scale(self, plan: Any) -> Scale:
        """Return in pixels of what size an image is shown."""
        scale: Scale = plan.scale
        return scale


def _gray(pixels: NDArray[Any]) -> NDArray[Any]:
    return gray_plane(pixels if pixels.ndim == 2 else pixels.mean(axis=-1))


def _brightness(pixels: NDArray[Any], plan: nuclei_net.NucleiNetPlan) -> FloatArray | None:
    if not np.isfinite(plan.rise):
        return None
    return nuclei_net.relative_plane(pixels, plan.ground, plan.scale.lens(pixels.shape, 0, 0))[None]


def _varied_brightness(planes: FloatArray, labels: LabelArray, draw: np.random.Generator) -> FloatArray:
    return variations.varied(planes[0], labels, draw)[None]


def _colour(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return colour_plane(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1))


def _slide(pixels: NDArray[Any], plan: tissue_net.TissueNetPlan) -> FloatArray:
    return tissue_net.relative_planes(tissue_net.planes_of(pixels, plan), plan, plan.scale.lens(pixels.shape, 0, 0))


FOR_NUCLEI = Purpose(
    NUCLEI,
    nuclei_net.SEGMENTER,
    prepare=_gray,
    planes=_brightness,
    varied=_varied_brightness,
    shown=nuclei_net.contrast,
    sight=nuclei_net.sight_of,
    zoom=0.45,
)
FOR_TISSUE = Purpose(
    TISSUE,
    tissue_net.SEGMENTER,
    prepare=_colour,
    planes=_slide,
    varied=variations.varied_slide,
    shown=tissue_net.shown_planes,
    sight=tissue_net.sight_of,
    zoom=0.5,
)
PURPOSES = {purpose.kind.segmenter: purpose for purpose in (FOR_NUCLEI, FOR_TISSUE)}


def purpose_of(segmenter: str) -> Purpose:
    """Return what a network for this segmenter is trained for.

    Raises
    ------
    TrainingError
        When it does not look through a network of ours.
    """
    if segmenter not in PURPOSES:
        raise TrainingError(f"{segmenter} does not look through a network that can be trained here: take {' or '.join(PURPOSES)}.")
    return PURPOSES[segmenter]
