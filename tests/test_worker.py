"""Workers: jobs are worked off on real Dask clusters, and whatever dies, every job is done exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from plugins import DEADLY, SLOW, install

import segkit
from segkit import jobs, results
from segkit.kit import Event, Kit, Project, Run
from segkit.schema import JobStatus
from segkit.settings import Settings


def write_squares(folder: Path, count: int, edge: int = 64) -> Path:
    """Write images with one to nine bright squares, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((edge, edge), number % 50, np.uint8)
        for square in range(number % 9 + 1):
            row, column = divmod(square, 3)
            pixels[4 + 20 * row : 16 + 20 * row, 4 + 20 * column : 16 + 20 * column] = 150 + number // 50
        tifffile.imwrite(folder / f"{number:03d}.tif", pixels)
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed plug-ins, on the path here and in every process that is started."""
    site = tmp_path / "site"
    install(site, "slow", SLOW)
    install(site, "deadly", DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with segkit.open(tmp_path / "home", cluster="threads", threads_per_worker=2, poll_seconds=0.1, retry_seconds=0.1) as kit:
        yield kit


@pytest.fixture
def project(kit: Kit, tmp_path: Path) -> Project:
    project = kit.project("squares", create=True)
    project.add(write_squares(tmp_path / "images", 12))
    return project


def assert_whole(run: Run) -> None:
    """Every done job has one result that is whole, and no file belongs to nobody."""
    kit = run.kit
    found = list(run.results())
    assert len({each.record.job_id for each in found}) == len(found) == run.progress().done
    for each in found:
        results.verify(each.path, each.record.checksum)
    with kit.database.write() as connection:
        assert jobs.recount(connection, run.number) == []
    there = {str(path.relative_to(kit.settings.home)) for path in Path(results.run_path(kit.settings.home, run.number)).iterdir()}
    assert there == {each.record.path for each in found}


def test_a_run_is_worked_off(kit: Kit, project: Project) -> None:
    events: list[Event] = []
    run = project.segment("threshold", split=False)
    kit.work_off(watch=events.append)
    state = run.progress()
    assert (state.done, state.failed, state.left) == (12, 0, 0)
    assert state.objects == sum(number % 9 + 1 for number in range(12))
    assert {event.status for event in events} == {"done"}
    assert_whole(run)


def test_one_bad_image_does_not_stop_the_others(kit: Kit, project: Project, tmp_path: Path) -> None:
    (tmp_path / "images" / "003.tif").unlink()
    changed = tmp_path / "images" / "004.tif"
    changed.write_bytes((tmp_path / "images" / "005.tif").read_bytes())
    run = project.segment("threshold", split=False)
    kit.work_off()
    reasons = {job.image_name: job.error or "" for job in run.failures().items}
    assert set(reasons) == {"003.tif", "004.tif"}
    assert "There is no file" in reasons["003.tif"]
    assert "changed" in reasons["004.tif"]
    assert run.progress().done == 10
    assert_whole(run)


def test_only_what_failed_is_run_again(kit: Kit, project: Project, tmp_path: Path) -> None:
    lost = tmp_path / "images" / "003.tif"
    content = lost.read_bytes()
    lost.unlink()
    run = project.segment("threshold", split=False)
    kit.work_off()
    lost.write_bytes(content)
    assert run.retry() == 1
    done: list[str] = []
    kit.work_off(watch=lambda event: done.append(event.image))
    assert done == ["003.tif"]
    assert run.progress().done == 12
    assert_whole(run)


def test_a_plugins_own_error_is_that_images_reason(kit: Kit, tmp_path: Path, site: Path) -> None:
    folder = write_squares(tmp_path / "mixed", 2)
    tifffile.imwrite(folder / "black.tif", np.zeros((64, 64), np.uint8))
    project = kit.project("mixed", create=True)
    project.add(folder)
    run = project.segment("deadly")
    kit.work_off()
    (job,) = run.failures().items
    assert (job.image_name, "this image is black" in (job.error or "")) == ("black.tif", True)
    assert run.progress().done == 2


@pytest.mark.slow
def test_a_poison_image_is_given_up_and_named_and_the_others_are_done(tmp_path: Path, site: Path) -> None:
    folder = write_squares(tmp_path / "mixed", 10)
    tifffile.imwrite(folder / "005_poison.tif", np.full((64, 64), 255, np.uint8))
    with segkit.open(tmp_path / "home", cluster="local", workers=1, threads_per_worker=2, poll_seconds=0.1, max_attempts=3) as kit:
        project = kit.project("mixed", create=True)
        project.add(folder)
        run = project.segment("deadly")
        kit.work_off()
        (job,) = run.failures().items
        assert (job.image_name, job.attempt) == ("005_poison.tif", 3)
        assert "005_poison.tif" in (job.error or "")
        assert run.progress().done == 10
        assert_whole(run)


def test_a_cancelled_job_is_not_committed(kit: Kit, project: Project, site: Path) -> None:
    run = project.segment("slow", seconds=0.3)

    def cancel_at_first(event: Event) -> None:
        run.cancel()

    kit.work_off(watch=cancel_at_first)
    state = run.progress()
    assert state.cancelled > 0
    assert state.done + state.cancelled == 12
    assert_whole(run)


def test_a_worker_outlives_its_connection_to_the_cluster(kit: Kit, project: Project, site: Path) -> None:
    """While several bundles fly; the first that comes back closes what the others ask."""
    run = project.segment("slow", seconds=0.1)
    worker = kit.worker(lambda event: connections.append(worker._cluster))
    connections: list[Any] = []

    def cut() -> None:
        wait_for(lambda: connections, 60)
        with suppress(Exception):  # the worker closes it too, at the same time
            connections[0].client.close(timeout=0)

    cutter = threading.Thread(target=cut)
    cutter.start()
    worker.run(lambda: run.progress().left == 0)
    cutter.join()
    assert run.progress().done == 12
    assert len(set(connections)) > 1, "it connected again"
    for each in run.results():
        results.verify(each.path, each.record.checksum)


def start_worker(home: Path, output: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start `segkit worker` as a process in a session of its own."""
    settings = {
        "CLUSTER": "local",
        "WORKERS": "1",
        "THREADS_PER_WORKER": "2",
        "LEASE_SECONDS": "3",
        "BEAT_SECONDS": "0.5",
        "POLL_SECONDS": "0.2",
    }
    environment = {**os.environ, **{f"SEGKIT_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "segkit", "worker", "--home", str(home)]
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def descendants(pid: int) -> list[int]:
    """Process ids below a process."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def test_what_segments_loads_no_pandas() -> None:
    """Every Dask worker starts with these imports, and pandas was a tenth of them."""
    look = "import sys, segkit.tasks, segkit.worker; print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_sigterm_finishes_or_gives_back_and_ends_well(kit: Kit, project: Project, site: Path) -> None:
    run = project.segment("slow", seconds=0.3)
    worker = start_worker(Path(kit.settings.home))
    wait_for(lambda: run.progress().done > 0, 60)
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    state = run.progress()
    assert state.running == 0
    assert state.done + state.queued == 12
    assert "Traceback" not in output
    assert_whole(run)


def wait_for(condition: object, seconds: float) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def let_work(run: Run, jobs_more: int) -> None:
    """Wait until so many more jobs are done, or a random moment after that."""
    target = run.progress().done + jobs_more
    while run.progress().left and run.progress().done < target:
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.2))


def tidy_up(settings: Settings) -> None:
    """Let a worker find the queue empty, when what the dead ones left is older than two leases: then it deletes that."""
    time.sleep(2.5)
    with segkit.open(settings.home, cluster="threads", lease_seconds=1, beat_seconds=0.5) as kit:
        kit.work_off()


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_workers_killed_at_random_moments_lose_and_double_nothing(
    dialect: str, tmp_path: Path, site: Path, make_settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 images, two workers, SIGKILL for a worker or one of its Dask processes at random moments until all is done."""
    random.seed(0)
    settings = make_settings(dialect)  # type: ignore[operator]
    if settings.database_url is not None:
        monkeypatch.setenv("SEGKIT_DATABASE_URL", settings.database_url.get_secret_value())
    home = Path(settings.home)
    # An unlucky image may be in three dying workers one after another; it is no poison, so it gets more attempts here.
    with segkit.open(home, max_attempts=30) as kit:
        project = kit.project("squares", create=True)
        project.add(write_squares(tmp_path / "images", 200))
        run = project.segment("slow", seconds=0.1)
        workers = [start_worker(home, subprocess.DEVNULL) for _ in range(2)]
        kills = 0
        try:
            while run.progress().left:
                let_work(run, random.randint(12, 36))
                victim = random.randrange(2)
                processes = [workers[victim].pid, *descendants(workers[victim].pid)]
                os.kill(random.choice(processes), signal.SIGKILL)
                kills += 1
                time.sleep(0.2)
                if workers[victim].poll() is not None:
                    workers[victim] = start_worker(home, subprocess.DEVNULL)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        state = run.progress()
        assert kills >= 5
        assert (state.done, state.failed) == (200, 0), [job.error for job in run.failures().items]
        assert state.objects == sum(number % 9 + 1 for number in range(200))
        assert all(job.status is JobStatus.DONE for job in run.jobs(limit=1000).items)
        tidy_up(settings)
        assert_whole(run)
