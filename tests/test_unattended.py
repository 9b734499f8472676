"""What a kit does while nobody watches: batches are queued and found through it, and loading it costs nothing until they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from notebook_files import write_notebook

import segkit
from segkit import schedule


def test_batches_and_schedules_are_reached_through_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "notebooks" / "add.ipynb", parameters="size: int = 1")
    with segkit.open(tmp_path / "home") as kit:
        one = kit.batch("add", {"size": 2}, priority=3)
        two = kit.batch_sweep("add", [{"size": 3}, {"size": 4}])
        assert [each.id for each in kit.batches().items] == [two[1].number, two[0].number, one.number]
        assert kit.find_batch(one.number).record.priority == 3
        assert kit.batches_left() == 3
        schedule.add(kit.database, kit.settings, schedule.Wanted(name="nightly", cron="0 2 * * *", notebook="add"))
        assert [each.name for each in kit.schedules()] == ["nightly"]
        kit.scheduler().step()
        assert kit.batches_left() == 3, "it is not two o'clock"


def test_opening_a_kit_loads_no_papermill() -> None:
    look = "import sys, segkit.kit; print('papermill' in sys.modules, 'nbconvert' in sys.modules, 'apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split() == ["False"] * 3
