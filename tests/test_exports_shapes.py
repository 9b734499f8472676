"""Exports of shapes: each is read back by another library and gives the same objects, pixel for pixel where the format can hold them."""

from __future__ import annotations

import json
import os
import uuid
import warnings
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import roifile
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools.coco import COCO
from shapely.geometry import shape as shape_of

from segkit.exports import export, item_of_arrays
from segkit.measure import measure
from segkit.synthetic import nuclei_field
from tests.labelled_items import Labels, item, puzzle, series

#: Any pixels at all: pieces that touch by corners, holes in holes, objects at the edge.
LABELS = arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 0, 1, 1, 2, 9]))


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
