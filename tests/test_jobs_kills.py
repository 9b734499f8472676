"""Worker processes are killed and frozen at random until all jobs are done. Each must be done exactly once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import queue_worker
from sqlalchemy import insert, select

from segkit import jobs
from segkit.database import Database, now_sql, open_database
from segkit.schema import Base
from segkit.settings import Settings

TABLES = Base.metadata.tables
IMAGES = 150
WORKERS = 3
LEASE = 0.5
PATIENCE = 40


class Workers:
    """Worker processes, some of which are frozen now and then."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["segkit.database", "segkit.jobs", "segkit.results"])
        url = settings.database_url.get_secret_value() if settings.database_url else None
        self.arguments = ({"home": settings.home, "database_url": url}, str(folder), LEASE)
        self.frozen: dict[BaseProcess, float] = {}
        self.kills = self.freezes = 0
        self.processes = [self.start() for _ in range(WORKERS)]

    def start(self) -> BaseProcess:
        process = self.context.Process(target=queue_worker.work, args=self.arguments, daemon=True)
        process.start()
        return process

    def disturb(self) -> None:
        """Kill one and start another, or freeze one until its lease is over."""
        victim = random.choice(self.processes)
        if victim in self.frozen or not victim.is_alive():
            return
        if random.random() < 0.3:
            os.kill(victim.pid or 0, signal.SIGSTOP)
            self.frozen[victim] = time.monotonic() + 1.5 * LEASE
            self.freezes += 1
        else:
            victim.kill()
            victim.join()
            self.processes[self.processes.index(victim)] = self.start()
            self.kills += 1

    def thaw(self, *, all_of_them: bool = False) -> None:
        for process, until in list(self.frozen.items()):
            if all_of_them or time.monotonic() > until:
                os.kill(process.pid or 0, signal.SIGCONT)
                del self.frozen[process]

    def end(self) -> list[int | None]:
        """Let all go on to their end."""
        self.thaw(all_of_them=True)
        for process in self.processes:
            process.join(30)
        return [process.exitcode for process in self.processes]


def queue_images(database: Database) -> jobs.Run:
    with database.write() as connection:
        new = insert(TABLES["project"]).values(name="p", created_at=now_sql(), revision=0, images=0, unreadable=0)
        project_id = connection.execute(new.returning(TABLES["project"].c.id)).scalar_one()
        rows = [{"content_hash": str(number), "name": f"{number}.tif"} for number in range(IMAGES)]
        connection.execute(insert(TABLES["image"]).values(project_id=project_id, uri="/x", bytes=1, created_at=now_sql()), rows)
        return jobs.submit(
            connection, project_id, segmenter="s", version="1", parameters={}, selection={}, max_attempts=1000, segkit_version="0"
        )


def wait_until(database: Database, left: int, workers: Workers) -> None:
    """Wait until so few jobs are left, and wake those that were frozen for long enough."""
    until = time.monotonic() + PATIENCE
    while queue_worker.left(database) > left and time.monotonic() < until:
        workers.thaw()
        time.sleep(0.01)


@pytest.mark.timeout(180)
def test_killed_and_frozen_workers_leave_each_job_done_exactly_once(database_settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    with open_database(database_settings) as database:
        run = queue_images(database)
        workers = Workers(database_settings, folder)
        for left in range(IMAGES, 0, -random.randint(6, 10)):
            wait_until(database, left, workers)
            workers.disturb()
        wait_until(database, 0, workers)
        assert workers.end() == [0] * WORKERS
        with database.write() as connection:
            state = jobs.progress(connection, run.id)
            committed = connection.execute(select(TABLES["result"].c.job_id, TABLES["result"].c.attempt)).all()
            attempts = {job.id: job.attempt for job in jobs.page(connection, run.id, limit=IMAGES).items}
            assert jobs.recount(connection) == []
    assert workers.kills > 3
    assert state.done == state.total == IMAGES
    assert sorted(row.job_id for row in committed) == sorted(attempts)
    for row in committed:
        assert row.attempt <= attempts[row.job_id]
        assert (folder / str(row.job_id)).read_text() == f"attempt {row.attempt}"
