"""A segmenter that a person teaches: strokes on one or two images make a model, and the model segments thousands.

`segkit.segmenters.training.train` makes the model; scikit-learn is needed there and nowhere else. A saved model is a file of
plain arrays: reading it runs nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segkit.errors import ModelFileError
from segkit.kernels.filters import bin_values, gaussian_weights, smoothed_counts
from segkit.kernels.persistence import split_by_persistence
from segkit.segmenters.forest import BACKGROUND, BORDER, OBJECT, Forest, load_forest
from segkit.segmenters.optional import read_model_file
from segkit.segmenters.parameters import Parameters, parameter
from segkit.segmenters.recipe import BoolArray, LabelArray, Margins, Recipe, Survey, trimmed, walls
from segkit.segmenters.registry import Segmenter

BLOCK = 64
_LARGEST_FILE = 512 * 2**20

#: Shares of an image's pixels that lie below black and below white, when a model evens out exposure.
DARKEST, BRIGHTEST = 0.005, 0.995
#: An object's inside looks at least this much more like object than like border, and what that weighs against depth.
INSIDE, WEIGHT = 0.2, 2.0


class Stroke(IntEnum):
    """What a person says about a pixel by painting it."""

    UNPAINTED = 0  #: nothing
    BACKGROUND = 1  #: no object
    OBJECT = 2  #: the inside of an object
    BORDER = 3  #: the edge of an object, above all where two touch; may be left out


@dataclass(frozen=True, eq=False)
class ClassifierModel:
    """What was learned from strokes."""

    forest: Forest

    @property
    def content_hash(self) -> str:
        """The version of the model: the same trees have the same hash, wherever they are stored."""
        return self.forest.content_hash

    @property
    def evens_exposure(self) -> bool:
        """Whether every image is brought to one scale of brightness before it is looked at."""
        return bool(self.forest.notes.get("evens_exposure", False))

    def save(self, uri: str) -> str:
        """Store the model at a path or fsspec URL, and return that."""
        held = io.BytesIO()
        self.forest.save(held)
        with fsspec.open(str(uri), "wb") as file:
            file.write(held.getvalue())
        return str(uri)


def load_model(uri: str, content_hash: str | None = None) -> ClassifierModel:
    """Read a model from a path or fsspec URL.

    Raises
    ------
    ModelFileError
        When it cannot be read, is no saved model, or is another one than `content_hash` says.
    """
    if not uri:
        raise ModelFileError("Give the saved classifier as model=PATH; segkit.segmenters.training.train makes one from strokes.")
    model = _load(str(uri), content_hash)
    if content_hash and model.content_hash != content_hash:
        raise ModelFileError(f"{uri} is not the model that was asked for: it changed since. Its hash is {model.content_hash}.")
    return model


@lru_cache(maxsize=8)
def _load(uri: str, content_hash: str | None) -> ClassifierModel:
    return _read(uri)


def _read(uri: str) -> ClassifierModel:
    forest = load_forest(read_model_file(uri, _LARGEST_FILE), uri)
    if forest.planes != 1:
        raise ModelFileError(f"{uri} was trained on {forest.planes} planes at once, and the classifier looks at one.")
    return ClassifierModel(forest)


class ClassifierParameters(Parameters):
    """What the classifier can be told."""

    model: str = parameter("", "Path or URL of the saved model.")
    model_hash: str | None = parameter(
        None, "Content hash of the model; filled in from the file, so that a run remembers which model it used."
    )
    threshold: float = parameter(0.5, "How likely a pixel must be object or border to count as foreground.", ge=0.05, le=0.95, step=0.05)
    separation: float = parameter(
        1.0, "How far objects must stand out from the neck between them to be split; more merges more.", unit="px", ge=0, le=1000, step=0.1
    )
    min_area: int = parameter(20, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)

    @model_validator(mode="before")
    @classmethod
    def _name_the_model(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("model") and not values.get("model_hash"):
            return {**values, "model_hash": _read(str(values["model"])).content_hash}
        return values


@dataclass(frozen=True)
class ClassifierPlan:
    """The global numbers of one image."""

    shape: tuple[int, int]
    model: str
    model_hash: str | None
    #: brightness that counts as black, and how much brighter white is; 0 when the image is flat
    black: float
    span: float
    threshold: float
    separation: float
    min_area: int


def even_out(pixels: NDArray[Any], black: float, span: float) -> NDArray[np.float32]:
    """Bring brightness to a scale on which `black` is 0 and `black + span` is 100."""
    return (pixels.astype(np.float32) - np.float32(black)) * np.float32(100 / span if span > 0 else 0)


def brightness_counts(pixels: NDArray[Any]) -> NDArray[np.uint32]:
    """Count the values of a plane in the bins of `segkit.kernels.filters.bin_values`: (1, bins)."""
    return smoothed_counts(pixels, gaussian_weights(0))


def black_and_white(counts: NDArray[Any], first_bin: int, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the brightness that counts as black, and how much brighter white is, from the counted values of pixels of a type."""
    total = np.cumsum(counts.astype(np.int64))
    ends = first_bin + np.searchsorted(total, np.array([DARKEST, BRIGHTEST]) * total[-1])
    black, white = bin_values(ends, dtype)
    return float(black), float(white - black)


