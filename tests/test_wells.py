"""Wells in the names of images."""

from __future__ import annotations

import pytest

from segkit.wells import Well, plate_of, well_of


@pytest.mark.parametrize(
    ("name", "well"),
    [
        ("plate7_A01_f003.tif", "A01"),
        ("P24.tif", "P24"),
        ("r2-H12-dapi.tif", "H12"),
        ("AF48_1.tif", "AF48"),
        ("B3.tif", "B03"),
        ("image.tif", None),
        ("IMG0012.tif", None),
        ("A00.tif", None),
        ("Q01.tif", None),
        ("DATA01.tif", None),
        ("", None),
    ],
)
def test_wells_are_read_from_names(name: str, well: str | None) -> None:
    found = well_of(name)
    assert (found and found.name) == well


def test_the_smallest_plate_is_drawn() -> None:
    assert plate_of([Well(0, 1)]) == (2, 3)
    assert plate_of([Well(7, 12)]) == (8, 12)
    assert plate_of([Well(8, 1)]) == (16, 24)
    assert plate_of([Well(31, 48)]) == (32, 48)
