"""Every bad image file is an `ImageReadError` with a reason, within bounds of time and memory, and so is every mutation of a good one."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segkit.errors import (
    ImageFormatError,
    ImageMissingError,
    ImageReadError,
    ImageTooLargeError,
    ImageTruncatedError,
)
from segkit.images import Limits, discover, open_image, probe, thumbnail
from tests import corpus
from tests.corpus import peak_memory, read

SMALL = Limits(max_pixels=2**24, max_decoded_pixels=2**22)


def test_there_are_enough_bad_files(bad: dict[str, Path]) -> None:
    assert len(bad) >= 80


def test_every_bad_file_has_a_reason_within_bounds(bad: dict[str, Path]) -> None:
    for name, path in bad.items():
        started = time.perf_counter()
        with peak_memory() as grown, pytest.raises(ImageReadError) as caught:
            read(path)
        assert grown() < 64 * 2**20, name
        assert time.perf_counter() - started < 5, name
        words = str(caught.value)
        assert len(words) > 20, name
        assert "Traceback" not in words, name


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("missing.tif", ImageMissingError, "no file"),
        ("empty.tif", ImageReadError, "empty"),
        ("cut at 50% zlib.tif", ImageTruncatedError, "5 of 8 strips"),
        ("cut at 50% planes.ome.tif", ImageTruncatedError, "ends before"),
        ("cut at 90% photo.jpg", ImageTruncatedError, "ends before"),
        ("text.tif", ImageFormatError, "text"),
        ("web page.png", ImageFormatError, "web page"),
        ("pointer.tif", ImageFormatError, "git lfs pull"),
        ("0 x 0.tif", ImageReadError, "0 × 0"),
        ("zero width.tif", ImageReadError, "100 × 0"),
        ("10^6 x 10^6.tif", ImageTooLargeError, "1000000 × 1000000"),
        ("directory points at itself.tif", ImageReadError, "back into itself"),
        ("unknown compression.tif", ImageFormatError, "12345"),
        ("complex.tif", ImageFormatError, "magnitude"),
        ("six axes.tif", ImageFormatError, "P=2"),
        ("jpeg larger than its tile.tif", ImageTooLargeError, "65500 × 65500"),
        ("90000 x 90000.png", ImageTooLargeError, "8,100,000,000"),
        ("no array.zarr", ImageReadError, "missing"),
        ("folder.tif", ImageFormatError, "folder"),
    ],
)
def test_reasons_are_for_people(bad: dict[str, Path], name: str, kind: type[ImageReadError], words: str) -> None:
    with pytest.raises(kind, match=words):
        read(bad[name])


@pytest.mark.parametrize(
    "name",
    [
        f"cut at {fraction:.0%} {kind}"
        for fraction in corpus.FRACTIONS
        for kind in ("plain.tif", "zlib.tif", "lzw.tif", "planes.ome.tif", "imagej.tif", "gray.png", "gray.bmp")
    ],
)
def test_a_cut_file_is_found_by_its_header_alone(bad: dict[str, Path], name: str) -> None:
    with pytest.raises(ImageReadError):
        probe(bad[name])


def test_all_good_images_read(good: dict[str, Path]) -> None:
    for name, path in good.items():
        info = probe(path)
        plane = read(path)
        lengths = dict(zip(info.axes, info.shape, strict=True))
        assert plane.shape == tuple(lengths[axis] for axis in "YXS" if axis in lengths), name
        assert str(plane.dtype) == info.dtype, name
        assert info.name == path.name


def test_not_a_number_passes_through(good: dict[str, Path]) -> None:
    assert np.isnan(read(good["not a number.tif"])).any()
    assert np.isinf(read(good["infinite.tif"])).any()


def test_a_file_that_may_not_be_read(save: Any) -> None:
    path = save(corpus.tiff(corpus.gray()))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("skipped: this user may read every file")
    with pytest.raises(ImageReadError, match="permission"):
        probe(path)


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.tif"
    Path(os.fsdecode(name)).write_bytes(corpus.tiff(corpus.gray()))
    (found,) = discover(tmp_path)
    with pytest.raises(ImageReadError, match="UTF-8"):
        probe(found)


def test_tifffile_does_not_chatter(bad: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for path in bad.values():
            with pytest.raises(ImageReadError):
                read(path)
    assert not [record for record in caplog.records if record.name == "tifffile"]


def test_no_file_stays_open(good: dict[str, Path], bad: dict[str, Path]) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("skipped: no /proc")
    probe(good["multiscale 0.4.ome.zarr"])  # zarr starts its own thread once
    before = len(list(descriptors.iterdir()))
    for path in good.values():
        read(path)
    for path in bad.values():
        with pytest.raises(ImageReadError):
            read(path)
    assert len(list(descriptors.iterdir())) == before


SEEDS = {name: data for name, data in corpus.good_files().items() if name.split(".")[0] not in ("int8", "uint8", "int16", "uint32")}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_never_raise_anything_else(data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(sorted(SEEDS)))
    content = bytearray(SEEDS[name])
    headers = st.integers(0, min(len(content), 600) - 1)
    for place in data.draw(st.lists(headers | st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 254, 255]) | st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), len(content) // 2, len(content) - 1]))]
    path = tmp_path / name
    path.write_bytes(content)
    with contextlib.suppress(ImageReadError), open_image(path, SMALL) as image:
        info = image.info
        plane = image.plane()
        assert plane.shape[:2] == (info.shape[info.axes.index("Y")], info.shape[info.axes.index("X")])
        assert thumbnail(image, size=16).dtype == np.uint8
