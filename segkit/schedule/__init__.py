"""Schedules: notebooks that are run again and again, at the times of a cron expression, one batch for each tick."""

from segkit.schedule.cron import next_ticks, zone_of
from segkit.schedule.file import read_file, sync
from segkit.schedule.records import Record, Wanted
from segkit.schedule.scheduler import Scheduler, beside
from segkit.schedule.store import add, all_schedules, pause, remove, resume, run_now, schedule, tick

__all__ = [
    "Record",
    "Scheduler",
    "Wanted",
    "add",
    "all_schedules",
    "beside",
    "next_ticks",
    "pause",
    "read_file",
    "remove",
    "resume",
    "run_now",
    "schedule",
    "sync",
    "tick",
    "zone_of",
]
