"""Commands of batches: `batch run|list|show|cancel|retry|notebooks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import lazy_loader
import typer

from segkit.cli.terminal import After, Home, Json, Limit, opened, say
from segkit.cli.working import SOME_FAILED
from segkit.tables import put_json, put_page, put_table

# Loaded when a command uses them, so that `segkit --help` is instant.
batches = lazy_loader.load("segkit.batches", suppress_warning=True)

commands = typer.Typer()
batch = typer.Typer(help="Run notebooks with parameters, durably; see and cancel them.", no_args_is_help=True)
commands.add_typer(batch, name="batch")

COLUMNS = ["batch", "notebook", "status", "cells", "attempt", "seconds", "asked for", "reason"]
Parameter = Annotated[list[str] | None, typer.Option("--parameter", "-p", help="name=value, read as the type that the notebook declares.")]
Notify = Annotated[list[str] | None, typer.Option(help="Webhook or Apprise address that is told of the end. Repeat for more.")]
NotifyOn = Annotated[str, typer.Option(help="failure, success or always.")]
TimeLimit = Annotated[float | None, typer.Option(help="Seconds after which its kernel is ended.")]
Kernel = Annotated[str | None, typer.Option(help="Another kernel than the notebook names.")]


@batch.command("run")
def run_batch(
    notebook: Annotated[str, typer.Argument(help="Name or path of a notebook in the allowed folders.")],
    parameter: Parameter = None,
    sweep: Annotated[
        Path | None, typer.Option(help="JSON file with a list of parameter sets; -p is added to each.", exists=True, dir_okay=False)
    ] = None,
    time_limit: TimeLimit = None,
    kernel: Kernel = None,
    priority: Annotated[int, typer.Option(help="Higher is sooner.")] = 0,
    attempts: Annotated[int | None, typer.Option(min=1, max=100, help="Attempts before it is given up.")] = None,
    notify: Notify = None,
    notify_on: NotifyOn = "failure",
    work: Annotated[bool, typer.Option(help="Also run it here; --no-work only queues it.")] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Run a notebook once, or once for each parameter set of a sweep. Run again, run_batch continues where it was."""
    given = split(parameter)
    with opened(home) as kit:
        sets = batches.read_sweep(sweep, given) if sweep is not None else [given]
        options = {"time_limit_s": time_limit, "kernel": kernel, "priority": priority, "max_attempts": attempts}
        queued = kit.batch_sweep(notebook, sets, as_text=True, notify=notify or (), notify_on=notify_on, **options)
        if work:
            numbers = [each.number for each in queued]
            kit.batch_worker().run(lambda: not any(kit.find_batch(number).record.left for number in numbers))
        ended = [each.refreshed() for each in queued]
    report(ended, as_json)


def split(parameters: list[str] | None) -> dict[str, str]:
    """Read `name=value` pairs; the values stay text until the notebook says what they are."""
    pairs = [text.partition("=") for text in parameters or []]
    for name, equals, _ in pairs:
        if not equals:
            raise typer.BadParameter(f"{name!r} should be name=value, such as project=plate7")
    return {name: value for name, _, value in pairs}


def report(ended: list[Any], as_json: bool) -> None:
    """Print how batches stand, and end with code 3 when some failed."""
    records = [each.record for each in ended]
    if as_json:
        put_json([vars(each.record) | {"page": each.page, "executed": each.notebook} for each in ended])
    else:
        put_table("Batches", COLUMNS, [row(each) for each in records])
        for each in ended:
            if each.record.attempt and not each.record.left:
                typer.echo(f"Batch {each.number}: {each.page}")
    if any(each.status == "failed" for each in records):
        raise typer.Exit(SOME_FAILED)


def row(record: Any) -> list[Any]:
    """One batch as a table's row."""
    cells = f"{record.cell}/{record.cells}" if record.cells else ""
    return [record.id, record.notebook, record.status, cells, record.attempt, record.seconds, record.created_at, record.error]


@batch.command("list")
def list_batches(
    status: Annotated[str | None, typer.Option(help="Batches in this state.")] = None,
    limit: Limit = 50,
    after: After = None,
    offset: Annotated[int | None, typer.Option(help="Skip this many; for deep pages use --after.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List batches, newest first, refused ones among them."""
    with opened(home) as kit:
        page = kit.batches(limit, status=status, after=after, offset=offset)
    put_page("Batches", page, COLUMNS, row, as_json)


@batch.command("show")
def show_batch(number: int, home: Home = None, as_json: Json = False) -> None:
    """Show everything about one batch: its parameters, progress, failing cell and error, and where its notebook and page are."""
    with opened(home) as kit:
        found = kit.find_batch(number)
    facts = vars(found.record) | {"seconds": found.record.seconds, "executed": found.notebook, "page": found.page}
    if as_json:
        put_json(facts)
    else:
        put_table(f"Batch {number}", ["", ""], [[name.replace("_", " "), value] for name, value in facts.items()])


@batch.command("cancel")
def cancel_batch(number: int, home: Home = None, as_json: Json = False) -> None:
    """Withdraw a batch; its kernel is ended. Images that are done stay done."""
    with opened(home) as kit:
        cancelled = kit.find_batch(number).cancel()
    say(as_json, f"Batch {number} is cancelled." if cancelled else f"Batch {number} had ended already.", cancelled=cancelled)


@batch.command("retry")
def retry_batch(number: int, home: Home = None, as_json: Json = False) -> None:
    """Queue a failed or cancelled batch again; it continues with the images that are not done."""
    with opened(home) as kit:
        queued = kit.find_batch(number).retry()
    sentence = f"Batch {number} is queued again." if queued else f"Batch {number} has not failed, or was refused before it started."
    say(as_json, sentence, queued=queued)


@batch.command("notebooks")
def list_notebooks(home: Home = None, as_json: Json = False) -> None:
    """List the notebooks that may be run, and their parameters."""
    with opened(home) as kit:
        found = batches.described(kit.settings)
    if as_json:
        put_json(found)
    else:
        rows = [[name, each["name"], each["type"], each["default"], each["help"]] for name, known in found.items() for each in known]
        put_table("Notebooks", ["notebook", "parameter", "type", "default", "what it is"], rows)
