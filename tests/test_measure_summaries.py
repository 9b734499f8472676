"""What cannot be measured is refused in words, summaries describe what was, and the document defines every column."""

from __future__ import annotations

import doctest
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import segkit.measure
from segkit.errors import InvalidPixelsError, PixelSizeError, SegkitError
from segkit.kernels import chords, hulls, measuring, outlines
from segkit.measure import measure, measure_region, summarise
from tests.labelled_shapes import blobs, plane

DOCUMENT = Path(__file__).parents[1] / "docs" / "measurements.md"


# Input that cannot be measured


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.ones((4, 4)), "must be integers"),
        (np.ones((4, 4), dtype=bool), "Number the objects"),
        (np.array([[0, -1]]), "counted from 1"),
        (np.array([[0, 2**64 - 1]], dtype=np.uint64), "2\\*\\*63"),
        (np.zeros(4, dtype=int), "not of shape"),
        (np.zeros((1, 2, 3, 4), dtype=int), "time points one by one"),
    ],
)
def test_labels_that_are_not_labels_are_refused(labels: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidPixelsError, match=words):
        measure(labels)


@pytest.mark.parametrize(
    ("image", "channels", "words"),
    [
        (np.zeros((4, 5)), None, "same pixels"),
        (np.zeros((3, 4, 4)), None, "moveaxis"),
        (np.zeros((4, 4), dtype=complex), None, "complex"),
        (np.full((4, 4), "a"), None, "numbers"),
        (np.zeros((4, 4, 3)), ["one", "two"], "3 channels, but 2"),
        (np.zeros((4, 4, 2)), ["a b", "a-b"], "must differ"),
    ],
)
def test_images_that_do_not_fit_are_refused(image: np.ndarray, channels: list[str] | None, words: str) -> None:
    with pytest.raises(InvalidPixelsError, match=words):
        measure(np.ones((4, 4), dtype=int), image, channels=channels)


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf, "0.3", True])
def test_a_pixel_size_that_is_not_a_positive_number_is_refused(size: Any) -> None:
    labels = np.ones((2, 4, 4), dtype=int)
    with pytest.raises(PixelSizeError, match="pixel_size_um must be a positive"):
        measure(labels[0], pixel_size_um=size)
    with pytest.raises(PixelSizeError, match="z_step_um must be a positive"):
        measure(labels, pixel_size_um=1, z_step_um=size)


def test_a_volume_with_one_of_two_sizes_is_refused_and_a_plane_needs_no_step() -> None:
    labels = np.ones((2, 4, 4), dtype=int)
    halves: list[dict[str, Any]] = [{"pixel_size_um": 0.5}, {"z_step_um": 0.5}]
    for sizes in halves:
        with pytest.raises(PixelSizeError, match="both"):
            measure(labels, **sizes)
    assert measure(labels[0], pixel_size_um=0.5, z_step_um=3)["area_um2"].to_pylist() == [4.0]


