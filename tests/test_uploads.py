"""Uploads: whole or absent, named as they came, once for the same contents."""

from __future__ import annotations

from pathlib import Path

import pytest
from plates import squares
from tifffile import imwrite

from segkit.errors import ImageFormatError, NotWritableError, UploadError, UploadNameError, UploadTooLargeError
from segkit.images import Limits
from segkit.uploads import PIECE, Upload, checked_name, drop, folder_of

LIMITS = Limits()


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    imwrite(tmp_path / "x.tif", squares(3))
    return (tmp_path / "x.tif").read_bytes()


def files_in(home: Path) -> list[str]:
    return sorted(path.name for path in folder_of(str(home), 1).rglob("*") if path.is_file())


def test_an_upload_lies_by_its_hash_under_its_name(tmp_path: Path, data: bytes) -> None:
    with Upload(str(tmp_path), 1, " plate 7.tif ", 10**6) as upload:
        assert not upload.add(data[:100])
        assert not upload.add(data[100:])
        info, new = upload.place(LIMITS)
    assert new
    assert info.uri == str(folder_of(str(tmp_path), 1) / info.content_hash / "plate 7.tif")
    assert Path(info.uri).read_bytes() == data
    assert (info.name, info.shape) == ("plate 7.tif", (64, 64))
    assert files_in(tmp_path) == ["plate 7.tif"]


def test_the_same_again_is_there_already_and_dropping_a_name_leaves_the_other(tmp_path: Path, data: bytes) -> None:
    placed = []
    for name in ("a.tif", "a.tif", "b.tif"):
        with Upload(str(tmp_path), 1, name, 10**6) as upload:
            upload.add(data)
            placed.append(upload.place(LIMITS))
    assert [new for _, new in placed] == [True, False, True]
    drop(placed[2][0])
    assert files_in(tmp_path) == ["a.tif"]
    drop(placed[0][0])
    assert not list(folder_of(str(tmp_path), 1).iterdir())


def test_pieces_are_written_when_enough_wait(tmp_path: Path) -> None:
    with Upload(str(tmp_path), 1, "a.tif", 10**8) as upload:
        assert upload.add(b"x" * PIECE)
        upload.write()
        assert not upload.add(b"x")


def send(home: Path, content: bytes) -> None:
    with Upload(str(home), 1, "a.tif", 1000) as upload:
        upload.add(content)
        upload.place(LIMITS)


@pytest.mark.parametrize(("content", "error"), [(b"", UploadError), (b"plain text", ImageFormatError), (b"x" * 2000, UploadTooLargeError)])
def test_what_cannot_be_used_leaves_nothing(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        send(tmp_path, content)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["", " ", ".", "..", ".a.tif", "a/b.tif", "a\\b.tif", "a\0.tif", "a\n.tif", "x" * 201, "ü" * 101])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UploadNameError):
        checked_name(name)


def test_a_store_takes_no_uploads() -> None:
    with pytest.raises(NotWritableError, match="store"):
        Upload("s3://lab/segkit", 1, "a.tif", 1000)
