"""When a schedule ticks. The arithmetic is cronsim's, which does on days of 23 and 25 hours what Debian's cron does."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from segkit.errors import ScheduleError, suggest

FIELDS = 'minute, hour, day of month, month, day of week; such as "30 2 * * 1-5" for half past two on weekdays'
#: A schedule that does not tick within this time never does: 29 February comes every eight years at the latest.
LONGEST_WAIT = timedelta(days=366 * 9)


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its name.

    Raises
    ------
    ScheduleError
        There is none; the nearest is suggested.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        nearest = suggest(name, available_timezones()).split(" Known:")[0].split("Known:")[0]
        raise ScheduleError(f'There is no time zone "{name}". {nearest or "Such as Europe/Berlin."}') from None


def next_tick(cron: str, zone: str, after: datetime) -> datetime:
    """Return the first tick after a moment.

    Raises
    ------
    ScheduleError
        The expression cannot be read, or never comes true.

    Examples
    --------
    >>> from datetime import UTC
    >>> str(next_tick("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 1, 12, tzinfo=UTC)))
    '2026-03-02 02:30:00+01:00'
    """
    if len(cron.split()) != 5:
        raise ScheduleError(f'"{cron}" is no cron expression: it has five fields, {FIELDS}.')
    local = after.astimezone(zone_of(zone))
    try:
        tick: datetime | None = next(CronSim(cron, local), None)
    except CronSimError as error:
        raise ScheduleError(f'"{cron}" never fires or is no cron expression ({str(error).lower()}): {FIELDS}.') from None
    if tick is None or tick - local > LONGEST_WAIT:
        raise ScheduleError(f'"{cron}" never fires: there is no such day. The fields are {FIELDS}.')
    return tick


def next_ticks(cron: str, zone: str, after: datetime, count: int) -> list[datetime]:
    """Return the first ticks after a moment, in the schedule's own time zone."""
    first = next_tick(cron, zone, after)
    return [first, *islice(CronSim(cron, first), count - 1)]


def last_tick(cron: str, zone: str, missed: datetime, now: datetime) -> datetime:
    """Return the latest tick up to now: of ticks that were missed, since `missed`, one is made up for."""
    after = now.replace(microsecond=0) + timedelta(seconds=1)  # ticks lie on whole seconds, and what is sought is before this one
    latest = next(CronSim(cron, after.astimezone(zone_of(zone)), reverse=True), missed)
    return max(latest, missed)
