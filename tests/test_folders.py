"""Folders from which images may be registered for others: nothing leads out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.errors import FolderNotAllowedError
from segkit.folders import Folders


@pytest.fixture
def plates(tmp_path: Path) -> Path:
    for name in ("plates", "plates/7", "plates-secret", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tif").write_bytes(b"x")
    return tmp_path / "plates"


def test_what_lies_below_is_found(plates: Path) -> None:
    folders = Folders([str(plates)])
    assert list(folders.discover([str(plates)])) == [f"{plates}/7/a.tif", f"{plates}/a.tif"]
    assert list(folders.discover([f"{plates}/*/a.tif", f"file://{plates}/a.tif"])) == [f"{plates}/7/a.tif", f"{plates}/a.tif"]


@pytest.mark.parametrize("place", ["/", "..", "{}-secret", "{}/../other", "{}/7/../../other/*.tif", "{}/*/../../other", "a\0b", "*"])
def test_what_begins_outside_is_refused(plates: Path, place: str) -> None:
    with pytest.raises(FolderNotAllowedError):
        list(Folders([str(plates)]).discover([place.format(plates)]))


def test_a_link_that_leads_out_is_refused(plates: Path) -> None:
    (plates / "link").symlink_to(plates.parent / "other")
    folders = Folders([str(plates)])
    for place in (str(plates / "link"), str(plates / "link" / "a.tif"), f"{plates}/l*", str(plates)):
        with pytest.raises(FolderNotAllowedError):
            list(folders.discover([place]))


def test_a_folder_that_is_itself_a_link_is_the_folder_it_leads_to(plates: Path) -> None:
    link = plates.parent / "link"
    link.symlink_to(plates)
    assert list(Folders([str(link)]).discover([str(plates / "a.tif")])) == [f"{plates}/a.tif"]


@pytest.mark.parametrize(
    ("uri", "inside"),
    [
        ("s3://lab/plates/7/a.tif", True),
        ("s3://lab/plates", True),
        ("s3://lab/plates-secret/a.tif", False),
        ("s3://lab/plates/../secret/a.tif", False),
        ("s3://other/plates/a.tif", False),
        ("zip://a.tif::s3://lab/plates/7.zip", False),
        ("s3://lab/plates/7.zip::file:///etc/passwd", False),
        ("http://169.254.169.254/latest", False),
        ("/s3://lab/plates/a.tif", False),
    ],
)
def test_urls_are_taken_as_they_are_written(uri: str, inside: bool) -> None:
    assert Folders(["s3://lab/plates"]).contains(uri) is inside


def test_no_folders_allow_nothing() -> None:
    with pytest.raises(FolderNotAllowedError):
        Folders([]).check("/")
