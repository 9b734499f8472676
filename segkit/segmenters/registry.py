"""Which segmenters there are, found through entry points, and how one is called by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from segkit import kernels
from segkit.errors import InvalidParameterError, SegmenterBrokenError, UnknownParameterError, UnknownSegmenterError
from segkit.segmenters.parameters import Parameters, check_pixel_size
from segkit.segmenters.pixels import colour_plane, gray_plane
from segkit.segmenters.recipe import LabelArray, Recipe

GROUP = "segkit.segmenters"
#: What `segment` and `Project.segment` take themselves; a parameter of such a name would never be reached.
RESERVED = ("image", "images", "method", "channel", "z", "level", "priority", "notebook", "pixel_size_um")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmenter:
    """A method with typed parameters that maps pixels to labels."""

    #: what people call it; the name of its entry point
    name: str
    #: changes whenever the same input may give other labels
    version: str
    #: one line for a list of segmenters
    summary: str
    #: what it can be told
    parameters: type[Parameters]
    #: True: wants (rows, columns, 3) uint8; False: wants one gray plane
    colour: bool
    #: (pixels, parameters, pixel_size_um): (rows, columns) int32, 0 on background, 1..n in raster order of their first pixel
    function: Callable[[NDArray[Any], Any, float | None], LabelArray]
    #: the steps that make tiles give the same labels as the whole; None when there are none
    recipe: Recipe | None = None

    @property
    def exact(self) -> bool:
        """Whether the labels of a large image do not depend on how it is tiled."""
        return self.recipe is not None

    def prepare(self, image: ArrayLike) -> NDArray[Any]:
        """Check an image, or a region of one, and bring it to the form that `function` and `recipe` take."""
        return colour_plane(image) if self.colour else gray_plane(image)

    def apply(
        self, pixels: NDArray[Any], parameters: Parameters, pixel_size_um: float | None
    ) -> tuple[LabelArray, NDArray[np.float64] | None, dict[str, float]]:
        """Segment prepared pixels.

        Returns
        -------
        (rows, columns) int32
            The labels.
        (objects,) float64 or None
            How sure it is of each object, where it says so.
        dict
            What is worth telling of the image, such as the size that was estimated.
        """
        if self.recipe is None:
            return self.function(pixels, parameters, pixel_size_um), None, {}
        plan = self.recipe.plan(pixels, parameters, pixel_size_um)
        return *self.recipe.judge(pixels, plan), self.recipe.told(plan)


def names() -> list[str]:
    """Return the names of all segmenters that are installed, sorted; nothing is loaded."""
    return sorted({point.name for point in _entry_points()})


def get(name: str) -> Segmenter:
    """Return the segmenter of this name.

    Raises
    ------
    UnknownSegmenterError
        When there is none; the message names the nearest.
    SegmenterBrokenError
        When the package that offers it cannot be loaded, or offers something else.
    """
    points = [point for point in _entry_points() if point.name == name]
    if not points:
        raise UnknownSegmenterError(name, names())
    return _load(points[0])


def broken() -> dict[str, str]:
    """Return the segmenters that cannot be loaded, with the reason of each."""
    return dict(_faults())


def _faults() -> Iterator[tuple[str, str]]:
    for name in names():
        try:
            get(name)
        except SegmenterBrokenError as error:
            yield name, str(error)


def _entry_points() -> list[EntryPoint]:
    """Return the entry points, our own first, so that no other package takes over a name of ours."""
    return sorted(entry_points(group=GROUP), key=lambda point: (not point.value.startswith("segkit."), point.name, point.value))


@cache
def _load(point: EntryPoint) -> Segmenter:
    try:
        segmenter = point.load()
    except Exception as error:
        raise SegmenterBrokenError(point.name, point.value, f"{type(error).__name__}: {error}") from error
    if not isinstance(segmenter, Segmenter):
        raise SegmenterBrokenError(point.name, point.value, f"it is a {type(segmenter).__name__}, not a Segmenter")
    if segmenter.name != point.name:
        raise SegmenterBrokenError(point.name, point.value, f"it calls itself {segmenter.name!r}")
    for taken in RESERVED:
        if taken in segmenter.parameters.model_fields:
            raise SegmenterBrokenError(point.name, point.value, f'its parameter "{taken}" must have another name')
    return segmenter


def parse_parameters(segmenter: Segmenter, values: Mapping[str, Any] | Parameters | None = None) -> Parameters:
    """Make a segmenter's parameters of plain values, such as a person or a database gives them.

    Raises
    ------
    UnknownParameterError
        When a name is not one of the segmenter's; the message names the nearest.
    InvalidParameterError
        When a value cannot be taken; the message says which and why.
    """
    if isinstance(values, segmenter.parameters):
        return values
    given = dict(values or {})
    known = segmenter.parameters.model_fields
    for name in given:
        if name not in known:
            raise UnknownParameterError(segmenter.name, name, known)
    try:
        return segmenter.parameters(**given)
    except ValidationError as error:
        raise InvalidParameterError("; ".join(_reasons(segmenter, error))) from None


def _reasons(segmenter: Segmenter, error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"]) or "parameters"
        yield f"{segmenter.name}: {where} = {fault['input']!r}: {fault['msg']}"


def segment(image: ArrayLike, method: str | Segmenter = "nuclei", *, pixel_size_um: float | None = None, **parameters: Any) -> LabelArray:
    """Segment one image that is in memory.

    Parameters
    ----------
    image : (rows, columns), or (rows, columns, 3) for colour segmenters
        Any real numbers; NaN and infinity are refused.
    method : str or Segmenter
        Name of a segmenter; `segkit.segmenters.names()` lists them.
    pixel_size_um : float, optional
        Edge of a pixel in micrometres, needed by parameters in micrometres.
    **parameters
        The segmenter's own parameters.

    Returns
    -------
    (rows, columns) int32
        0 on background, 1..n on objects, numbered in raster order of their first pixel.

    Raises
    ------
    UnknownSegmenterError, UnknownParameterError, InvalidParameterError, PixelSizeError, InvalidPixelsError
        Each says what to do.

    Examples
    --------
    >>> image = np.zeros((40, 60)); image[5:15, 5:15] = image[20:32, 30:42] = 1
    >>> segment(image, "threshold").max()
    np.int32(2)
    """
    segmenter = get(method) if isinstance(method, str) else method
    if pixel_size_um is not None:
        check_pixel_size(pixel_size_um)
    kernels.ready()
    return segmenter.function(segmenter.prepare(image), parse_parameters(segmenter, parameters), pixel_size_um)
