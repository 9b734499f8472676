"""The database goes: PostgreSQL crashes, is gone for a while, cuts connections; SQLite is locked. Workers wait, and go on."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest

from segkit.kit import Kit
from segkit.runs import Run
from segkit.settings import Settings
from tests.faults.conftest import PATIENT, OwnPostgresql
from tests.faults.fleet import Readers, settled
from tests.faults.invariants import check
from tests.faults.processes import Program, Programs, until
from tests.faults.report import record
from tests.plates import open_kit, write_plate

DONE_ONCE = "workers waited and went on by themselves; each job was done once"


def queue(kit: Kit, folder: Path, images: int, seconds: float) -> Run:
    """Queue a run that takes its time."""
    project = kit.project("plate", create=True)
    project.add(write_plate(folder / "plate", [number % 9 + 1 for number in range(images)]))
    return project.segment("slow", seconds=seconds)


def wait_for(run: Run, done: int) -> None:
    """Wait until so many jobs are done."""
    until(lambda: run.progress().done >= done, what=f"{done} done jobs")


def ended_well(kit: Kit, *workers: Program) -> None:
    """Nobody died; all end when told to; nothing is lost."""
    until(lambda: kit.queue().left == 0, what="the end of the queue")
    for worker in workers:
        assert worker.alive, worker.output
        assert worker.terminate() == 0, worker.output
        assert "Traceback" not in worker.output
    check(kit.database, kit.settings.home, drained=True)


# PostgreSQL


def test_postgresql_crashes_in_the_middle_of_transactions(
    own_postgresql: OwnPostgresql, postgresql_kit: Kit, postgresql_programs: Programs, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    crashes, images = (12, 400) if not request.config.option.markexpr.startswith("not faults") else (1, 20)
    run = queue(postgresql_kit, tmp_path, images, 0.05)
    workers = [postgresql_programs.worker(CLUSTER="threads") for _ in range(2)]
    chance = random.Random(1)
    for crash in range(crashes):
        settled(lambda number=crash: wait_for(run, 1 + number * images // (crashes + 1)))
        time.sleep(chance.uniform(0, 0.2))
        own_postgresql.crash()
    settled(postgresql_kit.queue)
    ended_well(postgresql_kit, *workers)
    record("PostgreSQL crashes", "immediate restart while two workers commit", crashes, DONE_ONCE)


@pytest.mark.faults
def test_connections_are_cut_at_random_moments(
    own_postgresql: OwnPostgresql, postgresql_kit: Kit, postgresql_programs: Programs, tmp_path: Path
) -> None:
    """Also those on which events are listened for: the queue is looked at all the same."""
    run = queue(postgresql_kit, tmp_path, 40, 0.05)
    worker, cuts = postgresql_programs.worker(CLUSTER="threads"), 0
    wait_for(run, 1)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(own_postgresql.url, autocommit=True) as administrator:
        while cuts < 20:
            cuts += len(administrator.execute(others).fetchall())
            time.sleep(random.uniform(0.02, 0.2))
    settled(postgresql_kit.queue)
    ended_well(postgresql_kit, worker)
    record("PostgreSQL connections cut", "pg_terminate_backend of every connection, again and again", cuts, DONE_ONCE)


@pytest.mark.parametrize("fate", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.faults)], ids=["killed", "frozen"])
def test_a_worker_is_stopped_in_the_middle_of_its_commit(
    fate: signal.Signals, own_postgresql: OwnPostgresql, postgresql_kit: Kit, postgresql_programs: Programs, tmp_path: Path
) -> None:
    """The run's row is locked from outside, so the commit stands still where files are in place and rows are not."""
    run = queue(postgresql_kit, tmp_path, 6, 0.01)
    with psycopg.connect(own_postgresql.url) as outside:
        outside.execute("SELECT id FROM job ORDER BY id FOR UPDATE")  # nobody claims yet
        worker = postgresql_programs.worker(CLUSTER="threads", LEASE_SECONDS="2")
        worker.await_output("is working")
        outside.rollback()
        wait_for_results(Path(postgresql_kit.settings.home), outside, run)
        worker.process.kill() if fate == signal.SIGKILL else worker.freeze()
        outside.rollback()
        time.sleep(2.5)  # the lease of whoever was stopped is over
        other = postgresql_programs.worker(CLUSTER="threads", LEASE_SECONDS="2")
        other.await_output("is working")
        time.sleep(1.0)
    workers = [other]
    if fate == signal.SIGSTOP:
        worker.thaw()
        workers.append(worker)
    ended_well(postgresql_kit, *workers)
    word = "killed" if fate == signal.SIGKILL else "frozen past its lease"
    record(f"Worker {word} in the middle of a commit", "its transaction held up by a lock from outside, then the signal", 1, DONE_ONCE)


