"""Exports of tables and label images: read back by another library they are the same, and no name in them starts a formula."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
import zarr
from PIL import Image

from segkit.exports import Item, export, item_of_arrays
from segkit.measure import measure
from segkit.synthetic import nuclei_field
from tests.labelled_items import item, puzzle, series

# Tables


NASTY = ["=cmd|' /C calc'!A0", "+1", "-rf.tif", "@SUM(A1)", "\t=1", "  =1", 'say "hi", ok', "line\nbreak", "µ 漢 🦠.tif", "'quoted"]


def nasty_items() -> list[Item]:
    return [item(puzzle(), name, image_id=number) for number, name in enumerate(NASTY, 1)]


def test_csv_is_the_table(tmp_path: Path) -> None:
    path = export("csv", nasty_items(), tmp_path / "all.csv")
    frame = pd.read_csv(path)
    table = measure(puzzle(), pixel_size_um=0.5).to_pandas()
    assert frame.columns.tolist() == ["image_id", "image", *table.columns]
    for _, rows in frame.groupby("image_id"):
        pd.testing.assert_frame_equal(rows.drop(columns=["image_id", "image"]).reset_index(drop=True), table)


def test_csv_starts_no_formula(tmp_path: Path) -> None:
    path = export("csv", nasty_items(), tmp_path)
    with path.open(newline="", encoding="utf-8") as file:
        names = list(dict.fromkeys(row["image"] for row in csv.DictReader(file)))
    assert not [name for name in names if name.lstrip()[0] in "=+-@"]
    assert [name.removeprefix("'") for name in names[:6]] == NASTY[:6]
    assert names[6:] == NASTY[6:]


def test_columns_of_all_images_are_kept(tmp_path: Path) -> None:
    known = item(puzzle(), "known.tif", image_id=1)
    unknown = item_of_arrays("unknown.tif", puzzle(), measure(puzzle()), image_id=2)
    nothing = item_of_arrays("nothing.tif", puzzle() * 0, measure(puzzle() * 0), image_id=3)
    path = export("csv", (each for each in (known, unknown, nothing, known)), tmp_path)
    frame = pd.read_csv(path)
    assert frame["image"].tolist() == ["known.tif"] * 8 + ["unknown.tif"] * 8 + ["known.tif"] * 8
    assert frame["area_um2"].notna().tolist() == [True] * 8 + [False] * 8 + [True] * 8
    assert frame["area_px"].notna().sum() == 8


@pytest.mark.parametrize("format", ["csv", "excel"])
def test_a_table_without_images_has_its_names(tmp_path: Path, format: str) -> None:
    path = export(format, [], tmp_path)
    frame = pd.read_csv(path) if format == "csv" else pd.read_excel(path)
    assert frame.columns.tolist() == ["image_id", "image", "label"]
    assert frame.empty


def test_excel_is_the_table(tmp_path: Path) -> None:
    one = item(puzzle(), provenance={"segmenter": "nuclei", "parameters": {"diameter_um": 9}, "uri": "/secret"})
    path = export("excel", [one], tmp_path)
    frame = pd.read_excel(path, sheet_name="objects")
    pd.testing.assert_frame_equal(frame.drop(columns=["image_id", "image"]), measure(puzzle(), pixel_size_um=0.5).to_pandas())
    about = dict(openpyxl.load_workbook(path)["about"].iter_rows(values_only=True))
    assert about["segmenter"] == "nuclei"
    assert about["parameters"] == '{"diameter_um": 9}'
    assert "uri" not in about


def test_excel_starts_no_formula(tmp_path: Path) -> None:
    sheet = openpyxl.load_workbook(export("excel", nasty_items(), tmp_path))["objects"]
    cells = [row[1] for row in sheet.iter_rows(min_row=2)]
    assert {cell.data_type for cell in cells} == {"s"}
    assert list(dict.fromkeys(cell.value for cell in cells)) == NASTY


def test_excel_goes_on_on_another_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.exports.excel.SHEET_ROWS", 11)
    book = openpyxl.load_workbook(export("excel", [item(puzzle(), image_id=number) for number in range(3)], tmp_path))
    assert book.sheetnames == ["objects", "objects 2", "objects 3", "about"]
    assert [book[name].max_row for name in book.sheetnames[:3]] == [11, 11, 5]
    assert {book[name]["C1"].value for name in book.sheetnames[:3]} == {"label"}
    rows = [row[0] for name in book.sheetnames[:3] for row in book[name].iter_rows(min_row=2, values_only=True)]
    assert rows == [0] * 8 + [1] * 8 + [2] * 8


def test_excel_has_no_cell_for_a_number_it_lacks(tmp_path: Path) -> None:
    table = pa.table({"label": [1, 2, 3], "value": [float("nan"), float("-inf"), 2.5]})
    sheet = openpyxl.load_workbook(export("excel", [item_of_arrays("a", puzzle(), table)], tmp_path))["objects"]
    assert [row[3] for row in sheet.iter_rows(min_row=2, values_only=True)] == [None, None, 2.5]


# Label images


def test_tiff_keeps_labels_and_pixel_size(tmp_path: Path) -> None:
    labels = puzzle() % 50_000
    out = export("tiff", [item(labels)], tmp_path)
    with tifffile.TiffFile(out / "a_labels.tif") as file:
        assert file.is_imagej
        assert file.asarray().dtype == np.uint16
        assert np.array_equal(file.asarray(), labels)
        assert file.imagej_metadata is not None
        assert file.imagej_metadata["unit"] == "um"
        numerator, denominator = file.pages.first.tags["XResolution"].value
        assert numerator / denominator == pytest.approx(2.0)
    assert np.array_equal(np.asarray(Image.open(out / "a_labels.tif")), labels)


def test_tiff_of_many_objects_has_32_bits(tmp_path: Path) -> None:
    out = export("tiff", [item(puzzle())], tmp_path)
    with tifffile.TiffFile(out / "a_labels.tif") as file:
        assert file.is_ome
        assert file.asarray().dtype == np.uint32
        assert np.array_equal(file.asarray(), puzzle())
        assert file.ome_metadata is not None
        assert 'PhysicalSizeX="0.5"' in file.ome_metadata
        assert 'PhysicalSizeXUnit="µm"' in file.ome_metadata


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_tiff_keeps_the_axes(tmp_path: Path, axes: str) -> None:
    one = series(axes)
    out = export("tiff", [one], tmp_path)
    with tifffile.TiffFile(out / "series_labels.tif") as file:
        assert file.series[0].axes == axes
        assert np.array_equal(file.asarray(), one.labels(None))
        assert file.imagej_metadata is not None
        assert file.imagej_metadata["spacing"] == 2.0


@pytest.mark.parametrize("largest", [9, 70_000])
def test_tiff_of_a_large_image_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    for module in ("shapes", "tiff"):
        monkeypatch.setattr(f"segkit.exports.{module}.BAND_PIXELS", 50_000)
    monkeypatch.setattr("segkit.exports.tiff.TILE", 64)
    monkeypatch.setattr("segkit.exports.tiff.CLASSIC_BYTES", 10_000)
    labels = nuclei_field((300, 410), 60).truth.astype(np.int32)
    labels[0, 0] = largest
    out = export("tiff", [item(labels)], tmp_path)
    with tifffile.TiffFile(out / "a_labels.tif") as file:
        assert file.is_bigtiff
        assert file.pages.first.is_tiled
        assert np.array_equal(file.asarray(), labels)


def test_omezarr_is_the_label_image(tmp_path: Path) -> None:
    one, two = series("ZYX"), item(puzzle())
    out = export("ome-zarr", [one, two], tmp_path)
    assert np.array_equal(zarr.open_group(out / "series.ome.zarr", mode="r")["0"][...], one.labels(None))
    assert np.array_equal(zarr.open_group(out / "a.ome.zarr", mode="r")["0"][...], puzzle())
    export("ome-zarr", [item(puzzle() * 0)], tmp_path, overwrite=True)
    assert not zarr.open_group(out / "a.ome.zarr", mode="r")["0"][...].any()
