"""What travels between the queue and the rest: frozen records, no rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from segkit.schema import ErrorKind, JobStatus

#: A job whose last attempt ended so may take others down with it: it is claimed one at a time, to be run alone.
RUN_ALONE = (ErrorKind.CRASH, ErrorKind.RESOURCE)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Jobs by status, and the objects of those done."""

    queued: int
    running: int
    done: int
    failed: int
    cancelled: int
    objects: int

    @property
    def total(self) -> int:
        """All jobs."""
        return self.queued + self.running + self.done + self.failed + self.cancelled

    @property
    def left(self) -> int:
        """Jobs that have not ended."""
        return self.queued + self.running


@dataclass(frozen=True, kw_only=True)
class Summary(Counts):
    """The whole queue, all runs together."""

    runs: int
    active: int  #: runs that have jobs left


@dataclass(frozen=True, kw_only=True)
class Progress(Counts):
    """Where one run stands."""

    created_at: datetime
    finished_at: datetime | None  #: when its last job ended; None while jobs are left


@dataclass(frozen=True, kw_only=True)
class Run(Progress):
    """One segmenter with one set of parameters over many images of a project."""

    id: int
    project_id: int
    project: str  #: its name
    segmenter: str
    version: str
    parameters: dict[str, Any]
    selection: dict[str, Any]
    segkit_version: str
    notebook: str | None
    priority: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image of a run."""

    id: int
    run_id: int
    image_id: int
    image_name: str
    status: JobStatus
    priority: int
    attempt: int  #: how often it was started
    max_attempts: int
    not_before: datetime
    lease_until: datetime | None
    worker: str | None  #: who holds it, or held it last
    error_kind: ErrorKind | None
    error: str | None  #: of its last failed attempt
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One attempt of one job, and all that is needed to make it."""

    job_id: int
    attempt: int  #: the fencing token
    suspect: bool  #: its last attempt took a worker down or ran out of memory: run it alone
    priority: int
    run_id: int
    segmenter: str
    version: str
    parameters: dict[str, Any]
    selection: dict[str, Any]
    notebook: str | None
    image_id: int
    uri: str
    name: str
    content_hash: str
    pixel_size_um: float | None
    z_step_um: float | None
    shape: list[int] | None  #: of the whole image, in the order of its axes


@dataclass(frozen=True)
class Finished:
    """An attempt whose result is ready to be committed."""

    job_id: int
    attempt: int
    objects: int


@dataclass(frozen=True)
class Failed:
    """An attempt that gave no result, and why."""

    job_id: int
    attempt: int
    kind: ErrorKind
    reason: str  #: in words, what a person can do


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A worker that holds jobs now."""

    worker: str
    jobs: int
    since: datetime  #: when it claimed the oldest of them
    lease_until: datetime  #: when the first of its leases runs out unless renewed
    late: int  #: jobs whose lease has run out; the next claim takes them over
