"""How fast a run goes and when it will be done, as far as that can be known: from what ended in the last minutes, with a range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import pstdev
from typing import Any

from sqlalchemy import Connection, select

from segkit.jobs import statements
from segkit.jobs.lists import all_jobs, all_runs, job_of, run_of
from segkit.jobs.records import Job, Run
from segkit.jobs.statements import has_status, later
from segkit.schema import JobStatus

of_runs, of_jobs = statements.run, statements.job

#: How far back is looked, in seconds.
WINDOW = 300.0
#: Under so many seconds, or so few jobs that ended in them, nothing is said.
LEAST_SECONDS, LEAST_ENDED = 10.0, 5
#: The window is cut into so many parts, whose rates show how even the run goes.
PARTS = 6
#: The range holds about 19 of 20 times, as long as the run goes on as it went.
DEVIATIONS = 2.0
#: Of each run so many jobs are looked at for the latest to end.
LOOKED_AT = 500


@dataclass(frozen=True)
class Pace:
    """Jobs per second in a window of time, and the range in which the rate is likely to lie."""

    per_second: float
    low: float
    high: float
    ended: int  #: jobs in the window
    seconds: float  #: length of the window

    def time_left(self, jobs: int) -> tuple[float, float | None]:
        """Return the seconds that so many jobs take at least and at most; None: there is no telling how long at most.

        Examples
        --------
        >>> Pace(2.0, 1.0, 4.0, 100, 50.0).time_left(100)
        (25.0, 100.0)
        """
        return jobs / self.high, jobs / self.low if self.low > 0 else None


def pace_of(counted: Sequence[tuple[float, int]]) -> Pace | None:
    """Tell the pace from how many jobs had ended at some moments.

    Parameters
    ----------
    counted : sequence of (seconds, jobs)
        In order of time; the last is now. What is older than `WINDOW` does not count.

    Returns
    -------
    Pace or None
        None when too little ended, in too short a time, to say anything.

    Examples
    --------
    >>> pace_of([(0.0, 0), (30.0, 60), (60.0, 120)]).per_second
    2.0
    """
    recent = [each for each in counted if each[0] >= counted[-1][0] - WINDOW]
    if not recent:
        return None
    seconds, ended = recent[-1][0] - recent[0][0], recent[-1][1] - recent[0][1]
    if seconds < LEAST_SECONDS or ended < LEAST_ENDED:
        return None
    rate = ended / seconds
    rates = rates_of(recent)
    spread = DEVIATIONS * max(ended**0.5 / seconds, pstdev(rates) / len(rates) ** 0.5)
    return Pace(rate, max(0.0, rate - spread), rate + spread, ended, seconds)


def rates_of(counted: Sequence[tuple[float, int]]) -> list[float]:
    """Return the rates in equal parts of the time, between the counts nearest to where they begin and end."""
    start, end = counted[0][0], counted[-1][0]
    places = [min(counted, key=lambda each: abs(each[0] - (start + part * (end - start) / PARTS))) for part in range(PARTS + 1)]
    return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(places) if after[0] > before[0]]


def ended_lately(connection: Connection, run_id: int) -> list[datetime]:
    """Return when jobs of a run were done within the last minutes, in order: at most `LOOKED_AT`, of those queued last.

    A start for whoever has not watched the run so far; an index finds these jobs at once, however many there are.
    """
    newest = select(of_jobs.c.finished_at).where(of_jobs.c.run_id == run_id, has_status(JobStatus.DONE))
    found = newest.order_by(of_jobs.c.id.desc()).limit(LOOKED_AT).subquery("newest")
    recent = select(found.c.finished_at).where(found.c.finished_at > later("ago")).order_by(found.c.finished_at)
    return list(connection.scalars(recent, {"ago": -WINDOW}))


def active_runs(connection: Connection, limit: int = 100) -> list[Run]:
    """List runs that have jobs left, those claimed first before others."""
    left = all_runs().where(of_runs.c.finished_at.is_(None), of_runs.c.queued + of_runs.c.running > 0)
    rows = connection.execute(left.order_by(of_runs.c.priority.desc(), of_runs.c.id).limit(limit))
    return [run_of(row) for row in rows]


def latest_failures(connection: Connection, run_ids: Sequence[int], limit: int = 20) -> list[Job]:
    """List jobs of these runs that were given up, the latest first, each with its reason.

    Of each run those `LOOKED_AT` are considered that were queued last; `failures` lists all.
    """
    found: list[Any] = []
    for run_id in run_ids:
        chosen = all_jobs().where(of_jobs.c.run_id == run_id, has_status(JobStatus.FAILED)).order_by(of_jobs.c.id.desc()).limit(LOOKED_AT)
        latest = chosen.subquery("latest")
        found += connection.execute(select(latest).order_by(latest.c.finished_at.desc()).limit(limit)).all()
    found.sort(key=lambda row: row.finished_at, reverse=True)
    return [job_of(row) for row in found[:limit]]
