"""What Prometheus is told beside the server's own doings: the queue, workers, batches, the last backup, the disk, and what fails."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, func, select

from segkit import backups, jobs
from segkit.errors import SegkitError
from segkit.files import is_local
from segkit.kit import Kit
from segkit.schema import Base
from segkit.server.answers import Answers
from segkit.server.health import Health, report
from segkit.settings import Settings

log = logging.getLogger(__name__)
batch, run = Base.metadata.tables["batch"], Base.metadata.tables["run"]

#: Values of metrics by their short names and the values of their labels.
Values = dict[str, dict[tuple[str, ...], float]]
STATUSES = ("queued", "running", "done", "failed", "cancelled")


def values(kit: Kit, answers: Answers) -> Values:
    """Gather it all. While the database does not answer, what only it knows is left out, and `segkit_health_reported` says so."""
    parts: dict[tuple[str, ...], float] = {(part.name,): list(Health).index(part.health) for part in report(kit, answers).parts}
    found: Values = {"health": parts, **backup(kit.settings), **disk(kit.settings)}
    try:
        with kit.database.read() as connection:
            return found | queue(connection)
    except SegkitError as error:
        log.debug("The queue is not told: %s", error)
        return found


def queue(connection: Connection) -> Values:
    """Count jobs, workers and batches. Jobs come from the counters of runs, so the length of the queue costs nothing."""
    counted, holders = jobs.summary(connection), jobs.workers(connection)
    oldest = connection.scalar(select(func.min(run.c.created_at)).where(run.c.finished_at.is_(None), run.c.queued > 0))
    by_status: dict[str, int] = {}
    for status, number in connection.execute(select(batch.c.status, func.count()).group_by(batch.c.status)):
        by_status[status] = number
    return {
        "jobs": {(name,): getattr(counted, name) for name in STATUSES},
        "objects": {(): counted.objects},
        "workers": {(): len(holders)},
        "late": {(): sum(holder.late for holder in holders)},
        "batches": {(name,): by_status.get(name, 0) for name in STATUSES},
        "waited": {(): 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())},
    }


def backup(settings: Settings) -> Values:
    """Tell when the last backup was taken; nothing when there is none."""
    noted = backups.last_note(settings.home)
    return {"backup": {} if noted is None else {(): noted[0].timestamp()}, "backup_wanted": {(): 86400.0 * settings.backup_every_days}}


def disk(settings: Settings) -> Values:
    """Tell the room on the disk of the home folder; nothing of a store, which has no end."""
    path = Path(settings.home).expanduser()
    if not is_local(settings.home) or not path.is_dir():
        return {"disk_left": {}, "disk": {}}
    usage = shutil.disk_usage(path)
    return {"disk_left": {(): usage.free}, "disk": {(): usage.total}}
