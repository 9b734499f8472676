"""Looks at what goes on: workers, failures, orphans, backups."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from segkit import backups, jobs, upkeep
from segkit.database import Database, now, open_database
from segkit.doctor.checks import Check
from segkit.errors import SegkitError
from segkit.files import is_local
from segkit.schema import Base, JobStatus
from segkit.settings import Settings

#: Failures within this time are told.
LATELY = timedelta(days=7)
#: Looking for orphans ends after so long; `segkit gc` looks to the end.
LOOK_SECONDS = 5.0
#: Orphans of less than this are not worth a word.
LEAST_ORPHANS_BYTES = 100 * 1024**2

batch, run = Base.metadata.tables["batch"], Base.metadata.tables["run"]


def asked(part: str, settings: Settings, ask: Callable[[Database], Check]) -> Check:
    """Ask the database; when it does not answer, another check has said so."""
    try:
        with open_database(settings, check=False) as opened:
            return ask(opened)
    except SegkitError:
        return Check(part, "note", "not known: the database does not answer", "Mend the database first.")


def workers(settings: Settings) -> Check:
    """Whether somebody works, and who fell silent."""

    def ask(database: Database) -> Check:
        with database.read() as connection:
            holders, queue = jobs.workers(connection), jobs.summary(connection)
        late = [holder.worker for holder in holders if holder.late]
        if late:
            advice = "Their jobs go to others by themselves. See why they died: their logs in logs/, memory, `segkit status`."
            return Check("workers", "note", f"{len(late)} fell silent: {', '.join(late[:5])}", advice)
        if queue.queued and not holders:
            return Check("workers", "note", f"{queue.queued} jobs wait, and nobody works", "Start one: segkit worker")
        return Check("workers", "ok", f"{len(holders)} at work, {queue.queued} jobs wait")

    return asked("workers", settings, ask)


def failures(settings: Settings) -> Check:
    """Whether batches or runs failed lately."""

    def ask(database: Database) -> Check:
        with database.read() as connection:
            since = now(connection) - LATELY
            failed = select(func.count()).select_from(batch).where(batch.c.created_at > since, batch.c.status == JobStatus.FAILED)
            batches = connection.scalar(failed) or 0
            runs = connection.scalars(select(run.c.id).where(run.c.created_at > since, run.c.failed > 0).order_by(run.c.id)).all()
        if not batches and not runs:
            return Check("failures", "ok", f"none within {LATELY.days} days")
        told = [f"{batches} batches"] if batches else []
        told += [f"images of runs {', '.join(map(str, runs[:10]))}"] if runs else []
        advice = "Reasons: segkit batch list --status failed; segkit list jobs --run N --status failed. Again: segkit retry N"
        return Check("failures", "note", f"failed within {LATELY.days} days: {' and '.join(told)}", advice)

    return asked("failures", settings, ask)


def orphans(settings: Settings) -> Check:
    """How much lies in the home folder that belongs to nothing."""
    if not is_local(settings.home):
        return Check("orphans", "ok", "a store: workers clear what dead attempts left")

    def ask(database: Database) -> Check:
        until, number, size, whole = time.monotonic() + LOOK_SECONDS, 0, 0, True
        for orphan in upkeep.find(database, settings):
            number, size = number + 1, size + orphan.bytes
            if time.monotonic() > until:
                whole = False
                break
        detail = f"{'' if whole else 'at least '}{number} orphans, {size / 2**20:.1f} MiB"
        if size < LEAST_ORPHANS_BYTES:
            return Check("orphans", "ok", detail)
        return Check("orphans", "note", detail, "See what: segkit gc. Delete it: segkit gc --delete")

    return asked("orphans", settings, ask)


def backup(settings: Settings) -> Check:
    """How old the last backup is."""
    if not settings.backup_every_days:
        return Check("backup", "ok", "not asked for (SEGKIT_BACKUP_EVERY_DAYS is 0)")
    noted = backups.last_note(settings.home)
    advice = "segkit backup FOLDER, best by cron each night and to another disk; then try segkit restore once."
    if noted is None:
        return Check("backup", "note", "there is none", advice)
    at, place = noted
    age = datetime.now(UTC) - at
    detail = f"{age.days} days old, in {place}"
    return Check("backup", "note" if age > timedelta(days=settings.backup_every_days) else "ok", detail, advice if age.days else "")
