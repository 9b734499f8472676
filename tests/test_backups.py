"""Backups: taken while a worker works, put back to the last row and byte, into either database; damage is found, nothing is overwritten."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plates import QUICK, open_kit, write_plate
from sqlalchemy import select, update

import segkit
from segkit import backups, results
from segkit.backups.records import read_files
from segkit.database import Database, open_database
from segkit.errors import BackupDamagedError, NoBackupError, RestoreTargetError
from segkit.kit import Kit
from segkit.schema import Base
from segkit.settings import Settings, load
from tests.conftest import DIALECTS, PostgresqlServer

TABLES = Base.metadata.tables


def everything(database: Database, home: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table; revisions, which a restore raises, are left out, and a home folder is called HOME."""
    found = {}
    with database.read() as connection:
        for table in Base.metadata.sorted_tables:
            rows = [dict(row._mapping) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for row in rows:
                row.pop("revision", None)
                row.update({name: value.replace(home, "HOME") for name, value in row.items() if isinstance(value, str)})
            found[table.name] = rows
    return found


def contents(home: str) -> dict[str, bytes]:
    """Every file that is kept, by its place."""
    kept = [path for name in ("results", "uploads", "classifiers", "batches") for path in (Path(home) / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(home)): path.read_bytes() for path in kept}


@pytest.fixture
def elsewhere(tmp_path: Path, postgresql_server: PostgresqlServer) -> Callable[[str], Settings]:
    """Settings of an empty home and a database without tables."""

    def make(dialect: str) -> Settings:
        arguments = {"database_url": postgresql_server.create()} if dialect == "postgresql" else {}
        return load(home=str(tmp_path / f"other-{dialect}"), **arguments)

    return make


@pytest.fixture
def filled(kit: Kit, plate: Path) -> Kit:
    """A project with results, an upload, a classifier and an executed notebook."""
    project = kit.project("plate", create=True)
    project.add(plate)
    project.segment("threshold").work_off()
    for name, data in {"uploads/1/abc/a.tif": b"upload", "classifiers/1/cells/strokes-1.npz": b"paint", "batches/1/a.ipynb": b"{}"}.items():
        path = Path(kit.settings.home) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    uploaded = str(Path(kit.settings.home).resolve() / "uploads/1/abc/a.tif")
    with kit.database.write() as connection:
        connection.execute(update(TABLES["image"]).where(TABLES["image"].c.id == 1).values(uri=uploaded))
    kit.new_token("reader")
    return kit


@pytest.mark.parametrize("target", DIALECTS)
def test_all_is_put_back_into_either_database(filled: Kit, elsewhere: Callable[[str], Settings], tmp_path: Path, target: str) -> None:
    there, manifest = backups.take(filled.database, filled.settings.home, tmp_path / "backups")
    assert (manifest.damaged, manifest.rows["result"]) == ([], 4)
    assert manifest.added_files == len(set(contents(filled.settings.home).values())) < manifest.files, "the same bytes are kept once"
    settings = elsewhere(target)
    with open_database(settings, check=False) as database:
        restored = backups.restore(database, settings.home, tmp_path / "backups")
        assert (restored.backup, restored.rows, restored.recounted) == (there, manifest.rows, [])
        before = everything(filled.database, str(Path(filled.settings.home).resolve()))
        assert everything(database, str(Path(settings.home).resolve())) == before
        assert len(before["result"]) == len(before["job"]) == 4
    assert contents(settings.home) == contents(filled.settings.home)
    with open_kit(settings) as kit:
        for record in kit.run(1).results():
            results.verify(record.path)
        assert Path(kit.image(1).record.uri).read_bytes() == b"upload"
        assert kit.project("plate").segment("threshold", sigma=2.0).number == 2, "numbers go on after the last"


def test_a_backup_taken_while_a_worker_works_is_of_one_moment(database_settings: Settings, tmp_path: Path) -> None:
    """Whatever moment it shows: each result that its rows name is there, whole; what was not done then is done after a restore."""
    with open_kit(database_settings, lease_seconds=0.5, beat_seconds=0.1) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(tmp_path / "plate", [number % 9 for number in range(60)]))
        run = project.segment("threshold")
        worker = kit.worker()
        working = threading.Thread(target=worker.run, args=[kit.idle])
        working.start()
        shown = []
        while working.is_alive() and len(shown) < 12:
            shown.append(backups.take(kit.database, kit.settings.home, tmp_path / "backups")[1])
        worker.stop()
        working.join()
        assert all(not manifest.damaged for manifest in shown)
        done = [manifest.rows["result"] for manifest in shown]
        chosen = next((number for number, found in enumerate(done) if 0 < found < 60), len(done) - 1)
        taken = backups.all_of(tmp_path / "backups")[chosen]
        del run
    settings = load(home=str(tmp_path / "other"), **QUICK | {"lease_seconds": 0.5, "beat_seconds": 0.1})
    with open_database(settings, check=False) as database:
        backups.restore(database, settings.home, taken)
    with segkit.open(settings.home, **QUICK | {"lease_seconds": 0.5, "beat_seconds": 0.1}) as kit:
        there = list(kit.run(1).results())
        assert len(there) == done[chosen]
        for record in there:
            results.verify(record.path)
        kit.work_off()
        state = kit.run(1).progress()
        assert (state.done, state.failed, state.left) == (60, 0, 0)


