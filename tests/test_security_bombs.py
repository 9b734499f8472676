"""Files that unpack to far more than they are, and files that name a way of unpacking that runs what it reads."""

from __future__ import annotations

import contextlib
import json
import pickle
import warnings
import zlib
from pathlib import Path
from typing import Any

import corpus
import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from segkit.errors import ImageReadError, ImageTooLargeError, UploadTooLargeError
from segkit.images import Limits, open_image
from segkit.images.packing import HOLDS
from segkit.uploads import Upload

LIMITS = Limits(max_pixels=2**24, max_decoded_pixels=2**24)
UNPACKED = 2**26
#: What reading a bomb may take; unpacked it would be twice as much.
MOST = UNPACKED // 2
PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
ZEROS = bytes(UNPACKED)


def packed(name: str) -> bytes:
    """Pack many zeros; blosc and lz4 tell in their header how many bytes they unpack to, so for them a header is enough."""
    if name == "blosc":
        small = bytearray(numcodecs.Blosc(cname="zstd").encode(bytes(2**16)))
        small[4:8] = UNPACKED.to_bytes(4, "little")
        return bytes(small)
    if name == "lz4":
        return UNPACKED.to_bytes(4, "little") + bytes(numcodecs.LZ4().encode(bytes(2**16)))[4:]
    if name in ("zlib", "gzip"):
        packer = zlib.compressobj(1, wbits=31 if name == "gzip" else 15)
        return packer.compress(ZEROS) + packer.flush()
    return bytes(numcodecs.get_codec({"id": name}).encode(ZEROS))


def write_zarr2(folder: Path, packer: dict[str, Any] | None, chunk: bytes, filters: list[dict[str, Any]] | None = None) -> Path:
    """Write an OME-Zarr 0.4 of one chunk."""
    corpus.write_ome_zarr(folder, PIXELS[:32, :32], "yx", "0.4")
    description = json.loads((folder / "0" / ".zarray").read_text())
    (folder / "0" / ".zarray").write_text(json.dumps(description | {"compressor": packer, "filters": filters}))
    (folder / "0" / ("0/0" if description.get("dimension_separator") == "/" else "0.0")).write_bytes(chunk)
    return folder


def write_zarr3(folder: Path, codecs: list[Any], shards: tuple[int, int] | None = None) -> Path:
    """Write an OME-Zarr 0.5 with these codecs."""
    corpus.write_ome_zarr(folder, PIXELS, "yx", "0.5")
    group = zarr.open_group(folder, mode="a")
    array = group.create_array("0", shape=(64, 64), chunks=(32, 32), shards=shards, dtype="uint16", compressors=codecs, overwrite=True)
    array[...] = PIXELS
    return folder


@pytest.mark.parametrize("name", ["zlib", "gzip", "zstd", "blosc", "lz4", "bz2", "lzma"])
def test_a_chunk_of_zarr_2_unpacks_to_its_pixels_and_no_further(tmp_path: Path, name: str) -> None:
    if name in ("bz2", "lzma"):  # slow to pack, so they are asked themselves
        data = bytes(numcodecs.get_codec({"id": name}).encode(bytes(2**22)))
        assert 1000 < HOLDS[name](memoryview(data), 1000) <= 2**21
        return
    bomb = write_zarr2(tmp_path / "bomb.zarr", numcodecs.get_codec({"id": name}).get_config(), packed(name))
    with open_image(bomb, LIMITS) as image, corpus.peak_memory() as peak, pytest.raises(ImageTooLargeError, match="unpacks to more"):
        image.plane()
    assert peak() < MOST


@pytest.mark.parametrize(("codec", "name"), [(ZstdCodec(), "zstd"), (BloscCodec(), "blosc"), (GzipCodec(), "gzip")])
def test_a_chunk_of_zarr_3_unpacks_to_its_pixels_and_no_further(tmp_path: Path, codec: Any, name: str) -> None:
    bomb = write_zarr3(tmp_path / "bomb.zarr", [codec])
    (bomb / "0/c/0/0").write_bytes(packed(name))
    with open_image(bomb, LIMITS) as image, corpus.peak_memory() as peak, pytest.raises(ImageTooLargeError, match="unpacks to more"):
        image.plane()
    assert peak() < MOST


