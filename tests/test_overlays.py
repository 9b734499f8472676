"""Overlays: outlines where the objects end, numbers as in the tables, sheets that hold what they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from segkit import overlays
from segkit.errors import DiskFullError, InvalidPixelsError, OutputExistsError
from segkit.synthetic import nuclei_field
from tests.disks import mounted


def test_outlines_are_those_of_scikit_image() -> None:
    labels = nuclei_field((120, 150), 20).truth
    assert np.array_equal(overlays.outline(labels), find_boundaries(labels, mode="inner"))


def test_outlines_are_drawn_and_nothing_else_is_touched() -> None:
    field = nuclei_field((120, 150), 20)
    drawn = overlays.draw(field.image, field.truth)
    plain = overlays.draw(field.image, field.truth * 0)
    outlined = overlays.outline(field.truth)
    assert drawn.shape == (120, 150, 3)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn[~outlined], plain[~outlined])
    assert np.array_equal(drawn[outlined], overlays.colours_of(field.truth[outlined]))


def test_an_object_at_the_edge_is_open_there() -> None:
    labels = np.ones((4, 4), dtype=np.int32)
    assert not overlays.outline(labels).any()


def test_colours_belong_to_numbers() -> None:
    labels = np.array([[1, 1, 7, 2]])
    colours = overlays.colours_of(labels)
    assert np.array_equal(colours[0, 0], colours[0, 2])
    assert not np.array_equal(colours[0, 0], colours[0, 3])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((6, 8)),
        np.full((6, 8), np.nan),
        np.full((6, 8), np.inf),
        np.ones((6, 8), dtype=bool),
        np.full((6, 8), -5, dtype=np.int8),
        np.full((6, 8), 65_535, dtype=np.uint16),
        np.zeros((6, 8, 3), dtype=np.uint8),
        np.zeros((6, 8, 4), dtype=np.uint8),
        np.zeros((6, 8, 1), dtype=np.float16),
        np.arange(6 * 8 * 3, dtype=np.uint16).reshape(6, 8, 3),
    ],
)
def test_any_image_is_drawn(image: NDArray[np.generic]) -> None:
    before = image.copy()
    labels = np.zeros((6, 8), dtype=np.int32)
    labels[2:5, 2:5] = 1
    drawn = overlays.draw(image, labels, numbers=True)
    assert drawn.shape == (6, 8, 3)
    assert np.array_equal(image, before, equal_nan=image.dtype.kind == "f"), "the image is left alone"


def test_contrast_is_stretched_and_colour_is_not() -> None:
    dim = np.zeros((50, 50), dtype=np.uint16)
    dim[10:30, 10:30] = 300
    nothing = np.zeros((50, 50), dtype=np.int32)
    assert overlays.draw(dim, nothing).max() == 255
    colour = np.full((50, 50, 3), 77, dtype=np.uint8)
    assert (overlays.draw(colour, nothing) == 77).all()


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (np.zeros((5, 5)), np.zeros((5, 6), dtype=np.int32)),
        (np.zeros((5, 5)), np.zeros((5, 5))),
        (np.zeros((2, 5, 5)), np.zeros((2, 5, 5), dtype=np.int32)),
        (np.zeros((5, 5, 2)), np.zeros((5, 5), dtype=np.int32)),
    ],
)
def test_what_does_not_fit_is_refused(image: NDArray[np.generic], labels: NDArray[np.generic]) -> None:
    with pytest.raises(InvalidPixelsError):
        overlays.draw(image, labels)


def test_numbers_stand_on_their_objects() -> None:
    labels = np.zeros((60, 60), dtype=np.int32)
    labels[5:15, 5:15] = 12
    labels[20:50, 20:50] = 345
    labels[25:45, 25:45] = 0
    middles = overlays.middles_of(labels)
    assert set(middles) == {12, 345}
    assert all(labels[place] == label for label, place in middles.items())
    assert middles[12] == (9, 9)
    assert overlays.middles_of(labels * 0) == {}
    plain, numbered = (overlays.draw(np.zeros((60, 60)), labels, numbers=numbers) for numbers in (False, True))
    changed = np.argwhere((plain != numbered).any(axis=2))
    near = np.min([np.abs(changed - np.array(place)).max(axis=1) for place in middles.values()], axis=0)
    assert len(changed) > 0
    assert near.max() < 20


def test_a_small_drawing_keeps_outlines_clear() -> None:
    labels = np.zeros((1000, 2000), dtype=np.int32)
    labels[300:700, 300:1700] = 1
    drawn = overlays.draw(np.zeros((1000, 2000), dtype=np.float64), labels, edge=200)
    assert drawn.shape == (100, 200, 3)
    assert {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()} == {(0, 0, 0), tuple(overlays.COLOURS[1].tolist())}


def test_pictures_are_saved_as_they_are(tmp_path: Path) -> None:
    drawn = overlays.draw(np.arange(100.0).reshape(10, 10), np.eye(10, dtype=np.int32))
    path = overlays.save_png(drawn, tmp_path / "new" / "drawn.png")
    assert np.array_equal(np.asarray(Image.open(path)), drawn)
    with pytest.raises(OutputExistsError):
        overlays.save_png(drawn, path, overwrite=False)


def test_a_full_disk_leaves_no_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with mounted(tmp_path / "small", "size=64k") as small:
        with pytest.raises(DiskFullError):
            overlays.save_png(noise, small / "noise.png")
        assert not list(small.iterdir())


def test_a_sheet_holds_every_picture(tmp_path: Path) -> None:
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10), (10, 200, 200)]
    tiles = ((f"image {number}", np.full((80, 40, 3), colour, dtype=np.uint8)) for number, colour in enumerate(colours))
    path = overlays.contact_sheet(tmp_path / "sheet.png", tiles, edge=60)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[1] < 4 * 60
    for colour in colours:
        assert (sheet == colour).all(axis=2).sum() == 60 * 30


def test_a_sheet_takes_any_title(tmp_path: Path) -> None:
    titles = ["", "🦠 µm 漢", "line\nbreak", "x" * 5000, "-rf", "<b>"]
    path = overlays.contact_sheet(tmp_path / "sheet.png", [(title, np.zeros((9, 7, 3), dtype=np.uint8)) for title in titles], edge=50)
    assert np.asarray(Image.open(path)).shape[1] > 50


def test_a_sheet_has_its_limits(tmp_path: Path) -> None:
    drawn = 0

    def tiles() -> object:
        nonlocal drawn
        while True:
            drawn += 1
            yield "again", np.zeros((20, 20, 3), dtype=np.uint8)

    overlays.contact_sheet(tmp_path / "sheet.png", tiles(), most=7, edge=20)  # type: ignore[arg-type]
    assert drawn == 7
    with pytest.raises(InvalidPixelsError, match="at least one"):
        overlays.contact_sheet(tmp_path / "sheet.png", [])
