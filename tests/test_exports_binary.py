"""Binary forms of tables and outlines: exact, and as small as promised."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

import segkit
from segkit import exports, synthetic
from segkit.exports import binary
from segkit.exports.items import Item, item_of_arrays
from segkit.exports.shapes import bands
from segkit.kernels.rings import Rings, trace
from segkit.measure import measure


@pytest.fixture(scope="module")
def item() -> Item:
    """Some hundred nuclei with their measurements."""
    image = synthetic.nuclei_field((1024, 1024), 400, seed=7).image
    labels = segkit.segment(image, "nuclei")
    table = measure(labels, image, pixel_size_um=0.325)
    assert table.num_rows > 200
    return item_of_arrays("plate.tif", labels, table, pixel_size_um=0.325)


def test_a_table_is_a_third_of_its_csv_and_says_the_same(item: Item) -> None:
    table = item.objects()
    as_csv = io.BytesIO()
    csv.write_csv(table, as_csv)
    data = binary.table_arrow(table)
    assert len(data) <= 0.35 * len(as_csv.getvalue())
    back = pa.ipc.open_stream(data).read_all()
    assert (back.schema.names, back.schema.metadata) == (table.schema.names, table.schema.metadata)
    for name in table.schema.names:
        one, other = table[name].to_numpy(), back[name].to_numpy()
        if pa.types.is_floating(table[name].type):
            np.testing.assert_allclose(other, one, rtol=6e-8)
        else:
            np.testing.assert_array_equal(other, one)


def test_outlines_are_a_tenth_of_their_geojson(item: Item, tmp_path: Path) -> None:
    exports.export("geojson", [item], tmp_path / "out")
    (geojson,) = (tmp_path / "out").glob("*.geojson")
    assert len(binary.outlines_arrow(item)) <= 0.10 * geojson.stat().st_size


def test_outlines_come_back(item: Item) -> None:
    rings = [(band, number) for band in bands(item) for number in range(len(band.rings.labels))]
    found = list(binary.read_outlines(binary.outlines_arrow(item)))
    assert len(found) == len(rings)
    for (band, number), (plane, label, hole, corners) in zip(rings, found, strict=True):
        start, end = band.rings.starts[number : number + 2]
        assert (plane, label, hole) == (band.plane, band.rings.labels[number], band.rings.areas[number] < 0)
        np.testing.assert_array_equal(corners, band.rings.corners[start:end])


def test_holes_pieces_and_planes_come_back() -> None:
    labels = np.zeros((2, 9, 9), dtype=np.int32)
    labels[0, 1:6, 1:6] = 5
    labels[0, 3, 3] = 0
    labels[1, 7, 7] = labels[1, 0, 0] = 2
    item = item_of_arrays("stack.tif", labels, pa.table({"label": [2, 5]}), axes="ZYX")
    found = [(plane, label, hole, len(corners)) for plane, label, hole, corners in binary.read_outlines(binary.outlines_arrow(item))]
    assert found == [(0, 5, False, 4), (0, 5, True, 4), (1, 2, False, 4), (1, 2, False, 4)]


def test_no_objects(tmp_path: Path) -> None:
    item = item_of_arrays("empty.tif", np.zeros((5, 5), dtype=np.int32), pa.table({"label": pa.array([], pa.int32())}))
    assert list(binary.read_outlines(binary.outlines_arrow(item))) == []


def test_edges_longer_than_a_step_can_say() -> None:
    corners = np.array([[0, 0], [0, 100_000], [2, 100_000], [2, 0]], dtype=np.int32)
    rings = Rings(corners, np.array([0, 4]), np.array([3]), np.array([200_000]))
    split = binary.split_steps(rings)
    assert np.abs(np.diff(split.corners, axis=0)).max() <= binary.LONGEST_STEP
    assert {tuple(corner) for corner in corners.tolist()} <= {tuple(corner) for corner in split.corners.tolist()}
    assert binary.split_steps(trace(np.ones((3, 3), dtype=np.int32))).corners.shape == (4, 2)
