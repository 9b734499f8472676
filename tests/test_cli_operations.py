"""`segkit backup`, `restore` and `gc` as a person or a script meets them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from plates import write_plate
from test_cli import Command, command_in


@pytest.fixture
def segkit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in a folder that has a run of two images, done."""
    command = command_in(tmp_path, capsys)
    write_plate(tmp_path / "plate", [1, 2])
    assert command("add", "cells", "plate", "--pixel-size", "0.5").returncode == 0
    assert command("run", "cells", "threshold").returncode == 0
    return command


def test_back_up_lose_everything_restore(segkit: Command, tmp_path: Path) -> None:
    made = segkit("backup", "safe", "--json")
    assert made.returncode == 0
    facts = json.loads(made.stdout)
    assert (facts["rows"]["result"], facts["damaged"]) == (2, [])
    assert "New since the last: 0 files" in segkit("backup", "safe").stdout
    refused = segkit("restore", "safe")
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    unsure = segkit("restore", "safe", "--force")
    assert (unsure.returncode, "--yes" in unsure.stderr) == (1, True)
    restored = segkit("restore", "safe", "--home", "elsewhere")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert "compared with its checksum" in restored.stdout
    listed = json.loads(segkit("list", "jobs", "--run", "1", "--home", "elsewhere", "--json").stdout)
    assert [job["status"] for job in listed["items"]] == ["done", "done"]
    assert segkit("export", "1", "csv", "out", "--home", "elsewhere").returncode == 0
    assert segkit("restore", "safe", "--force", "--yes").returncode == 0


def test_there_is_no_backup(segkit: Command, tmp_path: Path) -> None:
    found = segkit("restore", "nothing", "--home", "elsewhere")
    assert (found.returncode, "There is no backup in nothing" in found.stderr) == (1, True)


def test_a_damaged_result_is_told_by_name_and_exit_code(segkit: Command, tmp_path: Path) -> None:
    (tmp_path / "segkit-data/results/1/1/objects.parquet").write_bytes(b"?")
    found = segkit("backup", "safe")
    assert (found.returncode, "results/1/1" in found.stdout) == (3, True)


def test_orphans_are_shown_and_deleted_only_when_that_is_said(segkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "None." in segkit("gc").stdout
    lost = tmp_path / "segkit-data/results/1/99.1-deadbeef/objects.parquet"
    lost.parent.mkdir()
    lost.write_bytes(bytes(2**20))
    os.utime(lost, (1, 1))
    present = time.time
    monkeypatch.setattr("segkit.upkeep.orphans.time.time", lambda: present() + 3600)
    shown = segkit("gc")
    assert (shown.returncode, "results/1/99.1-deadbeef" in shown.stdout, "Nothing was deleted" in shown.stdout) == (0, True, True)
    assert lost.exists()
    facts = json.loads(segkit("gc", "--json").stdout)
    assert (facts["bytes"], facts["deleted"], len(facts["orphans"])) == (2**20, 0, 1)
    assert "Deleted 1 of 1" in segkit("gc", "--delete").stdout
    assert not lost.exists()
    assert json.loads(segkit("list", "jobs", "--run", "1", "--json").stdout)["total"] == 2
