"""The same asked many times at once, over HTTP and in processes: one run, each job once; and what was answered is there, whatever dies."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

import segkit
from segkit.database import Database, open_database
from segkit.schema import Base
from segkit.settings import Settings
from tests.faults.invariants import check
from tests.faults.processes import Programs
from tests.faults.report import record
from tests.faults.scenes import url_of
from tests.plates import QUICK, open_kit, write_plate
from tests.services import service

MakeSettings = Callable[..., Settings]
CLIENTS = 20
TIMES = 5
#: Each client asks so often: once in `make test`, and again and again.
ROUNDS = [("sqlite", 1), *(pytest.param(dialect, TIMES, marks=pytest.mark.faults) for dialect in ("sqlite", "postgresql"))]
IMAGES = 6
job, run = Base.metadata.tables["job"], Base.metadata.tables["run"]


def prepare(settings: Settings, folder: Path) -> None:
    """Make a project with a plate."""
    with open_kit(settings) as kit:
        kit.project("plate", create=True).add(write_plate(folder, list(range(IMAGES))))


def jobs_of(database: Database) -> list[tuple[int, int]]:
    """Every job's run and image."""
    with database.read() as connection:
        return [(row.run_id, row.image_id) for row in connection.execute(select(job.c.run_id, job.c.image_id))]


def at_once(clients: int, times: int, ask: Callable[[int, int], Any]) -> list[Any]:
    """Have clients ask so many times each, all of them together each time."""
    barrier = threading.Barrier(clients)

    def client(number: int) -> list[Any]:
        answers = []
        for turn in range(times):
            barrier.wait(60)
            answers.append(ask(number, turn))
        return answers

    with ThreadPoolExecutor(clients) as pool:
        return [answer for answers in pool.map(client, range(clients)) for answer in answers]


@pytest.mark.parametrize(("dialect", "times"), ROUNDS)
def test_twenty_clients_that_ask_the_same_at_once_make_one_run(
    make_settings: MakeSettings, tmp_path: Path, dialect: str, times: int
) -> None:
    settings = make_settings(dialect)
    prepare(settings, tmp_path / "plate")
    with (
        service(settings) as client,
        httpx.Client(base_url=client.base_url, timeout=60, limits=httpx.Limits(max_connections=CLIENTS)) as many,
    ):
        answers = at_once(CLIENTS, times, lambda number, turn: many.post("/api/projects/1/runs", json={"segmenter": "threshold"}))
    assert {(answer.status_code, answer.json()["id"]) for answer in answers} == {(201, 1)}
    with open_database(settings) as database:
        assert sorted(jobs_of(database)) == [(1, number) for number in range(1, IMAGES + 1)]
        check(database, settings.home)
    told = "One run with each image once; all of them are told its number"
    record("Duplicate submits", f"{CLIENTS} HTTP clients at once, again and again ({dialect})", len(answers), told)


def ask_in_process(settings: Settings, barrier: Any, times: int, plate: str, answers: Any) -> None:
    """Ask for the same run again and again, and register a new image now and then, so that the run grows while all ask."""
    barrier.wait(60)
    with segkit.open(settings.home, database_url=url_of(settings), **QUICK) as kit:
        project = kit.project("plate")
        for turn in range(times):
            if turn == times // 2:
                project.add(plate)
            answers.put(project.segment("threshold").number)


@pytest.mark.faults
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_twenty_processes_that_ask_the_same_while_the_project_grows(make_settings: MakeSettings, tmp_path: Path, dialect: str) -> None:
    settings = make_settings(dialect)
    prepare(settings, tmp_path / "plate")
    more = write_plate(tmp_path / "more", [1, 2, 3], first=100)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["segkit.kit"])
    barrier, answers = context.Barrier(CLIENTS), context.SimpleQueue()
    arguments = (settings, barrier, TIMES, str(more), answers)
    processes = [context.Process(target=ask_in_process, args=arguments, daemon=True) for _ in range(CLIENTS)]
    for process in processes:
        process.start()
    told = {answers.get() for _ in range(CLIENTS * TIMES)}
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * CLIENTS
    assert told == {1}
    with open_kit(settings) as kit:
        assert sorted(jobs_of(kit.database)) == [(1, number) for number in range(1, IMAGES + 4)]
        kit.work_off()
        check(kit.database, settings.home, drained=True)
    outcome = "One run, with each image once, those that came meanwhile too"
    record(
        "Duplicate submits",
        f"{CLIENTS} processes at once, {TIMES} times each, while images are added ({dialect})",
        CLIENTS * TIMES,
        outcome,
    )


