"""A plain segmenter, label images and tables in memory, and the comparison of an image in tiles with the whole."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tifffile
from numpy.typing import NDArray

from segkit.kernels.splitting import split_at_distance_peaks
from segkit.measure import measure, with_confidence
from segkit.segmenters import Parameters, Recipe, Segmenter, Survey
from segkit.segmenters.recipe import walls
from segkit.tiling import Tiled, in_turn, segment_large

BLOCK = 4


class Plain(Parameters):
    """What the plain segmenter of these tests can be told."""

    spacing: int = 0
    fill: bool = True
    smallest: int = 0


@dataclass(frozen=True)
class Plan:
    shape: tuple[int, int]
    parameters: Plain


def survey_nothing(pixels: NDArray[Any], row: int, column: int, parameters: Plain, margins: tuple[int, ...]) -> Survey:
    rows, columns = (-(-size // BLOCK) for size in pixels.shape)
    return Survey(np.zeros((1, 0), np.int64), 0, np.zeros((rows, columns, 0)), (row // BLOCK, column // BLOCK), pixels.dtype.name)


def settle(survey: Survey, shape: tuple[int, int], parameters: Plain, pixel_size_um: float | None) -> Plan:
    return Plan(shape, parameters)


def above_zero(pixels: NDArray[Any], plan: Plan, row: int, column: int) -> NDArray[np.bool_]:
    return pixels > 0


def split(pixels: NDArray[Any], components: NDArray[np.int32], plan: Plan, row: int, column: int) -> NDArray[np.int32]:
    sides = walls(components.shape, row, column, plan.shape)
    return split_at_distance_peaks(components, sides, plan.parameters.spacing, plan.parameters.smallest, plan.parameters.fill)


def no_halo(plan: Plan) -> int:
    return 1


def plain(connectivity: int = 2) -> Segmenter:
    recipe = Recipe(BLOCK, survey_nothing, settle, no_halo, above_zero, split, connectivity)
    return Segmenter("plain", "1", "Everything above zero.", Plain, False, recipe.apply, recipe)


def shuffled(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    pieces = list(arguments)
    random.Random(len(pieces)).shuffle(pieces)
    return in_turn(function, pieces)


def eight_threads(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    with ThreadPoolExecutor(8) as pool:
        for each in as_completed([pool.submit(function, *one) for one in arguments]):
            yield each.result()


@dataclass
class Labels:
    """A label image in memory that lets every pixel be written once, in whole chunks."""

    pixels: NDArray[np.int32]
    chunk: tuple[int, ...]
    path: str = field(default_factory=lambda: uuid.uuid4().hex)
    writes: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...], *chunk: int) -> Labels:
        return cls(np.full(shape, -1, np.int32), chunk)

    def write(self, labels: NDArray[np.int32], origin: tuple[int, ...]) -> None:
        for start, size, edge, end in zip(origin, labels.shape, self.chunk, self.pixels.shape, strict=True):
            assert start % edge == 0
            assert (start + size) % edge == 0 or start + size == end
        place = tuple(slice(start, start + size) for start, size in zip(origin, labels.shape, strict=True))
        assert (self.pixels[place] == -1).all()
        self.pixels[place] = labels
        self.writes += 1

    @property
    def found(self) -> NDArray[np.int32]:
        """What was written; regions that were left out are background."""
        return np.maximum(self.pixels, 0)


@dataclass
class Objects:
    tables: list[pa.Table] = field(default_factory=list)

    def write(self, table: pa.Table) -> None:
        self.tables.append(table)

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self.tables).combine_chunks()


def save(folder: Path, pixels: NDArray[Any], name: str = "image.tif") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / name, pixels)
    return str(folder / name)


def check(folder: Path, uri: str, pixels: NDArray[Any], segmenter: Segmenter, parameters: Parameters, **options: Any) -> Tiled:
    """Segment an image in tiles and compare with the whole."""
    chunk = options.pop("chunk", (16, 16))
    labels, objects = Labels.of(pixels.shape[:2], *chunk), Objects()
    scratch = str(folder / f"scratch-{uuid.uuid4().hex}")
    tiled = segment_large(uri, segmenter, parameters, folder=scratch, labels=labels, objects=objects, **options)
    whole, confidence, _ = segmenter.apply(segmenter.prepare(pixels), parameters, options.get("pixel_size_um"))
    np.testing.assert_array_equal(labels.found, whole)
    channels = ("red", "green", "blue") if segmenter.colour else None
    expected = with_confidence(measure(whole, pixels, channels=channels, pixel_size_um=options.get("pixel_size_um")), confidence)
    assert tiled.objects == whole.max(initial=0) == objects.table.num_rows
    assert objects.table.equals(expected, check_metadata=True)
    return tiled


def rings(size: int, gap: int = 3) -> NDArray[np.uint8]:
    """Square frames within frames, none touching another."""
    pixels = np.zeros((size, size), np.uint8)
    for number, inset in enumerate(range(0, size // 2, gap)):
        pixels[inset : size - inset, inset : size - inset] = number % 2 == 0
    return pixels
