"""A kit over HTTP is a kit: the same script gives the same records, images are sent, and a token lets in."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tifffile import imwrite

import segkit
from segkit.client import connection
from segkit.errors import (
    NoResultError,
    NotAdmittedError,
    NotAServiceError,
    NothingToAddError,
    NotOverHttpError,
    RunFailedError,
    ScopeError,
    SegkitError,
    ServiceUnreachableError,
    UploadError,
    UploadTooLargeError,
    WaitTimeout,
)
from segkit.kit import Kit
from segkit.settings import load
from tests.laboratories import COUNTS, Make, laboratory
from tests.plates import QUICK, squares, write_plate
from tests.services import TOKEN

OTHER_DAY = datetime(2026, 1, 1, tzinfo=UTC)


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


# Who is let in


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
