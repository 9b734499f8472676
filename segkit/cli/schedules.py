"""Commands of schedules: `schedule add|list|next|pause|resume|run-now|remove|load`, and `scheduler`."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import lazy_loader
import typer

from segkit.cli.batches import Kernel, Notify, NotifyOn, Parameter, TimeLimit, split
from segkit.cli.terminal import Home, Json, Yes, ask, opened, say
from segkit.tables import put_json, put_table

# Loaded when a command uses them, so that `segkit --help` is instant.
batches = lazy_loader.load("segkit.batches", suppress_warning=True)
schedules = lazy_loader.load("segkit.schedule", suppress_warning=True)

FILE = Path("conf/schedule.toml")
COLUMNS = ["schedule", "cron", "zone", "notebook", "next", "paused", "fault"]

commands = typer.Typer()
schedule = typer.Typer(help="Run notebooks again and again, at the times of a cron expression.", no_args_is_help=True)
commands.add_typer(schedule, name="schedule")


@schedule.command("add")
def add_schedule(
    name: str,
    cron: Annotated[str, typer.Argument(help='Five fields, such as "30 2 * * 1-5" for half past two on weekdays.')],
    notebook: Annotated[str, typer.Argument(help="Name or path of a notebook in the allowed folders.")],
    parameter: Parameter = None,
    zone: Annotated[str, typer.Option(help="Time zone, such as Europe/Berlin.")] = "UTC",
    time_limit: TimeLimit = None,
    kernel: Kernel = None,
    notify: Notify = None,
    notify_on: NotifyOn = "failure",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a schedule. Everything is checked now; one that will not do is listed with its fault, and never runs."""
    with opened(home) as kit:
        told = batches.Notify(on=notify_on, urls=tuple(notify)) if notify else batches.Notify()
        given = batches.read_parameters(kit.settings, notebook, split(parameter))
        wanted = schedules.Wanted(
            name=name, cron=cron, zone=zone, notebook=notebook, parameters=given, kernel=kernel, time_limit_s=time_limit, notify=told
        )
        kept = schedules.add(kit.database, kit.settings, wanted)
    say(as_json, f"Added. Next: {local(kept.next_at, zone)}. `segkit scheduler` must be up then.", name=name, next_at=kept.next_at)


@schedule.command("list")
def list_schedules(home: Home = None, as_json: Json = False) -> None:
    """List the schedules, each with its next tick, or its fault."""
    with opened(home) as kit:
        found = kit.schedules()
    if as_json:
        put_json([vars(each) for each in found])
        return
    rows = [[each.name, each.cron, each.zone, each.notebook, local(each.next_at, each.zone), each.paused, each.error] for each in found]
    put_table("Schedules", COLUMNS, rows)


@schedule.command("next")
def next_of_schedule(
    name: str, count: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 5, home: Home = None, as_json: Json = False
) -> None:
    """Show when a schedule ticks next, in its own time zone."""
    with opened(home) as kit, kit.database.read() as connection:
        found = schedules.schedule(connection, name)
    ticks = schedules.next_ticks(found.cron, found.zone, datetime.now(UTC), count)
    if as_json:
        put_json(ticks)
    else:
        typer.echo("\n".join(local(tick, found.zone) for tick in ticks))


@schedule.command("pause")
def pause_schedule(name: str, home: Home = None, as_json: Json = False) -> None:
    """Let a schedule tick no more until it is resumed."""
    with opened(home) as kit, kit.database.write() as connection:
        schedules.pause(connection, name)
    say(as_json, f"Schedule {name!r} is paused.", name=name, paused=True)


@schedule.command("resume")
def resume_schedule(name: str, home: Home = None, as_json: Json = False) -> None:
    """Let a paused schedule tick again."""
    with opened(home) as kit, kit.database.write() as connection:
        found = schedules.resume(connection, name)
    say(as_json, f"Next: {local(found.next_at, found.zone)}", name=name, next_at=found.next_at)


@schedule.command("run-now")
def run_schedule_now(name: str, home: Home = None, as_json: Json = False) -> None:
    """Queue a schedule's batch at once, beside its ticks."""
    with opened(home) as kit:
        number = schedules.run_now(kit.database, kit.settings, name)
    say(as_json, f"Queued as batch {number}. A worker runs it: segkit worker", batch=number)


@schedule.command("remove")
def remove_schedule(name: str, home: Home = None, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a schedule; the batches it made stay."""
    ask(f"Remove schedule {name!r}?", yes)
    with opened(home) as kit, kit.database.write() as connection:
        schedules.remove(connection, name)
    say(as_json, f"Schedule {name!r} is removed.", removed=name)


@schedule.command("load")
def load_schedules(path: Annotated[Path, typer.Argument()] = FILE, home: Home = None, as_json: Json = False) -> None:
    """Bring the database to what a file says; `segkit scheduler` does so too, whenever the file changes."""
    with opened(home) as kit:
        faults = schedules.sync(kit.database, kit.settings, path)
    if as_json:
        put_json(faults)
    else:
        put_table(str(path), ["schedule", "fault"], [[name, fault] for name, fault in faults.items()])
    raise typer.Exit(any(faults.values()))


@commands.command()
def scheduler(
    file: Annotated[Path, typer.Option(help="Schedules to read, and read again when the file changes.")] = FILE,
    home: Home = None,
) -> None:
    """Let schedules tick until stopped. Any number may be up; each tick makes one batch, which `segkit worker` runs."""
    with opened(home) as kit:
        ticking = kit.scheduler(file)

        def stop(number: int, frame: FrameType | None) -> None:
            ticking.stop()

        previous: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        typer.echo("Schedules are looked after; stop with Ctrl-C or SIGTERM.")
        try:
            ticking.run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        typer.echo(f"{ticking.queued} batches queued.")


def local(moment: datetime | None, zone: str) -> str:
    """A moment as a clock in its time zone shows it."""
    return "" if moment is None else f"{moment.astimezone(schedules.zone_of(zone)):%Y-%m-%d %H:%M %Z}"