def _survey(pixels: NDArray[Any], row: int, column: int, parameters: ClassifierParameters, margins: Margins) -> Survey:
    grid = np.zeros((-(-pixels.shape[0] // BLOCK), -(-pixels.shape[1] // BLOCK), 0))
    even = load_model(parameters.model, parameters.model_hash).evens_exposure
    counts = brightness_counts(pixels) if even else np.zeros((1, 0), dtype=np.int64)
    return trimmed(counts, grid, (row // BLOCK, column // BLOCK), pixels.dtype)


def _settle(survey: Survey, shape: tuple[int, int], parameters: ClassifierParameters, pixel_size_um: float | None) -> ClassifierPlan:
    black, span = black_and_white(survey.counts[0], survey.first_bin, np.dtype(survey.dtype)) if survey.counts.size else (0.0, 100.0)
    asked = (parameters.threshold, parameters.separation, parameters.min_area)
    return ClassifierPlan(shape, parameters.model, parameters.model_hash, black, span, *asked)


def _halo(plan: ClassifierPlan) -> int:
    return load_model(plan.model, plan.model_hash).forest.reach + 1


def _probabilities(pixels: NDArray[Any], mask: BoolArray, plan: ClassifierPlan) -> NDArray[np.float32]:
    forest = load_model(plan.model, plan.model_hash).forest
    return forest.probabilities(even_out(pixels, plan.black, plan.span)[None], mask)


def _foreground(pixels: NDArray[Any], plan: ClassifierPlan, row: int, column: int) -> BoolArray:
    if plan.span <= 0:
        return np.zeros(pixels.shape, dtype=bool)
    return _probabilities(pixels, np.ones(pixels.shape, dtype=bool), plan)[..., BACKGROUND] < 1 - plan.threshold


def _split(pixels: NDArray[Any], components: LabelArray, plan: ClassifierPlan, row: int, column: int) -> LabelArray:
    likely = _probabilities(pixels, components > 0, plan)
    return split_by_persistence(
        components,
        likely[..., OBJECT] - likely[..., BORDER],
        walls(components.shape, row, column, plan.shape),
        inside=INSIDE,
        weight=WEIGHT,
        rise=plan.separation,
        smallest=plan.min_area,
    )


RECIPE = Recipe(block=BLOCK, survey=_survey, settle=_settle, halo=_halo, foreground=_foreground, split=_split)

SEGMENTER = Segmenter(
    name="classifier",
    version="1",
    summary="What a person taught it with a few strokes: a random forest over the look of each pixel at several scales.",
    parameters=ClassifierParameters,
    colour=False,
    function=RECIPE.apply,
    recipe=RECIPE,
)
