"""Exports: each is read back by another library, and gives the same objects, pixel for pixel where the format can hold them."""

from __future__ import annotations

import csv
import json
import os
import uuid
import warnings
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
import roifile
import shapely
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from shapely.geometry import shape as shape_of

from segkit import exports, results
from segkit.errors import DiskFullError, NotWritableError, OutputExistsError, UnknownExportError
from segkit.exports import Item, export, item_of_arrays
from segkit.exports.output import safe_stem
from segkit.measure import measure
from segkit.synthetic import nuclei_field
from tests.disks import mounted, unwritable

Labels = NDArray[np.int32]

#: Any pixels at all: pieces that touch by corners, holes in holes, objects at the edge.
LABELS = arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 0, 1, 1, 2, 9]))


def puzzle() -> Labels:
    """Draw what is hard to outline: a hole, a hole in an island in a hole, corners, pieces, one pixel, the edge."""
    labels = np.zeros((40, 60), dtype=np.int32)
    labels[2:20, 2:20] = 3
    labels[4:18, 4:18] = 0
    labels[6:16, 6:16] = 3
    labels[9:12, 9:12] = 0
    labels[5, 5] = 7
    labels[22:26, 2:6] = labels[26:30, 6:10] = 4
    labels[22:30, 20:30] = 5
    labels[24:26, 22:24] = labels[26:28, 24:26] = 0
    labels[30:40, 40:60] = 70_001
    labels[0, 59] = 1
    labels[10:14, 30:50] = 12
    labels[11:13, 32:48] = 13
    return labels


def item(labels: Labels, name: str = "a.tif", **options: object) -> Item:
    return item_of_arrays(name, labels, measure(labels, pixel_size_um=0.5), pixel_size_um=0.5, **options)  # type: ignore[arg-type]


def series(axes: str = "TYX") -> Item:
    labels = np.zeros((3, 20, 30), dtype=np.int32)
    for time in range(3):
        labels[time, 2 + time : 9, 3:12] = 1
        labels[time, 12:18, 5 * time : 5 * time + 4] = 2
    labels[1] = np.where(labels[1] == 2, 0, labels[1])
    tables = [measure(frame, pixel_size_um=0.5) for frame in labels]
    objects = pa.concat_tables(table.append_column("time", pa.array([time] * len(table), pa.int32())) for time, table in enumerate(tables))
    return item_of_arrays("series.tif", labels, objects, axes=axes, pixel_size_um=0.5, z_step_um=2.0)


# COCO


def read_coco(path: Path) -> tuple[COCO, dict[int, Labels]]:
    """Draw a COCO file's masks with pycocotools."""
    coco = COCO(path)
    drawn = {number: np.zeros((image["height"], image["width"]), dtype=np.int32) for number, image in coco.imgs.items()}
    for annotation in coco.anns.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11 on numpy 2
            mask = coco.annToMask(annotation).astype(bool)
        assert mask.sum() == annotation["area"]
        left, top, width, height = annotation["bbox"]
        assert np.flatnonzero(mask.any(axis=0))[[0, -1]].tolist() == [left, left + width - 1]
        assert np.flatnonzero(mask.any(axis=1))[[0, -1]].tolist() == [top, top + height - 1]
        drawn[annotation["image_id"]][mask] = annotation["object_id"]
    return coco, drawn


@pytest.mark.parametrize("format", ["coco", "coco-polygons"])
def test_coco_is_exact(tmp_path: Path, format: str) -> None:
    images = [puzzle(), nuclei_field((200, 300), 40).truth, np.zeros((10, 10), dtype=np.int32)]
    path = export(format, [item(labels, f"{number}.tif") for number, labels in enumerate(images)], tmp_path)
    coco, drawn = read_coco(path)
    for number, labels in enumerate(images, 1):
        assert np.array_equal(drawn[number], labels)
        assert {each["object_id"] for each in coco.imgToAnns[number]} == set(np.unique(labels).tolist()) - {0}
    assert [image["file_name"] for image in coco.imgs.values()] == ["0.tif", "1.tif", "2.tif"]
    assert len(coco.anns) == sum(len(np.unique(labels)) - 1 for labels in images)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.sampled_from(["coco", "coco-polygons"]))
