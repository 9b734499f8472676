"""Commands that set segkit up and look at it: `init settings doctor demo db`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import lazy_loader
import typer

from segkit.cli.terminal import Home, Json, Yes, ask, say
from segkit.tables import cell, put_json, put_table

# Loaded when a command uses them, so that `segkit --help` is instant.
database = lazy_loader.load("segkit.database", suppress_warning=True)
demonstration = lazy_loader.load("segkit.demo", suppress_warning=True)
doctors = lazy_loader.load("segkit.doctor", suppress_warning=True)
rich_console = lazy_loader.load("rich.console", suppress_warning=True)
settings_module = lazy_loader.load("segkit.settings", suppress_warning=True)

commands = typer.Typer()
db = typer.Typer(help="Make, upgrade and check the database.", no_args_is_help=True)
commands.add_typer(db, name="db")


@commands.command()
def init(home: Home = None, as_json: Json = False) -> None:
    """Make the home folder and its database, or bring an older database up to date."""
    chosen = settings_module.load(home=home)
    with database.open_database(chosen, check=False) as opened_database:
        database.upgrade(opened_database)
        revision = database.current(opened_database)
    if as_json:
        put_json({"home": chosen.home, "revision": revision})
    else:
        typer.echo(f"Ready: {chosen.home}\nNext: segkit add PROJECT FOLDER --pixel-size 0.325")


@commands.command("settings")
def show_settings(home: Home = None, as_json: Json = False) -> None:
    """List every setting, its value and where it came from. Secrets are masked."""
    listed = settings_module.explain(settings_module.load(home=home), home=home)
    if as_json:
        put_json([vars(setting) for setting in listed])
    else:
        put_table("Settings", ["setting", "value", "from", "what it does"], [list(vars(setting).values()) for setting in listed])


@commands.command()
def doctor(
    home: Home = None,
    cluster: Annotated[bool, typer.Option(help="Also start or reach the Dask cluster.")] = True,
    as_json: Json = False,
) -> None:
    """Check the database, cache, cluster, disk and versions, and say what to do about each fault."""
    checks = []
    for check in doctors.examine(settings_module.load(home=home), with_cluster=cluster):
        checks.append(check)
        if not as_json:
            rich_console.Console().print(f"{cell(check.state):>4} [bold]{check.part}[/] {cell(check.detail)}")
            if check.advice:
                rich_console.Console().print(f"     → {cell(check.advice)}")
    if as_json:
        put_json([vars(check) for check in checks])
    raise typer.Exit(any(check.state == "fault" for check in checks))


@commands.command()
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Your own images; default: real images that scikit-image carries.")] = None,
    out: Annotated[Path, typer.Option(help="Where everything is left.")] = Path("segkit-demo"),
    segmenter: Annotated[str, typer.Option(help="Segmenter for your own images.")] = "nuclei",
    pixel_size: Annotated[float | None, typer.Option(help="Micrometres per pixel of your own images.")] = None,
) -> None:
    """Segment real images end to end, and leave pictures, tables and exports to look at."""
    demonstration.show(out, folder=folder, segmenter=segmenter, pixel_size_um=pixel_size, console=rich_console.Console())


@db.command("upgrade")
def db_upgrade(revision: Annotated[str, typer.Argument()] = "head", home: Home = None, as_json: Json = False) -> None:
    """Make the tables, or bring them up to a revision."""
    with database.open_database(settings_module.load(home=home), check=False) as opened_database:
        database.upgrade(opened_database, revision)
        tell_revision(as_json, "The database is at {}.", database.current(opened_database))


@db.command("downgrade")
def db_downgrade(
    revision: Annotated[str, typer.Argument(help='Such as "-1" or "base".')], home: Home = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Take the tables back to an older revision; what they cannot hold is lost."""
    ask(f"Take the database back to {revision}? Columns and tables that it does not have are deleted.", yes)
    with database.open_database(settings_module.load(home=home), check=False) as opened_database:
        database.downgrade(opened_database, revision)
        tell_revision(as_json, "The database is at {}.", database.current(opened_database))


@db.command("current")
def db_current(home: Home = None, as_json: Json = False) -> None:
    """Print the database's revision."""
    with database.open_database(settings_module.load(home=home), check=False) as opened_database:
        tell_revision(as_json, "{}", database.current(opened_database))


@db.command("check")
def db_check(home: Home = None, as_json: Json = False) -> None:
    """Say whether the database fits this segkit."""
    with database.open_database(settings_module.load(home=home), check=False) as opened_database:
        database.check(opened_database)
        tell_revision(as_json, "The database fits, at {}.", database.current(opened_database))


def tell_revision(as_json: bool, sentence: str, revision: str | None) -> None:
    """Name the revision that a database is at."""
    say(as_json, sentence.format(revision or "none"), revision=revision)
