"""A kit over HTTP is a kit: the same script, the same records, the same errors; and downloads that are cut go on."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from plates import QUICK, squares, write_plate
from services import TOKEN, running
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tifffile import imwrite

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
    NoResultError,
    NotAdmittedError,
    NotAServiceError,
    NothingToAddError,
    NothingToRunError,
    NotOverHttpError,
    OutputExistsError,
    PageError,
    ProjectExistsError,
    RunFailedError,
    ScopeError,
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
    UploadError,
    UploadTooLargeError,
    WaitTimeout,
)
from segkit.exports.output import Output
from segkit.kit import Kit
from segkit.pages import Page
from segkit.server.app import create_app
from segkit.server.parameters import Paging
from segkit.server.registrations import page_of
from segkit.settings import Settings, load

Make = Callable[..., Settings]
COUNTS = [1, 2, 3]
OTHER_DAY = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Laboratory:
    """A service, its address, and the kit that it serves."""

    home: Kit
    url: str

    def work_off(self) -> None:
        """Do what `segkit worker` does beside the service."""
        self.home.work_off()


@contextmanager
def laboratory(settings: Settings) -> Iterator[Laboratory]:
    given = QUICK | {"upload_max_bytes": settings.upload_max_bytes}
    with segkit.open(settings.home, **given) as home, running(create_app(settings, home)) as url:
        yield Laboratory(home, url)


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


# One script, at home and from afar


def steady(value: Any) -> Any:
    """A record without what differs between two times and places of the same work."""
    changing = {"created_at": OTHER_DAY, "started_at": OTHER_DAY, "finished_at": OTHER_DAY, "not_before": OTHER_DAY}
    changing |= {"revision": 0, "worker": "w", "seconds": 0.0, "path": "p", "checksum": "c", "bytes": 0}
    return replace(value, **{name: new for name, new in changing.items() if hasattr(value, name)})


def script(kit: Kit, plate: Path, work_off: Callable[[], None], out: Path) -> list[Any]:
    """Use everything that a script needs; returns every record that came of it."""
    seen: list[Any] = []
    project = kit.project("plate", create=True)
    steps: list[tuple[int, int | None]] = []
    seen.append(project.add(plate, pixel_size_um=0.5, progress=lambda done, total: steps.append((done, total))))
    assert steps[-1][0] == len(COUNTS) + 1
    seen.append(project.add([plate / "000.tif", str(plate / "002.tif")]))
    seen += [steady(project.refreshed().record), steady(kit.projects().items[0]), steady(kit.activity().items[0])]
    first = project.images(2)
    seen += [*map(steady, first.items), *map(steady, project.images(2, after=first.next).items), first.total]
    seen += [each.name for each in project] + [steady(kit.image(1).record), steady(project.images(unreadable=True).items[0])]
    run = project.segment("threshold", threshold=90, priority=3)
    assert project.segment("threshold", threshold=90, priority=3).number == run.number
    seen += [steady(run.record), run.number, run.segmenter, kit.queue(), kit.workers(), kit.idle()]
    last = run.jobs().items[-1].id
    seen += [run.objects().to_pydict(), run.objects_page().joined().to_pydict(), [*run.results()]]
    seen += [run.cancel(), run.retry(), run.cancel(last), run.jobs("cancelled").total, run.retry(last), kit.cancel_job(last)]
    seen += [kit.retry_job(last), steady(kit.job(last)), steady(run.progress()), kit.runs().total, project.runs().total]
    work_off()
    ended = run.wait(60)
    seen += [steady(ended.record), steady(ended.progress()), repr(ended), *map(steady, ended.jobs("done", 2).items)]
    seen += [steady(each.record) for each in ended.results()] + [run.failures().total]
    for each in ended.results():
        seen += [each.image.name, each.objects, each.summary, each.labels().sum().item(), each.table().to_pydict()]
    seen += [run.labels(2).tolist(), run.result(kit.image(3)).table().schema, run.objects().to_pydict(), run.objects().schema]
    asked: dict[str, Any] = {"columns": ["label", "area_um2"], "where": ["area_um2>=1"], "limit": 4}
    page = run.objects_page(**asked)
    seen += [page.joined().to_pydict(), page.rows, page.next, run.objects_page(**asked, after=page.next).joined().to_pydict()]
    seen += [run.objects_page(image=2).rows, run.objects_page(["label"], ["area_um2>1000000"]).next]
    schema, pieces = run.stream_objects(["image", "label"], ["label>=2"])
    seen += [schema, [row for table in pieces for row in table.to_pylist()]]
    written: list[int] = []
    csv = run.export("csv", out / "objects.csv", progress=lambda steps, name: written.append(steps))
    seen += [sum(written), csv.relative_to(out), csv.read_text()]
    folder = run.export("tiff", out / "labels")
    seen += [folder.relative_to(out), sorted(os.listdir(folder)), (folder / os.listdir(folder)[0]).stat().st_size]
    seen += [kit.image(1).thumbnail(32).tolist(), run.result(2).preview(48).tolist(), repr(run.worst(2))]
    project.delete(confirm=True)
    return [*seen, kit.projects().total]


def test_one_script_gives_the_same_records_at_home_and_from_afar(make_settings: Make, tmp_path: Path) -> None:
    plate = write_plate(tmp_path / "plate", COUNTS)
    (plate / "bad.tif").write_bytes(b"II*\0 no")
    with segkit.open(tmp_path / "embedded", **QUICK) as embedded:
        expected = script(embedded, plate, embedded.work_off, tmp_path / "out1")
    settings = load(home=make_settings("sqlite").home, cache_ttl_queue=0, **QUICK)
    with laboratory(settings) as lab, segkit.open(lab.url) as remote:
        assert not isinstance(remote, Kit)
        seen = script(remote, plate, lab.work_off, tmp_path / "out2")
    for number, (here, there) in enumerate(zip(expected, seen, strict=True)):
        assert type(here) is type(there)
        assert here == there, number


def test_waiting_sees_a_run_through_that_a_worker_works_off(
    make_settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = "/user/ada/segkit"  # as JupyterHub or jupyter-server-proxy would show it
    with laboratory(make_settings("sqlite", server_root_path=prefix, **QUICK)) as lab, segkit.open(f"{lab.url}{prefix}/") as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(tmp_path / "plate", COUNTS))
        run = project.segment("threshold")
        with pytest.raises(WaitTimeout):
            run.wait(0.2)
        worker = threading.Timer(0.3, lab.work_off)
        worker.start()
        ended = run.wait(60)
        worker.join()
        assert (ended.record.done, ended.record.objects) == (3, sum(COUNTS))
        assert "3/3" in capsys.readouterr().err
        assert run.export("csv", tmp_path / "objects.csv").read_text().count("\n") == 1 + sum(COUNTS)
        with pytest.raises(NotOverHttpError, match="segkit worker"):
            run.wait(work=True)


def test_a_run_that_fails_altogether_says_why(make_settings: Make, tmp_path: Path) -> None:
    with laboratory(make_settings("sqlite", **QUICK)) as lab, segkit.open(lab.url) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(tmp_path / "plate", [1]))
        (tmp_path / "plate" / "000.tif").unlink()
        run = project.segment("threshold")
        lab.work_off()
        with pytest.raises(RunFailedError, match="There is no file"):
            run.wait(10)
        with pytest.raises(NoResultError, match="no results yet"):
            run.export("csv", tmp_path / "out")


def test_images_are_sent(make_settings: Make, tmp_path: Path) -> None:
    with laboratory(make_settings("sqlite", upload_max_bytes=10**6, **QUICK)) as lab, segkit.open(lab.url) as kit:
        project = kit.project("plate", create=True)
        sent = project.upload(write_plate(tmp_path / "plate", COUNTS))
        assert [each.name for each in sent] == ["000.tif", "001.tif", "002.tif"]
        assert project.upload(tmp_path / "plate" / "001.tif")[0].id == sent[1].id
        assert project.refreshed().record.images == 3
        np.testing.assert_array_equal(lab.home.image(sent[2].id).pixels(), squares(3, 2))
        run = project.segment("threshold", images=sent[:2])
        lab.work_off()
        assert run.wait(10).record.objects == 3
        bad = tmp_path / "bad.tif"
        bad.write_bytes(b"II*\0 no")
        with pytest.raises(SegkitError) as fault:
            project.upload(bad)
        assert "bad.tif" in fault.value.__notes__[0]
        bad.write_bytes(b"")
        with pytest.raises(UploadError):
            project.upload(bad)
        with pytest.raises(NothingToAddError):
            project.upload(tmp_path / "plate" / "*.png")
        imwrite(tmp_path / "large.tif", np.zeros((600, 600), np.uint16))
        assert project.upload(tmp_path / "large.tif")[0].record.shape == (600, 600)
        imwrite(tmp_path / "too large.tif", np.zeros((3000, 3000), np.uint16))
        with pytest.raises(UploadTooLargeError, match="SEGKIT_UPLOAD_MAX_BYTES"):
            project.upload(tmp_path / "too large.tif")


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


def test_a_token_lets_in(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with laboratory(make_settings("sqlite", token=TOKEN)) as lab:
        reader = lab.home.new_token("reader")[1]
        with segkit.open(lab.url, token=TOKEN) as kit:
            assert kit.project("plate", create=True).name == "plate"
            assert TOKEN not in repr(kit)
        with segkit.open(f"{lab.url}/?token={TOKEN}") as kit:
            assert kit.projects().total == 1
            assert TOKEN not in repr(kit)
        with segkit.open(lab.url, token=reader) as kit:
            assert kit.projects().total == 1
            with pytest.raises(ScopeError, match="--scope write"):
                kit.new_project("other")
        with pytest.raises(NotAdmittedError, match=r"token=.*SEGKIT_TOKEN"):
            segkit.open(lab.url)
        with pytest.raises(NotAdmittedError, match="not known"):
            segkit.open(lab.url, token="a-wrong-token-0123456789")
        monkeypatch.setenv("SEGKIT_TOKEN", TOKEN)
        with segkit.open(lab.url) as kit:
            assert kit.projects().total == 1


def test_no_service_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAUSES", (0.01,))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ServiceUnreachableError, match=r"No service answers at http://127.0.0.1:\d+ .*segkit serve"):
        segkit.open(f"http://127.0.0.1:{port}")
    for wrong in ("http://", "http://[::1"):
        with pytest.raises(NotAServiceError, match=r"127.0.0.1:8765"):
            segkit.open(wrong)


class Faulty:
    """An app before the service that answers as it is told, or breaks off; then it lets through."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self.app, self.state = app, state
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []  #: given one after the other
        self.cuts: list[int] = []  #: bytes of a body after which it breaks off, one after the other
        self.asked: list[dict[str, str]] = []  #: headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.asked.append({name.decode(): value.decode() for name, value in scope["headers"]} | {"method": scope["method"]})
        if self.answers:
            status, body, headers = self.answers.pop(0)
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": [*raw, (b"content-length", b"%d" % len(body))]})
            await send({"type": "http.response.body", "body": body})
            return
        cut = self.cuts.pop(0) if self.cuts and scope["method"] == "GET" else None
        await self.app(scope, receive, send if cut is None else cut_after(send, cut))


class Broken(Exception):
    """The connection breaks here."""


def cut_after(send: Send, count: int) -> Send:
    """Let so many bytes of a body through, and then break the answer off."""

    async def sending(message: Message) -> None:
        nonlocal count
        body = message.get("body", b"")
        if message["type"] == "http.response.body" and len(body) > count:
            await send(message | {"body": body[:count], "more_body": True})
            raise Broken
        count -= len(body)
        await send(message)

    return sending


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
