"""The command `voila`: the dashboards that are notebooks, as pages. Those in Panel are part of `segkit serve`.

Voila has no gate as the service has. What it has is set here: it answers to this machine's own names alone, because other sites can let
a name of theirs point to it; it asks for SEGKIT_TOKEN where that is set; and it opens to other machines only where somebody asks them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import lazy_loader
import typer

from segkit.cli.terminal import Home
from segkit.errors import SettingsError

# Loaded when a command uses them, so that `segkit --help` is instant.
sites = lazy_loader.load("segkit.server.sites", suppress_warning=True)
settings_module = lazy_loader.load("segkit.settings", suppress_warning=True)

commands = typer.Typer()
HOST, PORT = "127.0.0.1", 8866
OPEN = (
    "Voila would show the dashboards to other machines and ask nobody who he is. Set SEGKIT_TOKEN, which it then asks for, or put a proxy"
    " before it that asks, as conf/nginx.conf does, and give --root-path."
)


@commands.command()
def voila(
    home: Home = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs SEGKIT_TOKEN, or a proxy that asks.")
    ] = HOST,
    port: Annotated[int, typer.Option(help="Port.")] = PORT,
    root_path: Annotated[str, typer.Option(help="Path prefix under which a proxy shows it, such as /voila.")] = "",
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in this desktop's browser.")] = False,
) -> None:
    """Show the dashboards of `dashboards/*.ipynb` with Voila, to this machine alone unless told otherwise. Ctrl-C ends it.

    Where SEGKIT_TOKEN is set it asks for that, unless a proxy shows it under a prefix, which then asks: conf/nginx.conf.
    Kernels are kept warm, so that a page opens at once, and end when their page has gone: conf/voila.json.
    """
    chosen = settings_module.load(home=home)
    token = None if root_path or chosen.token is None else chosen.token.get_secret_value()
    if not (root_path or token or sites.is_loopback(host)):
        raise SettingsError(OPEN)
    place = chosen.home if "://" in chosen.home else str(Path(chosen.home).expanduser().resolve())  # kernels start elsewhere
    conf = str(settings_module.shared_folder("conf"))  # there Voila finds voila.json, and voila/templates/segkit
    given = {"SEGKIT_HOME": place, "JUPYTER_CONFIG_PATH": conf, "JUPYTER_PATH": conf} | ({"JUPYTER_TOKEN": token} if token else {})
    command = command_of(port, show, host, root_path, asks=token is not None)
    os.execve(sys.executable, command, settings_module.process_environment(**given))  # Voila itself gets the signals that end it


def command_of(port: int, show: bool, host: str = HOST, root_path: str = "", *, asks: bool = False) -> list[str]:
    """Return what starts Voila, bound to loopback unless told otherwise here, whatever its configuration says.

    Parameters
    ----------
    asks : bool
        It asks for the token in JUPYTER_TOKEN, which other users of the machine cannot read as they can a command.
    """
    folder, conf = str(settings_module.shared_folder("dashboards")), settings_module.shared_folder("conf") / "voila.json"
    own = [f"--Voila.ip={host}", f"--port={port}", f"--Voila.open_browser={show}", f"--Voila.auto_token={asks}"]
    own += [f"--Voila.base_url={root_path.rstrip('/')}/"] if root_path else []
    own += [f"--Voila.tornado_settings={tornado_settings(conf, any_name=bool(root_path) or asks)}"]
    return [sys.executable, "-m", "voila", folder, *page_options(conf), *own]


def tornado_settings(path: Path, any_name: bool) -> dict[str, Any]:
    """Return the part of the configuration that answers hold, and whether it answers to any name: only where somebody asks for a token."""
    said: dict[str, Any] = json.loads(path.read_text("utf-8"))["Voila"]["tornado_settings"]
    return said | {"allow_remote_access": any_name}


def page_options(path: Path) -> list[str]:
    """Return the part of the configuration that Voila needs before it reads its file: the template, and what pages may not load."""
    section = json.loads(path.read_text("utf-8"))["VoilaConfiguration"]
    pairs = ((name, each) for name, value in section.items() for each in (value if isinstance(value, list) else [value]))
    return [f"--VoilaConfiguration.{name}={each}" for name, each in pairs]
