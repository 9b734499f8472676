"""What a person does with a project and an image, on both databases."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from plates import squares

from segkit.errors import (
    ConfirmationRequired,
    CursorError,
    InvalidParameterError,
    NothingToAddError,
    NothingToRunError,
    PageError,
    PixelSizeError,
    UnknownImageError,
    UnknownJobError,
    UnknownParameterError,
    UnknownRunError,
    UnknownSegmenterError,
)
from segkit.kit import Kit, Project


def test_a_folder_a_pattern_a_list_and_a_uri_are_added_once(kit: Kit, plate: Path) -> None:
    project = kit.project("plate", create=True)
    assert project.add(plate).added == 4
    shutil.copy(plate / "000.tif", plate / "copy of 000.tif")
    for where in (plate, str(plate), f"{plate}/*.tif", [plate / "000.tif", str(plate / "001.tif")], f"file://{plate}/002.tif"):
        again = project.add(where)
        assert (again.added, again.unreadable) == (0, 0)
        assert again.duplicates > 0
        assert again.image_ids
    assert project.refreshed().record.images == 4
    assert project.add(plate, pixel_size_um=0.5).rescaled == 4
    assert {image.record.pixel_size_um for image in project} == {0.5}


def test_progress_is_told(kit: Kit, plate: Path) -> None:
    told: list[tuple[int, int | None]] = []
    kit.project("plate", create=True).add(plate, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)


def test_wrong_additions_are_refused(kit: Kit, plate: Path, tmp_path: Path) -> None:
    project = kit.project("plate", create=True)
    for size in (0, -1, float("nan"), float("inf")):
        with pytest.raises(PixelSizeError, match="positive"):
            project.add(plate, pixel_size_um=size)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NothingToAddError, match="nothing"):
        project.add(tmp_path / "nothing")
    assert project.refreshed().record.images == 0


def test_images_list_in_pages(kit: Kit, project: Project) -> None:
    first = project.images(3)
    assert ([image.name for image in first.items], first.total) == (["003.tif", "002.tif", "001.tif"], 4)
    second = project.images(3, after=first.next)
    assert ([image.name for image in second.items], second.next) == (["000.tif"], None)
    assert project.images(2, offset=2).items == (*first.items[2:], *second.items)
    assert [image.name for image in project] == ["003.tif", "002.tif", "001.tif", "000.tif"]
    with pytest.raises(PageError):
        project.images(0)
    with pytest.raises(CursorError):
        project.images(after="made up")
    with pytest.raises(CursorError):
        kit.projects(after=first.next)


def test_an_image_opens(kit: Kit, project: Project) -> None:
    image = kit.image(next(iter(project)).id)
    assert (image.name, image.record.shape, image.record.dtype) == ("003.tif", (64, 64), "uint8")
    np.testing.assert_array_equal(image.pixels(), squares(4, 3))
    assert image.thumbnail(32).shape == (32, 32)
    with image.open() as opened:
        assert opened.info.content_hash == image.record.content_hash
    with pytest.raises(UnknownImageError, match="999"):
        kit.image(999)


def test_what_cannot_be_asked_for_is_refused_before_anything_is_queued(kit: Kit, project: Project) -> None:
    with pytest.raises(UnknownSegmenterError, match='Did you mean "threshold"'):
        project.segment("treshold")
    with pytest.raises(UnknownParameterError, match='Did you mean "sigma"'):
        project.segment("threshold", sigmo=1)
    with pytest.raises(InvalidParameterError, match="sigma"):
        project.segment("threshold", sigma=-1)
    with pytest.raises(UnknownImageError, match="999"):
        project.segment("threshold", images=[999])
    with pytest.raises(NothingToRunError):
        kit.project("empty", create=True).segment("threshold")
    with pytest.raises(UnknownRunError):
        kit.run(1)
    with pytest.raises(UnknownJobError):
        kit.job(1)
    assert kit.queue().total == 0


def test_deleting_a_project_takes_rows_and_files_but_no_image(kit: Kit, project: Project, plate: Path) -> None:
    run = project.segment("threshold")
    run.wait(work=True)
    other = kit.project("other", create=True)
    other.add(plate)
    kept = other.segment("threshold", images=[next(iter(other))])
    kept.wait(work=True)
    home = Path(kit.settings.home)
    assert len(list((home / "results" / str(run.number)).iterdir())) == 4
    with pytest.raises(ConfirmationRequired, match="confirm=True"):
        project.delete()
    assert run.progress().done == 4
    project.delete(confirm=True)
    assert [path.name for path in (home / "results").iterdir()] == [str(kept.number)]
    assert [each.name for each in kit.projects().items] == ["other"]
    with pytest.raises(UnknownRunError):
        kit.run(run.number)
    assert kit.queue().total == 1
    assert len(list(plate.iterdir())) == 4
    assert next(kept.results()).labels().max() == 4
    assert (repr(project), repr(run))[0].startswith("<project 'plate'"), "what is gone can still be printed"
