"""The counters of runs, kept in the transaction that changes what they count.

Locks are always taken in one order, so that no two transactions wait for each other: jobs by id, then runs by id,
then projects by id. A function therefore changes its jobs first and writes its `Tally` last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache

from sqlalchemy import BigInteger, Connection, Update, bindparam, case, func, null, select, update

from segkit.jobs.statements import job, now, project, result, run
from segkit.rows import given_ids, hand_ids
from segkit.schema import JobStatus

COUNTED = [*JobStatus, "objects"]


class Tally:
    """What a transaction changes in the counters of runs, until it is written."""

    def __init__(self) -> None:
        self._changes: defaultdict[int, Counter[str]] = defaultdict(Counter)

    def add(self, run_id: int, what: str, number: int = 1) -> None:
        """Count more (or, when negative, fewer) of something in a run."""
        self._changes[run_id][what] += number

    def move(self, run_id: int, old: JobStatus, new: JobStatus, number: int = 1) -> None:
        """Count jobs in another status."""
        self._changes[run_id][old] -= number
        self._changes[run_id][new] += number

    def write(self, connection: Connection) -> None:
        """Change the counters, runs in order of their ids; a run whose last job ended raises its project's revision."""
        ended = set()
        for run_id, changes in sorted(self._changes.items()):
            row = connection.execute(tally_statement(), {"run": run_id} | {f"add_{name}": changes[name] for name in COUNTED}).one_or_none()
            if row is not None and row.finished_at is not None:
                ended.add(row.project_id)
        raise_revisions(connection, ended)


@cache
def tally_statement() -> Update:
    """Add to the counters of one run; it is finished when nothing is left, and not finished otherwise."""
    changed = {name: run.c[name] + bindparam(f"add_{name}", type_=BigInteger) for name in COUNTED}
    left = changed[JobStatus.QUEUED] + changed[JobStatus.RUNNING]
    finished = case((left == 0, func.coalesce(run.c.finished_at, now())), else_=null())
    return (
        update(run)
        .where(run.c.id == bindparam("run"))
        .values(changed | {"finished_at": finished})
        .returning(run.c.finished_at, run.c.project_id)
    )


def raise_revisions(connection: Connection, project_ids: set[int]) -> None:
    """Tell caches that lists of these projects changed."""
    for project_id in sorted(project_ids):
        connection.execute(update(project).where(project.c.id == project_id).values(revision=project.c.revision + 1))


def recount(connection: Connection, run_id: int | None = None) -> list[int]:
    """Count all jobs and objects anew and mend the counters that are wrong, of one run or of all.

    Returns
    -------
    list of int
        The runs whose counters were wrong; empty unless somebody changed the tables by hand.
    """
    chosen = select(run.c.id, *(run.c[name] for name in COUNTED)).order_by(run.c.id).with_for_update(key_share=True)
    if run_id is not None:
        chosen = chosen.where(run.c.id == run_id)
    kept = {row.id: {name: row._mapping[name] for name in COUNTED} for row in connection.execute(chosen)}
    true = counted(connection, list(kept))
    wrong = [number for number in kept if kept[number] != true[number]]
    for number in wrong:
        connection.execute(update(run).where(run.c.id == number).values(true[number]))
    return wrong


def counted(connection: Connection, run_ids: list[int]) -> dict[int, dict[str, int]]:
    """Count the jobs and objects of these runs from the rows themselves."""
    dialect = connection.dialect.name
    counts: dict[int, dict[str, int]] = {number: dict.fromkeys(COUNTED, 0) for number in run_ids}
    by_status = (
        select(job.c.run_id, job.c.status, func.count()).where(job.c.run_id.in_(given_ids(dialect))).group_by(job.c.run_id, job.c.status)
    )
    for number, status, jobs in connection.execute(by_status, hand_ids(run_ids)):
        counts[number][status] = jobs
    objects = select(result.c.run_id, func.sum(result.c.objects)).where(result.c.run_id.in_(given_ids(dialect))).group_by(result.c.run_id)
    for number, total in connection.execute(objects, hand_ids(run_ids)):
        counts[number]["objects"] = int(total)
    return counts
