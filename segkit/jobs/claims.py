"""A worker's hold on jobs: take them on a lease, renew it, give them back, take over what a dead worker left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Row,
    Select,
    String,
    Text,
    Update,
    bindparam,
    cast,
    exists,
    null,
    or_,
    select,
    union_all,
    update,
)

from segkit.jobs.counters import Tally
from segkit.jobs.records import RUN_ALONE, Claim
from segkit.jobs.statements import (
    Attempt,
    given_attempts,
    hand_attempts,
    has_kind,
    has_status,
    image,
    is_due,
    is_one_of,
    job,
    later,
    now,
    number,
    run,
    sayable,
    word,
)
from segkit.rows import given_ids, hand_ids
from segkit.schema import ErrorKind, JobStatus

#: Most jobs of dead workers that one claim takes over; the next claim takes more.
TAKEN_OVER_AT_ONCE = 1000
#: How many jobs to claim, and how many suspects among them, as parameters.
ASKED, ASKED_SUSPECTS = bindparam("limit", type_=Integer), bindparam("suspects", type_=Integer)
#: What `details` needs of jobs that were just taken.
TAKEN = (job.c.id, job.c.run_id, job.c.image_id, job.c.attempt, job.c.error_kind, job.c.priority)


def claim(connection: Connection, worker: str, limit: int, lease_seconds: float) -> list[Claim]:
    """Take up to `limit` jobs, highest priority first, then oldest, each on a fresh lease.

    Jobs whose lease ran out count as queued; one that has used up its attempts is given up instead. Two workers never
    get the same attempt of a job. At most one job of a claim is a suspect, so that a suspect need not be held while
    another runs: whatever kills the worker then was the one that ran.

    Parameters
    ----------
    connection
        In a write transaction; the claims hold once the caller commits.
    worker
        Names the worker for people, and for `renew`.
    lease_seconds
        Unless renewed, the jobs go back to the queue after this time.
    """
    tally = Tally()
    claims = take(connection, worker, limit, lease_seconds, tally)
    tally.write(connection)
    return claims


def take(connection: Connection, worker: str, limit: int, lease_seconds: float, tally: Tally) -> list[Claim]:
    """Claim without writing the counters yet.

    Late jobs are taken over when fewer jobs were there than asked for, or when the statement saw some on its way; so a
    claim that is filled without them leaves them to the next.
    """
    if limit < 1:
        return []
    rows = move(connection, worker, limit, lease_seconds)
    if (len(rows) < limit or rows[0].late) and take_over(connection, tally) and len(rows) < limit:
        suspects = 0 if any(row.error_kind in RUN_ALONE for row in rows) else 1
        rows += move(connection, worker, limit - len(rows), lease_seconds, suspects)
    for row in rows:
        tally.move(row.run_id, JobStatus.QUEUED, JobStatus.RUNNING)
    return [claim_of(row) for row in rows]


def move(connection: Connection, worker: str, limit: int, lease_seconds: float, suspects: int = 1) -> list[Row[Any]]:
    """Move up to `limit` queued jobs to a worker, and fetch all that it needs to know about them."""
    asked = {"limit": limit, "suspects": suspects, "claimant": worker, "lease": lease_seconds}
    if connection.dialect.name == "postgresql":
        return list(connection.execute(claim_with_details_statement(), asked))
    taken = connection.scalars(claim_on_sqlite(), asked).all()
    return list(connection.execute(details_statement(), hand_ids(taken))) if taken else []


def claim_statement(dialect: str, limit: ColumnElement[int] = ASKED, suspects: ColumnElement[int] = ASKED_SUSPECTS) -> Update:
    """Move the next jobs to a worker.

    They are chosen in a query that PostgreSQL runs once whatever its plan, because it locks; rows that another worker is
    claiming right now are passed over. SQLite has one writer at a time and no such locks.
    """
    ready = select(job.c.id, job.c.priority).where(has_status(JobStatus.QUEUED), is_due(job.c.not_before))
    ready = ready.order_by(job.c.priority.desc(), job.c.id).with_for_update(skip_locked=True)
    calm = ready.where(or_(job.c.error_kind.is_(None), ~has_kind(RUN_ALONE))).limit(limit).subquery("calm")
    suspect = ready.where(has_kind(RUN_ALONE)).limit(suspects).subquery("suspect")
    both = union_all(select(calm), select(suspect)).subquery("both")
    chosen = select(both.c.id).order_by(both.c.priority.desc(), both.c.id).limit(limit).cte("chosen")
    return (
        update(job)
        .where(is_one_of(dialect, job.c.id, select(chosen.c.id)))
        .values(
            status=word(JobStatus.RUNNING),
            attempt=job.c.attempt + number(1),
            worker=bindparam("claimant", type_=String),
            lease_until=later("lease"),
            started_at=now(),
            finished_at=null(),
        )
    )


@cache
def claim_on_sqlite() -> Update:
    """Claim, and tell which jobs; what else a worker needs to know is another statement."""
    return claim_statement("sqlite").returning(job.c.id)


@cache
def claim_with_details_statement() -> Select[Any]:
    """Claim and fetch in one statement, which SQLite cannot."""
    taken = claim_statement("postgresql").returning(*TAKEN).cte("taken")
    return details(taken).order_by(taken.c.priority.desc(), taken.c.id)


@cache
def details_statement() -> Select[Any]:
    """Fetch all that a worker needs to know about jobs it just took."""
    return details(job).where(job.c.id.in_(given_ids("sqlite"))).order_by(job.c.priority.desc(), job.c.id)


def details(taken: FromClause) -> Select[Any]:
    """Join jobs to their images and runs, and tell whether any job is late."""
    late = exists().where(has_status(JobStatus.RUNNING), job.c.lease_until < now())
    columns = [
        taken.c.id.label("job_id"),
        taken.c.attempt,
        taken.c.error_kind,
        taken.c.priority,
        *(run.c.id.label("run_id"), run.c.segmenter, run.c.version, run.c.notebook),
        *(cast(table.c[name], Text).label(name) for table, name in ((run, "parameters"), (run, "selection"), (image, "shape"))),
        *(image.c.id.label("image_id"), image.c.uri, image.c.name, image.c.content_hash, image.c.pixel_size_um, image.c.z_step_um),
        select(late.correlate(None)).scalar_subquery().label("late"),
    ]
    return select(*columns).join_from(taken, run, run.c.id == taken.c.run_id).join(image, image.c.id == taken.c.image_id)


def claim_of(row: Sequence[Any]) -> Claim:
    """Turn a row of `details` into a record, value by value: by name it would take three times as long."""
    job_id, attempt, error_kind, priority, run_id, segmenter, version, notebook, parameters, selection, shape, *of_image, _ = row
    image_id, uri, name, content_hash, pixel_size_um, z_step_um = of_image
    return Claim(
        job_id=job_id,
        attempt=attempt,
        suspect=error_kind in RUN_ALONE,
        priority=priority,
        run_id=run_id,
        segmenter=segmenter,
        version=version,
        parameters=decoded(parameters),
        selection=decoded(selection),
        notebook=notebook,
        image_id=image_id,
        uri=uri,
        name=name,
        content_hash=content_hash,
        pixel_size_um=pixel_size_um,
        z_step_um=z_step_um,
        shape=None if shape is None else decoded(shape),
    )


@lru_cache(maxsize=64)
def decoded(text: str) -> Any:
    """Read stored JSON: the parameters of a run, which all its jobs share, or a shape that many images have."""
    return json.loads(text)


def take_over(connection: Connection, tally: Tally) -> bool:
    """Put jobs whose lease ran out back into the queue, and give up those that have no attempt left.

    Returns
    -------
    bool
        Whether any went back.
    """
    late = connection.execute(late_statement()).all()
    back = [row for row in late if row.attempt < row.max_attempts]
    spent = [row for row in late if row.attempt >= row.max_attempts]
    if back:
        connection.execute(take_back_statement(connection.dialect.name), hand_ids(row.id for row in back))
    for row in back:
        tally.move(row.run_id, JobStatus.RUNNING, JobStatus.QUEUED)
    for row in spent:
        connection.execute(give_up_statement(), {"job": row.id, "reason": sayable(crash_reason(row.name, row.attempt, row.worker))})
        tally.move(row.run_id, JobStatus.RUNNING, JobStatus.FAILED)
    return bool(back)


def crash_reason(name: str, attempts: int, worker: str | None) -> str:
    """Say that an image kills its workers."""
    times = f"{attempts} attempts: its worker died or froze each time" if attempts > 1 else "1 attempt: its worker died or froze"
    return f"{name}: gave up after {times} (last {worker}). It may need more memory (SEGKIT_WORKER_MEMORY)."


@cache
def late_statement() -> Select[Any]:
    """Find and lock running jobs whose lease ran out."""
    columns = (job.c.id, job.c.run_id, job.c.attempt, job.c.max_attempts, job.c.worker, image.c.name)
    late = (
        select(*columns).join_from(job, image, image.c.id == job.c.image_id).where(has_status(JobStatus.RUNNING), job.c.lease_until < now())
    )
    return late.order_by(job.c.lease_until).limit(TAKEN_OVER_AT_ONCE).with_for_update(of=job, skip_locked=True, key_share=True)


@cache
def give_up_statement() -> Update:
    """End a job that used up its attempts without a word."""
    ended = {
        "status": JobStatus.FAILED,
        "error_kind": ErrorKind.CRASH,
        "error": bindparam("reason"),
        "lease_until": null(),
        "finished_at": now(),
    }
    return update(job).where(job.c.id == bindparam("job")).values(ended)


@cache
def take_back_statement(dialect: str) -> Update:
    """Queue jobs again whose worker fell silent."""
    reason = "The worker that had it died or froze; it is tried again, alone."
    queued = {"status": JobStatus.QUEUED, "error_kind": ErrorKind.CRASH, "error": reason, "lease_until": null()}
    return update(job).where(job.c.id.in_(given_ids(dialect))).values(queued)


def hold(connection: Connection, attempts: Iterable[Attempt]) -> list[Row[Any]]:
    """Lock those of these attempts that may still be committed, in order of their ids, until the transaction ends.

    An attempt is refused when another one was started since, or when its job was cancelled or has ended. No counter is
    locked yet: who holds attempts may take the time to put files in place before `finish`.

    Returns
    -------
    list of rows
        `id`, `run_id`, `attempt`, `max_attempts`, `error_kind` and the image's `name` of each.
    """
    return list(connection.execute(hold_statement(connection.dialect.name), hand_attempts(attempts)))


@cache
def hold_statement(dialect: str) -> Select[Any]:
    """Lock attempts, and tell what is needed to end them."""
    columns = (job.c.id, job.c.run_id, job.c.attempt, job.c.max_attempts, job.c.error_kind, image.c.name)
    return held_attempts(dialect, *columns).join(image, image.c.id == job.c.image_id)


def held_attempts(dialect: str, *columns: ColumnElement[Any]) -> Select[Any]:
    """Select and lock the given attempts that hold."""
    mine = given_attempts(dialect)
    held = select(*columns).join_from(job, mine, (mine.c.id == job.c.id) & (mine.c.attempt == job.c.attempt))
    return held.where(has_status(JobStatus.RUNNING)).order_by(job.c.id).with_for_update(of=job, key_share=True)


def renew(connection: Connection, worker: str, claims: Sequence[Claim], lease_seconds: float) -> set[int]:
    """Extend the leases of what a worker holds.

    Returns
    -------
    set of int
        Jobs that it holds no longer: another worker took them over, or a person cancelled them. Working on is of no use.
    """
    held = [row.id for row in hold(connection, claims)]
    if held:
        connection.execute(renew_statement(connection.dialect.name), hand_ids(held) | {"lease": lease_seconds, "name": worker})
    return {each.job_id for each in claims} - set(held)


@cache
def renew_statement(dialect: str) -> Update:
    """Let leases end later."""
    return update(job).where(job.c.id.in_(given_ids(dialect))).values(lease_until=later("lease"), worker=bindparam("name"))


def release(connection: Connection, claims: Sequence[Claim]) -> set[int]:
    """Give jobs back that were not finished, such as when a worker is stopped in order.

    The attempt does not count against the job: its number stays used, since it is a fence, and one more is allowed.

    Returns
    -------
    set of int
        Jobs that went back; the others were not held any longer.
    """
    held = hold(connection, claims)
    if held:
        connection.execute(release_statement(connection.dialect.name), hand_ids(row.id for row in held))
    tally = Tally()
    for row in held:
        tally.move(row.run_id, JobStatus.RUNNING, JobStatus.QUEUED)
    tally.write(connection)
    return {row.id for row in held}


@cache
def release_statement(dialect: str) -> Update:
    """Queue jobs again and allow them one attempt more."""
    queued = {"status": JobStatus.QUEUED, "max_attempts": job.c.max_attempts + 1, "lease_until": null(), "started_at": null()}
    return update(job).where(job.c.id.in_(given_ids(dialect))).values(queued)
