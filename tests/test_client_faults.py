"""A kit over HTTP has the library's errors, says a service's faults in words, and goes on with downloads that are cut."""

from __future__ import annotations

import fcntl
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

import segkit
from segkit import results
from segkit.client import RemoteKit, connection, downloads, runs
from segkit.client.downloads import download
from segkit.client.exporting import unpack
from segkit.errors import (
    ConfirmationRequired,
    CursorError,
    DownloadError,
    FilterError,
    InvalidParameterError,
    NotAdmittedError,
    NotAServiceError,
    NothingToAddError,
    NothingToRunError,
    NotOverHttpError,
    OutputExistsError,
    PageError,
    ProjectExistsError,
    SegkitError,
    SelectionError,
    ServiceFaultError,
    ServiceUnreachableError,
    UnknownExportError,
    UnknownImageError,
    UnknownJobError,
    UnknownParameterError,
    UnknownProjectError,
    UnknownRunError,
    UnknownSegmenterError,
    UnknownStatusError,
)
from segkit.exports.output import Output
from segkit.pages import Page
from segkit.server.app import create_app
from segkit.server.parameters import Paging
from segkit.server.registrations import page_of
from segkit.settings import load
from tests.faulty_app import Faulty
from tests.laboratories import COUNTS, Laboratory, laboratory
from tests.plates import QUICK, write_plate
from tests.services import running


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """A service with project 1 "plate7", images of 1, 2 and 3 squares, and run 1, done; tests only read it."""
    folder = tmp_path_factory.mktemp("client")
    with laboratory(load(home=str(folder / "home"), **QUICK)) as lab:
        project = lab.home.project("plate7", create=True)
        project.add(write_plate(folder / "plate", COUNTS), pixel_size_um=0.5)
        project.segment("threshold")
        lab.work_off()
        yield lab


@pytest.fixture
def kit(done: Laboratory) -> Iterator[RemoteKit]:
    with segkit.open(done.url) as kit:
        assert isinstance(kit, RemoteKit)
        yield kit


@pytest.fixture
def faulty(done: Laboratory, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Faulty, RemoteKit]]:
    """The same service behind something that is at fault when told to."""
    monkeypatch.setattr(connection, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(downloads, "PAUSES", (0.01, 0.01, 0.01))
    app: FastAPI = create_app(done.home.settings, done.home)
    before = Faulty(app, app.state)
    with running(before, log_level="critical") as url, RemoteKit(url) as kit:  # type: ignore[arg-type]
        before.asked.clear()
        yield before, kit


# Faults


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda kit: kit.project("plat7"), UnknownProjectError, 'Did you mean "plate7"'),
        (lambda kit: kit.project_numbered(99), UnknownProjectError, "99"),
        (lambda kit: kit.new_project("plate7"), ProjectExistsError, "plate7"),
        (lambda kit: kit.run(99), UnknownRunError, "run 99"),
        (lambda kit: kit.image(99), UnknownImageError, "99"),
        (lambda kit: kit.job(99), UnknownJobError, "job 99"),
        (lambda kit: kit.run(1).cancel(99), UnknownJobError, "job 99"),
        (lambda kit: kit.projects(0), PageError, "limit"),
        (lambda kit: kit.runs(after="made up"), CursorError, "cursor"),
        (lambda kit: kit.run(1).jobs("gone"), UnknownStatusError, "gone"),
        (lambda kit: kit.run(1).result(99), UnknownImageError, "99"),
        (lambda kit: kit.run(1).objects_page(["aera_px"]), SelectionError, "aera_px"),
        (lambda kit: kit.run(1).stream_objects(where=["area"]), FilterError, "area"),
        (lambda kit: kit.run(1).result(1).labels(7), SelectionError, "levels"),
        (lambda kit: kit.run(1).export("coko", "out"), UnknownExportError, 'Did you mean "coco"'),
        (lambda kit: kit.project("plate7").segment("nucleus"), UnknownSegmenterError, "nuclei"),
        (lambda kit: kit.project("plate7").segment("threshold", treshold=1), UnknownParameterError, 'Did you mean "threshold"'),
        (lambda kit: kit.project("plate7").segment("threshold", sigma=-1), InvalidParameterError, "sigma"),
        (lambda kit: kit.project("plate7").segment("threshold", images=[]), NothingToRunError, "segkit add"),
        (lambda kit: kit.project("plate7").add(["/nowhere/*.tif"]), NothingToAddError, "Check the folder"),
        (lambda kit: kit.project("plate7").delete(), ConfirmationRequired, "confirm"),
    ],
)
def test_faults_are_those_of_the_library(
    done: Laboratory, kit: RemoteKit, call: Callable[[Any], object], kind: type[SegkitError], words: str
) -> None:
    with pytest.raises(kind, match=words) as there:
        call(kit)
    with pytest.raises(kind) as here:
        call(done.home)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("name", ["work_off", "new_token", "batch", "database"])