def test_coco_is_exact_for_any_pixels(tmp_path_factory: pytest.TempPathFactory, labels: Labels, format: str) -> None:
    _, drawn = read_coco(export(format, [item(labels)], tmp_path_factory.mktemp("coco")))
    assert np.array_equal(drawn[1], labels)


def test_coco_polygons_are_polygons_where_there_is_no_hole(tmp_path: Path) -> None:
    path = export("coco-polygons", [item(puzzle())], tmp_path / "shapes.json")
    kinds = {each["object_id"]: type(each["segmentation"]) for each in json.loads(path.read_text())["annotations"]}
    assert kinds == {1: list, 3: dict, 4: list, 5: dict, 7: list, 12: dict, 13: list, 70_001: list}


def test_coco_has_an_image_for_each_plane(tmp_path: Path) -> None:
    one = series()
    coco, drawn = read_coco(export("coco", [one, one], tmp_path))
    assert [(image["id"], image["t"]) for image in coco.imgs.values()] == [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1), (6, 2)]
    for number in coco.imgs:
        assert np.array_equal(drawn[number], one.read((number - 1) % 3))


# GeoJSON


def paint(geometry: shapely.Geometry, labels: Labels, label: int) -> None:
    """Set the pixels whose middles lie in a geometry."""
    rows, columns = np.indices(labels.shape) + 0.5
    labels[shapely.contains_xy(geometry, columns, rows)] = label


def read_geojson(path: Path, shape: tuple[int, int]) -> Labels:
    drawn = np.zeros(shape, dtype=np.int32)
    for feature in json.loads(path.read_text())["features"]:
        geometry = shape_of(feature["geometry"])
        assert geometry.is_valid, shapely.is_valid_reason(geometry)
        before = np.count_nonzero(drawn)
        paint(geometry, drawn, feature["properties"]["object_id"])
        assert geometry.area == np.count_nonzero(drawn) - before
    return drawn


def test_geojson_is_exact_and_measured(tmp_path: Path) -> None:
    labels = puzzle()
    out = export("geojson", [item(labels)], tmp_path)
    assert np.array_equal(read_geojson(out / "a.geojson", labels.shape), labels)
    document = json.loads((out / "a.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    table = measure(labels, pixel_size_um=0.5).to_pandas().set_index("label")
    for feature in document["features"]:
        label = feature["properties"]["object_id"]
        assert feature["properties"]["name"] == str(label)
        assert feature["properties"]["objectType"] == "detection"
        row = table.loc[label].drop("touches_edge").astype(float)
        assert feature["properties"]["measurements"] == row[np.isfinite(row)].to_dict()


def test_geojson_features_have_lasting_ids(tmp_path: Path) -> None:
    one = item(puzzle(), provenance={"content_hash": "12ab", "run": 3})
    ids = []
    for out in (tmp_path / "1", tmp_path / "2"):
        export("geojson", [one], out)
        ids.append([feature["id"] for feature in json.loads((out / "a.geojson").read_text())["features"]])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])
    space = uuid.uuid5(uuid.NAMESPACE_URL, "segkit/object")
    assert ids[0][0] == str(uuid.uuid5(space, "12ab/3/0/1"))


@settings(max_examples=80, deadline=None)
@given(LABELS)
def test_geojson_is_exact_for_any_pixels(tmp_path_factory: pytest.TempPathFactory, labels: Labels) -> None:
    out = export("geojson", [item(labels)], tmp_path_factory.mktemp("geojson"))
    assert np.array_equal(read_geojson(out / "a.geojson", labels.shape), labels)


def test_geojson_rings_close_and_turn_as_the_standard_says(tmp_path: Path) -> None:
    out = export("geojson", [item(puzzle())], tmp_path)
    for feature in json.loads((out / "a.geojson").read_text())["features"]:
        geometry = feature["geometry"]
        for outer, *holes in [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]:
            assert shapely.LinearRing(outer).is_ccw
            assert all(ring[0] == ring[-1] and not shapely.LinearRing(ring).is_ccw for ring in holes)


