"""Looking at the database for what changed since the last look: counters of runs, and which jobs run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, or_, select

from segkit.events.changes import ENDED, Change, RunState
from segkit.rows import given_ids, hand_ids
from segkit.schema import Base, JobStatus

job, image, run = (Base.metadata.tables[name] for name in ("job", "image", "run"))

#: With more jobs running than this, single ones are not followed; the counters of their runs are.
MOST_RUNNING = 5000
#: Jobs that ended between two looks and are named one by one, of a run.
MOST_ENDED = 500
#: Of larger runs, jobs that started and ended between two looks are not named, since finding them means reading all of the run.
MOST_JOBS = 20_000
#: Runs that an overview shows.
MOST_RUNS = 1000
COUNTED = [field.name for field in fields(RunState) if field.name not in ("run_id", "project_id")]


class Looker:
    """Compares the database with what it saw last. Used by one thread at a time."""

    def __init__(self) -> None:
        self._states: dict[int, RunState] = {}
        self._running: dict[int, int] = {}  #: job → run
        self._is_first = True

    def look(self, connection: Connection, touched: Collection[int] = ()) -> tuple[list[RunState], list[Change]]:
        """Return the runs whose counts changed, and the jobs whose status did.

        Parameters
        ----------
        connection
            In a read transaction.
        touched
            Runs that may have changed, besides those that have jobs left or had some at the last look.
        """
        before = dict(self._states)
        states = self._changed_states(connection, touched)
        changes = self._changed_jobs(connection)
        for state in states:
            unnamed = ended_since(before.get(state.run_id), state) - sum(each.run_id == state.run_id and each.is_urgent for each in changes)
            if not self._is_first and unnamed > 0 and state.total <= MOST_JOBS:
                changes += last_ended(connection, state.run_id, unnamed)
        self._is_first = False
        return states, changes

    def project_of(self, run_id: int) -> int | None:
        """Return the project of a run that was seen."""
        state = self._states.get(run_id)
        return None if state is None else state.project_id

    def _changed_states(self, connection: Connection, touched: Collection[int]) -> list[RunState]:
        active = {number for number, state in self._states.items() if state.queued + state.running}
        rows = connection.execute(states_statement(connection.dialect.name), hand_ids(active | set(touched)))
        found = [state_of(row) for row in rows]
        changed = [state for state in found if self._states.get(state.run_id) != state]
        self._states.update((state.run_id, state) for state in changed)
        if len(self._states) > 2 * MOST_RUNS:
            kept = sorted(self._states)[-MOST_RUNS:]
            self._states = {number: self._states[number] for number in kept}
        return changed

    def _changed_jobs(self, connection: Connection) -> list[Change]:
        """Name the jobs that run now and did not, and those that ran and do not any more."""
        rows = connection.execute(running_statement()).all()
        if len(rows) > MOST_RUNNING:
            self._running = {}
            return []
        now: dict[int, int] = {row.id: row.run_id for row in rows}
        started = [] if self._is_first else [number for number in now if number not in self._running]
        stopped = [number for number in self._running if number not in now]
        self._running = now
        if not started and not stopped:
            return []
        return named(connection, [*started, *stopped])


def ended_since(before: RunState | None, state: RunState) -> int:
    """Return how many jobs ended between two looks."""
    return 0 if before is None else state.ended - before.ended


def last_ended(connection: Connection, run_id: int, count: int) -> list[Change]:
    """Name the jobs of a run that ended last."""
    ended = job.c.status.in_([status.value for status in ENDED])
    newest = select(job.c.id).where(job.c.run_id == run_id, ended).order_by(job.c.finished_at.desc()).limit(min(count, MOST_ENDED))
    numbers = list(connection.scalars(newest))
    return named(connection, numbers)


def named(connection: Connection, job_ids: Sequence[int]) -> list[Change]:
    """Tell the status of jobs."""
    rows = connection.execute(jobs_statement(connection.dialect.name), hand_ids(job_ids)).all() if job_ids else []
    return [change_of(row) for row in rows]


def overview(connection: Connection, run_ids: Collection[int] | None, project_ids: Collection[int] | None) -> list[RunState]:
    """Return where runs stand: those asked for, or those that have jobs left and the newest."""
    chosen = states()
    if run_ids is not None or project_ids is not None:
        chosen = chosen.where(or_(run.c.id.in_(list(run_ids or ())), run.c.project_id.in_(list(project_ids or ()))))
    return [state_of(row) for row in connection.execute(chosen.order_by(run.c.id.desc()).limit(MOST_RUNS))]


def running(connection: Connection, run_ids: Collection[int]) -> list[Change]:
    """Name the jobs of these runs that run now."""
    now = running_statement().where(job.c.run_id.in_(list(run_ids))).limit(MOST_ENDED)
    return named(connection, [row.id for row in connection.execute(now)])


def states() -> Select[Any]:
    """Select the counters of runs."""
    return select(run.c.id, run.c.project_id, *(run.c[name] for name in COUNTED))


@cache
def states_statement(dialect: str) -> Select[Any]:
    """Select the counters of runs that have jobs left, and of given ones."""
    return states().where(or_(run.c.queued + run.c.running > 0, run.c.id.in_(given_ids(dialect))))


def state_of(row: Row[Any]) -> RunState:
    """Turn a row into a record."""
    return RunState(row.id, row.project_id, *(row._mapping[name] for name in COUNTED))


@cache
def running_statement() -> Select[Any]:
    """Select the jobs that run now, by the partial index on leases."""
    return (
        select(job.c.id, job.c.run_id)
        .where(job.c.status == JobStatus.RUNNING.value, job.c.lease_until.is_not(None))
        .limit(MOST_RUNNING + 1)
    )


@cache
def jobs_statement(dialect: str) -> Select[Any]:
    """Select the status of given jobs, with the names of their images."""
    columns = (job.c.id, job.c.run_id, job.c.status, job.c.error, image.c.name)
    return select(*columns).join_from(job, image, image.c.id == job.c.image_id).where(job.c.id.in_(given_ids(dialect)))


def change_of(row: Row[Any]) -> Change:
    """Turn a row into a record."""
    return Change(row.run_id, row.id, row.status, row.name, row.error or "")
