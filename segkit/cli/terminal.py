"""What every command shares: its options, the open kit, progress bars, questions and answers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import lazy_loader
import typer

from segkit.errors import ConfirmationRequired
from segkit.tables import put_json

# Loaded when a command uses them, so that `segkit --help` is instant.
kits = lazy_loader.load("segkit.kit", suppress_warning=True)
logs = lazy_loader.load("segkit.logs", suppress_warning=True)
rich_console = lazy_loader.load("rich.console", suppress_warning=True)
rich_progress = lazy_loader.load("rich.progress", suppress_warning=True)

Home = Annotated[str | None, typer.Option("--home", help="Folder of the database and results; default SEGKIT_HOME or ./segkit-data.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Limit = Annotated[int, typer.Option(help="Rows on a page, up to 1000.")]
After = Annotated[str | None, typer.Option(help="The `next` of the page before.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextmanager
def opened(home: str | None) -> Iterator[Any]:
    """Open the kit for one command."""
    with kits.open(home) as kit:
        log_as(kit.settings)
        yield kit


def log_as(settings: Any) -> None:
    """Log as the settings say; `--verbose` outweighs a level that says less."""
    verbose = logging.getLogger("segkit").level == logging.INFO
    logs.configure("INFO" if verbose and settings.log_level != "DEBUG" else settings.log_level, settings.log_format)


@contextmanager
def progress(description: str, total: float | None) -> Iterator[Callable[[int, str], None]]:
    """Show a live bar on a terminal and nothing elsewhere; gives a function that moves it by a number of steps."""
    with live_bar(description, total) as (bar, task):
        yield lambda steps, text: bar.update(task, advance=steps, description=text or description)


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a live bar as `progress` does; gives a function that is told how many are done, and of how many if that is known."""
    with live_bar(description, None) as (bar, task):
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def live_bar(description: str, total: float | None) -> Iterator[tuple[Any, Any]]:
    """Draw a bar on standard error, so that standard output is the answer alone."""
    columns = [
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    ]
    with rich_progress.Progress(*columns, console=rich_console.Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task(description, total=total)


def ask(question: str, yes: bool) -> None:
    """Ask before something is lost; without a terminal, only --yes is a yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfirmationRequired(f"{question} Add --yes to do it.")
    if not typer.confirm(question):
        raise typer.Exit(1)


def say(as_json: bool, text: str, **facts: Any) -> None:
    """Tell what was done: a sentence for people, or the facts for scripts."""
    if as_json:
        put_json(facts)
    else:
        typer.echo(text)
