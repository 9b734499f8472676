"""What travels between batches and the rest: frozen records, no rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from segkit.schema import ErrorKind, JobStatus

BATCHES = "batches"


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Who is told of a batch's end."""

    on: str | None = None  #: "failure", "success" or "always"; None: nobody is told
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """A batch that was checked and may be queued."""

    notebook: str
    source: str  #: the notebook's JSON
    parameters: Mapping[str, Any]
    kernel: str
    folder: str  #: where relative paths start
    time_limit_s: float | None = None
    notify: Notify = field(default_factory=Notify)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One batch as it was when it was looked up."""

    id: int
    notebook: str
    parameters: dict[str, Any]
    kernel: str | None
    folder: str
    time_limit_s: float | None
    status: JobStatus
    priority: int
    attempt: int  #: how often it was started
    max_attempts: int
    lease_until: datetime | None
    worker: str | None
    cells: int  #: cells of the notebook, its parameters included; 0 before it starts
    cell: int  #: cells that have ended
    failed_cell: int | None  #: the N of the "In [N]" that failed
    error_kind: ErrorKind | None
    error: str | None
    schedule_id: int | None
    tick: datetime | None
    notify_on: str | None
    notice: str | None  #: "due", "sent" or "failed"
    notice_error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def left(self) -> bool:
        """Whether it has not ended."""
        return self.status in {JobStatus.QUEUED, JobStatus.RUNNING}

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took; None while it has not ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def folder_name(self) -> str:
        """Where its notebook and page are, relative to the home folder; each attempt writes to a place of its own."""
        return f"{BATCHES}/{self.id}/{self.attempt}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One attempt of one batch, and all that is needed to make it."""

    id: int
    attempt: int  #: the fencing token
    notebook: str
    source: str
    parameters: dict[str, Any]
    kernel: str
    folder: str
    time_limit_s: float | None

    @property
    def folder_name(self) -> str:
        """Where this attempt writes, relative to the home folder."""
        return f"{BATCHES}/{self.id}/{self.attempt}"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt ended: well when there is no reason."""

    kind: ErrorKind | None = None
    reason: str | None = None
    cell: int | None = None  #: the N of the "In [N]" that failed
    repeat: bool = True  #: whether another attempt may help, as far as the kind of failure says so


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One batch whose end is to be told."""

    id: int
    attempt: int
    urls: tuple[str, ...]
    notebook: str
    status: JobStatus
    error: str | None
    seconds: float | None
