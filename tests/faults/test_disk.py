"""Disks that are full or cannot be written to, at every step of a write: whole or absent, told in words, and work goes on with room."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tifffile
from sqlalchemy import text

from segkit import backups, exports, jobs
from segkit.backups import records
from segkit.errors import DiskFullError, NotWritableError
from segkit.kit import Kit
from segkit.settings import load
from tests.disks import mounted
from tests.faults.invariants import check
from tests.faults.report import record
from tests.faults.scenes import PAGE, files_below, filled, kit_of, queue_plate, room
from tests.plates import squares
from tests.services import service


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, which is memory."""
    with mounted(tmp_path / "disk", "size=4m") as disk:
        yield disk


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A database on another disk than the home folder."""
    return f"sqlite:///{tmp_path / 'elsewhere.db'}"


def sweep_room(kit: Kit, disk: Path, step: int) -> dict[str, int]:
    """Work a run off with ever more room, until it is done; returns which files the disk was too full for, and how often."""
    run = kit.run(1)
    said: dict[str, int] = {}
    left = 0
    while run.progress().done == 0:
        with filled(disk, left):
            run.retry()
            kit.work_off()
            failures = run.failures().items
            assert all("disk is full" in (each.error or "") for each in failures), failures
            assert files_below(disk / "results") == [] or not failures
            check(kit.database, kit.settings.home)
        for each in failures:
            name = str(each.error).partition("disk is full: ")[2].partition(" was not written")[0]
            said[Path(name).name] = said.get(Path(name).name, 0) + 1
        left += step
        assert left < 2**20
    return said


@pytest.mark.faults
def test_a_disk_that_is_full_at_each_step_of_a_result(disk: Path, elsewhere: str, tmp_path: Path) -> None:
    with kit_of(disk, elsewhere) as kit:
        queue_plate(kit, tmp_path / "plate", [3])
        said = sweep_room(kit, disk, PAGE)
        assert {"objects.parquet", "zarr.json"} < set(said), said  # and the chunks of the label image
        check(kit.database, disk, drained=True)
    times = sum(said.values())
    told = "The job fails with the reason, nothing half-written is there; `retry` makes it when there is room"
    record("Disk full: labels and tables", "tmpfs filled but for n pages, each n until the result fits", times, told)


@pytest.mark.faults
def test_a_disk_that_is_full_at_each_step_of_a_large_image(disk: Path, elsewhere: str, tmp_path: Path) -> None:
    with kit_of(disk, elsewhere, tile_above=1000, tile=64) as kit:
        project = kit.project("plate", create=True)
        folder = tmp_path / "plate"
        folder.mkdir()
        tifffile.imwrite(folder / "0.tif", squares(9, edge=400))
        project.add(folder)
        project.segment("threshold")
        said = sweep_room(kit, disk, PAGE)
        assert sum(said.values()) >= 5, said
        check(kit.database, disk, drained=True)
    told = "The job fails with the reason; `retry` makes it when there is room"
    record("Disk full: tiles of a large image", "tmpfs filled but for n pages, each n until the result fits", sum(said.values()), told)


@pytest.mark.faults
def test_a_database_on_a_full_disk_takes_nothing_half_and_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    """What cannot be queued is not there; the worker waits, and does what is left when there is room."""
    refused = 0
    with kit_of(disk) as kit:
        run = queue_plate(kit, tmp_path / "plate", [1, 2, 3])
        project = kit.project("plate")
        for left in range(0, 16 * PAGE, PAGE):
            before = kit.queue(), len(kit.runs().items)
            with filled(disk, left):
                try:
                    project.segment("threshold", min_area=10 + left)
                except DiskFullError:
                    refused += 1
                    assert (kit.queue(), len(kit.runs().items)) == before
                else:
                    assert len(kit.runs().items) == before[1] + 1
            check(kit.database, disk)
        assert refused >= 3
        worker = kit.worker()
        working = threading.Thread(target=lambda: worker.run(kit.idle))
        with filled(disk, 0):
            working.start()
            with pytest.raises(DiskFullError):
                fill_log(kit)
            assert run.progress().done == 0
            assert working.is_alive()
        working.join(60)
        assert not working.is_alive()
        check(kit.database, disk, drained=True)
        with kit.database.read() as connection:
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    told = "What does not fit is refused whole and can be asked again; the worker waits for room and goes on"
    record("Disk full: the SQLite database", "tmpfs filled but for n pages, 16 times, and while a worker runs", 17, told)


def fill_log(kit: Kit) -> None:
    """Write until the database's disk takes no more."""
    for number in range(1000):
        kit.project(f"another {number} {'x' * 180}", create=True)


