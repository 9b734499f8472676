"""How live events are written: as JSON, jobs of one run with one status together.

Most messages tell of hundreds of jobs that did the same: what they have in common is written once, which makes them less than half as long.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import orjson

from segkit.events import Change, RunState


class Written(NamedTuple):
    """An event, or, of a job, its part of one."""

    run_id: int
    project_id: int | None
    status: str  #: of the job; empty for a run
    body: bytes


def written_job(change: Change, project_id: int | None) -> Written:
    """Write what is told of one job."""
    detail = {"detail": change.detail} if change.detail else {}  # most have none
    return Written(change.run_id, project_id, change.status, orjson.dumps({"id": change.job_id, "image": change.image} | detail))


def written_run(state: RunState) -> Written:
    """Write where a run stands."""
    counts = {name: value for name, value in vars(state).items() if name not in ("run_id", "project_id")}
    event = {"type": "run", "run_id": state.run_id, "project_id": state.project_id, **counts}
    return Written(state.run_id, state.project_id, "", orjson.dumps(event))


def joined(parts: Iterable[Written]) -> bytes:
    """Write a list of events, in the order of what is first told in each."""
    together: dict[tuple[int, int | None, str], list[bytes]] = {}
    events: list[bytes | tuple[int, int | None, str]] = []
    for part in parts:
        if not part.status:
            events.append(part.body)
            continue
        key = part.run_id, part.project_id, part.status
        if key not in together:
            together[key] = []
            events.append(key)
        together[key].append(part.body)
    return b"[" + b",".join(each if isinstance(each, bytes) else of_jobs(*each, together[each]) for each in events) + b"]"


def of_jobs(run_id: int, project_id: int | None, status: str, jobs: list[bytes]) -> bytes:
    """Write the event of jobs of one run that have a new status."""
    head = orjson.dumps({"type": "jobs", "run_id": run_id, "project_id": project_id, "status": status})
    return head[:-1] + b',"jobs":[' + b",".join(jobs) + b"]}"