@pytest.mark.parametrize("shards", [None, (64, 64)])
def test_what_is_packed_as_usual_is_read(tmp_path: Path, shards: tuple[int, int] | None) -> None:
    ways: list[list[Any]] = [[ZstdCodec()], [BloscCodec()], [GzipCodec()], [ZstdCodec(checksum=True), Crc32cCodec()], []]
    for number, codecs in enumerate(ways):
        with open_image(write_zarr3(tmp_path / f"{number}.zarr", codecs, shards), LIMITS) as image:
            assert np.array_equal(image.plane(), PIXELS)


def test_what_zarr_2_packs_as_usual_is_read(tmp_path: Path) -> None:
    chunk = PIXELS[:32, :32].copy()
    for name in ("zlib", "gzip", "zstd", "blosc", "lz4", "bz2", "lzma"):
        codec = numcodecs.get_codec({"id": name})
        delta = numcodecs.Delta(dtype="<u2")
        folder = write_zarr2(tmp_path / f"{name}.zarr", codec.get_config(), bytes(codec.encode(delta.encode(chunk))), [delta.get_config()])
        with open_image(folder, LIMITS) as image:
            assert np.array_equal(image.plane(), chunk)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("place", ["compressor", "filter", "inner filter"])
def test_a_pickle_in_a_zarr_is_never_loaded(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "unpickled"
    bad = {"id": "pickle", "protocol": 5}
    filters = {"compressor": None, "filter": [bad], "inner filter": [{"id": "shuffle", "elementsize": 2}, bad]}[place]
    folder = write_zarr2(tmp_path / "bad.zarr", bad if place == "compressor" else None, pickle.dumps(Touch(mark)), filters)
    with pytest.raises(ImageReadError), open_image(folder, LIMITS) as image:
        image.plane()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["json2", "msgpack2", "vlen-bytes", "vlen-utf8", "vlen-array", "categorize", "base64"])
def test_codecs_that_no_image_needs_are_refused(tmp_path: Path, name: str) -> None:
    config = {"id": name} | ({"dtype": "<u2"} if name == "vlen-array" else {})
    config |= {"labels": ["a"], "dtype": "<u2", "astype": "u1"} if name == "categorize" else {}
    folder = write_zarr2(tmp_path / "odd.zarr", None, b"[]", [config])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageReadError):
            open_image(folder, LIMITS)


def test_a_png_whose_text_unpacks_to_gigabytes_is_refused_or_read_without_it(tmp_path: Path) -> None:
    good = corpus.png(corpus.gray("uint8"))
    text = b"Comment\0\0" + zlib.compress(ZEROS, 1)
    chunk = len(text).to_bytes(4, "big") + b"zTXt" + text + zlib.crc32(b"zTXt" + text).to_bytes(4, "big")
    path = tmp_path / "bomb.png"
    path.write_bytes(good[:33] + chunk + good[33:])
    with corpus.peak_memory() as peak, contextlib.suppress(ImageReadError), open_image(path, LIMITS) as image:
        assert image.plane().shape == corpus.gray("uint8").shape
    assert peak() < MOST


def test_an_upload_stops_at_its_limit(tmp_path: Path) -> None:
    with Upload(str(tmp_path), 1, "a.tif", 1000) as upload:
        upload.add(bytes(1000))
        with pytest.raises(UploadTooLargeError):
            upload.add(b"x")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_settings_bound_what_a_header_may_promise(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(corpus.png_of_zeros(5000, 5000, 1))
    with pytest.raises(ImageTooLargeError), open_image(path, LIMITS) as image:
        image.plane()