def wait_for_results(home: Path, outside: psycopg.Connection, run: Run) -> None:
    """Lock the run's row as soon as jobs run, and wait until files were put in place by a commit that stands still."""

    def claimed() -> bool:
        return run.progress().running > 0

    until(claimed, what="a claim")
    outside.execute("SELECT id FROM run FOR UPDATE")

    def waiting() -> bool:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        found = outside.execute(asked).fetchone()
        assert found is not None
        return found[0] > 0

    until(waiting, what="a commit that waits")


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_postgresql_is_gone_for_a_while(
    seconds: float, own_postgresql: OwnPostgresql, postgresql_kit: Kit, postgresql_programs: Programs, tmp_path: Path
) -> None:
    """The service says 503 and when to come again; workers keep what they computed, and commit it afterwards."""
    server, kit, programs = own_postgresql, postgresql_kit, postgresql_programs
    run = queue(kit, tmp_path, 30, 0.1)
    service = programs.server()
    worker = programs.worker(CLUSTER="threads")
    wait_for(run, 3)
    with Readers(service.address, number=1) as readers:
        server.control("-m", "fast", "stop")
        try:
            answer = until(lambda: unavailable(service.address), what="503")
            time.sleep(seconds)
            assert service.alive
            assert worker.alive
        finally:
            server.start()
    assert answer.headers["Retry-After"].isdigit()
    assert "Traceback" not in answer.text
    assert not readers.faults, readers.faults[:3]
    until(lambda: httpx.get(f"{service.address}/api/queue", timeout=30).status_code == 200, what="an answer of the service")
    settled(kit.queue)
    ended_well(kit, worker)
    assert service.terminate() in (0, -signal.SIGTERM)  # uvicorn ends in order, then as the signal asks
    outcome = f"the service said 503 and when to come again; {DONE_ONCE}"
    record("PostgreSQL gone for a while", f"stopped for {seconds:.0f} s, under a worker and a service", 1, outcome)


def unavailable(address: str) -> httpx.Response | None:
    """Ask the service; its answer when that is 503."""
    answer = httpx.get(f"{address}/api/queue", timeout=60)
    return answer if answer.status_code == 503 else None


# SQLite


@pytest.mark.parametrize("seconds", [1.0, pytest.param(15.0, marks=pytest.mark.faults)])
def test_sqlite_is_locked_by_another_program(seconds: float, make_settings: Callable[..., Settings], slow: Path, tmp_path: Path) -> None:
    """For longer than the lease, and the second time for longer than anybody waits for a lock."""
    with open_kit(make_settings(), **PATIENT) as kit, Programs(kit.settings, tmp_path / "logs", {"MAX_ATTEMPTS": "100"}) as programs:
        run = queue(kit, tmp_path, 30, 0.1)
        worker = programs.worker(CLUSTER="threads", LEASE_SECONDS="0.9", BEAT_SECONDS="0.2")
        wait_for(run, 3)
        other = sqlite3.connect(Path(kit.settings.home) / "segkit.db", isolation_level=None, timeout=30)
        try:
            other.execute("BEGIN IMMEDIATE")
            before = run.progress().done
            time.sleep(seconds)
            assert run.progress().done == before, "readers go on, writers wait"
            other.execute("ROLLBACK")
        finally:
            other.close()
        ended_well(kit, worker)
    record("SQLite locked by another program", f"BEGIN IMMEDIATE for {seconds:.0f} s, longer than the lease", 1, DONE_ONCE)
