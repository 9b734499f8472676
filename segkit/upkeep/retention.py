"""What is kept for how long, and the thread that sees to it, in every worker and server. Two at once do no harm."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, select

from segkit.database import Database, now
from segkit.errors import SegkitError
from segkit.files import is_local
from segkit.history import KEPT
from segkit.jobs.counters import raise_revisions
from segkit.results import discard, locate, root, run_path, scratch
from segkit.schema import Base, JobStatus
from segkit.settings import Settings
from segkit.upkeep import orphans

#: Between two looks; the first comes after a tenth of it, so that a start is not slowed down.
SECONDS = 3600.0
#: Rows that are deleted in one transaction, so that none holds others up.
AT_ONCE = 1000
ENDED = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)
#: Orphans that are cleared unattended: what is old or can be made again. The rest waits for a person, who says `segkit gc --delete`.
UNATTENDED = (orphans.exports, orphans.indices, orphans.scratch, orphans.logs, orphans.parts)

batch, job, run, sample = (Base.metadata.tables[name] for name in ("batch", "job", "run", "sample"))
log = logging.getLogger(__name__)


@dataclass
class Cleared:
    """What was over its time."""

    batches: int = 0
    runs: int = 0
    samples: int = 0
    files: int = 0
    bytes: int = 0

    def __bool__(self) -> bool:
        """Whether anything was."""
        return any(getattr(self, each.name) for each in fields(self))

    def __str__(self) -> str:
        """Say what."""
        counted = ", ".join(f"{getattr(self, each.name)} {each.name}" for each in fields(self) if each.name != "bytes")
        return f"{counted} ({self.bytes / 2**20:.1f} MiB)"


def clear(database: Database, settings: Settings) -> Cleared:
    """Delete what is over its time: ended batches, runs that ended without any result, samples, logs, exports. Results stay."""
    cleared = Cleared()
    if settings.keep_history_days:
        cleared.batches = clear_batches(database, settings)
        cleared.runs = clear_runs(database, settings)
    cleared.samples = clear_samples(database, settings)
    if is_local(settings.home):
        home = orphans.Home(database, Path(root(settings.home)), settings)
        for look in UNATTENDED:
            for gone in orphans.delete(database, settings, list(look(home))):
                cleared.files += 1
                cleared.bytes += gone.bytes
    return cleared


def clear_batches(database: Database, settings: Settings) -> int:
    """Delete batches that ended too long ago, and their notebooks; the last one of each schedule stays."""
    last = select(func.max(batch.c.id)).where(batch.c.schedule_id.is_not(None)).group_by(batch.c.schedule_id)
    old = select(batch.c.id).where(batch.c.status.in_(ENDED), batch.c.finished_at < bindparam("before"), batch.c.id.not_in(last))
    number = 0
    for ids in _some(database, old, settings.keep_history_days):
        with database.write() as connection:
            connection.execute(delete(batch).where(batch.c.id.in_(ids)))
        for each in ids:
            discard(locate(settings.home, f"batches/{each}"))
        number += len(ids)
    return number


def clear_runs(database: Database, settings: Settings) -> int:
    """Delete runs that ended too long ago without a single result: all their jobs failed or were cancelled."""
    old = select(run.c.id).where(run.c.finished_at < bindparam("before"), run.c.done == 0)
    number = 0
    for ids in _some(database, old, settings.keep_history_days):
        for each in ids:
            with database.write() as connection:
                # Jobs are locked before their run, as all do, and the run is looked at again: somebody may have retried it.
                connection.execute(select(func.count()).select_from(locked_jobs(each).subquery()))
                ended = delete(run).where(run.c.id == each, run.c.done == 0, run.c.finished_at.is_not(None)).returning(run.c.project_id)
                projects = set(connection.scalars(ended))
                raise_revisions(connection, projects)
            if projects:
                discard(run_path(settings.home, each))
                discard(scratch(settings.home, each))
                number += 1
    return number


def locked_jobs(run_id: int) -> Select[Any]:
    """Select and lock the jobs of a run, in the order that all keep."""
    return select(job.c.id).where(job.c.run_id == run_id).order_by(job.c.id).with_for_update()


def clear_samples(database: Database, settings: Settings) -> int:
    """Delete measurements that are too old, by an index of each window length."""
    number = 0
    for window in KEPT:
        old = select(sample.c.id).where(sample.c.window_s == window, sample.c.at < bindparam("before")).order_by(sample.c.at)
        for ids in _some(database, old, settings.keep_samples_days):
            with database.write() as connection:
                connection.execute(delete(sample).where(sample.c.id.in_(ids)))
            number += len(ids)
    return number


def _some(database: Database, old: Select[Any], days: int) -> Iterator[list[int]]:
    """Yield what is older than so many days, some at a time, until nothing is."""
    seen = 0
    while True:
        with database.read() as connection:
            ids = [row[0] for row in connection.execute(old.limit(AT_ONCE), {"before": now(connection) - timedelta(days=days)})]
        if not ids or ids[0] == seen:  # it was not deleted: somebody retried it in between
            return
        seen = ids[0]
        yield ids


class Keeper:
    """A thread that clears once an hour. What goes wrong is logged, and the next hour is another try."""

    def __init__(self, database: Database, settings: Settings, seconds: float = SECONDS) -> None:
        self._database, self._settings, self._seconds = database, settings, seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="segkit-keeper", daemon=True)

    def start(self) -> Keeper:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop, and wait until it has."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Keeper:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _work(self) -> None:
        wait = self._seconds / 10
        while not self._stopped.wait(wait):
            wait = self._seconds
            try:
                cleared = clear(self._database, self._settings)
            except (SegkitError, OSError) as error:
                log.warning("What is over its time was not cleared: %s", error)
            else:
                if cleared:
                    log.info("Cleared what was over its time: %s", cleared)
