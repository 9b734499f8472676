"""The results of a run as one looks at them: a row for each image, and a fair sample of the objects, each read once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from cachetools import LRUCache
from numpy.typing import NDArray

from segkit import previews, results
from segkit.errors import SegkitError
from segkit.kit import Kit
from segkit.runs import Run, mean_confidence, typical_size
from segkit.wells import Well, well_of

#: More points than these tell an eye nothing, and make a page slow.
MOST_POINTS = 20_000
#: Tables that are read for the sample.
MOST_TABLES = 200
#: Runs whose looks are kept.
KEPT = 8
#: Columns that are no measurements.
PLACES = ("label", "image_id", "box_", "touches_edge", "centroid_")


@dataclass(frozen=True)
class ImageLook:
    """The result of one image."""

    image_id: int
    name: str
    objects: int
    size: float  #: median area or volume; NaN without objects
    seconds: float
    well: Well | None
    path: str
    confidence: float = float("nan")  #: how sure the segmenter was of the objects; NaN where it does not say


@dataclass(frozen=True)
class Sample:
    """Objects drawn at random, and of how many."""

    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    images: tuple[str, ...] = ()  #: name of each object's image
    objects: int = 0  #: of the run
    tables: int = 0  #: images that were read
    unread: int = 0  #: of those chosen, images whose table cannot be read

    @property
    def drawn(self) -> int:
        """How many objects are in the sample."""
        return len(self.images)

    @property
    def words(self) -> str:
        """Say honestly what is shown."""
        if self.drawn == self.objects:
            return f"All {self.objects:,} objects."
        lost = f" {self.unread} of these images could not be read." if self.unread else ""
        return f"{self.drawn:,} of {self.objects:,} objects, drawn at random from {self.tables:,} images.{lost}"


@dataclass(frozen=True)
class Look:
    """The results of one run, as they were when it was looked at."""

    run: Run
    images: tuple[ImageLook, ...]

    @property
    def objects(self) -> int:
        """Objects of all images."""
        return sum(each.objects for each in self.images)

    @property
    def size_name(self) -> str:
        """Column of the objects' size."""
        return next((name for name in self.sample.columns if name.startswith(("area_", "volume_"))), "size")

    @cached_property
    def sample(self) -> Sample:
        """Draw objects: all when they are few, else at random, from images at random."""
        return sample_of(self)

    @cached_property
    def worst(self) -> list[ImageLook]:
        """The images that differ most from the others, the oddest first."""
        looks = [(each.objects, each.size) for each in self.images]
        return [self.images[place] for place in previews.oddest(looks, len(looks), [each.confidence for each in self.images])]


def look_at(run: Run, progress: Callable[[int], None] | None = None) -> Look:
    """Read the result rows of a run, a page at a time."""
    images = []
    for result in run.results():
        record = result.record
        size = typical_size(record.summary)
        facts = (record.image_id, record.image, record.objects, size, record.seconds, well_of(record.image), result.path)
        images.append(ImageLook(*facts, mean_confidence(record.summary)))
        if progress is not None and len(images) % 1000 == 0:
            progress(len(images))
    return Look(run, tuple(images))


def sample_of(look: Look) -> Sample:
    """Draw a sample of a run's objects; the same each time."""
    chance = np.random.default_rng(look.run.number)
    held = [each for each in look.images if each.objects]
    order = chance.permutation(len(held))[:MOST_TABLES]
    parts, names, unread = [], [], 0
    for each in (held[place] for place in sorted(order)):
        try:
            table = results.read_objects(each.path)
        except SegkitError:
            unread += 1
            continue
        parts.append(measured(table))
        names += [each.name] * table.num_rows
    columns = joined(parts)
    if len(names) > MOST_POINTS:
        chosen = np.sort(chance.choice(len(names), MOST_POINTS, replace=False))
        columns, names = {name: values[chosen] for name, values in columns.items()}, [names[place] for place in chosen]
    return Sample(columns, tuple(names), look.objects, len(parts), unread)


def measured(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Return the measurements of an object table as numbers."""
    wanted = [name for name in table.column_names if not name.startswith(PLACES)]
    numbers = [
        name for name in wanted if pa.types.is_floating(table.schema.field(name).type) or pa.types.is_integer(table.schema.field(name).type)
    ]
    return {name: table[name].to_numpy().astype(np.float64) for name in numbers}


def joined(parts: list[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """Put measurements of several tables together; only what all of them have."""
    if not parts:
        return {}
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


_kept: LRUCache[tuple[str, int, int, int], Look] = LRUCache(KEPT)
_keeping = threading.Lock()


def kept_look(kit: Kit, number: int) -> Look:
    """Look at a run, unless that was done since its results changed.

    Raises
    ------
    UnknownRunError
        There is no such run.
    """
    run = kit.run(number)
    key = (kit.settings.resolved_database_url, number, run.record.done, run.record.objects)
    with _keeping:
        look = _kept.get(key)
    if look is None:
        look = look_at(run)
        with _keeping:
            _kept[key] = look
    return look
