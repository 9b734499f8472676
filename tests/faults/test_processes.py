"""Workers, Dask, nannies, services, kernels and schedulers are killed or frozen one kind at a time. Each job is done once all the same."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import tifffile
from sqlalchemy import func, select, update

from segkit import schedule
from segkit.database import now
from segkit.kit import Kit
from segkit.runs import Run
from segkit.schema import Base, ErrorKind, JobStatus
from segkit.settings import Settings
from tests.faults.conftest import PATIENT
from tests.faults.fleet import CELLS
from tests.faults.invariants import check
from tests.faults.processes import Disturber, Program, Programs, descendants, free_port, freeze, kill, role, thaw, until
from tests.faults.report import record
from tests.notebook_files import write_notebook
from tests.plates import open_kit, write_plate
from tests.plugins import DEADLY, install

ONCE = "its jobs were run again when the lease was over; each was done once"

HUNGRY = """
import numpy
from scipy import ndimage
from segkit.segmenters import Parameters, Segmenter

class HungryParameters(Parameters):
    pass

def eat(pixels, parameters, pixel_size_um):
    if pixels.min() > 200:
        eaten = [numpy.ones(2**24, numpy.uint8) for number in range(100)]
    return ndimage.label(pixels > 100)[0].astype("int32")

SEGMENTER = Segmenter("hungry", "1", "Takes 1.6 GiB of memory for a white image", HungryParameters, colour=False, function=eat)
"""


def queue(kit: Kit, folder: Path, images: int, seconds: float, segmenter: str = "slow") -> Run:
    """Queue a run that takes its time."""
    project = kit.project("plate", create=True)
    project.add(write_plate(folder / "plate", [number % 9 + 1 for number in range(images)]))
    return project.segment(segmenter, **({"seconds": seconds} if segmenter == "slow" else {}))


def wait_for(run: Run, done: int) -> None:
    """Wait until so many jobs are done."""
    until(lambda: run.progress().done >= done, what=f"{done} done jobs")


def ended_well(kit: Kit, *workers: Program, seconds: float = 120, poison: tuple[str, ...] = ()) -> None:
    """Nobody else died; all end when told to; nothing is lost."""
    until(lambda: kit.queue().left == 0, seconds, what="the end of the queue")
    for worker in workers:
        assert worker.alive, worker.output
        assert worker.terminate() == 0, worker.output
        assert "Traceback" not in worker.output
    check(kit.database, kit.settings.home, drained=True, poison=poison)


@pytest.fixture
def sqlite_kit(make_settings: Callable[..., Settings], slow: Path) -> Kit:
    """A patient kit on SQLite."""
    with open_kit(make_settings(), **PATIENT) as kit:
        yield kit


@pytest.fixture
def sqlite_programs(sqlite_kit: Kit, tmp_path: Path) -> Programs:
    """Starts programs on that kit's home and database."""
    with Programs(sqlite_kit.settings, tmp_path / "logs", {"MAX_ATTEMPTS": "100"}) as programs:
        yield programs


# Workers


@pytest.mark.slow
def test_workers_are_killed_and_frozen(patient_kit: Kit, programs: Programs, tmp_path: Path) -> None:
    run = queue(patient_kit, tmp_path, 40, 0.05)
    disturber = Disturber(random.Random(2))
    workers = [programs.worker(CLUSTER="threads", LEASE_SECONDS="1", BEAT_SECONDS="0.2") for _ in range(2)]
    for done in (1, 8, 16):
        wait_for(run, done)
        disturber.kill([workers[0].pid])
        disturber.freeze([workers[1].pid], 1.5)
        workers[0].process.wait()
        workers[0] = programs.restart(workers[0])
        until(lambda: disturber.thaw() or not disturber.frozen)
    ended_well(patient_kit, *workers)
    record("Worker killed", "SIGKILL while its jobs run", disturber.kills, ONCE)
    record(
        "Worker frozen",
        "SIGSTOP for longer than its lease while its jobs run, then SIGCONT",
        disturber.freezes,
        f"{ONCE}; its own were refused",
    )


