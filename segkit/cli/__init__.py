"""The `segkit` command. Thin: it reads arguments, calls the kit, and prints a table or JSON.

Exit codes: 0 all is well, 1 an error that the last line explains, 2 wrong usage, 3 some images failed, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import lazy_loader
import typer

from segkit import __version__
from segkit.cli import batches, dashboards, lab, looking, operations, schedules, serving, setting_up, working
from segkit.errors import SegkitError

# Loaded when a command uses it, so that `segkit --help` is instant.
logs = lazy_loader.load("segkit.logs", suppress_warning=True)

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="segkit",
    help="Segment microscopy images: register, queue, segment, measure, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for room in (setting_up, working, looking, serving, batches, schedules, lab, dashboards, operations):
    app.add_typer(room.commands)


def main() -> None:
    """Run the command; every fault that a user can meet ends in one line and an exit code, never in a stack trace."""
    try:
        app(standalone_mode=True)
    except SegkitError as error:
        sys.stderr.write(f"segkit: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is left to say, and the interpreter must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.stderr.write("segkit: interrupted; what was done is kept, and `segkit status` shows the rest\n")
        sys.exit(INTERRUPTED)
    except Exception as error:
        logging.getLogger(__name__).info("The fault in full:", exc_info=error)
        sys.stderr.write(f"segkit: this should not happen: {type(error).__name__}: {error}\n")
        sys.stderr.write("Please report it, with what --verbose prints.\n")
        sys.exit(1)


@app.callback(invoke_without_command=True)
def entry(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")] = False,
) -> None:
    """Segment microscopy images: register, queue, segment, measure, export."""
    if version:
        typer.echo(f"segkit {__version__}")
        raise typer.Exit
    logs.configure("INFO" if verbose else "WARNING", "text")
    logging.captureWarnings(True)