@pytest.mark.faults
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_everything_ordered_at_once_ends_in_one_whole_state(make_settings: MakeSettings, tmp_path: Path, dialect: str) -> None:
    """Submits, cancels and retries of the same run from twenty clients, while a worker works."""
    settings = make_settings(dialect)
    prepare(settings, tmp_path / "plate")
    orders = [
        ("POST", "/api/projects/1/runs", {"segmenter": "threshold"}),
        ("POST", "/api/runs/1/cancel", None),
        ("POST", "/api/runs/1/retry", None),
        ("POST", "/api/jobs/1/cancel", None),
        ("POST", "/api/jobs/1/retry", None),
    ]
    with open_kit(settings) as kit, service(settings) as client:
        assert client.post("/api/projects/1/runs", json={"segmenter": "threshold"}).status_code == 201
        stop = threading.Event()
        worker = kit.worker()
        working = threading.Thread(target=lambda: worker.run(stop.is_set))
        working.start()

        def order(number: int, turn: int) -> int:
            method, path, body = orders[(number + turn) % len(orders)]
            return client.request(method, path, json=body).status_code

        try:
            statuses = at_once(CLIENTS, TIMES, order)
        finally:
            stop.set()
            working.join(60)
        assert not [status for status in statuses if status >= 500], statuses
        check(kit.database, settings.home)
        kit.run(1).retry()
        kit.work_off()
        check(kit.database, settings.home, drained=True)
    record(
        "Orders against each other", f"submit, cancel and retry by {CLIENTS} clients at once ({dialect})", len(statuses), "One whole state"
    )


@pytest.mark.faults
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_what_a_killed_service_has_answered_is_there(make_settings: MakeSettings, tmp_path: Path, dialect: str) -> None:
    """Each run is asked for until it is answered; the service is killed and started again meanwhile. Every answered run is there, once."""
    settings, chance = make_settings(dialect), random.Random(5)
    prepare(settings, tmp_path / "plate")
    answered: dict[int, set[int]] = {}
    stop = threading.Event()

    def ask(address: str, number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            body = {"segmenter": "threshold", "parameters": {"min_area": number * 1000 + turn}}
            while True:
                try:
                    answer = httpx.post(f"{address}/api/projects/1/runs", json=body, timeout=10)
                except httpx.HTTPError:
                    if stop.wait(0.02):
                        return
                    continue
                assert answer.status_code == 201, answer.text
                answered.setdefault(body["parameters"]["min_area"], set()).add(answer.json()["id"])
                break

    kills = 10
    with Programs(settings, tmp_path / "programs") as programs, ThreadPoolExecutor(4) as pool:
        server = programs.server("--no-work")
        tasks = [pool.submit(ask, server.address, number) for number in range(1, 5)]
        try:
            for _ in range(kills):
                time.sleep(chance.uniform(0.3, 1.0))
                server.kill()
                server = programs.restart(server)
        finally:
            stop.set()
        for task in tasks:
            task.result(60)
    with open_kit(settings) as kit:
        there = {each.parameters["min_area"]: each.id for each in kit.runs(1000).items}
        assert {key: {there.get(key)} for key in answered} == answered
        assert len(there) - len(answered) <= 4  # those that were committed and not answered any more
        assert len(jobs_of(kit.database)) == IMAGES * len(there)
        check(kit.database, settings.home)
    told = f"All of {len(answered)} runs that were answered are there, once"
    record("Service killed while it takes orders", f"SIGKILL while 4 clients ask for runs ({dialect})", kills, told)