def test_what_cannot_be_done_from_afar_says_what_to_do(kit: RemoteKit, name: str) -> None:
    with pytest.raises(NotOverHttpError, match=name):
        getattr(kit, name)
    assert not hasattr(kit, name)
    with pytest.raises(AttributeError, match="no attribute 'projekt'"):
        _ = kit.projekt  # type: ignore[attr-defined]
    with pytest.raises(NotOverHttpError, match="segkit retry"):
        kit.run(1).retry(done_too=True)


def test_reading_is_tried_again_and_writing_is_not(faulty: tuple[Faulty, RemoteKit]) -> None:
    before, kit = faulty
    before.answers = [(503, b"{}", {"retry-after": "0"}), (502, b"<html>", {})]
    assert kit.run(1).number == 1
    assert len(before.asked) == 3
    before.cuts = [5]
    assert kit.run(1).number == 1
    before.asked.clear()
    before.answers = [(503, b"{}", {})]
    with pytest.raises(ServiceUnreachableError, match="503"):
        kit.new_project("other")
    assert len(before.asked) == 1
    before.answers = [(503, b"{}", {"retry-after": "0"})]
    assert kit.project("plate7", create=True).record.id == 1  # asking twice does nothing twice


def test_faults_of_the_service_are_said_in_words(faulty: tuple[Faulty, RemoteKit]) -> None:
    before, kit = faulty
    before.answers = [(500, b'{"title": "Unforeseen fault", "detail": "This should not happen: KeyError. Please report it."}', {})]
    with pytest.raises(ServiceFaultError, match="KeyError"):
        kit.run(1)
    before.answers = [(200, b"<html>another program</html>", {})]
    with pytest.raises(NotAServiceError, match="did not answer /api/runs/1 as a segkit service does"):
        kit.run(1)
    before.answers = [(404, b"<html>", {})]
    with pytest.raises(NotAServiceError, match="404"):
        kit.run(1)
    before.answers = [(302, b"", {"location": "https://hub.example.org/login"})]
    with pytest.raises(NotAdmittedError, match="SEGKIT_TOKEN"):
        kit.run(1)
    before.answers = [(429, b"{}", {"retry-after": "60"})]
    with pytest.raises(SegkitError, match=r"Wait a minute.* 60 s"):
        kit.run(1)
    run = kit.run(1)
    before.cuts = [1000] * 4
    with pytest.raises(ServiceUnreachableError, match="broke its answer off"):
        run.objects()
    assert not before.cuts
    before.cuts = [1000] * 4
    with pytest.raises(ServiceUnreachableError, match="broke its answer off"):
        run.stream_objects()
    before.cuts = [1000]
    assert sum(len(piece) for piece in run.stream_objects()[1]) == sum(COUNTS)


def test_waiting_outlasts_a_service_that_is_started_anew(faulty: tuple[Faulty, RemoteKit], monkeypatch: pytest.MonkeyPatch) -> None:
    before, kit = faulty
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0.01)
    busy = b'{"queued": 1, "running": 0, "done": 2, "failed": 0, "cancelled": 0, "objects": 3,'
    busy += b' "created_at": "2026-01-01T00:00:00Z", "finished_at": null}'
    run = kit.run(1)
    before.answers = [(200, busy, {}), *[(503, b"{}", {})] * 9]
    assert run.wait(30).record.done == 3


# Downloads


def whole(kit: RemoteKit) -> bytes:
    """The run's archive, fetched by somebody else."""
    return httpx.get(f"{kit.url}/api/download/runs/1.zip").content


def test_a_download_goes_on_in_the_same_call(faulty: tuple[Faulty, RemoteKit], tmp_path: Path) -> None:
    before, kit = faulty
    data, run = whole(kit), kit.run(1)
    before.asked.clear()
    before.cuts = [3000, 500]
    assert run.download(tmp_path, bar=False) == tmp_path / "segkit-run-1.zip"
    assert (tmp_path / "segkit-run-1.zip").read_bytes() == data
    assert [each.get("range") for each in before.asked if each["method"] == "GET"] == [None, "bytes=3000-", "bytes=3500-"]
    assert os.listdir(tmp_path) == ["segkit-run-1.zip"]
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        kit.run(1).download(tmp_path)
    assert kit.run(1).download(tmp_path, overwrite=True).read_bytes() == data