def test_every_export_onto_a_full_disk_is_whole_or_absent(disk: Path, tmp_path: Path) -> None:
    times = 0
    with kit_of(tmp_path / "home") as kit:
        run = queue_plate(kit, tmp_path / "plate", [2, 5])
        kit.work_off()
        for name in exports.FORMATS:
            out = disk / name
            left = whole = 0
            while not whole:
                with filled(disk, left):
                    try:
                        run.export(name, out)
                        whole = 1
                    except DiskFullError:
                        times += 1
                        assert files_below(disk) == [], (name, left)
                left = 2 * left + PAGE
                assert left < 2**22
            assert files_below(out)
            subprocess.run(["rm", "-r", str(out)], check=True)
        check(kit.database, kit.settings.home, drained=True)
    assert times >= 2 * len(exports.FORMATS)
    record("Disk full: exports", "tmpfs filled but for n pages, each of 9 formats, until it fits", times, "Told so; no file of it stays")


@pytest.mark.faults
def test_uploads_onto_a_full_disk_leave_nothing(disk: Path, elsewhere: str, tmp_path: Path) -> None:
    small, large = tmp_path / "small.tif", tmp_path / "large.tif"
    tifffile.imwrite(small, squares(3))
    tifffile.imwrite(large, squares(3, edge=1500))
    with kit_of(disk, elsewhere) as kit:
        kit.project("plate", create=True)
    times = 0
    with service(load(home=str(disk), database_url=elsewhere)) as client:
        for left in (0, PAGE, 2 * PAGE, 64 * PAGE):
            for path in (small, large):
                with filled(disk, left):
                    answer = client.post("/api/projects/1/uploads", params={"name": path.name}, content=path.read_bytes())
                    assert client.get("/api/projects").status_code == 200
                if answer.status_code != 201:
                    times += 1
                    assert (answer.status_code, answer.json()["title"]) == (507, "Disk full"), answer.text
                    assert not [name for name in files_below(disk / "uploads") if path.name in name or ".part" in name]
        assert times >= 5
        for path in (small, large):
            assert client.post("/api/projects/1/uploads", params={"name": path.name}, content=path.read_bytes()).status_code == 201
    with kit_of(disk, elsewhere) as kit:
        assert len(kit.project("plate").images().items) == 2
        check(kit.database, disk)
    told = "507 that says so; nothing of the file stays"
    record("Disk full: uploads", "tmpfs filled while a small and a large file are sent", times, told)