def test_geojson_names_the_plane(tmp_path: Path) -> None:
    out = export("geojson", [series()], tmp_path)
    features = json.loads((out / "series.geojson").read_text())["features"]
    assert [(each["geometry"]["plane"]["t"], each["properties"]["object_id"]) for each in features] == [
        (0, 1),
        (0, 2),
        (1, 1),
        (2, 1),
        (2, 2),
    ]
    assert [each["properties"]["measurements"]["area_um2"] for each in features] == [15.75, 6.0, 13.5, 11.25, 6.0]


def test_geojson_leaves_out_what_json_cannot_hold(tmp_path: Path) -> None:
    labels = np.array([[1, 2], [1, 0]], dtype=np.int32)
    table = pa.table({"label": [2], "good": [1.5], "odd": [float("nan")], "big": [float("inf")], "text": ["x"]})
    out = export("geojson", [item_of_arrays("a.tif", labels, table)], tmp_path)
    features = json.loads((out / "a.geojson").read_text(), parse_constant=lambda name: pytest.fail(name))["features"]
    assert [each["properties"]["measurements"] for each in features] == [{}, {"good": 1.5}]


# ImageJ


def read_rois(path: Path, shape: tuple[int, ...]) -> Labels:
    drawn = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]), dtype=np.int32)
    for roi in roifile.roiread(path):
        rings = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
        geometry = shapely.Polygon()
        for ring in rings:
            geometry = geometry.symmetric_difference(shapely.Polygon(ring))
        paint(geometry, drawn[max(roi.position - 1, 0)], int(roi.name.split("-")[-1]))
    return drawn.reshape(shape)


