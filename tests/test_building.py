"""Exports that are built on demand: whole or absent, once for what a run holds, and made again when it changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from plates import QUICK, write_plate

import segkit
from segkit import building
from segkit.errors import DiskFullError, NoResultError, NotWritableError, UnknownExportError
from segkit.kit import Kit
from segkit.runs import Run


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        yield kit


@pytest.fixture
def run(kit: Kit, tmp_path: Path) -> Run:
    project = kit.project("plate", create=True)
    project.add(write_plate(tmp_path / "plate", [1, 2]))
    return project.segment("threshold").work_off()


@pytest.mark.parametrize(("format", "files"), [("csv", 1), ("geojson", 2)])
def test_it_is_built_once(run: Run, format: str, files: int) -> None:
    assert run.built(format) is None
    names: list[str] = []
    built = run.build(format, lambda steps, name: names.append(name))
    assert (built.files, built.single, built.bytes > 0) == (files, format == "csv", True)
    assert names == ["000.tif", "001.tif"]
    assert run.build(format, lambda steps, name: names.append(name)) == built == run.built(format)
    assert len(names) == 2
    assert built.path.exists()
    assert str(built.path).endswith(f"exports/{built.name}")


def test_a_run_that_changed_is_built_anew(kit: Kit, run: Run, tmp_path: Path) -> None:
    before = run.build("csv")
    project = kit.project("plate")
    project.add(write_plate(tmp_path / "more", [3], first=7))
    run = project.segment("threshold").work_off()
    assert run.number == 1
    assert run.built("csv") is None
    after = run.build("csv")
    assert len(after.path.read_text().splitlines()) == 7
    assert before.path.exists()  # somebody may be downloading it
    os.utime(before.path.parent, (0, time.time() - 2 * building.KEPT_SECONDS))
    building.prune(after.path.parent.parent, after.path.parent.name)
    assert not before.path.exists()
    assert after.path.exists()


def test_a_fault_leaves_nothing(kit: Kit, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(steps: int, name: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises((DiskFullError, OSError)):
        run.build("csv", stop)
    folder = building.folder_of(kit.settings.home, 1, "csv")
    assert list(folder.iterdir()) == []
    assert run.built("csv") is None


def test_what_cannot_be_built_is_told(kit: Kit, run: Run) -> None:
    with pytest.raises(UnknownExportError):
        run.build("docx")
    with pytest.raises(NotWritableError, match="store"):
        building.folder_of("s3://lab/segkit", 1, "csv")
    with pytest.raises(NoResultError):
        kit.project("plate").segment("threshold", threshold=9).build("csv")
