"""The command `voila`: the dashboards that are notebooks, as pages. Those in Panel are part of `segkit serve`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import lazy_loader
import typer

from segkit.cli.terminal import Home

# Loaded when a command uses them, so that `segkit --help` is instant.
settings_module = lazy_loader.load("segkit.settings", suppress_warning=True)

commands = typer.Typer()
HOST, PORT = "127.0.0.1", 8866


@commands.command()
def voila(
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Voila asks for no login: only nginx may reach any but this.")] = HOST,
    port: Annotated[int, typer.Option(help="Port.")] = PORT,
    root_path: Annotated[str, typer.Option(help="Path prefix under which a proxy shows it, such as /voila.")] = "",
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in this desktop's browser.")] = False,
) -> None:
    """Show the dashboards of `dashboards/*.ipynb` with Voila, to this machine alone unless told otherwise. Ctrl-C ends it.

    Kernels are kept warm, so that a page opens at once, and end when their page has gone: conf/voila.json.
    """
    chosen = settings_module.load(home=home)
    place = chosen.home if "://" in chosen.home else str(Path(chosen.home).expanduser().resolve())  # kernels start elsewhere
    conf = str(settings_module.shared_folder("conf"))  # there Voila finds voila.json, and voila/templates/segkit
    environment = settings_module.process_environment(SEGKIT_HOME=place, JUPYTER_CONFIG_PATH=conf, JUPYTER_PATH=conf)
    os.execve(sys.executable, command_of(port, show, host, root_path), environment)  # Voila itself gets the signals that end it


def command_of(port: int, show: bool, host: str = HOST, root_path: str = "") -> list[str]:
    """Return what starts Voila, bound to loopback unless told otherwise here, whatever its configuration says."""
    folder = str(settings_module.shared_folder("dashboards"))
    own = [f"--Voila.ip={host}", f"--port={port}", f"--Voila.open_browser={show}"]
    own += [f"--Voila.base_url={root_path.rstrip('/')}/"] if root_path else []
    return [sys.executable, "-m", "voila", folder, *page_options(settings_module.shared_folder("conf") / "voila.json"), *own]


def page_options(path: Path) -> list[str]:
    """Return the part of the configuration that Voila needs before it reads its file: the template, and what pages may not load."""
    section = json.loads(path.read_text("utf-8"))["VoilaConfiguration"]
    pairs = ((name, each) for name, value in section.items() for each in (value if isinstance(value, list) else [value]))
    return [f"--VoilaConfiguration.{name}={each}" for name, each in pairs]