def test_imagej_is_exact(tmp_path: Path) -> None:
    labels = puzzle()
    out = export("imagej", [item(labels)], tmp_path)
    assert np.array_equal(read_rois(out / "a_RoiSet.zip", labels.shape), labels)
    composite = {int(roi.name): roi.composite for roi in roifile.roiread(out / "a_RoiSet.zip")}
    assert composite == {1: False, 3: True, 4: True, 5: True, 7: False, 12: True, 13: False, 70_001: False}
    with zipfile.ZipFile(out / "a_RoiSet.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[:2] == ["0001.roi", "0003.roi"]


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_imagej_is_exact_for_any_pixels(tmp_path_factory: pytest.TempPathFactory, labels: Labels) -> None:
    if not labels.any():
        return
    out = export("imagej", [item(labels)], tmp_path_factory.mktemp("imagej"))
    assert np.array_equal(read_rois(out / "a_RoiSet.zip", labels.shape), labels)


@pytest.mark.parametrize(("axes", "field"), [("TYX", "t_position"), ("ZYX", "z_position")])
def test_imagej_knows_the_plane(tmp_path: Path, axes: str, field: str) -> None:
    one = series(axes)
    out = export("imagej", [one], tmp_path)
    rois = roifile.roiread(out / "series_RoiSet.zip")
    assert [(roi.name, roi.position, getattr(roi, field)) for roi in rois][:3] == [
        ("0001-0001", 1, 1),
        ("0001-0002", 1, 1),
        ("0002-0001", 2, 2),
    ]
    assert np.array_equal(read_rois(out / "series_RoiSet.zip", one.shape), one.labels(None))


def test_imagej_is_exact_far_out(tmp_path: Path) -> None:
    """ImageJ's 16-bit corners end at 32,767; objects beyond keep theirs as floats."""
    labels = np.zeros((6, 70_000), dtype=np.int32)
    labels[1:4, 32_700:32_900] = 1
    labels[1:5, 69_000:69_010] = 2
    labels[2, 69_004] = 0
    out = export("imagej", [item(labels)], tmp_path)
    for roi in roifile.roiread(out / "a_RoiSet.zip"):
        rings = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
        (top, left), (bottom, right) = ([int(edge(where)) for where in np.nonzero(labels == int(roi.name))] for edge in (np.min, np.max))
        assert np.min(rings[0], axis=0).tolist() == [left, top]
        assert np.max(rings[0], axis=0).tolist() == [right + 1, bottom + 1]


# YOLO


def read_yolo(folder: Path, stem: str, shape: tuple[int, int]) -> Labels:
    """Draw a label file as trainers do: fractions times size, cut to integers, filled with OpenCV."""
    drawn = np.zeros(shape, dtype=np.int32)
    ids = (folder / "ids" / f"{stem}.txt").read_text().split()
    for label, line in zip(ids, (folder / "labels" / f"{stem}.txt").read_text().splitlines(), strict=True):
        kind, *numbers = line.split()
        points = np.array(numbers, dtype=float).reshape(-1, 2)
        assert kind == "0"
        assert len(points) >= 3
        assert (points >= 0).all()
        assert (points <= 1).all()
        cv2.fillPoly(drawn, [(points * shape[::-1]).astype(np.int32)], int(label))
    return drawn


def test_yolo_is_exact_without_holes(tmp_path: Path) -> None:
    labels = nuclei_field((150, 222), 30).truth.astype(np.int32)
    for label in np.unique(labels[labels > 0]):
        contours, _ = cv2.findContours((labels == label).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        assert len(contours) == 1, "the field has no holes"
    out = export("yolo", [item(labels)], tmp_path)
    assert np.array_equal(read_yolo(out, "a", labels.shape), labels)


def test_yolo_loses_holes_and_nothing_else(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), dtype=np.int32)
    labels[2:10, 2:10] = 4
    labels[4:6, 4:6] = 0
    labels[12:15, 3:5] = labels[12:15, 8:10] = 6
    labels[18, 29] = labels[0, 12] = 8
    labels[17, 3:9] = 9
    out = export("yolo", [item(labels)], tmp_path)
    filled = labels.copy()
    filled[4:6, 4:6] = 4
    assert np.array_equal(read_yolo(out, "a", labels.shape), filled)
    assert (out / "ids" / "a.txt").read_text().split() == ["4", "6", "6", "8", "8", "9"]


def test_yolo_is_a_data_set(tmp_path: Path) -> None:
    image = tmp_path / "my image.PNG"
    Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(image)
    out = export(
        "yolo",
        [item(puzzle(), image.name, uri=str(image)), item(puzzle(), "gone.tif", uri="s3://bucket/gone.tif"), series()],
        tmp_path / "set",
    )
    assert (out / "data.yaml").read_text() == 'path: "."\ntrain: "images"\nval: "images"\nnames: {0: "object"}\n'
    assert (out / "images" / "my_image.png").resolve() == image
    assert os.listdir(out / "images") == ["my_image.png"]
    names = ["gone.txt", "my_image.txt", "series_t0000.txt", "series_t0001.txt", "series_t0002.txt"]
    assert sorted(os.listdir(out / "labels")) == sorted(os.listdir(out / "ids")) == names


def test_yolo_has_a_file_for_an_image_without_objects(tmp_path: Path) -> None:
    out = export("yolo", [item(np.zeros((5, 5), dtype=np.int32))], tmp_path)
    assert (out / "labels" / "a.txt").read_text() == ""


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


# Large images


@pytest.mark.parametrize("format", ["coco", "geojson", "imagej", "yolo"])
def test_bands_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    labels = nuclei_field((300, 410), 60).truth.astype(np.int32)
    labels[20:280, 200:203] = 500
    labels[100:110, 5:400] = 501
    whole, parted = (item(labels, name) for name in ("whole", "parted"))
    export(format, [whole], tmp_path / "whole")
    monkeypatch.setattr("segkit.exports.shapes.BAND_PIXELS", 410 * 37)
    export(format, [parted], tmp_path / "parted")
    if format == "coco":
        assert np.array_equal(read_coco(tmp_path / "parted" / "annotations.json")[1][1], labels)
    elif format == "geojson":
        assert np.array_equal(read_geojson(tmp_path / "parted" / "parted.geojson", labels.shape), labels)
    elif format == "imagej":
        assert np.array_equal(read_rois(tmp_path / "parted" / "parted_RoiSet.zip", labels.shape), labels)
    else:
        lines = [sorted((tmp_path / name / "labels" / f"{name}.txt").read_text().splitlines()) for name in ("whole", "parted")]
        assert lines[0] == lines[1]


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
