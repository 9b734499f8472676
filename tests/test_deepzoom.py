"""Tiles of images and label images: together they are the whole, at every level, and outlines do not stop at their borders."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Picture

from segkit import deepzoom, overlays
from segkit.deepzoom import Grid
from segkit.errors import SelectionError
from segkit.images import Selection, open_image
from segkit.labels import LabelReader, LabelWriter, open_labels

PIXELS = np.random.default_rng(0).integers(0, 4000, (700, 1500), dtype=np.uint16)


def picture(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Picture.open(io.BytesIO(data)))


def coloured(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Picture.open(io.BytesIO(data)).convert("RGBA"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, tile=(256, 256))
    return tmp_path / "a.tif"


def stored(path: Path, labels: NDArray[np.int32], axes: str = "YX") -> LabelReader:
    writer = LabelWriter.create(str(path), labels.shape, axes)
    writer.write(labels)
    writer.finish()
    return open_labels(str(path))


@pytest.fixture
def labels(tmp_path: Path) -> LabelReader:
    """Discs on a grid, larger than a tile's border; the image is large enough for a pyramid."""
    rows, columns = np.indices((1300, 2100))
    inside = (rows % 100 - 50) ** 2 + (columns % 100 - 50) ** 2 < 45**2
    return stored(tmp_path / "l.zarr", np.where(inside, 1 + rows // 100 * 21 + columns // 100, 0).astype(np.int32))


def test_grid() -> None:
    grid = Grid(700, 1500, 256)
    assert [grid.shape(level) for level in range(grid.levels)] == [(700, 1500), (350, 750), (175, 375), (88, 188)]
    assert [grid.tiles(level) for level in range(grid.levels)] == [(3, 6), (2, 3), (1, 2), (1, 1)]
    assert grid.place(0, 5, 2) == (slice(512, 700), slice(1280, 1500))
    assert Grid(1, 1).levels == 1
    assert Grid(512, 512, 512).levels == 1
    assert Grid(512, 513, 512).levels == 2


@pytest.mark.parametrize(("level", "column", "row"), [(-1, 0, 0), (9, 0, 0), (0, 6, 0), (0, 0, 3), (0, -1, 0), (10**9, 0, 0)])
def test_tiles_that_are_not_there(level: int, column: int, row: int) -> None:
    with pytest.raises(SelectionError, match="here is no"):
        Grid(700, 1500, 256).place(level, column, row)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_tiles_make_up_the_image(image: Path, level: int) -> None:
    with open_image(image) as opened:
        grid = deepzoom.grid_of(opened, 256)
        contrast = deepzoom.contrast(opened)
        down, across = grid.tiles(level)

        def tile(column: int, row: int) -> NDArray[np.uint8]:
            return picture(deepzoom.image_tile(opened, Selection(), level, column, row, edge=256, contrast=contrast, form="png"))

        strips = [np.hstack([tile(c, r) for c in range(across)]) for r in range(down)]
        rows, columns = grid.shape(level)
        whole = deepzoom.stretch(deepzoom.read_small(opened, Selection(), level, slice(0, rows), slice(0, columns), 0), contrast)
    found = np.vstack(strips)
    assert found.shape == grid.shape(level)
    assert np.abs(found.astype(int) - whole).mean() < (1 if level == 0 else 12)


def test_bands_bound_what_is_read(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_image(image) as opened:
        at_once = deepzoom.image_tile(opened, Selection(), 3, 0, 0, edge=256, form="png")
        read: list[int] = []
        region = type(opened).region
        monkeypatch.setattr(type(opened), "region", lambda *given, **named: read.append((found := region(*given, **named)).size) or found)
        monkeypatch.setattr(deepzoom, "BAND", 2**17)
        in_bands = deepzoom.image_tile(opened, Selection(), 3, 0, 0, edge=256, form="png")
    assert max(read) <= 256 * 1500
    assert len(read) >= 3
    assert np.abs(picture(at_once).astype(int) - picture(in_bands)).mean() < 3


@pytest.mark.parametrize("form", ["webp", "jpeg", "png"])
def test_forms(image: Path, form: deepzoom.Form) -> None:
    with open_image(image) as opened:
        assert picture(deepzoom.image_tile(opened, Selection(), 1, 0, 0, edge=256, form=form)).shape[:2] == (256, 256)


def test_a_form_that_is_none(image: Path) -> None:
    with open_image(image) as opened, pytest.raises(SelectionError, match="png"):
        deepzoom.image_tile(opened, Selection(), 0, 0, 0, form="gif")  # type: ignore[arg-type]


def test_colour_is_shown_as_it_is(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", colours, photometric="rgb")
    with open_image(tmp_path / "c.tif") as opened:
        assert np.array_equal(picture(deepzoom.image_tile(opened, Selection(), 0, 0, 0, form="png")), colours)


def test_pixels_that_are_all_alike_or_no_numbers(tmp_path: Path) -> None:
    for value in (0.0, np.nan, np.inf):
        tifffile.imwrite(tmp_path / "f.tif", np.full((70, 80), value, np.float32))
        with open_image(tmp_path / "f.tif") as opened:
            assert not picture(deepzoom.image_tile(opened, Selection(), 0, 0, 0, form="png")).any()


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_overlays_make_up_the_outlines(labels: LabelReader, level: int) -> None:
    grid = deepzoom.grid_of_labels(labels, 256)
    down, across = grid.tiles(level)
    strips = [np.hstack([coloured(deepzoom.overlay_tile(labels, level, c, r, edge=256)) for c in range(across)]) for r in range(down)]
    found = np.vstack(strips)
    whole = labels.read()[:: 2**level, :: 2**level]
    expected = overlays.outline(whole)
    assert np.array_equal(found[..., 3] > 0, expected)
    assert np.array_equal(found[..., :3][expected], overlays.colours_of(whole[expected]))


def test_fills_and_opacity(labels: LabelReader) -> None:
    tile = np.asarray(Picture.open(io.BytesIO(deepzoom.overlay_tile(labels, 0, 0, 0, style="fills", opacity=0.5))).convert("RGBA"))
    assert np.array_equal(tile[..., 3], np.where(labels.read()[:512, :512] > 0, 128, 0))


def test_numbers_for_hovering(labels: LabelReader) -> None:
    numbers = np.frombuffer(deepzoom.label_tile(labels, 1, 1, 1, edge=256), "<u4").reshape(256, 256)
    assert np.array_equal(numbers, labels.read()[512:1024:2, 512:1024:2])


def test_planes_and_times_of_labels(tmp_path: Path) -> None:
    volume = np.random.default_rng(2).integers(0, 9, (2, 3, 70, 80), dtype=np.int32)
    reader = stored(tmp_path / "v.zarr", volume, "TZYX")

    def shown(**place: int) -> NDArray[np.uint32]:
        return np.frombuffer(deepzoom.label_tile(reader, 0, 0, 0, **place), "<u4").reshape(70, 80)

    assert np.array_equal(shown(time=1), volume[1].max(axis=0))
    assert np.array_equal(shown(time=1, plane=2), volume[1, 2])
    with pytest.raises(SelectionError, match="plane 3"):
        shown(plane=3)
    with pytest.raises(SelectionError, match="time point 2"):
        shown(time=2)
    with pytest.raises(SelectionError, match="Opacity"):
        deepzoom.overlay_tile(reader, 0, 0, 0, opacity=2)
    with pytest.raises(SelectionError, match="outlines"):
        deepzoom.overlay_tile(reader, 0, 0, 0, style="stars")  # type: ignore[arg-type]