@pytest.mark.faults
def test_a_full_disk_for_logs_stops_no_work(elsewhere: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with mounted(home / "logs", "size=16k") as logs, kit_of(home, elsewhere) as kit, filled(logs, PAGE):
        queue_plate(kit, tmp_path / "plate", [1, 2, 3] * 20)
        kit.work_off()
        assert room(logs) == 0
        check(kit.database, home, drained=True)
    record("Disk full: logs", "tmpfs of one page for the log folder", 1, "All jobs are done; lines are missing from the log")


def test_a_backup_onto_a_full_disk_leaves_nothing(disk: Path, tmp_path: Path) -> None:
    times = left = 0
    with kit_of(tmp_path / "home") as kit:
        queue_plate(kit, tmp_path / "plate", [1, 2])
        kit.work_off()
        while not backups.all_of(disk):
            with filled(disk, left):
                try:
                    backups.take(kit.database, kit.settings.home, disk)
                except DiskFullError:
                    times += 1
                    assert backups.all_of(disk) == []
                    assert not [name for name in files_below(disk) if ".part" in name]
            left = 2 * left + PAGE
            assert left < 2**22
        assert times >= 2
        records.verify(backups.newest(disk), records.read(backups.newest(disk)))
        check(kit.database, kit.settings.home, drained=True)
    told = "Told so; no half backup is there, the next one is whole"
    record("Disk full: backups", "tmpfs filled but for n pages, until it fits", times, told)


def remount(disk: Path, how: str) -> None:
    """Make a disk read-only, or writable again."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@pytest.mark.faults
def test_a_disk_that_becomes_read_only_fails_jobs_with_its_path_and_the_service_stays(disk: Path, elsewhere: str, tmp_path: Path) -> None:
    with kit_of(disk, elsewhere) as kit:
        run = queue_plate(kit, tmp_path / "plate", [1, 2, 3])
        remount(disk, "ro")
        try:
            kit.work_off()
            failures = run.failures().items
            assert [str(disk) in (each.error or "") and "may not write" in (each.error or "") for each in failures] == [True] * 3
            with service(load(home=str(disk), database_url=elsewhere)) as client:
                assert client.get("/api/runs/1/jobs").json()["total"] == 3
                sent = client.post("/api/projects/1/uploads", params={"name": "a.tif"}, content=b"x" * 100)
                assert (sent.status_code, str(disk) in sent.json()["detail"]) == (503, True)
        finally:
            remount(disk, "rw")
        check(kit.database, disk)
        assert run.retry() == 3
        kit.work_off()
        check(kit.database, disk, drained=True)
    record("Read-only folder", "home folder remounted read-only", 1, "Jobs fail with the path that cannot be written, the service answers")


@pytest.mark.faults
def test_a_disk_that_comes_and_goes_while_jobs_run(disk: Path, elsewhere: str, tmp_path: Path) -> None:
    """Read-only at any moment, also between a result's last byte and its commit. A worker that ends over it is started again."""
    stop, flips = threading.Event(), 0

    def flap() -> None:
        nonlocal flips
        while not stop.wait(0.05):
            # A disk that is being written to cannot be made read-only; then it stays as it is until the next time.
            if subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False).returncode == 0:
                flips += 1
            stop.wait(0.02)
            remount(disk, "rw")

    with kit_of(disk, elsewhere) as kit:
        run = queue_plate(kit, tmp_path / "plate", [number % 9 for number in range(60)])
        flapping = threading.Thread(target=flap)
        flapping.start()
        try:
            for _ in range(200):
                run.retry()
                try:
                    kit.work_off()
                except NotWritableError:
                    continue  # as a supervisor would
                if not run.progress().failed and not run.progress().left:
                    break
        finally:
            stop.set()
            flapping.join()
            remount(disk, "rw")
        run.retry()
        kit.work_off()
        check(kit.database, disk, drained=True)
    record("Read-only folder", "home folder remounted read-only and back at random moments", flips, "What failed is made again by `retry`")


@pytest.mark.faults
def test_results_that_are_deleted_under_a_worker_fail_only_themselves(tmp_path: Path) -> None:
    """Somebody deletes the folder of results while a worker writes into it, between any two steps."""
    stop, times = threading.Event(), 0
    with kit_of(tmp_path / "home") as kit:
        results = Path(kit.settings.home) / "results"

        def delete() -> None:
            nonlocal times
            while not stop.wait(0.03):
                times += results.is_dir()
                subprocess.run(["rm", "-rf", str(results)], check=False)

        run = queue_plate(kit, tmp_path / "plate", [number % 9 for number in range(60)])
        deleting = threading.Thread(target=delete)
        deleting.start()
        try:
            kit.work_off()
        finally:
            stop.set()
            deleting.join()
        with kit.database.write() as connection:
            jobs.retry(connection, run_id=run.number, done_too=True)
        kit.work_off()
        check(kit.database, kit.settings.home, drained=True)
    told = "The run ends; `retry` makes what was deleted again"
    record("Results deleted while they are written", "rm -rf results, again and again", times, told)
