"""What every task of one large image is told, and how it gets at pixels and global numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segkit.errors import InvalidPixelsError, SegkitError, TileFailedError
from segkit.images import Limits, Selection, open_image
from segkit.measure import measure_region, with_confidence
from segkit.segmenters import Parameters, Recipe, Segmenter, Survey
from segkit.tiling.grid import Box, Grid
from segkit.tiling.scratch import Record, Scratch

#: Runs `function(*one)` for every tuple, several at once if it can, and yields results as they come. It draws a tuple only when
#: it has room for it. `segkit.cluster.Cluster.map` is one.
Executor = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]

#: Name of the record of the image's merged survey.
SURVEY = "survey/whole"

#: Memory that one task takes for each pixel in view: pixels, mask, components, labels, and what `split` and measuring need.
BYTES_PER_PIXEL = 48

#: How often a piece of work is tried before its image fails.
ATTEMPTS = 3


def in_turn(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Run everything in this thread, one after another: the plainest executor."""
    return (function(*one) for one in arguments)


@dataclass(frozen=True)
class Work:
    """One plane of a large image and what to do with it: small, picklable, and the same for all of its tasks."""

    uri: str
    content_hash: str  #: of the image, so that nobody goes on with what is left of another
    seen: Selection  #: what the segmenter looks at
    measured: tuple[Selection, ...]  #: what intensities are measured in, if not in the same
    channels: tuple[str, ...] | None  #: names of what is measured, where there are several
    time: int
    limits: Limits
    segmenter: Segmenter
    parameters: Parameters
    pixel_size_um: float | None
    shape: tuple[int, int]  #: rows and columns
    tile: int  #: edge of a tile as it was asked for
    edges: tuple[int, int]  #: rows and columns of a tile as they suit the file
    folder: str  #: path or fsspec URL of the scratch folder

    @property
    def grid(self) -> Grid:
        """The image cut into tiles."""
        return Grid(self.shape, self.edges)

    @property
    def scratch(self) -> Scratch:
        """The files that lie between the passes."""
        return Scratch(self.folder)

    @property
    def recipe(self) -> Recipe:
        """The steps of the segmenter."""
        recipe = self.segmenter.recipe
        assert recipe is not None, "only segmenters with a recipe are tiled"
        return recipe

    @property
    def plan(self) -> Any:
        """The global numbers; to be had once the surveys are merged."""
        return _settle(self)

    def describe(self) -> dict[str, Any]:
        """Return everything that the labels depend on, for JSON."""
        return {
            "image": self.content_hash,
            "seen": asdict(self.seen),
            "measured": [asdict(selection) for selection in self.measured],
            "channels": self.channels,
            "time": self.time,
            "segmenter": [self.segmenter.name, self.segmenter.version],
            "parameters": self.parameters.model_dump(mode="json"),
            "pixel_size_um": self.pixel_size_um,
            "shape": self.shape,
            "tile": self.edges,
        }

    def read(self, box: Box) -> NDArray[Any]:
        """Read what the segmenter looks at, as it is in the file."""
        return self._read([self.seen], box)

    def measure(self, labels: NDArray[np.int32], box: Box, pixels: NDArray[Any], confidence: NDArray[np.float64] | None = None) -> pa.Table:
        """Measure the objects of a region, as if the whole image had been measured; `pixels` are those that `read` gave for it."""
        intensities = self._read(self.measured, box) if self.measured else pixels
        table = measure_region(
            labels, intensities, origin=box[:2], image_shape=self.shape, channels=self.channels, pixel_size_um=self.pixel_size_um
        )
        return with_confidence(table, confidence)

    def confidence(self, seen: Any, labels: NDArray[np.int32], rows: slice, columns: slice) -> NDArray[np.float64] | None:
        """Return how sure the segmenter is of each object of a region, those rows and columns of what it saw; None: it does not say."""
        return self.recipe.confidence(seen, labels, rows, columns) if self.recipe.confidence else None

    def _read(self, selections: Sequence[Selection], box: Box) -> NDArray[Any]:
        with open_image(self.uri, limits=self.limits) as image:
            planes = [image.region(selection, box.rows, box.columns, self.time) for selection in selections]
        return planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)

    def no_objects(self) -> pa.Table:
        """Return the table of an image without objects: all columns, no row."""
        corner = Box(0, 0, 1, 1)
        says = self.segmenter.recipe is not None and self.segmenter.recipe.confidence is not None
        return self.measure(np.zeros((1, 1), np.int32), corner, self.read(corner), np.zeros(0) if says else None)


@lru_cache(maxsize=4)
def _settle(work: Work) -> Any:
    return work.recipe.settle(read_survey(work.scratch.read(SURVEY)), work.shape, work.parameters, work.pixel_size_um)


def pack_survey(survey: Survey) -> dict[str, NDArray[Any]]:
    """Return a survey as the arrays of a record."""
    return {each.name: np.asarray(getattr(survey, each.name)) for each in fields(survey)}


def read_survey(record: Record) -> Survey:
    """Return the survey that a record holds."""
    values = {name: array if array.ndim else array.item() for name, array in record.items()}
    return Survey(**values | {"corner": tuple(record["corner"].tolist())})


def memory_of(box: Box, halo: int) -> int:
    """Return the most bytes that segmenting a box, with a margin of `halo` around it, takes."""
    rows, columns = box.shape
    return (rows + 2 * halo) * (columns + 2 * halo) * BYTES_PER_PIXEL


def attempt_numbered(number: int, step: Callable[..., Any], work: Work, box: Box, *details: Any) -> tuple[int, Any]:
    """Do `attempt`, and return the piece's number with its result, so that whoever waits knows what is not back."""
    return number, attempt(step, work, box, *details)


def attempt(step: Callable[..., Any], work: Work, box: Box, *details: Any) -> Any:
    """Do one step for the pixels of `box`; when it fails, try again, and at last say where.

    Raises
    ------
    TileFailedError
        It failed every time, with something that is not an error of segkit's own.
    SegkitError
        As it came, with the place added to its message.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            return step(work, box, *details)
        except SegkitError as error:
            if not left or isinstance(error, InvalidPixelsError):  # which trying again does not change
                error.args = (f"{error} (In the tile at {box}.)",)
                raise
        except Exception as error:
            if not left:
                raise TileFailedError(
                    f"The piece of the image at {box} failed {ATTEMPTS} times: {type(error).__name__}: {error}. All others are kept; "
                    "when the cause is gone, `segkit retry` does only what is missing."
                ) from error
    return None
