"""Files: whole or absent, flushed, replaced in one step, and every fault in words."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from segkit import files
from segkit.errors import DiskFullError, NotWritableError, OutputExistsError, ResultCorruptError
from segkit.files import beside, flush_tree, folder, remove, replace
from tests.disks import mounted, unwritable


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> files.Folder:
    url = str(tmp_path / "place") if request.param == "disk" else f"memory://{tmp_path}/place"
    return folder(url)


def test_a_folder_keeps_what_is_written(place: files.Folder) -> None:
    place.write("a/b", b"one")
    place.write("a/b", b"two")
    place.write("c", b"")
    place.flush()
    assert place.names() == ["a/b", "c"]
    assert place.read("a/b") == b"two"
    assert place.checksum("a/b") == (3, files.digest(b"two"))
    place.delete("c")
    place.delete("c")
    assert place.names() == ["a/b"]
    place.remove()
    place.remove()
    assert place.names() == []


def test_a_missing_file_is_missing(place: files.Folder) -> None:
    with pytest.raises(FileNotFoundError):
        place.read("nowhere")
    with pytest.raises(ResultCorruptError, match="nowhere is missing"):
        files.fetch(place, "nowhere", None, None)


def test_a_file_that_was_changed_is_refused(place: files.Folder) -> None:
    place.write("a", b"one")
    assert files.fetch(place, "a", 3, files.digest(b"one")) == b"one"
    with pytest.raises(ResultCorruptError, match="damaged"):
        files.fetch(place, "a", 3, files.digest(b"two"))


def test_an_interrupted_file_does_not_appear(tmp_path: Path) -> None:
    place = folder(str(tmp_path / "place"))
    place.write("a", b"old")

    def write_half() -> None:
        with place.create("a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert place.read("a") == b"old"
    assert os.listdir(tmp_path / "place") == ["a"]


def test_a_full_disk_keeps_nothing_half_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=256k") as small:
        place = folder(str(small / "place"))
        place.write("a", b"kept")
        with pytest.raises(DiskFullError, match="free some space"):
            place.write("b", os.urandom(2**20))
        assert place.names() == ["a"]
        assert os.listdir(small / "place") == ["a"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with unwritable(tmp_path / "locked") as locked, pytest.raises(NotWritableError, match="locked"):
        folder(str(locked / "place")).write("a", b"one")


def test_beside_writes_a_file_in_one_step(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.txt"
    with beside(out) as part:
        part.write_text("one")
        assert not out.exists()
    assert out.read_text() == "one"
    with pytest.raises(OutputExistsError, match="already"), beside(out):
        pytest.fail("must not be entered")
    with beside(out, overwrite=True) as part:
        part.write_text("two")
    assert out.read_text() == "two"
    assert os.listdir(out.parent) == ["out.txt"]


def test_beside_leaves_nothing_of_a_failure(tmp_path: Path) -> None:
    def write_half() -> None:
        with beside(tmp_path / "out") as part:
            part.mkdir()
            (part / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert os.listdir(tmp_path) == []


def test_replacing_a_folder_leaves_only_the_new(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    replace(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"]
    assert os.listdir(tmp_path / "old") == ["new"]


def test_removing_a_link_keeps_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    remove(tmp_path / "link")
    remove(tmp_path / "link")
    assert os.listdir(tmp_path) == ["real"]


def _flush_in_child(path: str) -> None:
    flush_tree(path)


def test_flushing_works_in_a_forked_process(tmp_path: Path) -> None:
    """The threads that flush do not survive a fork; the child must start its own and not wait for those for ever."""
    (tmp_path / "a").write_text("a")
    flush_tree(tmp_path)
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork on this system")
    child = os.fork()
    if child == 0:
        _flush_in_child(str(tmp_path))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_paths_and_urls_are_joined() -> None:
    assert files.join("/data/", "a", "b") == "/data/a/b"
    assert files.join("s3://bucket/x", "a") == "s3://bucket/x/a"
    assert files.is_local("file:///data")
    assert files.local_path("file:///data") == "/data"
    assert not files.is_local("s3://bucket")