def test_a_download_goes_on_in_a_later_call(faulty: tuple[Faulty, RemoteKit], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, kit = faulty
    data, run, out = whole(kit), kit.run(1), tmp_path / "run.zip"
    before.cuts = [len(data) // 2, *[0] * 8]
    with pytest.raises(ServiceUnreachableError):
        run.download(out)
    assert (tmp_path / "run.zip.part").read_bytes() == data[: len(data) // 2]
    assert not out.exists()
    before.cuts.clear()
    before.asked.clear()
    assert kit.run(1).download(out).read_bytes() == data
    asked = before.asked[-1]
    assert (asked["range"], asked["if-range"][0]) == (f"bytes={len(data) // 2}-", '"')
    assert os.listdir(tmp_path) == ["run.zip"]
    assert "100%" in capsys.readouterr().err


def test_what_arrived_of_another_file_is_not_taken_for_a_part_of_this(kit: RemoteKit, tmp_path: Path) -> None:
    out = tmp_path / "run.zip"
    (tmp_path / "run.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "run.zip.part.etag").write_text('"another"')
    assert kit.run(1).download(out, bar=False).read_bytes() == whole(kit)
    (tmp_path / "run.zip.part").write_bytes(whole(kit) + b"more")
    assert kit.run(1).download(out, overwrite=True, bar=False).read_bytes() == whole(kit)


def test_a_file_that_is_replaced_under_a_download_is_noticed(faulty: tuple[Faulty, RemoteKit], tmp_path: Path) -> None:
    before, kit = faulty
    before.answers = [(200, b"old", {"etag": '"one"'}), (200, b"new", {"etag": '"two"'})]
    with pytest.raises(DownloadError, match="replaced"):
        download(kit.connection, "/api/download/exports/1/csv/x/objects.csv", tmp_path / "a.csv", bar=False)
    assert not (tmp_path / "a.csv").exists()


def test_who_is_shut_out_half_way_is_told_so_and_not_that_the_disk_is_at_fault(faulty: tuple[Faulty, RemoteKit], tmp_path: Path) -> None:
    before, kit = faulty
    before.answers = [(200, b"what is there", {"etag": '"one"'}), (401, b"{}", {})]
    with pytest.raises(NotAdmittedError, match="SEGKIT_TOKEN"):
        download(kit.connection, "/api/download/exports/1/csv/x/objects.csv", tmp_path, bar=False)


def test_two_processes_do_not_write_one_file(kit: RemoteKit, tmp_path: Path) -> None:
    with open(tmp_path / "run.zip.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputExistsError, match="another process"):
            kit.run(1).download(tmp_path / "run.zip", bar=False)
    assert kit.run(1).download(tmp_path / "run.zip", bar=False).stat().st_size > 0


@pytest.mark.parametrize("name", ["../a.tif", "/a.tif", "a//b.tif", "a/../../b.tif", "..\\a.tif", ""])
def test_an_archive_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name or "/"), b"data")
    with pytest.raises(DownloadError, match="outside"), Output(tmp_path / "out", None, False) as output:
        unpack(tmp_path / "a.zip", output)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", b"data")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"data", b"dada"))
    with pytest.raises(DownloadError, match="damaged"), Output(tmp_path / "out", None, False) as output:
        unpack(tmp_path / "a.zip", output)


def test_the_numbers_of_registered_images_come_in_pages() -> None:
    numbers = tuple(range(1, 8))
    first = page_of(numbers, "images of 1", Paging(5, None, None))
    assert (first.items, first.total) == ((1, 2, 3, 4, 5), 7)
    assert page_of(numbers, "images of 1", Paging(5, first.next, None)) == Page((6, 7), 7)
    assert page_of(numbers, "images of 1", Paging(2, None, 6)) == Page((7,), 7)
    with pytest.raises(CursorError):
        page_of(numbers, "images of 2", Paging(5, first.next, None))


def test_a_result_is_downloaded_whole_and_checked(done: Laboratory, kit: RemoteKit, tmp_path: Path) -> None:
    result = kit.run(1).result(2)
    folder = result.download(tmp_path / "result")
    np.testing.assert_array_equal(results.read_labels(str(folder)), done.home.run(1).labels(2))
    assert result.table().equals(results.read_objects(str(folder)))
    with pytest.raises(OutputExistsError):
        result.download(tmp_path / "result")


def test_exports_replace_and_refuse_as_the_library_does(kit: RemoteKit, tmp_path: Path) -> None:
    run = kit.run(1)
    folder = run.export("ome-zarr", tmp_path / "zarr")
    (folder / "000.ome.zarr" / "stale").write_text("of an older export")
    with pytest.raises(OutputExistsError):
        run.export("ome-zarr", tmp_path / "zarr")
    run.export("ome-zarr", tmp_path / "zarr", overwrite=True)
    assert not (folder / "000.ome.zarr" / "stale").exists()
    with pytest.raises(OutputExistsError):
        run.export("csv", write_csv(tmp_path / "objects.csv"))
    assert sorted(os.listdir(tmp_path)) == ["objects.csv", "zarr"]


def write_csv(path: Path) -> Path:
    path.write_text("mine")
    return path


def test_notebooks_show_what_a_service_has(kit: RemoteKit) -> None:
    shown = kit._repr_html_() + kit.project("plate7")._repr_html_() + kit.run(1)._repr_html_() + kit.image(1)._repr_html_()
    assert shown.count("plate7") >= 3
    assert "data:image/png" in shown
    assert repr(kit.project("plate7")) == "<project 'plate7': 3 images, 0 unreadable>"
    assert repr(kit.image(1)) == "<image 1 '000.tif': YX 64 × 64>"