def test_a_frozen_worker_meets_its_own_jobs_again(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    """Nobody else takes them over: it commits what it had, claims again what was late, and gets both attempts back."""
    run = queue(sqlite_kit, tmp_path, 30, 0.1)
    worker = sqlite_programs.worker(CLUSTER="threads", LEASE_SECONDS="0.5", BEAT_SECONDS="0.4")
    for done in (1, 8, 16):
        wait_for(run, done)
        worker.freeze()
        time.sleep(0.7)
        worker.thaw()
    ended_well(sqlite_kit, worker)
    record(
        "Only worker frozen",
        "SIGSTOP for longer than its lease, with nobody else to take over",
        3,
        "it claimed its own jobs again, and each was done once",
    )


@pytest.mark.faults
def test_a_worker_that_is_told_to_end_gives_back(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    run = queue(sqlite_kit, tmp_path, 12, 0.3)
    worker = sqlite_programs.worker(CLUSTER="threads")
    wait_for(run, 1)
    assert worker.terminate() == 0, worker.output
    state = run.progress()
    assert (state.running, state.done + state.queued) == (0, 12)
    check(sqlite_kit.database, sqlite_kit.settings.home)
    record("Worker told to end", "SIGTERM while its jobs run", 1, "it finished what ran, gave the rest back and ended with 0")


@pytest.mark.faults
def test_a_poison_image_that_takes_the_worker_with_it(make_settings: Callable[..., Settings], slow: Path, tmp_path: Path) -> None:
    """Not Dask's process dies here but the worker itself, so it can tell nobody: only the lease and the count of attempts are left."""
    install(slow, "deadly", DEADLY)
    with open_kit(make_settings(), max_attempts=3) as kit, Programs(kit.settings, tmp_path / "logs") as programs:
        folder = write_plate(tmp_path / "plate", [1 + number for number in range(9)])
        tifffile.imwrite(folder / "white.tif", np.full((64, 64), 255, np.uint8))
        project = kit.project("plate", create=True)
        project.add(folder)
        run = project.segment("deadly")
        worker, deaths = programs.worker(CLUSTER="threads"), 0
        deadline = time.monotonic() + 120
        while kit.queue().left and time.monotonic() < deadline:
            time.sleep(0.1)
            if not worker.alive:
                deaths += 1
                worker = programs.restart(worker)
        ended_well(kit, worker, poison=("white.tif",))
        (failed,) = run.failures().items
        assert (failed.image_name, failed.attempt, failed.error_kind, deaths) == ("white.tif", 3, ErrorKind.CRASH, 3)
    record(
        "Poison image",
        "it kills the worker that opens it",
        3,
        "given up after three attempts, with the reason; the others of the run were done",
    )


# Dask


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_a_dask_scheduler_is_killed_in_a_batch_and_while_nobody_looks(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    run = queue(sqlite_kit, tmp_path, 60, 0.2)
    scheduler = sqlite_programs.scheduler()
    muscle = sqlite_programs.dask_worker(scheduler.address, nanny=False)
    worker = sqlite_programs.worker(CLUSTER=scheduler.address)
    for done in (1, 10, 20):
        wait_for(run, done)
        scheduler.kill()
        muscle.end()
        scheduler = sqlite_programs.restart(scheduler)
        muscle = sqlite_programs.restart(muscle)
    until(lambda: sqlite_kit.queue().left == 0, what="the end of the first run")
    scheduler.kill()  # and now the worker has nothing to do, for longer than Dask's client tries to connect again
    muscle.end()
    time.sleep(14)
    assert worker.alive, worker.output
    second = sqlite_kit.project("plate").segment("slow", seconds=0.01)
    time.sleep(1)
    scheduler = sqlite_programs.restart(scheduler)
    sqlite_programs.restart(muscle)
    until(lambda: second.progress().left == 0, 200, what="the end of the second run")
    ended_well(sqlite_kit, worker)
    record(
        "Dask scheduler killed",
        "SIGKILL three times in a run, and once while the queue is empty for 14 s",
        4,
        "the worker gave its jobs back and connected again; each was done once",
    )


@pytest.mark.faults
def test_a_dask_worker_is_killed_and_frozen(
    sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "3s")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    run = queue(sqlite_kit, tmp_path, 60, 0.2)
    scheduler = sqlite_programs.scheduler()
    muscles = [sqlite_programs.dask_worker(scheduler.address, nanny=False) for _ in range(2)]
    worker = sqlite_programs.worker(CLUSTER=scheduler.address)
    wait_for(run, 5)
    muscles[0].kill()
    muscles[0] = sqlite_programs.restart(muscles[0])
    wait_for(run, 15)
    muscles[1].freeze()
    until(lambda: run.progress().left == 0, 120, what="the end of the run")
    muscles[1].thaw()
    ended_well(sqlite_kit, worker)
    record("Dask worker killed", "SIGKILL while its tasks run", 1, "its jobs were run again, alone; each was done once")
    record(
        "Dask worker frozen",
        "SIGSTOP until the run was done on the others (worker-ttl 3 s)",
        1,
        "the scheduler gave it up, and its jobs were run elsewhere",
    )


@pytest.mark.faults
def test_nanny_and_dask_worker_of_a_worker_are_killed_and_replaced(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    run = queue(sqlite_kit, tmp_path, 60, 0.1)
    worker = sqlite_programs.worker(CLUSTER="local")
    for done, victim in ((1, "dask worker"), (15, "nanny"), (30, "nanny")):
        wait_for(run, done)
        process = next(each.pid for each in descendants(worker.pid) if role(each) == victim)
        assert kill(process)
    ended_well(sqlite_kit, worker)
    record("Dask worker killed", "SIGKILL of the one that `segkit worker` started", 1, "its nanny started another; each job was done once")
    record(
        "Nanny killed", "SIGKILL of the one that `segkit worker` started", 2, "nanny and Dask worker were replaced; each job was done once"
    )


@pytest.mark.faults
def test_a_frozen_nanny_does_not_hold_up_its_worker(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    run = queue(sqlite_kit, tmp_path, 30, 0.1)
    worker = sqlite_programs.worker(CLUSTER="local")
    wait_for(run, 1)
    (nanny,) = worker.below("nanny")
    assert freeze(nanny)
    until(lambda: run.progress().left == 0, what="the end of the run")
    assert thaw(nanny)
    ended_well(sqlite_kit, worker)
    record("Nanny frozen", "SIGSTOP until the run was done", 1, "its Dask worker worked on")


@pytest.mark.faults
def test_a_job_over_its_memory_limit_fails_with_that_reason(make_settings: Callable[..., Settings], slow: Path, tmp_path: Path) -> None:
    install(slow, "hungry", HUNGRY)
    with (
        open_kit(make_settings(), max_attempts=2) as kit,
        Programs(kit.settings, tmp_path / "logs", {"WORKER_MEMORY": "700 MiB"}) as programs,
    ):
        folder = write_plate(tmp_path / "plate", [1 + number for number in range(9)])
        tifffile.imwrite(folder / "white.tif", np.full((64, 64), 255, np.uint8))
        project = kit.project("plate", create=True)
        project.add(folder)
        run = project.segment("hungry")
        worker = programs.worker(CLUSTER="local")
        ended_well(kit, worker, poison=("white.tif",))
        (failed,) = run.failures().items
        assert "SEGKIT_WORKER_MEMORY" in (failed.error or "")
    record(
        "Job over its memory limit",
        "an image that takes 1.6 GiB where a Dask worker may take 700 MiB",
        1,
        "it failed, told to raise SEGKIT_WORKER_MEMORY; the Dask worker was replaced, the others of the run were done",
    )


@pytest.mark.faults
def test_a_dask_scheduler_is_started_twice(sqlite_programs: Programs) -> None:
    first = sqlite_programs.scheduler()
    port = first.address.rpartition(":")[2]
    second = sqlite_programs.start("second", "dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show")
    until(lambda: not second.alive, what="the end of the second scheduler")
    assert second.process.returncode != 0
    assert first.alive
    record("Dask scheduler started twice", "a second one on the same port", 1, "the second ended and said why; the first went on")


# Schedulers of batches


@pytest.mark.faults
def test_schedulers_of_batches_are_started_twice_and_one_is_killed(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks" / "look.ipynb")
    table, batch = Base.metadata.tables["schedule"], Base.metadata.tables["batch"]
    first, second = (sqlite_programs.start("scheduler", "segkit", "scheduler") for _ in range(2))
    first.await_output("looked after")
    second.await_output("looked after")
    for tick in range(6):
        if tick == 3:
            first.kill()
        wanted = schedule.Wanted(name=f"hourly {tick}", cron="0 * * * *", notebook="look", folder=str(tmp_path))
        made = schedule.add(sqlite_kit.database, sqlite_kit.settings, wanted)
        with sqlite_kit.database.write() as connection:
            connection.execute(update(table).where(table.c.id == made.id).values(next_at=now(connection) - timedelta(seconds=1)))
        until(lambda number=tick: sqlite_kit.batches().total > number, what=f"tick {tick}")
    time.sleep(0.5)
    with sqlite_kit.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(batch)) == 6
    assert second.terminate() == 0
    record(
        "Batch scheduler started twice", "two on one database, one of them killed half-way, over six ticks", 6, "each tick made one batch"
    )


# Kernels


@pytest.mark.faults
def test_kernels_of_batches_are_killed_and_frozen(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "notebooks" / "look.ipynb", *CELLS, parameters="seconds: float = 2.0")
    batch = sqlite_kit.batch(notebook, {"seconds": 2.0}, folder=tmp_path, max_attempts=20)
    worker, killed = sqlite_programs.worker(CLUSTER="threads"), set()

    def kernel() -> int | None:
        return next((each for each in worker.below("kernel") if each not in killed), None)

    for _ in range(4):
        victim = until(kernel, what="a kernel")
        killed.add(victim)
        time.sleep(random.uniform(0, 2))
        assert kill(victim)
    victim = until(kernel, what="a kernel")
    assert freeze(victim)
    time.sleep(5)
    assert thaw(victim)
    until(lambda: batch.refreshed().status == JobStatus.DONE, what="the end of the batch")
    assert batch.refreshed().record.attempt >= 5
    ended_well(sqlite_kit, worker)
    record("Notebook kernel killed", "SIGKILL at a random moment", 4, "the batch was tried again, and done")
    record("Notebook kernel frozen", "SIGSTOP for longer than the lease, then SIGCONT", 1, "the batch waited, and was done")


# The service


@pytest.mark.faults
def test_what_the_service_said_yes_to_is_there_when_it_is_killed(sqlite_kit: Kit, sqlite_programs: Programs) -> None:
    kills, port, said_yes, over = 12, free_port(), [], threading.Event()
    server = sqlite_programs.server("--no-work", port=port)
    asked = 0

    def ask() -> None:
        nonlocal asked
        while not over.is_set():
            asked += 1
            try:
                if httpx.post(f"{server.address}/api/projects", json={"name": f"p{asked}"}, timeout=30).status_code == 201:
                    said_yes.append(f"p{asked}")
            except httpx.HTTPError:
                time.sleep(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for number in range(kills):
            before = len(said_yes)
            until(lambda most=before: len(said_yes) > most + 10, what="answers")
            time.sleep(random.uniform(0, 0.05))
            server.kill()
            if number < kills - 1:
                server = sqlite_programs.restart(server)
    finally:
        over.set()
        thread.join(60)
    there = [each.name for each in sqlite_kit.projects(1000).items]
    after = None
    while (page := sqlite_kit.projects(1000, after=after)).next:
        after = page.next
        there += [each.name for each in sqlite_kit.projects(1000, after=after).items]
    assert set(said_yes) <= set(there)
    assert len(there) == len(set(there)) <= asked
    check(sqlite_kit.database, sqlite_kit.settings.home)
    record("Service killed", "SIGKILL while it is asked to make things", kills, "all that it said yes to is there, once")


@pytest.mark.faults
def test_the_worker_of_a_service_is_replaced(sqlite_kit: Kit, sqlite_programs: Programs, tmp_path: Path) -> None:
    server = sqlite_programs.server("--work", CLUSTER="threads")
    run = queue(sqlite_kit, tmp_path, 40, 0.1)
    for done in (1, 15):
        wait_for(run, done)
        (worker,) = server.below("worker")
        assert kill(worker)
    until(lambda: sqlite_kit.queue().left == 0, what="the end of the queue")
    (worker,) = server.below("worker")
    server.kill()
    until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE, what="the end of the worker")
    check(sqlite_kit.database, sqlite_kit.settings.home, drained=True)
    record(
        "Worker of a service killed",
        "SIGKILL of the worker that `segkit serve` started",
        2,
        "the service started another; each job was done once",
    )
