"""The durable queue of batches: the rules of jobs, and a cap on how many run at once.

A claim counts what runs over all workers and takes no more than the cap leaves, in one transaction that only one claimant is in:
SQLite has one writer at a time, PostgreSQL locks a number that stands for the queue. An attempt that was taken over, cancelled or
ended commits nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, String, case, func, insert, literal, null, select, text, update

from segkit.batches.records import Claim, Ended, Notify, Request
from segkit.errors import UnknownBatchError
from segkit.jobs.outcomes import WAITING, pause
from segkit.jobs.statements import is_due, later, now, sayable, word
from segkit.rows import given_ids, hand_ids
from segkit.schema import Base, ErrorKind, JobStatus

batch = Base.metadata.tables["batch"]

#: Stands for the queue of batches among PostgreSQL's advisory locks.
CLAIM_LOCK = 7_354_108_227
CLAIMED = ("id", "attempt", "notebook", "source", "parameters", "kernel", "folder", "time_limit_s")
DIED = "The worker that ran it died or froze."


def has_status(*statuses: JobStatus) -> ColumnElement[bool]:
    """Be in one of these states, written into the statement: a partial index is not used for a parameter."""
    words = [word(status) for status in statuses]
    return batch.c.status == words[0] if len(words) == 1 else batch.c.status.in_(words)


# Asking


def submit(connection: Connection, request: Request, *, priority: int = 0, max_attempts: int = 3, **tick: Any) -> int:
    """Queue a batch that was checked; returns its number."""
    values = asked(request.notebook, request.parameters, request.folder, request.notify) | {
        "source": request.source,
        "kernel": request.kernel,
        "time_limit_s": request.time_limit_s,
        "priority": priority,
        "max_attempts": max_attempts,
    }
    return add(connection, values | tick)


def refuse(
    connection: Connection, notebook: str, parameters: Any, folder: str, reason: str, notify: Notify | None = None, **tick: Any
) -> int:
    """Record a batch that could not be queued, and why; returns its number."""
    values = asked(notebook, parameters, folder, notify or Notify()) | {
        "max_attempts": 0,
        "error_kind": ErrorKind.INPUT,
        "error": sayable(reason),
        "finished_at": now(),
    }
    return add(connection, values | ended_values(JobStatus.FAILED, literal(notify.on if notify else None, String)) | tick)


def asked(notebook: str, parameters: Any, folder: str, notify: Notify) -> dict[str, Any]:
    """What is known of every batch that was asked for."""
    return {
        "notebook": sayable(notebook),
        "parameters": parameters,
        "folder": sayable(folder),
        "notify_on": notify.on,
        "notify": list(notify.urls),
    }


def add(connection: Connection, values: dict[str, Any]) -> int:
    """Insert a row."""
    defaults = {
        "status": JobStatus.QUEUED,
        "attempt": 0,
        "cells": 0,
        "cell": 0,
        "notice_attempt": 0,
        "not_before": now(),
        "created_at": now(),
    }
    number: int = connection.execute(insert(batch).values(defaults | values).returning(batch.c.id)).scalar_one()
    return number


# Working


def claim(connection: Connection, worker: str, limit: int, lease_seconds: float, most: int) -> list[Claim]:
    """Take up to `limit` batches, highest priority first, then oldest, so that no more than `most` run, over all workers.

    Batches whose lease ran out count as queued; one that has used up its attempts is given up instead.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({CLAIM_LOCK})"))
    take_over(connection)
    running = connection.scalar(select(func.count()).select_from(batch).where(has_status(JobStatus.RUNNING))) or 0
    room = min(limit, most - running)
    if room < 1:
        return []
    ready = select(batch.c.id).where(has_status(JobStatus.QUEUED), is_due(batch.c.not_before))
    chosen = connection.scalars(ready.order_by(batch.c.priority.desc(), batch.c.id).limit(room).with_for_update(skip_locked=True)).all()
    if not chosen:
        return []
    taken = update(batch).where(batch.c.id.in_(given_ids(connection.dialect.name)))
    taken = taken.values(
        status=JobStatus.RUNNING,
        attempt=batch.c.attempt + 1,
        worker=worker,
        lease_until=later("lease"),
        started_at=now(),
        finished_at=null(),
        cell=0,
        cells=0,
        failed_cell=null(),
    )
    rows = connection.execute(taken.returning(*(batch.c[name] for name in CLAIMED)), hand_ids(chosen) | {"lease": lease_seconds})
    return sorted((Claim(**row._mapping) for row in rows), key=lambda each: each.id)


def anything_to_do(connection: Connection) -> bool:
    """Whether a claim might find something: a look that takes no lock."""
    ready = has_status(JobStatus.QUEUED) & is_due(batch.c.not_before)
    late = has_status(JobStatus.RUNNING) & (batch.c.lease_until < now())
    return any(connection.scalar(select(batch.c.id).where(each).limit(1)) is not None for each in (ready, late))


def left(connection: Connection) -> int:
    """How many batches have not ended."""
    counts = [select(func.count()).select_from(batch).where(has_status(each)) for each in (JobStatus.QUEUED, JobStatus.RUNNING)]
    return sum(connection.scalar(each) or 0 for each in counts)


def take_over(connection: Connection) -> None:
    """Put batches whose lease ran out back into the queue, and give up those that have no attempt left."""
    late = select(batch.c.id, batch.c.attempt, batch.c.max_attempts, batch.c.worker, batch.c.notify_on)
    late = late.where(has_status(JobStatus.RUNNING), batch.c.lease_until < now()).with_for_update(skip_locked=True)
    for row in connection.execute(late).all():
        end_badly(connection, row, Ended(kind=ErrorKind.CRASH, reason=f"{DIED} (last {row.worker})"), retry_seconds=0)


