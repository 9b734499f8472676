"""The durable queue: submit, claim, renew, finish, retry, cancel. A job exists only as a row of the database.

A worker claims jobs on a lease. Each claim raises the job's attempt, which is its fencing token: whoever comes back with
an older one can commit nothing. A lease that runs out puts the job back into the queue. So every job is done at least
once, and its result is committed exactly once.

Every function takes a connection and commits nothing itself: what happens in one `Database.write()` happens together.
Hand over all that a worker ends in one transaction in one call of `finish`, and order several calls in one transaction
as: `hold`, rows of one's own, one of the others. Time is the database's clock.
"""

from segkit.jobs.activity import Activity, activity
from segkit.jobs.claims import claim, hold, release, renew
from segkit.jobs.counters import recount
from segkit.jobs.exchange import exchange
from segkit.jobs.holding import Heartbeat, Held
from segkit.jobs.lists import failures, job, page, progress, run, runs, summary, workers
from segkit.jobs.orders import cancel, prioritise, retry
from segkit.jobs.outcomes import fail, finish
from segkit.jobs.pace import Pace, active_runs, ended_lately, latest_failures, pace_of
from segkit.jobs.places import place, rows
from segkit.jobs.records import Claim, Counts, Failed, Finished, Holder, Job, Progress, Run, Summary
from segkit.jobs.submission import fingerprint, submit

__all__ = [
    "Activity",
    "Claim",
    "Counts",
    "Failed",
    "Finished",
    "Heartbeat",
    "Held",
    "Holder",
    "Job",
    "Pace",
    "Progress",
    "Run",
    "Summary",
    "active_runs",
    "activity",
    "cancel",
    "claim",
    "ended_lately",
    "exchange",
    "fail",
    "failures",
    "fingerprint",
    "finish",
    "hold",
    "job",
    "latest_failures",
    "pace_of",
    "page",
    "place",
    "prioritise",
    "progress",
    "recount",
    "release",
    "renew",
    "retry",
    "rows",
    "run",
    "runs",
    "submit",
    "summary",
    "workers",
]
