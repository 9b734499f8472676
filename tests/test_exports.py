"""Exports of every format: one image at a time, whole or not at all, under safe names, and nothing overwritten unasked."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from segkit import exports, results
from segkit.errors import DiskFullError, NotWritableError, OutputExistsError, UnknownExportError
from segkit.exports import Item, export, item_of_arrays
from segkit.exports.output import safe_stem
from segkit.measure import measure
from tests.disks import mounted, unwritable
from tests.labelled_items import item, puzzle

# Large images


@pytest.mark.parametrize("format", exports.FORMATS)
def test_images_are_drawn_one_at_a_time(tmp_path: Path, format: str) -> None:
    alive: list[weakref.ref[Item]] = []
    most = 0

    def images() -> Iterator[Item]:
        nonlocal most
        for number in range(4):
            one = item(puzzle(), f"{number}.tif")
            alive.append(weakref.ref(one))
            yield one
            del one
            most = max(most, sum(each() is not None for each in alive))

    export(format, images(), tmp_path)
    assert most <= 1


# Where it goes


@pytest.mark.parametrize("format", exports.FORMATS)
def test_nothing_is_overwritten_unasked(tmp_path: Path, format: str) -> None:
    out = export(format, [item(puzzle())], tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(OutputExistsError, match="already"):
        export(format, [item(puzzle() * 0)], tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert export(format, [item(puzzle())], tmp_path / "out", overwrite=True) == out
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert not list(tmp_path.rglob(".part*"))


@pytest.mark.parametrize("format", exports.FORMATS)
def test_a_failure_leaves_nothing(tmp_path: Path, format: str) -> None:
    def images() -> Iterator[Item]:
        yield item(puzzle())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        export(format, images(), tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", exports.FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path: Path, format: str) -> None:
    rng = np.random.default_rng(0)
    edge = 400 if format in {"tiff", "ome-zarr"} else 160
    labels = rng.integers(0, 60_000, (edge, edge), dtype=np.int32)
    table = pa.table({"label": rng.permutation(2**15), **{f"x{number}": rng.random(2**15) for number in range(4)}})
    with mounted(tmp_path / "small", "size=96k") as small:
        with pytest.raises(DiskFullError, match="free some space"):
            export(format, [item_of_arrays("a.tif", labels, table)], small / "out")
        assert not list(small.iterdir())


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with unwritable(tmp_path / "locked") as locked, pytest.raises(NotWritableError, match="locked"):
        export("csv", [item(puzzle())], locked / "out")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputExistsError, match="needs a folder"):
        export("geojson", [item(puzzle())], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unknown_format_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownExportError, match='Did you mean "geojson"'):
        export("geojsn", [], tmp_path)


def test_progress_names_each_image(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    export("csv", [item(puzzle(), name) for name in ("a", "b")], tmp_path, progress=lambda steps, name: told.append((steps, name)))
    assert told == [(1, "a"), (1, "b")]


def test_formats_are_described() -> None:
    assert set(exports.formats()) >= {"coco", "geojson", "yolo", "imagej", "csv", "excel", "tiff"}
    assert all(exports.formats().values())


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("plain.tif", "plain"),
        ("a.ome.tif", "a"),
        ('with blank\'s "quotes".png', "with_blank_s_quotes_"),
        ("-rf", "_rf"),
        ("../../etc/passwd", "_etc_passwd"),
        ("C:\\data\\x.tif", "C_data_x"),
        ("line\nbreak\x00.tif", "line_break_"),
        ("🦠🦠.tif", "_"),
        ("日本 µm.tif", "日本_µm"),
        (".hidden", "_hidden"),
        ("", "_"),
        ("CON.tif", "CON_"),
        ("x" * 300 + ".tif", "x" * 100),
        ("漢" * 100, "漢" * 33),
    ],
)
def test_names_are_safe(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


def test_images_of_one_name_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["a.tif", "A.png", "a b.tif", "a/b.tif", "a_b.tif"]
    out = export("geojson", [item(puzzle(), name) for name in names], tmp_path)
    assert sorted(os.listdir(out)) == ["A_2.geojson", "a.geojson", "a_b.geojson", "a_b_2.geojson", "a_b_3.geojson"]


@pytest.mark.parametrize("format", exports.FORMATS)
def test_stored_results_are_exported(tmp_path: Path, format: str) -> None:
    labels = puzzle()
    staging = results.staging(str(tmp_path / "home"), 1, 5, 1)
    written = results.write(staging, labels, measure(labels, pixel_size_um=0.5), axes="YX", pixel_size_um=0.5, provenance={"run": 1})
    stored = exports.item(written.path, 5, "b.tif", "/data/b.tif")
    assert (stored.rows, stored.columns, stored.pixel_size_um, stored.provenance) == (40, 60, 0.5, {"run": 1})
    export(format, [stored], tmp_path / "stored")
    export(format, [item(labels, "b.tif", image_id=5, uri="/data/b.tif", provenance={"run": 1})], tmp_path / "made")
    for path in (tmp_path / "stored").rglob("*.*"):
        if path.is_file() and path.suffix not in {".xlsx", ".tif"}:
            assert path.read_bytes() == (tmp_path / "made" / path.relative_to(tmp_path / "stored")).read_bytes()