def holds(claim: Claim) -> ColumnElement[bool]:
    """Be an attempt that may still commit."""
    return (batch.c.id == claim.id) & (batch.c.attempt == claim.attempt) & has_status(JobStatus.RUNNING)


def standing(connection: Connection, claims: Sequence[Claim]) -> set[int]:
    """Return which of these attempts still hold: the others were cancelled or taken over."""
    rows = select(batch.c.id, batch.c.attempt).where(batch.c.id.in_(given_ids(connection.dialect.name)), has_status(JobStatus.RUNNING))
    now_held = {(row.id, row.attempt) for row in connection.execute(rows, hand_ids(each.id for each in claims))}
    return {each.id for each in claims if (each.id, each.attempt) in now_held}


def renew(connection: Connection, claims: Sequence[Claim], lease_seconds: float) -> None:
    """Extend the leases of what a worker holds."""
    for each in claims:
        connection.execute(update(batch).where(holds(each)).values(lease_until=later("lease")), {"lease": lease_seconds})


def report(connection: Connection, claim: Claim, cell: int, cells: int) -> None:
    """Note how far an attempt has come."""
    connection.execute(update(batch).where(holds(claim)).values(cell=cell, cells=cells))


def finish(connection: Connection, claim: Claim, ended: Ended, *, retry_seconds: float = 2.0) -> bool:
    """End an attempt; a failed one is queued again if that can help. Returns whether the attempt still held."""
    columns = (batch.c.id, batch.c.attempt, batch.c.max_attempts, batch.c.notify_on)
    row = connection.execute(select(*columns).where(holds(claim)).with_for_update()).one_or_none()
    if row is None:
        return False
    if ended.reason is not None:
        end_badly(connection, row, ended, retry_seconds)
        return True
    values = {"finished_at": now(), "lease_until": null(), "error_kind": null(), "error": null(), "cell": batch.c.cells}
    connection.execute(update(batch).where(batch.c.id == row.id).values(values | ended_values(JobStatus.DONE, batch.c.notify_on)))
    return True


def end_badly(connection: Connection, row: Row[*tuple[Any, ...]], ended: Ended, retry_seconds: float) -> None:
    """Queue a batch again if another attempt can help, or give it up."""
    again = ended.repeat and ended.kind != ErrorKind.INPUT and row.attempt < row.max_attempts
    times = (
        f" Gave up after {row.attempt} attempts."
        if ended.repeat and ended.kind != ErrorKind.INPUT and not again and row.attempt > 1
        else ""
    )
    values: dict[str, Any] = {
        "error_kind": ended.kind,
        "error": sayable(f"{ended.reason}{times}"),
        "failed_cell": ended.cell,
        "lease_until": null(),
    }
    if again:
        wait = pause(retry_seconds, row.attempt) if ended.kind in WAITING else 0.0
        values |= {"status": JobStatus.QUEUED, "not_before": later("wait")}
        connection.execute(update(batch).where(batch.c.id == row.id).values(values), {"wait": wait})
    else:
        values |= {"finished_at": now()} | ended_values(JobStatus.FAILED, batch.c.notify_on)
        connection.execute(update(batch).where(batch.c.id == row.id).values(values))


def ended_values(status: JobStatus, notify_on: ColumnElement[Any]) -> dict[str, Any]:
    """What changes when a batch ends so: who wants to know of it is told."""
    wanted = ("always", "success" if status == JobStatus.DONE else "failure")
    due = case((notify_on.in_(wanted), "due"), else_=null())
    return {"status": status, "notice": due, "notice_attempt": 0, "notice_at": now(), "notice_error": null()}


def release(connection: Connection, claims: Sequence[Claim]) -> None:
    """Give batches back that were not finished, such as when a worker is stopped in order. It does not count against them."""
    values = {"status": JobStatus.QUEUED, "max_attempts": batch.c.max_attempts + 1, "lease_until": null(), "started_at": null()}
    for each in claims:
        connection.execute(update(batch).where(holds(each)).values(values))


# Ordering


def cancel(connection: Connection, number: int) -> bool:
    """Withdraw a batch; a worker that runs it stops its kernel. Returns whether it had not ended."""
    meant = must_exist(connection, number)
    values = {"status": JobStatus.CANCELLED, "lease_until": null(), "finished_at": now()}
    changed = update(batch).where(meant, has_status(JobStatus.QUEUED, JobStatus.RUNNING)).values(values)
    return connection.execute(changed.returning(batch.c.id)).first() is not None


def retry(connection: Connection, number: int, max_attempts: int) -> bool:
    """Queue a failed or cancelled batch again; returns whether it was one. A batch that was refused stays refused."""
    meant = must_exist(connection, number)
    values = {
        "status": JobStatus.QUEUED,
        "max_attempts": batch.c.attempt + max_attempts,
        "not_before": now(),
        "finished_at": null(),
        "error_kind": null(),
        "error": null(),
        "failed_cell": null(),
        "notice": null(),
    }
    ended = has_status(JobStatus.FAILED, JobStatus.CANCELLED) & batch.c.source.is_not(None)
    return connection.execute(update(batch).where(meant, ended).values(values).returning(batch.c.id)).first() is not None


def must_exist(connection: Connection, number: int) -> ColumnElement[bool]:
    """Be the batch of this number, which must exist."""
    if connection.scalar(select(batch.c.id).where(batch.c.id == number)) is None:
        raise unknown(number)
    return batch.c.id == number


def unknown(number: int) -> UnknownBatchError:
    """Make the error for a batch that is not there."""
    return UnknownBatchError(f"There is no batch {number}. `segkit batch list` shows them.")