@pytest.mark.parametrize(
    ("origin", "shape"), [((0, 0), (3, 9)), ((-1, 0), (9, 9)), ((0, 6), (9, 9)), ((0, 0, 0), (9, 9, 9)), ((0,), (9, 9))]
)
def test_a_region_outside_its_image_is_refused(origin: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(SegkitError, match="not inside an image"):
        measure_region(np.ones((4, 4), dtype=int), origin=origin, image_shape=shape)


@pytest.mark.parametrize("shape", [(20, 30), (0, 0), (0, 5), (1, 1), (3, 20, 30), (0, 4, 4)])
def test_an_image_with_nothing_in_it_has_a_table_with_all_columns(shape: tuple[int, ...]) -> None:
    sizes: dict[str, Any] = {"pixel_size_um": 0.5, "z_step_um": 1.0}
    table = measure(np.zeros(shape, dtype=np.int32), np.zeros(shape), **sizes)
    full = measure(np.ones((3,) * len(shape), dtype=np.int32), np.zeros((3,) * len(shape)), **sizes)
    assert table.num_rows == 0
    assert table.schema.equals(full.schema)
    assert summarise(table)["objects"] == 0


# Summaries


def test_the_summary_counts_and_describes_and_survives_parquet_and_json() -> None:
    labels = plane(100, 200, np.s_[0:10, 0:10], np.s_[50:60, 50:60], np.s_[50:70, 100:120])
    table = measure(labels, labels, pixel_size_um=2)
    file = io.BytesIO()
    pq.write_table(table, file)
    summary = json.loads(json.dumps(summarise(pq.read_table(file)), allow_nan=False))
    assert summary == json.loads(json.dumps(summarise(table)))
    assert summary["objects"] == 3
    assert summary["touching_edge"] == pytest.approx(1 / 3)
    assert summary["density_per_mm2"] == pytest.approx(3 / (0.2 * 0.4))
    assert summary["coverage"] == pytest.approx(600 / 20000)
    areas = summary["area_um2"]
    assert (areas["min"], areas["median"], areas["mean"], areas["max"]) == (400, 400, 800, 1600)
    assert areas["q95"] == pytest.approx(np.quantile([400, 400, 1600], 0.95))
    assert summary["intensity_mean"]["mean"] == 2
    assert summary["circularity"]["max"] <= 1
    assert summary["equivalent_diameter_um"]["std"] > 0


def test_the_summary_says_none_where_there_is_nothing_to_tell() -> None:
    image = np.full((4, 4), np.nan)
    table = measure(np.ones((4, 4), dtype=int), image)
    summary = json.loads(json.dumps(summarise(table), allow_nan=False))
    assert summary["density_per_mm2"] is None
    assert summary["intensity_mean"]["median"] is None
    assert summary["coverage"] == 1
    nothing = json.loads(json.dumps(summarise(table.slice(0, 0).replace_schema_metadata(None)), allow_nan=False))
    assert (nothing["objects"], nothing["touching_edge"], nothing["coverage"], nothing["area_px"]["mean"]) == (0, None, None, None)


def test_the_summary_of_a_volume_is_per_cubic_millimetre() -> None:
    summary = summarise(measure(np.ones((2, 4, 4), dtype=int), pixel_size_um=5, z_step_um=10))
    assert summary["density_per_mm3"] == pytest.approx(1 / (0.02 * 0.02 * 0.02))
    assert summary["volume_um3"]["mean"] == 8000


# Documents


def test_the_document_defines_every_column_and_no_other() -> None:
    first_cells = re.findall(r"^\| (`[^|]+) \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    documented = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    labels = np.ones((2, 3, 3), dtype=int)
    measured: set[str] = set()
    known: list[dict[str, Any]] = [{}, {"pixel_size_um": 0.5, "z_step_um": 1.0}]
    for sizes in known:
        measured |= {*measure(labels, labels, **sizes).column_names, *measure(labels[0], labels[0], **sizes).column_names}
    assert measured == documented


@pytest.mark.parametrize("module", [segkit.measure, chords, hulls, measuring, outlines])
def test_examples_run(module: Any) -> None:
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("module", [chords, hulls, measuring, outlines])
def test_warming_compiles_all_there_is_to_compile(module: Any) -> None:
    for kernel in (chords, measuring, outlines, hulls):
        kernel.warm()
    loops = [loop for loop in vars(module).values() if hasattr(loop, "signatures")]
    before = [len(loop.signatures) for loop in loops]
    assert loops
    for dtype in (np.uint8, np.int32, np.int64, np.uint64):
        for pixels in (np.uint8, np.uint16, np.int32, np.float32, np.float64):
            labels = blobs(0, (4, 20, 20)).astype(dtype)
            measure(labels, labels.astype(pixels))
            measure(labels[0], labels[0].astype(pixels))
    assert [len(loop.signatures) for loop in loops] == before
