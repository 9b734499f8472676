"""Whether the service can serve: each part with its state."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import select

from segkit.database import check
from segkit.errors import SegkitError
from segkit.kit import Kit
from segkit.server.answers import Answers
from segkit.telemetry import MemoryUse, memory_limit, memory_used

log = logging.getLogger(__name__)
#: Less room than this on the disk of the results is told.
LOW_DISK_BYTES = 2**30


class Health(StrEnum):
    """The state of a part, or of all."""

    OK = "ok"
    DEGRADED = "degraded"  #: it serves, with something slower or close to a limit
    DOWN = "down"  #: it cannot serve


@dataclass(frozen=True)
class Part:
    """One part of the service."""

    name: str
    health: Health
    detail: str  #: what it is, or what to do


@dataclass(frozen=True)
class Report:
    """The health of the service: that of its worst part."""

    health: Health
    parts: tuple[Part, ...]


def report(kit: Kit, answers: Answers) -> Report:
    """Try every part. Takes the time of one small statement and one look at the disk."""
    parts = (database(kit), changes(kit, answers), cache(answers), disk(kit), memory())
    worst = max((part.health for part in parts), key=list(Health).index)
    return Report(worst, parts)


def database(kit: Kit) -> Part:
    """Whether the database answers, with the tables that this segkit knows."""
    try:
        with kit.database.read() as connection:
            connection.execute(select(1)).scalar_one()
        check(kit.database)
    except SegkitError as error:
        log.warning("The database is down: %s", error)
        return Part("database", Health.DOWN, type(error).__doc__ or "It does not answer.")  # the message may name hosts
    return Part("database", Health.OK, kit.database.dialect)


def changes(kit: Kit, answers: Answers) -> Part:
    """Whether it hears of what others write; otherwise it asks at each read."""
    if answers.following.follows:
        return Part("changes", Health.OK, "heard of as they are committed")
    return Part("changes", Health.DEGRADED, "not heard of; the database is asked at each read, which is slower")


def cache(answers: Answers) -> Part:
    """Whether Redis answers, where there is one."""
    if not answers.cache.is_shared:
        return Part("cache", Health.OK, "in this process")
    if answers.cache.shared_answers:
        return Part("cache", Health.OK, "shared in Redis")
    return Part("cache", Health.DEGRADED, "Redis does not answer; answers are kept in this process alone")


def disk(kit: Kit) -> Part:
    """Whether results can be read and written where they lie."""
    home = kit.settings.home
    if "://" in home:
        return Part("home", Health.OK, "a remote store, not tried")
    path = Path(home).expanduser()
    if not path.is_dir():
        return Part("home", Health.DOWN, "The home folder is gone: put it back, or correct SEGKIT_HOME.")
    if not os.access(path, os.W_OK):
        return Part("home", Health.DEGRADED, "The home folder can only be read.")
    free = shutil.disk_usage(path).free
    if free < LOW_DISK_BYTES:
        return Part("home", Health.DEGRADED, f"Only {free / 2**20:.0f} MiB of disk are free.")
    return Part("home", Health.OK, f"{free / 2**30:.0f} GiB free")


def memory() -> Part:
    """Whether this process is close to its limit."""
    use = MemoryUse("server", memory_used(), memory_limit())
    if use.warning is not None:
        return Part("memory", Health.DEGRADED, use.warning)
    return Part("memory", Health.OK, f"{use.used_bytes / 2**20:.0f} MiB used")
