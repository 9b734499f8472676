"""Upkeep: orphans are found and weighed, nothing that is named or leased is touched, and what is over its time goes by itself."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from plates import open_kit
from sqlalchemy import func, insert, select, update

from segkit import jobs, results, upkeep
from segkit.database import now
from segkit.kit import Kit, Project
from segkit.schema import Base, JobStatus
from segkit.settings import Settings

TABLES = Base.metadata.tables
OLD = 400 * 86_400


def write(kit: Kit, name: str, age_s: float = OLD, size: int = 100) -> Path:
    """Write a file below the home folder as if long ago; its folders are as old, as far as a folder can be."""
    path = Path(kit.settings.home) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the upkeep live a year on: a file's change time, which counts, cannot be set back."""
    present = time.time
    monkeypatch.setattr("segkit.upkeep.orphans.time.time", lambda: present() + OLD)


def places(kit: Kit) -> dict[str, str]:
    return {orphan.place: orphan.kind for orphan in upkeep.find(kit.database, kit.settings)}


@pytest.fixture
def worked(kit: Kit, project: Project) -> Kit:
    """Four results, nothing else."""
    project.segment("threshold").work_off()
    return kit


ORPHANS = (
    "results/1/9.1-deadbeef/objects.parquet",
    "results/7/1/objects.parquet",
    "tiles/1/1/work.json",
    "uploads/1/abc/lost.tif",
    "uploads/1/.part-0123",
    "exports/1/coco/run-1-0-0-open/coco.json",
    "exports/9/coco/run-9-0-0-open/coco.json",
    "archives/run-9/about.json",
    "classifiers/9/cells/a.npz",
    "batches/9/1/notebook.ipynb",
    "logs/gone.log",
    ".part-12345678",
)


@pytest.mark.usefixtures("later")
def test_every_kind_of_orphan_is_found_and_deleted_and_nothing_else(worked: Kit) -> None:
    before = {path for path in (Path(worked.settings.home) / "results").rglob("*") if path.is_file()}
    lost = [write(worked, name) for name in ORPHANS]
    named = write(worked, "uploads/1/def/kept.tif")
    with worked.database.write() as connection:
        connection.execute(update(TABLES["image"]).where(TABLES["image"].c.id == 1).values(uri=str(named.resolve())))
    found = list(upkeep.find(worked.database, worked.settings))
    for name in ORPHANS:
        assert any(name == orphan.place or name.startswith(f"{orphan.place}/") for orphan in found), name
    assert all(path.exists() for path in lost), "finding deletes nothing"
    deleted = list(upkeep.delete_orphans(worked.database, worked.settings, found))
    assert {orphan.place for orphan in deleted} == {orphan.place for orphan in found}
    assert sum(orphan.bytes for orphan in deleted) >= 100 * len(ORPHANS)
    assert not [path for path in lost if path.exists()]
    assert {path for path in (Path(worked.settings.home) / "results").rglob("*") if path.is_file()} == before
    assert named.exists()
    for record in worked.run(1).results():
        results.verify(record.path)
    assert places(worked) == {}


def test_what_is_young_is_no_orphan(worked: Kit) -> None:
    for name in ORPHANS:
        write(worked, name, age_s=0)
    assert places(worked) == {}


@pytest.mark.usefixtures("later")
def test_what_a_live_lease_owns_is_never_touched(kit: Kit, project: Project) -> None:
    """Whatever its age: a large image may take days between two writes."""
    run = project.segment("threshold")
    with kit.database.write() as connection:
        claims = jobs.claim(connection, "w", 2, 10**9)
    mine, other = claims
    write(kit, f"results/{run.number}/{mine.image_id}.{mine.attempt}-0123abcd/objects.parquet")
    write(kit, f"results/{run.number}/{other.image_id}.{other.attempt + 1}-0123abcd/objects.parquet")
    write(kit, f"tiles/{run.number}/{mine.image_id}/work.json")
    assert list(places(kit)) == [f"results/{run.number}/{other.image_id}.{other.attempt + 1}-0123abcd"]
    run.cancel()
    assert f"tiles/{run.number}/{mine.image_id}" in places(kit)


@pytest.mark.usefixtures("later")
def test_what_is_committed_between_finding_and_deleting_stays(worked: Kit) -> None:
    """A result that is made again is published to the place where an orphan was found."""
    with worked.database.write() as connection:
        rows = [dict(row._mapping) for row in connection.execute(select(TABLES["result"]))]
        connection.execute(TABLES["result"].delete())
    found = [orphan for orphan in upkeep.find(worked.database, worked.settings) if orphan.kind.startswith("result")]
    assert len(found) == 4
    with worked.database.write() as connection:
        connection.execute(insert(TABLES["result"]), rows)
    assert list(upkeep.delete_orphans(worked.database, worked.settings, found)) == []
    for record in worked.run(1).results():
        results.verify(record.path)


def test_history_that_is_over_its_time_goes_and_results_stay(database_settings: Settings, tmp_path: Path, worked: Kit) -> None:
    run = worked.project("plate").segment("threshold", sigma=3.0)
    run.cancel()
    batch, sample = TABLES["batch"], TABLES["sample"]
    values = {"notebook": "n", "parameters": {}, "folder": ".", "priority": 0, "attempt": 1, "max_attempts": 1, "notify": [], "cells": 1}
    with worked.database.write() as connection:
        moment = now(connection)
        old = moment - timedelta(days=400)
        times = {"not_before": old, "created_at": old, "started_at": old, "cell": 1, "notice_attempt": 0}
        for status, ended in ((JobStatus.DONE, old), (JobStatus.DONE, moment), (JobStatus.RUNNING, None)):
            connection.execute(insert(batch).values(**values, **times, status=status, finished_at=ended))
        for window in (60, 3600, 86_400):
            connection.execute(insert(sample).values(at=moment - timedelta(days=2000), window_s=window, source="s", measured={}))
        connection.execute(update(TABLES["run"]).values(finished_at=old))
    write(worked, "batches/1/1/notebook.ipynb")
    cleared = upkeep.clear(worked.database, worked.settings)
    assert (cleared.batches, cleared.runs, cleared.samples) == (1, 1, 3)
    assert not (Path(worked.settings.home) / "batches/1").exists()
    with worked.database.read() as connection:
        left = {
            name: connection.scalar(select(func.count()).select_from(TABLES[name])) for name in ("batch", "run", "job", "result", "sample")
        }
    assert left == {"batch": 2, "run": 1, "job": 4, "result": 4, "sample": 0}
    assert not upkeep.clear(worked.database, worked.settings)


def test_nothing_goes_when_history_is_kept_for_ever(database_settings: Settings, worked: Kit) -> None:
    with open_kit(database_settings, keep_history_days=0) as kit:
        run = kit.project("plate").segment("threshold", sigma=3.0)
        run.cancel()
        with kit.database.write() as connection:
            connection.execute(update(TABLES["run"]).values(finished_at=now(connection) - timedelta(days=4000)))
        assert upkeep.clear(kit.database, kit.settings).runs == 0
        assert kit.run(run.number).progress().cancelled == 4


def test_the_keeper_clears_by_itself(worked: Kit) -> None:
    write(worked, "logs/old.log")
    with pytest.MonkeyPatch.context() as patch:
        present = time.time
        patch.setattr("segkit.upkeep.orphans.time.time", lambda: present() + OLD)
        with upkeep.Keeper(worked.database, worked.settings, seconds=0.1):
            deadline = time.monotonic() + 5
            while (Path(worked.settings.home) / "logs/old.log").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
    assert not (Path(worked.settings.home) / "logs/old.log").exists()
