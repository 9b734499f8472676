"""The command that starts JupyterLab: `lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import lazy_loader
import typer

from segkit.cli.schedules import FILE
from segkit.cli.terminal import Home, opened

# Loaded when a command uses them, so that `segkit --help` is instant.
labs = lazy_loader.load("segkit.lab", suppress_warning=True)

commands = typer.Typer()


@commands.command()
def lab(
    folder: Annotated[
        Path, typer.Argument(help="Folder to work in; segkit's notebooks are put into its notebooks/.", file_okay=False)
    ] = Path("."),
    port: Annotated[int | None, typer.Option(help="Port; default JupyterLab's own, and a free one when it is taken.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in this desktop's browser.")] = True,
    work: Annotated[
        bool | None, typer.Option("--work/--no-work", help="Also run batches here; default: yes with the embedded database.")
    ] = None,
    file: Annotated[Path, typer.Option(help="Schedules to look after.")] = FILE,
    home: Home = None,
) -> None:
    """Start JupyterLab with the notebooks, dashboards in its launcher, notebook jobs through the queue, and schedules."""
    with opened(home) as kit:
        code = labs.run(kit, folder, port=port, show=show, work=work, file=file, tell=typer.echo)
    raise typer.Exit(code)
