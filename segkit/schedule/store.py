"""Schedules in the database, and what happens when one ticks.

However many schedulers are up, a tick makes one batch: the schedule's row is locked while it ticks, and a batch is unique for its
schedule and tick. Ticks that were missed while no scheduler was up make one batch together. A tick that finds the batch before it
still going is skipped.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, null, select, update

from segkit import batches
from segkit.batches import Notify
from segkit.database import Database, now
from segkit.errors import NotebookError, ScheduleError, SegkitError, UnknownScheduleError
from segkit.jobs.statements import now as clock
from segkit.jobs.statements import sayable, word
from segkit.schedule.cron import last_tick, next_tick
from segkit.schedule.records import Record, Wanted
from segkit.schema import Base, JobStatus
from segkit.settings import Settings

table, batch = Base.metadata.tables["schedule"], Base.metadata.tables["batch"]

COLUMNS = [table.c[field.name] for field in fields(Record)]
LONGEST_NAME = 200


# Keeping


def add(database: Database, settings: Settings, wanted: Wanted, *, from_file: bool = False, replace: bool = False) -> Record:
    """Keep a schedule, checked as a batch is before it is queued.

    One that will not do is kept too, with the reason, and never runs; asked for again, it is replaced.

    Raises
    ------
    ScheduleError
        The name is taken, the expression cannot be read or never fires, or the time zone is unknown.
    NotebookError
        The notebook, a parameter or the kernel will not do.
    """
    check_name(wanted.name)
    fault = fault_of(settings, wanted)
    with database.write() as connection:
        there = connection.execute(select(table.c.error, table.c.from_file).where(table.c.name == wanted.name)).one_or_none()
        if there is not None and not replace and there.error is None:
            raise ScheduleError(f'There is a schedule "{wanted.name}" already. Remove it first: segkit schedule remove {wanted.name}')
        keep(connection, wanted, fault, from_file=from_file, there=there is not None)
        kept = schedule(connection, wanted.name)
    if fault is not None:
        raise fault
    return kept


def check_name(name: str) -> None:
    """Refuse a name that cannot be shown on one line."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ScheduleError(f"A schedule's name is 1 to {LONGEST_NAME} characters that can be printed, not {name!r}.")


def fault_of(settings: Settings, wanted: Wanted) -> SegkitError | None:
    """Find out why a schedule can never run, if so."""
    try:
        next_tick(wanted.cron, wanted.zone, datetime.now(UTC))
        prepare(settings, wanted)
    except SegkitError as error:
        return error
    return None


def prepare(settings: Settings, wanted: Wanted) -> batches.Request:
    """Check what a schedule would queue."""
    return batches.prepare(
        settings,
        wanted.notebook,
        wanted.parameters,
        folder=wanted.folder,
        kernel=wanted.kernel,
        time_limit_s=wanted.time_limit_s,
        notify=wanted.notify,
    )


def keep(connection: Connection, wanted: Wanted, fault: SegkitError | None, *, from_file: bool, there: bool) -> None:
    """Insert a schedule, or put it in the place of the one of this name."""
    waits = fault is None and not wanted.paused
    values = {
        **{name: value for name, value in asdict(wanted).items() if name not in {"notify", "folder"}},
        "folder": str(Path(wanted.folder).resolve()),
        "notify_on": wanted.notify.on,
        "notify": list(wanted.notify.urls),
        "from_file": from_file,
        "next_at": next_tick(wanted.cron, wanted.zone, now(connection)) if waits else None,
        "skipped_at": None,
        "error": None if fault is None else sayable(str(fault)),
    }
    if there:
        connection.execute(update(table).where(table.c.name == wanted.name).values(values))
    else:
        connection.execute(insert(table).values(values | {"created_at": clock()}))


def schedule(connection: Connection, name: str) -> Record:
    """Return one schedule.

    Raises
    ------
    UnknownScheduleError
        There is none of this name; the nearest is suggested.
    """
    row = connection.execute(select(*COLUMNS).where(table.c.name == name)).one_or_none()
    if row is None:
        raise UnknownScheduleError(name, connection.scalars(select(table.c.name)).all())
    return Record(**row._mapping)


def all_schedules(connection: Connection) -> list[Record]:
    """List all schedules by name."""
    return [Record(**row._mapping) for row in connection.execute(select(*COLUMNS).order_by(table.c.name))]


