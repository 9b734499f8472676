"""Finish and claim in one go, which is a busy worker's whole traffic with the database: one commit for each batch.

On PostgreSQL it is one statement, counters included, because each statement is a round trip. What is rare goes the long
way: failed attempts, and jobs of dead workers, which `claim` takes over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    Select,
    Text,
    Update,
    case,
    cast,
    func,
    null,
    select,
    true,
    union_all,
    update,
)

from segkit.jobs.claims import TAKEN, claim_of, claim_statement, details, take
from segkit.jobs.counters import Tally, raise_revisions
from segkit.jobs.outcomes import end
from segkit.jobs.records import Claim, Failed, Finished
from segkit.jobs.statements import has_status, is_one_of, job, now, number, run, word
from segkit.rows import given
from segkit.schema import JobStatus

#: A statement and its parameters. The statement is always the same object.
Along = tuple[Insert, Mapping[str, Any]]


def exchange(
    connection: Connection,
    worker: str,
    limit: int,
    lease_seconds: float,
    finished: Sequence[Finished],
    failed: Sequence[Failed] = (),
    *,
    retry_seconds: float = 2.0,
    along: Along | None = None,
) -> tuple[set[int], list[Claim]]:
    """`finish` and `claim` in one go.

    Parameters
    ----------
    connection, worker, limit, lease_seconds
        As for `claim`.
    finished, failed, retry_seconds
        As for `finish`.
    along
        A statement of one's own with its parameters, such as the results' rows, executed first or in the same trip.

    Returns
    -------
    accepted : set of int
        The jobs of `finished` that are done now. The results of others must not be kept.
    claims : list of Claim
        Up to `limit` new jobs. Jobs of dead workers may be left to the next `claim`.
    """
    if connection.dialect.name == "postgresql" and finished and not failed and limit > 0:
        return exchange_at_once(connection, worker, limit, lease_seconds, finished, along)
    if along is not None:
        connection.execute(*along)
    tally = Tally()
    accepted = end(connection, finished, failed, retry_seconds, tally)
    claims = take(connection, worker, limit, lease_seconds, tally)
    tally.write(connection)
    return accepted, claims


def exchange_at_once(
    connection: Connection, worker: str, limit: int, lease_seconds: float, finished: Sequence[Finished], along: Along | None
) -> tuple[set[int], list[Claim]]:
    """Exchange in one statement of PostgreSQL."""
    statement, parameters = along or (None, {})
    rows = [{"id": each.job_id, "attempt": each.attempt, "objects": each.objects} for each in finished]
    asked = {"given": rows, "claimant": worker, "lease": lease_seconds, **parameters}
    found = connection.execute(exchange_statement(limit, statement), asked).all()
    accepted, projects, *_ = found[0]
    raise_revisions(connection, set(json.loads(projects or "[]")))
    return set(json.loads(accepted or "[]")), [claim_of(claimed) for _, _, *claimed in found if claimed[0] is not None]


@lru_cache(maxsize=16)
def exchange_statement(limit: int, along: Insert | None) -> Select[Any]:
    """Finish attempts, claim jobs and change the counters of their runs; each row also tells what was accepted.

    The limit, which is a worker's batch and hardly changes, is written into it: of a parameter PostgreSQL can only guess, in a
    plan that it makes once for all, that a tenth of the queue will be claimed.
    """
    done = done_statement().cte("done")
    taken = claim_statement("postgresql", number(limit), number(1)).returning(*TAKEN).cte("taken")
    counters = counters_statement(done, taken).cte("counters")
    accepted = select(listed(done.c.id, "accepted")).subquery("accepted")
    ended = select(listed(counters.c.project_id, "projects")).where(counters.c.finished_at.is_not(None)).subquery("ended")
    claims = details(taken).subquery("claims")
    joined = select(accepted.c.accepted, ended.c.projects, *claims.c).join_from(accepted, ended, true()).join(claims, true(), isouter=True)
    joined = joined.order_by(claims.c.priority.desc(), claims.c.job_id)
    return joined if along is None else joined.add_cte(along.cte("along"))


def listed(column: ColumnElement[int], name: str) -> ColumnElement[str]:
    """Gather the ids of many rows in one text."""
    return cast(func.json_agg(column), Text).label(name)


def done_statement() -> Update:
    """Mark jobs as done whose attempt holds; they are locked in order of their ids first."""
    mine = given("postgresql", {"id": BigInteger(), "attempt": Integer(), "objects": BigInteger()})
    held = select(job.c.id, mine.c.objects).join_from(job, mine, (mine.c.id == job.c.id) & (mine.c.attempt == job.c.attempt))
    locked = held.where(has_status(JobStatus.RUNNING)).order_by(job.c.id).with_for_update(of=job, key_share=True).cte("held")
    ended = {"status": word(JobStatus.DONE), "finished_at": now(), "lease_until": null(), "error_kind": null(), "error": null()}
    return update(job).where(job.c.id == locked.c.id).values(ended).returning(job.c.id, job.c.run_id, locked.c.objects)


def counters_statement(done: CTE, taken: CTE) -> Update:
    """Add up what both change in the runs, and change these, locked in order of their ids first."""
    ended = select(done.c.run_id, number(0).label("queued"), number(-1).label("running"), number(1).label("done"), done.c.objects)
    started = select(taken.c.run_id, number(-1), number(1), number(0), number(0))
    changes = union_all(ended, started).subquery("changes")
    names = ("queued", "running", "done", "objects")
    sums = [cast(func.sum(changes.c[name]), BigInteger).label(name) for name in names]
    summed = select(changes.c.run_id, *sums).group_by(changes.c.run_id).cte("summed")
    meant = select(run.c.id).where(is_one_of("postgresql", run.c.id, select(summed.c.run_id)))
    locked = meant.order_by(run.c.id).with_for_update(key_share=True).cte("meant")
    changed = {name: run.c[name] + summed.c[name] for name in names}
    over = changed["queued"] + changed["running"] == number(0)
    finished = case((over, func.coalesce(run.c.finished_at, now())), else_=null())
    return (
        update(run)
        .where(run.c.id == summed.c.run_id, run.c.id == locked.c.id)
        .values(changed | {"finished_at": finished})
        .returning(run.c.project_id, run.c.finished_at)
    )
