"""Commands that register, queue, segment and export: `add run worker retry cancel export remove`."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import lazy_loader
import typer

from segkit.cli.terminal import Home, Json, Yes, ask, counting, opened, progress, say
from segkit.tables import cell, put_json

# Loaded when a command uses them, so that `segkit --help` is instant.
batches = lazy_loader.load("segkit.batches", suppress_warning=True)
workers = lazy_loader.load("segkit.worker", suppress_warning=True)

SOME_FAILED = 3
#: What a run is told by options of its own, not by -p.
OWN_OPTIONS = {"channel": "--channel", "z": "--z", "level": "--level", "images": "--image", "image": "--image", "priority": "--priority"}
OWN_OPTIONS |= {"method": "it as SEGMENTER", "notebook": "nothing: it is for notebooks", "self": "nothing"}

commands = typer.Typer()


@commands.command()
def add(
    project: str,
    where: Annotated[list[str], typer.Argument(help="Folders, files, patterns or URIs.")],
    pixel_size: Annotated[float | None, typer.Option(help="Micrometres per pixel, when the files do not say or say it wrongly.")] = None,
    z_step: Annotated[float | None, typer.Option(help="Micrometres between planes of a stack.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Register images in a project, which is made if there is none. Files are read where they are, never copied."""
    with opened(home) as kit, counting("reading headers") as advance:
        added = kit.project(project, create=True).add(where, pixel_size_um=pixel_size, z_step_um=z_step, progress=advance)
    if as_json:
        put_json(vars(added))
    else:
        typer.echo(f"{added.added} added, {added.duplicates} there already, {added.unreadable} cannot be read.")
        if added.unreadable:
            typer.echo(f"The reasons: segkit list images --project {shlex.quote(project)} --unreadable")
    raise typer.Exit(not added.image_ids)


@commands.command()
def run(
    project: str,
    segmenter: str,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, such as -p diameter_um=9. Repeat for more.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Channel to segment, by name or number.")] = None,
    z: Annotated[str | None, typer.Option(help='Plane number, "max", "mean" or "volume".')] = None,
    level: Annotated[int, typer.Option(help="Pyramid level; 0 is full size.")] = 0,
    image: Annotated[list[int] | None, typer.Option(help="Only this image, by number. Repeat for more.")] = None,
    priority: Annotated[int, typer.Option(help="Higher is sooner.")] = 0,
    work: Annotated[bool, typer.Option(help="Also work the run off here; --no-work only queues it.")] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Queue a run and work it off in one go. Images that are done already are not done again."""
    with opened(home) as kit:
        queued = kit.project(project).segment(
            segmenter,
            images=image,
            channel=number_or_name(channel),
            z=number_or_name(z),
            level=level,
            priority=priority,
            **dict(parse_parameter(text) for text in parameter or []),
        )
        if work:
            with progress(f"run {queued.number}", queued.progress().left) as advance:
                queued.work_off(advance)
        report_run(queued, as_json)


def report_run(run: Any, as_json: bool) -> None:
    """Print where a run stands, and end with code 3 when some of its images failed."""
    state = run.progress()
    if as_json:
        put_json(vars(state))
    else:
        typer.echo(
            f"Run {run.number}: {state.done} done, {state.failed} failed, {state.cancelled} cancelled, "
            f"{state.queued + state.running} to do; {state.objects} objects."
        )
        for job in run.failures(limit=10).items:
            typer.echo(f"  {cell(job.image_name)}: {cell(job.error)}")
        if state.failed:
            typer.echo(f"When the cause is mended: segkit retry {run.number}")
    if state.failed:
        raise typer.Exit(SOME_FAILED)


def parse_parameter(text: str) -> tuple[str, Any]:
    """Read `name=value`, the value as JSON where it is JSON and as text otherwise."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} should be name=value, such as diameter_um=9")
    if name in OWN_OPTIONS:
        raise typer.BadParameter(f"{name} is no parameter of a segmenter; say {OWN_OPTIONS[name]}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def number_or_name(text: str | None) -> int | str | None:
    """Channels and planes are chosen by number or by name."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


@commands.command()
def worker(
    until_idle: Annotated[bool, typer.Option(help="End when the queue is empty.")] = False,
    while_stdin: Annotated[bool, typer.Option(hidden=True, help="End when standard input does, so with what started this.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Work jobs and batches off until stopped. On SIGTERM or Ctrl-C it finishes what runs, or gives it back to the queue."""
    with opened(home) as kit:
        working = kit.worker()
        if not as_json:
            typer.echo(f"{working.name} is working; stop it with Ctrl-C or SIGTERM.")
        if while_stdin:
            threading.Thread(target=stop_with_stdin, args=[working], daemon=True).start()
        with workers.stopped_by_signals(working), batches.beside(kit.batch_worker()) as notebooks:
            working.run((lambda: kit.idle() and not kit.batches_left()) if until_idle else None)
        say(
            as_json,
            f"{working.done} images done, {working.failed} attempts failed; {notebooks.done} batches done, {notebooks.failed} failed.",
            worker=working.name,
            done=working.done,
            failed_attempts=working.failed,
            batches=notebooks.done,
            failed_batches=notebooks.failed,
        )


def stop_with_stdin(working: Any) -> None:
    """Stop a worker when standard input ends."""
    sys.stdin.buffer.read()
    working.stop()


@commands.command()
def retry(
    run_number: int,
    job: Annotated[int | None, typer.Option(help="Only this job.")] = None,
    done_too: Annotated[bool, typer.Option("--done-too", help="Also make results again that are there, such as a damaged one.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Queue the failed and cancelled jobs of a run again; what is done stays."""
    with opened(home) as kit:
        queued = kit.run(run_number).retry(job, done_too=done_too)
    say(as_json, f"{queued} jobs queued again. Work them off with: segkit worker --until-idle", queued=queued)


@commands.command()
def cancel(
    run_number: int, job: Annotated[int | None, typer.Option(help="Only this job.")] = None, home: Home = None, as_json: Json = False
) -> None:
    """Withdraw the jobs of a run that are not done; results that are done stay."""
    with opened(home) as kit:
        cancelled = kit.run(run_number).cancel(job)
    say(as_json, f"{cancelled} jobs cancelled.", cancelled=cancelled)


@commands.command()
def export(
    run_number: int,
    format: Annotated[str, typer.Argument(help="coco, geojson, yolo, imagej, csv, excel, tiff, ...")],
    out: Path,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a run's results in another tool's format."""
    with opened(home) as kit:
        chosen = kit.run(run_number)
        with progress(f"exporting {format}", chosen.progress().done) as advance:
            written = chosen.export(format, out, overwrite=force, progress=advance)
    say(as_json, f"Written: {written}", written=str(written))


@commands.command()
def remove(project: str, home: Home = None, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a project with its runs and results. The images themselves are left alone."""
    with opened(home) as kit:
        chosen = kit.project(project)
        ask(f"Delete project {project!r} with {chosen.record.images} images, its runs and all their results? The image files stay.", yes)
        chosen.delete(confirm=True)
    say(as_json, f"Deleted {project!r}.", deleted=project)
