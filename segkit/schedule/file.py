"""Schedules that a file names, such as `conf/schedule.toml`: the database is brought to what the file says.

[nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
notebook = "run_batch"
parameters = { project = "plate7", images = "/data/plate7/*.tif" }
notify = ["https://example.org/hooks/segkit"]
notify_on = "failure"
"""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import delete, select, update

from segkit.batches import Notify
from segkit.database import Database
from segkit.errors import ScheduleError, SegkitError, suggest
from segkit.schedule.records import Wanted
from segkit.schedule.store import add, all_schedules, table
from segkit.settings import Settings

log = logging.getLogger(__name__)


class Entry(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid")

    cron: str
    notebook: str
    zone: str = "UTC"
    parameters: dict[str, Any] = {}
    folder: str = "."
    kernel: str | None = None
    time_limit_s: float | None = None
    notify: list[str] = []
    notify_on: str = "failure"
    paused: bool = False


def read_file(path: str | Path) -> list[Wanted]:
    """Read the schedules that a file names; relative folders start at the working folder.

    Raises
    ------
    ScheduleError
        It cannot be read, or an entry has an unknown key or a wrong value.
    """
    try:
        tables = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScheduleError(f"{path} cannot be read: {error}.") from None
    return [wanted_of(str(path), name, entry) for name, entry in tables.items()]


def wanted_of(path: str, name: str, entry: Any) -> Wanted:
    """Read one table of the file."""
    try:
        read = Entry.model_validate(entry)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0]) if fault["loc"] else name
        hint = f" {suggest(key, Entry.model_fields)}" if fault["type"] == "extra_forbidden" else ""
        raise ScheduleError(f"{path}, [{name}], {key}: {fault['msg']}.{hint}") from None
    values = read.model_dump(exclude={"notify", "notify_on"})
    return Wanted(name=name, **values, notify=Notify(on=read.notify_on, urls=tuple(read.notify)) if read.notify else Notify())


def sync(database: Database, settings: Settings, path: str | Path) -> dict[str, str | None]:
    """Bring the database to what the file says: add, change and remove the schedules that came from it. Others stay.

    One that a person paused stays paused. One that will not do is kept with the reason, and the others go on.

    Returns
    -------
    dict
        Each schedule of the file, and its fault or None.
    """
    wanted = {each.name: each for each in read_file(path)}
    with database.read() as connection:
        there = {each.name: each for each in all_schedules(connection)}
    gone = [each.id for name, each in there.items() if each.from_file and name not in wanted]
    if gone:
        with database.write() as connection:
            connection.execute(delete(table).where(table.c.id.in_(gone)))
    return {name: bring(database, settings, each) for name, each in wanted.items()}


def bring(database: Database, settings: Settings, wanted: Wanted) -> str | None:
    """Add or change one schedule of the file, unless it is as it should be; returns its fault."""
    with database.read() as connection:
        row = connection.execute(select(table).where(table.c.name == wanted.name)).one_or_none()
    if row is not None and not row.from_file:
        return f'"{wanted.name}" was added by hand, and is left as it is.'
    if row is not None and row.error is None and same(row, wanted):
        return None
    try:
        add(database, settings, wanted, from_file=True, replace=True)
    except SegkitError as error:
        log.warning("Schedule %s cannot run: %s", wanted.name, error)
        return str(error)
    if row is not None and row.paused:
        with database.write() as connection:
            connection.execute(update(table).where(table.c.name == wanted.name).values(paused=True, next_at=None))
    return None


def same(row: Any, wanted: Wanted) -> bool:
    """Whether a schedule is as the file says."""
    names = ("cron", "zone", "notebook", "kernel", "time_limit_s")
    notify = Notify(on=row.notify_on, urls=tuple(row.notify))
    plain = all(row._mapping[name] == getattr(wanted, name) for name in names)
    return plain and dict(row.parameters) == dict(wanted.parameters) and notify == wanted.notify and same_folder(row, wanted)


def same_folder(row: Any, wanted: Wanted) -> bool:
    """Whether relative paths start at the same place."""
    return row.folder == str(Path(wanted.folder).resolve())
