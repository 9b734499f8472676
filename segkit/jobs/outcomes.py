"""How attempts end: with a result, or with a reason and perhaps another attempt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, Update, bindparam, case, null, select, update

from segkit.jobs.claims import held_attempts, hold
from segkit.jobs.counters import Tally
from segkit.jobs.records import Claim, Failed, Finished
from segkit.jobs.statements import LONGEST_WAIT, hand_attempts, job, later, now, sayable, word
from segkit.schema import ErrorKind, JobStatus

#: Kinds of failure that may have nothing to do with the image; they wait before the next attempt.
WAITING = (ErrorKind.INFRASTRUCTURE, ErrorKind.RESOURCE)


def finish(connection: Connection, finished: Sequence[Finished], failed: Sequence[Failed] = (), *, retry_seconds: float = 2.0) -> set[int]:
    """End attempts: jobs with a result are done, failed ones are queued again or given up.

    Insert the result rows of the accepted jobs in the same transaction. An attempt that holds no longer changes nothing.

    Parameters
    ----------
    finished, failed
        All that one transaction commits. Handing it over in one call keeps the order of locks.
    retry_seconds
        Wait before a failed attempt is repeated; doubles with each attempt up to ten minutes, less a random part.

    Returns
    -------
    set of int
        The jobs of `finished` that are done now. The results of others must not be kept.
    """
    tally = Tally()
    accepted = end(connection, finished, failed, retry_seconds, tally)
    tally.write(connection)
    return accepted


def end(connection: Connection, finished: Sequence[Finished], failed: Sequence[Failed], retry_seconds: float, tally: Tally) -> set[int]:
    """End attempts without writing the counters yet."""
    held = {row.id: row for row in hold(connection, [*finished, *failed])} if failed else {}
    accepted = end_well(connection, finished, tally) if finished else set()
    for each in failed:
        if each.job_id in held:
            end_badly(connection, held[each.job_id], each, retry_seconds, tally)
    return accepted


def end_well(connection: Connection, finished: Sequence[Finished], tally: Tally) -> set[int]:
    """Mark jobs as done whose attempt still holds."""
    objects = {each.job_id: each.objects for each in finished}
    done = connection.execute(done_statement(connection.dialect.name), hand_attempts(finished)).all()
    for row in done:
        tally.move(row.run_id, JobStatus.RUNNING, JobStatus.DONE)
        tally.add(row.run_id, "objects", objects[row.id])
    return {row.id for row in done}


def fail(connection: Connection, claim: Claim, kind: ErrorKind, reason: str, retry_seconds: float) -> None:
    """End one attempt that gave no result; see `finish`, which ends several."""
    finish(connection, (), [Failed(claim.job_id, claim.attempt, kind, reason)], retry_seconds=retry_seconds)


@cache
def done_statement(dialect: str) -> Update:
    """Mark jobs as done; they are locked in order of their ids first."""
    held = held_attempts(dialect, job.c.id).cte("held")
    ended = {"status": JobStatus.DONE, "finished_at": now(), "lease_until": null(), "error_kind": null(), "error": null()}
    return update(job).where(job.c.id.in_(select(held.c.id))).values(ended).returning(job.c.id, job.c.run_id)


def end_badly(connection: Connection, row: Row[Any], failed: Failed, retry_seconds: float, tally: Tally) -> None:
    """Queue a job again if that can help, or give it up."""
    again = worth_repeating(failed.kind, row)
    reason = failed.reason if again or failed.kind == ErrorKind.INPUT else given_up(row, failed)
    status = JobStatus.QUEUED if again else JobStatus.FAILED
    wait = pause(retry_seconds, row.attempt) if failed.kind in WAITING else 0.0
    connection.execute(failed_statement(), {"job": row.id, "state": status, "kind": failed.kind, "reason": sayable(reason), "wait": wait})
    tally.move(row.run_id, JobStatus.RUNNING, status)


def worth_repeating(kind: ErrorKind, row: Row[Any]) -> bool:
    """Whether another attempt can help: never for a bad image, once for memory or disk, else until attempts are used up."""
    if kind == ErrorKind.INPUT or row.attempt >= row.max_attempts:
        return False
    return kind != ErrorKind.RESOURCE or row.error_kind != ErrorKind.RESOURCE


def given_up(row: Row[Any], failed: Failed) -> str:
    """Say that it was tried, how often, and what it was in the end."""
    times = "1 attempt" if row.attempt == 1 else f"{row.attempt} attempts"
    cause = ": its worker died each time" if failed.kind == ErrorKind.CRASH and row.attempt > 1 else ""
    return f"{row.name}: gave up after {times}{cause}. {failed.reason}"


def pause(retry_seconds: float, attempt: int) -> float:
    """How long to wait, in seconds: doubling from `retry_seconds`, at most ten minutes, less up to half at random."""
    longest = min(LONGEST_WAIT, retry_seconds * 2.0 ** min(attempt - 1, 30))
    return longest * random.uniform(0.5, 1.0)


@cache
def failed_statement() -> Update:
    """Record why an attempt failed, and what becomes of its job."""
    state: BindParameter[str] = bindparam("state")
    return (
        update(job)
        .where(job.c.id == bindparam("job"))
        .values(
            status=state,
            error_kind=bindparam("kind"),
            error=bindparam("reason"),
            lease_until=null(),
            not_before=later("wait"),
            finished_at=case((state == word(JobStatus.FAILED), now()), else_=null()),
        )
    )
