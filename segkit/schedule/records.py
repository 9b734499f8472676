"""What travels between schedules and the rest: frozen records, no rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from segkit.batches import Notify


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A schedule as a person asks for it."""

    name: str
    cron: str  #: five fields, such as "30 2 * * 1-5"
    zone: str = "UTC"  #: time zone of `cron`, such as "Europe/Berlin"
    notebook: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    folder: str = "."  #: where the notebook is found, and where its relative paths start
    kernel: str | None = None
    time_limit_s: float | None = None
    notify: Notify = field(default_factory=Notify)
    paused: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """One schedule as it was when it was looked up."""

    id: int
    name: str
    cron: str
    zone: str
    notebook: str
    parameters: dict[str, Any]
    folder: str
    kernel: str | None
    time_limit_s: float | None
    notify_on: str | None
    from_file: bool  #: `conf/schedule.toml` names it
    paused: bool
    next_at: datetime | None  #: the tick it waits for; None while it is paused or cannot run
    skipped_at: datetime | None  #: the last tick that found the batch before it still going
    error: str | None  #: why it can never run
    created_at: datetime