def remove(connection: Connection, name: str) -> None:
    """Delete a schedule; the batches it made stay."""
    connection.execute(delete(table).where(table.c.id == schedule(connection, name).id))


def pause(connection: Connection, name: str) -> Record:
    """Let a schedule tick no more until it is resumed."""
    found = schedule(connection, name)
    connection.execute(update(table).where(table.c.id == found.id).values(paused=True, next_at=null()))
    return schedule(connection, name)


def resume(connection: Connection, name: str) -> Record:
    """Let a paused schedule tick again, from its next tick on.

    Raises
    ------
    ScheduleError
        It can never run.
    """
    found = schedule(connection, name)
    if found.error is not None:
        raise ScheduleError(f'Schedule "{name}" cannot run: {found.error}')
    tick = next_tick(found.cron, found.zone, now(connection))
    connection.execute(update(table).where(table.c.id == found.id).values(paused=False, next_at=tick))
    return schedule(connection, name)


# Ticking


def tick(database: Database, settings: Settings) -> list[int]:
    """Queue a batch for each schedule whose time has come; returns the numbers of the batches, refused ones among them."""
    with database.read() as connection:
        numbers = [row.id for row in connection.execute(due())]
    made = [tick_one(database, settings, number) for number in numbers]
    return [number for number in made if number is not None]


def due() -> Select[Any]:
    """Select the schedules whose tick has come."""
    return select(table.c.id).where(table.c.next_at <= clock()).order_by(table.c.next_at)


def tick_one(database: Database, settings: Settings, number: int) -> int | None:
    """Let one schedule tick, unless another scheduler just did; returns the batch's number."""
    with database.write() as connection:
        meant = select(table).where(table.c.id == number, table.c.next_at <= clock()).with_for_update(skip_locked=True)
        row = connection.execute(meant).one_or_none()
        if row is None:
            return None
        moment = now(connection)
        values: dict[str, Any] = {"next_at": next_tick(row.cron, row.zone, moment)}
        made: int | None = None
        if going(connection, row.id):
            values["skipped_at"] = row.next_at
        else:
            made = start(connection, settings, row, last_tick(row.cron, row.zone, row.next_at, moment))
        connection.execute(update(table).where(table.c.id == row.id).values(values))
    return made


def going(connection: Connection, schedule_id: int) -> bool:
    """Whether a batch of the schedule has not ended."""
    left = batch.c.status.in_([word(JobStatus.QUEUED), word(JobStatus.RUNNING)])
    return connection.scalar(select(batch.c.id).where(batch.c.schedule_id == schedule_id, left).limit(1)) is not None


def start(connection: Connection, settings: Settings, row: Row[Any], moment: datetime | None) -> int:
    """Queue a schedule's batch; one that will not do is recorded as failed, and whoever wants to know of failures is told."""
    wanted = wanted_of(row)
    try:
        request = prepare(settings, wanted)
    except SegkitError as error:
        shown = dict(wanted.parameters)
        return batches.refuse(connection, wanted.notebook, shown, wanted.folder, str(error), wanted.notify, schedule_id=row.id, tick=moment)
    return batches.submit(connection, request, max_attempts=settings.max_attempts, schedule_id=row.id, tick=moment)


def wanted_of(row: Row[Any]) -> Wanted:
    """Read a row as what was asked for."""
    names = ("name", "cron", "zone", "notebook", "parameters", "folder", "kernel", "time_limit_s", "paused")
    return Wanted(**{name: row._mapping[name] for name in names}, notify=Notify(on=row.notify_on, urls=tuple(row.notify)))


def run_now(database: Database, settings: Settings, name: str) -> int:
    """Queue a schedule's batch at once, beside its ticks; returns the batch's number.

    Raises
    ------
    ScheduleError
        A batch of the schedule has not ended yet.
    NotebookError
        The notebook, a parameter or the kernel will not do; the refusal is recorded.
    """
    with database.write() as connection:
        found = schedule(connection, name)
        row = connection.execute(select(table).where(table.c.id == found.id).with_for_update()).one()
        if going(connection, row.id):
            raise ScheduleError(f'A batch of schedule "{name}" has not ended yet; two at once are not started.')
        number = start(connection, settings, row, None)
        record = batches.record(connection, number)
    if record.error is not None:
        raise NotebookError(f"{record.error} It is recorded as batch {number}.")
    return number
