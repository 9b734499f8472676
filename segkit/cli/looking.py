"""Commands that show what there is: `status list show`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import lazy_loader
import typer

from segkit.cli.terminal import After, Home, Json, Limit, opened
from segkit.tables import LISTINGS, RUN_COLUMNS, put_json, put_table, run_row, show_segmenter

# Loaded when a command uses them, so that `segkit --help` is instant.
segmenters = lazy_loader.load("segkit.segmenters", suppress_warning=True)

commands = typer.Typer()


@commands.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show what is waiting, running and failing, and who works on it."""
    with opened(home) as kit:
        summary, holders, runs = kit.queue(), kit.workers(), kit.runs(limit=10).items
    if as_json:
        put_json({"queue": vars(summary), "workers": [vars(each) for each in holders], "runs": [vars(each) for each in runs]})
        return
    put_table("Queue", list(vars(summary)), [list(vars(summary).values())])
    put_table("Workers", ["worker", "jobs", "lease until"], [[each.worker, each.jobs, each.lease_until] for each in holders])
    put_table("Latest runs", RUN_COLUMNS, [run_row(each) for each in runs])


@commands.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help="projects, images, runs, jobs, segmenters or exports")],
    project: Annotated[str | None, typer.Option(help="Of this project.")] = None,
    run_number: Annotated[int | None, typer.Option("--run", help="Of this run.")] = None,
    job_status: Annotated[str | None, typer.Option("--status", help="Jobs in this state.")] = None,
    unreadable: Annotated[bool, typer.Option("--unreadable", help="Only images that cannot be read.")] = False,
    limit: Limit = 50,
    after: After = None,
    offset: Annotated[int | None, typer.Option(help="Skip this many; for deep pages use --after.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List projects, images, runs, jobs, segmenters or export formats."""
    listing = LISTINGS.get(what)
    if listing is None:
        raise typer.BadParameter(f"{what!r} is none of {', '.join(LISTINGS)}")
    with opened(home) as kit:
        listing(
            kit, as_json, project=project, run=run_number, status=job_status, unreadable=unreadable, limit=limit, after=after, offset=offset
        )


@commands.command()
def show(
    what: Annotated[str, typer.Argument(help="project, run, image, job or segmenter")],
    which: Annotated[str, typer.Argument(help="Its name or number.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show everything about one project, run, image, job or segmenter."""
    lookups: dict[str, Callable[[Any], Any]] = {
        "project": lambda kit: kit.project(which).record,
        "run": lambda kit: kit.run(int(which)).record,
        "image": lambda kit: kit.image(int(which)).record,
        "job": lambda kit: kit.job(int(which)),
        "segmenter": lambda kit: segmenters.get(which),
    }
    if what not in lookups:
        raise typer.BadParameter(f"{what!r} is none of {', '.join(lookups)}")
    if what in {"run", "image", "job"} and not which.isdigit():
        raise typer.BadParameter(f"a {what} is named by its number, not {which!r}")
    with opened(home) as kit:
        found = lookups[what](kit)
    if what == "segmenter":
        show_segmenter(found, as_json)
    elif as_json:
        put_json(vars(found))
    else:
        put_table(f"{what.capitalize()} {which}", ["", ""], [[name.replace("_", " "), value] for name, value in vars(found).items()])
