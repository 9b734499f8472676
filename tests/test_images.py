"""Images: selections, regions and projections, places and discovery, threads, thumbnails; nothing is read that was not asked for."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from segkit.errors import (
    ImageFormatError,
    ImageMissingError,
    ImageReadError,
    ImageTooLargeError,
    SelectionError,
)
from segkit.images import Image, Limits, Selection, discover, open_image, probe, thumbnail
from segkit.images.image import luminance
from segkit.images.info import distinct_names
from segkit.images.storage import LocalSource
from tests import corpus
from tests.corpus import peak_memory, read

# Selection, regions, projections


def test_projections_and_volume(good: dict[str, Path]) -> None:
    pixels = corpus.stack(2, 3)
    with open_image(good["channels.ome.tif"]) as image:
        np.testing.assert_array_equal(image.plane(), pixels[0].max(axis=0))
        np.testing.assert_array_equal(image.plane(Selection(z="max", channel=1)), pixels[1].max(axis=0))
        mean = image.plane(Selection(z="mean", channel=-1))
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, pixels[1].mean(axis=0), rtol=1e-6)
        np.testing.assert_array_equal(image.volume(Selection(channel="GFP")), pixels[1])
        with pytest.raises(SelectionError, match="volume"):
            image.plane(Selection(z="volume"))


@pytest.mark.parametrize(
    ("selection", "moment", "words"),
    [
        (Selection(channel="DAPPI"), 0, 'Did you mean "DAPI"'),
        (Selection(channel=2), 0, "numbered 0 to 1"),
        (Selection(z=3), 0, "numbered 0 to 2"),
        (Selection(z="middle"), 0, "max"),
        (Selection(level=1), 0, "only one"),
        (Selection(), 5, "only one"),
    ],
)
def test_what_is_not_there_is_named(good: dict[str, Path], selection: Selection, moment: int, words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        read(good["channels.ome.tif"], selection, moment)


def test_colours_are_chosen_by_name(good: dict[str, Path]) -> None:
    pixels = corpus.colour()
    np.testing.assert_array_equal(read(good["rgb.png"], Selection(channel="green")), pixels[..., 1])
    np.testing.assert_array_equal(read(good["rgb.png"], Selection(channel=2)), pixels[..., 2])
    gray = read(good["rgb.png"], Selection(channel="gray"))
    np.testing.assert_allclose(gray.astype(int), np.asarray(PillowImage.fromarray(pixels).convert("L")).astype(int), atol=1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_luminance_of_gray_colours_is_their_value(dtype: str) -> None:
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)[np.newaxis]
    np.testing.assert_array_equal(luminance(np.stack([values] * 3, axis=-1)), values)


def test_regions_of_every_good_image_are_parts_of_its_plane(good: dict[str, Path]) -> None:
    random = np.random.default_rng(3)
    for name, path in good.items():
        with open_image(path) as image:
            plane = image.plane()
            rows, columns = plane.shape[:2]
            for _ in range(8):
                top, left = random.integers(0, rows), random.integers(0, columns)
                part = slice(top, top + random.integers(1, 40)), slice(left, left + random.integers(1, 40))
                np.testing.assert_array_equal(image.region(Selection(), *part), plane[part], err_msg=name)
            assert image.region(Selection(), slice(5, 5), slice(None)).shape[0] == 0
            with pytest.raises(SelectionError, match="step"):
                image.region(Selection(), slice(0, 4, 2), slice(None))


def test_a_region_reads_only_the_bytes_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = corpus.gray(rows=2048, columns=2048)
    counted: list[int] = []
    read_bytes = LocalSource.read

    def counting(self: LocalSource, offset: int, count: int) -> bytes:
        counted.append(count)
        return read_bytes(self, offset, count)

    monkeypatch.setattr(LocalSource, "read", counting)
    for name, options in {
        "tiles": {"tile": (128, 128), "compression": "zlib"},
        "strips": {"rowsperstrip": 16, "compression": "zlib"},
        "plain": {},
    }.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, **options)
        with open_image(path) as image:
            counted.clear()
            np.testing.assert_array_equal(image.region(Selection(), slice(1000, 1064), slice(100, 164)), pixels[1000:1064, 100:164])
            assert sum(counted) < path.stat().st_size / 20, name
            counted.clear()
            image.region(Selection(), slice(1000, 1064), slice(100, 164))
            assert name == "plain" or not counted  # decoded pieces are kept for the neighbouring tile


def test_a_large_file_is_read_by_regions_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            (np.full((512, 512), number % 251, np.uint8) for number in range(24 * 24)),
            shape=(12_288, 12_288),
            dtype=np.uint8,
            tile=(512, 512),
            compression="zlib",
        )
    with open_image(path, Limits(cache_bytes=2**24)) as image, peak_memory() as grown:
        for row in range(0, 12_288, 512):
            image.region(Selection(), slice(row, row + 64), slice(None))
    assert grown() < 60 * 2**20  # the plane has 144 MiB


def test_too_much_at_once_is_refused_and_regions_still_read(save: Any) -> None:
    path = save(corpus.tiff(corpus.stack(3), photometric="minisblack"))
    with open_image(path, Limits(max_decoded_pixels=1000)) as image:
        with pytest.raises(ImageTooLargeError, match="SEGKIT_MAX_DECODED_PIXELS"):
            image.plane()
        with pytest.raises(ImageTooLargeError, match="volume"):
            image.volume()
        assert image.region(Selection(), slice(0, 10), slice(0, 10)).shape == (10, 10)
    with pytest.raises(ImageTooLargeError, match="SEGKIT_MAX_PIXELS"):
        probe(path, Limits(max_pixels=1000))


def test_threads_share_one_image(good: dict[str, Path]) -> None:
    for name in ("zlib.tif", "zstd tiled.tif", "rgb planar.tif", "gray.png", "imagej.tif", "multiscale 0.5.ome.zarr"):
        with open_image(good[name]) as image:
            plane = image.plane()
            parts = [(slice(row, row + 9), slice(column, column + 11)) for row in range(0, 60, 7) for column in range(0, 80, 13)]
            with ThreadPoolExecutor(8) as threads:
                for part, pixels in zip(parts, threads.map(lambda part: image.region(Selection(), *part), parts), strict=True):
                    np.testing.assert_array_equal(pixels, plane[part], err_msg=name)


def test_damage_in_one_thread_does_not_touch_another(good: dict[str, Path], bad: dict[str, Path]) -> None:
    expected = corpus.stack(2, 3)[1, 1]
    stop = time.monotonic() + 1
    compared: list[int] = []

    def good_ones() -> None:
        while time.monotonic() < stop:
            compared.append(int(np.count_nonzero(read(good["channels.ome.tif"], Selection(1, 1)) != expected)))

    def bad_ones() -> None:
        while time.monotonic() < stop:
            with pytest.raises(ImageReadError):
                read(bad["cut at 99% planes.ome.tif"])

    with ThreadPoolExecutor(4) as threads:
        for finished in [threads.submit(task) for task in (good_ones, bad_ones, good_ones, bad_ones)]:
            finished.result()
    assert compared
    assert not any(compared)


def test_reading_a_closed_image_is_an_error(good: dict[str, Path]) -> None:
    for name in ("plain.tif", "gray.png"):
        with open_image(good[name]) as image:
            pass
        with pytest.raises(ImageReadError):
            image.plane()


# Places


def test_stores_read_as_disks_do(good: dict[str, Path]) -> None:
    memory = fsspec.filesystem("memory")
    for name in (
        "plain.tif",
        "zlib.tif",
        "zstd tiled.tif",
        "imagej.tif",
        "rgb 16 bit.png",
        "rgb.jpg",
        "multiscale 0.4.ome.zarr",
        "multiscale 0.5.ome.zarr",
    ):
        memory.put(str(good[name]), f"/plate/{name}", recursive=True)
        here, there = probe(good[name]), probe(f"memory://plate/{name}")
        assert here.content_hash == there.content_hash, name
        assert (here.shape, here.bytes, here.name) == (there.shape, there.bytes, there.name)
        np.testing.assert_array_equal(read(f"memory://plate/{name}"), read(good[name]))
        assert probe(f"file://{good[name]}").uri == str(good[name])
    with pytest.raises(ImageMissingError, match="memory://plate/none"):
        probe("memory://plate/none.tif")
    found = list(discover("memory://plate"))
    assert len(found) == 8
    assert "memory://plate/multiscale 0.4.ome.zarr" in found
    assert list(discover("memory://plate/*.jpg")) == ["memory://plate/rgb.jpg"]


def test_unknown_addresses_are_told() -> None:
    with pytest.raises(ImageReadError, match="no way to read"):
        probe("gopher://plate/a.tif")


def test_paths_are_made_absolute(good: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good["-rf.tif"].parent)
    assert probe("-rf.tif").uri == str(good["-rf.tif"])
    assert probe(Path("-rf.tif")).name == "-rf.tif"


def test_the_hash_is_of_the_bytes_and_follows_a_change(save: Any) -> None:
    path = save(corpus.tiff(corpus.gray()))
    first = probe(path).content_hash
    assert len(first) == 40
    assert probe(path).content_hash == first
    save(corpus.tiff(corpus.gray(seed=1)))
    assert probe(path).content_hash != first
    old = time.time() - 3600
    os.utime(path, (old, old))
    assert probe(path).content_hash != first


# Discovery


def test_a_folder_is_searched_in_order(good: dict[str, Path], tmp_path: Path) -> None:
    for name in ("b.tif", "a.TIF", "c.png", ".hidden.tif", "notes.txt", "sub/d.jpg", ".git/e.tif", "sub/.f.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    shutil.copytree(good["multiscale 0.4.ome.zarr"], tmp_path / "x.ome.zarr")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [str(Path(uri).relative_to(tmp_path)) for uri in discover(tmp_path)]
    assert found == ["a.TIF", "b.tif", "c.png", "sub/d.jpg", "x.ome.zarr"]
    assert list(discover(tmp_path / "x.ome.zarr")) == [str(tmp_path / "x.ome.zarr")]


def test_patterns_lists_and_names(tmp_path: Path) -> None:
    for name in ("a1.tif", "a2.tif", "b.dat", "[1].tif"):
        (tmp_path / name).write_bytes(b"x")
    assert [Path(uri).name for uri in discover(f"{tmp_path}/a*.tif")] == ["a1.tif", "a2.tif"]
    assert [Path(uri).name for uri in discover(f"{tmp_path}/*.dat")] == ["b.dat"]
    assert [Path(uri).name for uri in discover(f"{tmp_path}/*")] == ["[1].tif", "a1.tif", "a2.tif"]
    assert [Path(uri).name for uri in discover(tmp_path / "[1].tif")] == ["[1].tif"]
    assert [Path(uri).name for uri in discover([tmp_path / "b.dat", tmp_path / "a*.tif", tmp_path / "a1.tif"])] == [
        "b.dat",
        "a1.tif",
        "a2.tif",
    ]
    assert list(discover(tmp_path / "gone.tif")) == [str(tmp_path / "gone.tif")]


def test_a_plate_is_its_images(tmp_path: Path) -> None:
    plate = tmp_path / "plate.zarr"
    for well in ("A/1", "B/2"):
        for field in ("0", "1"):
            corpus.write_ome_zarr(plate / well / field, corpus.gray(), "yx")
        (plate / well / ".zattrs").write_text('{"well": {"images": [{"path": "0"}, {"path": "1"}]}}')
    (plate / ".zattrs").write_text('{"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}')
    found = list(discover(tmp_path))
    assert found == [str(plate / name) for name in ("A/1/0", "A/1/1", "B/2/0", "B/2/1")]
    assert probe(found[0]).name == "plate.zarr/A/1/0"
    with pytest.raises(ImageFormatError, match="plate"):
        probe(plate)


def test_ten_thousand_other_files_cost_little(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "only.tif").touch()
    started = time.perf_counter()
    assert [Path(uri).name for uri in discover(tmp_path)] == ["only.tif"]
    assert time.perf_counter() - started < 2


# Thumbnails


def test_thumbnails_fit_and_show_contrast(good: dict[str, Path]) -> None:
    for name, path in good.items():
        with open_image(path) as image:
            small = thumbnail(image, size=32)
        assert small.dtype == np.uint8, name
        assert max(small.shape[:2]) <= max(32, 1), name
    with open_image(good["plain.tif"]) as image:
        small = thumbnail(image, size=40)
    assert (small.shape, small.min(), small.max()) == ((30, 40), 0, 255)


def test_thumbnails_of_special_values(good: dict[str, Path]) -> None:
    for name in ("all zero.tif", "saturated.tif"):
        with open_image(good[name]) as image:
            assert not thumbnail(image, size=32).any()
    with open_image(good["not a number.tif"]) as image:
        assert thumbnail(image, size=200).max() == 255


def test_a_thumbnail_of_a_large_image_reads_a_few_rows(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    pixels = np.repeat(np.arange(5000, dtype=np.uint16)[:, np.newaxis], 5000, axis=1)
    tifffile.imwrite(path, pixels, rowsperstrip=4, compression="zlib")
    with open_image(path) as image:
        small = thumbnail(image, size=100)
    assert small.shape == (100, 100)
    assert np.all(np.diff(small[:, 0].astype(int)) >= 0)


# Small things


def test_channel_names_are_distinct() -> None:
    assert distinct_names(("a", "a", " "), 4) == ("a", "a (1)", "channel 2", "channel 3")


def test_image_is_what_open_image_returns(good: dict[str, Path]) -> None:
    with open_image(good["plain.tif"]) as image:
        assert isinstance(image, Image)
        assert image.times == 1


def test_probing_many_small_files_is_about_as_fast_as_reading_them(tmp_path: Path) -> None:
    data = corpus.tiff(corpus.gray("uint8", rows=64, columns=64))
    paths = [tmp_path / f"{number}.tif" for number in range(200)]
    for path in paths:
        path.write_bytes(data)

    def seconds(task: Any) -> float:
        def once() -> float:
            started = time.perf_counter()
            for path in paths:
                task(path)
            return time.perf_counter() - started

        return min(once() for _ in range(3))

    assert seconds(probe) < 4 * seconds(tifffile.imread)
