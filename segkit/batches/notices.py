"""Telling of a batch's end, durably: what could not be told is tried again, by whatever worker or scheduler is up.

A notice that is being sent is out of reach for a while. Whoever takes it and dies leaves it to the next; so each is sent at least
once, and hardly ever twice.
"""

from __future__ import annotations

from sqlalchemy import Connection, null, select, update

from segkit import notifications
from segkit.batches.queue import batch
from segkit.batches.records import Notice
from segkit.database import Database
from segkit.jobs.statements import later, now, sayable
from segkit.schema import JobStatus

MOST_ATTEMPTS = 3
#: So long one attempt to tell may take before another makes its own; and the wait between two, which doubles.
HOLD_SECONDS, RETRY_SECONDS = 120.0, 5.0
#: One by one: whoever sends has leases to renew meanwhile.
TAKEN_AT_ONCE = 1


def tell(database: Database, retry_seconds: float = RETRY_SECONDS) -> int:
    """Send what is due; returns how many notices were tried. A webhook that is down is recorded with its batch, and no more."""
    with database.read() as connection:
        if connection.scalar(select(batch.c.id).where(batch.c.notice == "due", batch.c.notice_at <= now()).limit(1)) is None:
            return 0
    with database.write() as connection:
        due = take(connection)
    for notice in due:
        faults = [fault for url in notice.urls if (fault := deliver(url, notice))]
        with database.write() as connection:
            record(connection, notice, faults, retry_seconds)
    return len(due)


def take(connection: Connection) -> list[Notice]:
    """Take some due notices, so that nobody else sends them meanwhile."""
    due = select(batch).where(batch.c.notice == "due", batch.c.notice_at <= now())
    rows = connection.execute(due.order_by(batch.c.notice_at).limit(TAKEN_AT_ONCE).with_for_update(skip_locked=True)).all()
    for row in rows:
        held = {"notice_attempt": batch.c.notice_attempt + 1, "notice_at": later("hold")}
        connection.execute(update(batch).where(batch.c.id == row.id).values(held), {"hold": HOLD_SECONDS})
    return [
        Notice(
            id=row.id,
            attempt=row.notice_attempt + 1,
            urls=tuple(row.notify),
            notebook=row.notebook,
            status=JobStatus(row.status),
            error=row.error,
            seconds=(row.finished_at - row.started_at).total_seconds() if row.started_at and row.finished_at else None,
        )
        for row in rows
    ]


def deliver(url: str, notice: Notice) -> str | None:
    """Send one notice to one address; returns why not, if not."""
    well = notice.status == JobStatus.DONE
    title = f"segkit batch {notice.id} ({notice.notebook}) {notice.status}"
    took = "" if notice.seconds is None else f" after {notice.seconds:.0f} s"
    body = f"Batch {notice.id} of {notice.notebook} is {notice.status}{took}." + (f"\n{notice.error}" if notice.error else "")
    return notifications.send(url, title, body, well=well)


def record(connection: Connection, notice: Notice, faults: list[str], retry_seconds: float) -> None:
    """Note that it was told, or that it could not be, which is tried a few times."""
    again = bool(faults) and notice.attempt < MOST_ATTEMPTS
    values = {
        "notice": "due" if again else "failed" if faults else "sent",
        "notice_error": sayable("; ".join(faults)) if faults else null(),
        "notice_at": later("wait"),
    }
    same = (batch.c.id == notice.id) & (batch.c.notice == "due") & (batch.c.notice_attempt == notice.attempt)
    wait = retry_seconds * 2.0 ** (notice.attempt - 1) if again else 0.0
    connection.execute(update(batch).where(same).values(values), {"wait": wait})