def test_the_second_backup_copies_only_what_is_new(filled: Kit, tmp_path: Path) -> None:
    _, first = backups.take(filled.database, filled.settings.home, tmp_path / "backups")
    _, second = backups.take(filled.database, filled.settings.home, tmp_path / "backups")
    assert (second.files, second.bytes, second.added_files) == (first.files, first.bytes, 0)
    (Path(filled.settings.home) / "batches/1/b.ipynb").write_bytes(b"{ }")
    _, third = backups.take(filled.database, filled.settings.home, tmp_path / "backups", keep=1)
    assert (third.added_files, third.files) == (1, first.files + 1)
    assert len(backups.all_of(tmp_path / "backups")) == 1
    stored = [path for path in (tmp_path / "backups" / "objects").rglob("*") if path.is_file()]
    with open(backups.newest(tmp_path / "backups") / "files.jsonl.zst", "rb") as file:
        assert {path.name for path in stored} == {checksum for kept in read_files(file) for _, _, checksum in kept.files}


def test_a_damaged_backup_is_told_and_the_database_stays_empty(filled: Kit, elsewhere: Callable[[str], Settings], tmp_path: Path) -> None:
    there, _ = backups.take(filled.database, filled.settings.home, tmp_path / "backups")
    victim = max((tmp_path / "backups" / "objects").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    settings = elsewhere("sqlite")
    with open_database(settings, check=False) as database:
        with pytest.raises(BackupDamagedError, match=f"{victim.name} is damaged"):
            backups.restore(database, settings.home, there)
        (there / "tables" / "job.jsonl.zst").write_bytes(b"")
        with pytest.raises(BackupDamagedError, match=r"job\.jsonl\.zst"):
            backups.restore(database, settings.home, there, force=True)
    assert not (Path(settings.home) / "segkit.db").exists()


def test_a_damaged_result_is_named_and_the_rest_is_backed_up(filled: Kit, tmp_path: Path) -> None:
    for path in (Path(filled.settings.home) / "results/1/2").rglob("objects.parquet"):
        path.write_bytes(b"?")
    _, manifest = backups.take(filled.database, filled.settings.home, tmp_path / "backups")
    assert manifest.damaged == ["results/1/2"]
    assert manifest.rows["result"] == 4


def test_nothing_is_overwritten_unless_it_is_said(filled: Kit, tmp_path: Path) -> None:
    backups.take(filled.database, filled.settings.home, tmp_path / "backups")
    before = everything(filled.database, filled.settings.home)
    with pytest.raises(RestoreTargetError, match="the database"):
        backups.restore(filled.database, filled.settings.home, tmp_path / "backups")
    filled.project("plate").delete(confirm=True)
    backups.restore(filled.database, filled.settings.home, tmp_path / "backups", force=True)
    assert everything(filled.database, filled.settings.home) == before
    with pytest.raises(NoBackupError):
        backups.restore(filled.database, filled.settings.home, tmp_path / "none")


def test_files_are_linked_where_that_is_asked_for(filled: Kit, tmp_path: Path) -> None:
    backups.take(filled.database, filled.settings.home, tmp_path / "backups", link=True)
    linked = [path for path in (tmp_path / "backups" / "objects").rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert len(linked) >= 4
