"""Tables for people and JSON for scripts: what `segkit list`, `show` and `status` print."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import lazy_loader
import typer

# Loaded when a command uses them, so that `segkit --help` is instant.
exports = lazy_loader.load("segkit.exports", suppress_warning=True)
rich_console = lazy_loader.load("rich.console", suppress_warning=True)
rich_table = lazy_loader.load("rich.table", suppress_warning=True)
segmenters = lazy_loader.load("segkit.segmenters", suppress_warning=True)

STATE_STYLES = {"ok": "green", "note": "yellow", "fault": "red", "done": "green", "failed": "red", "running": "blue", "cancelled": "dim"}


def put_json(value: Any) -> None:
    """Print one JSON value on one line."""
    typer.echo(json.dumps(value, default=str))


def put_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table; a cell that is a state gets its colour."""
    table = rich_table.Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[cell(value) for value in row])
    rich_console.Console().print(table)


def cell(value: Any) -> str:
    """One cell as text. Names and reasons come from outside, so what looks like markup in them is escaped."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    escaped = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text).replace("[", "\\[")
    return f"[{STATE_STYLES[text]}]{escaped}[/]" if text in STATE_STYLES else escaped


RUN_COLUMNS = ["run", "project", "segmenter", "queued", "running", "done", "failed", "cancelled", "objects", "asked for"]


def run_row(run: Any) -> list[Any]:
    """One run as a table's row."""
    return [run.id, run.project, run.segmenter, run.queued, run.running, run.done, run.failed, run.cancelled, run.objects, run.created_at]


def put_page(title: str, page: Any, columns: list[str], row: Callable[[Any], list[Any]], as_json: bool) -> None:
    """Print one page of a list, and how to get the next."""
    if as_json:
        put_json({"items": [vars(item) for item in page.items], "total": page.total, "next": page.next})
        return
    put_table(title, columns, [row(item) for item in page.items])
    shown = len(page.items)
    typer.echo(f"{shown} of {page.total}." if page.total is not None else f"{shown} shown.")
    if page.next:
        typer.echo(f"Next page: --after {page.next}")


def list_projects(kit: Any, as_json: bool, *, limit: int, after: str | None, offset: int | None, **_: Any) -> None:
    """List projects."""
    page = kit.projects(limit, after=after, offset=offset)
    columns = ["project", "images", "unreadable", "made"]
    put_page("Projects", page, columns, lambda each: [each.name, each.images, each.unreadable, each.created_at], as_json)


def list_images(
    kit: Any, as_json: bool, *, project: str | None, unreadable: bool, limit: int, after: str | None, offset: int | None, **_: Any
) -> None:
    """List the images of a project."""
    if project is None:
        raise typer.BadParameter("Say of which project: segkit list images --project NAME")
    page = kit.project(project).images(limit, after=after, offset=offset, unreadable=unreadable)
    columns = ["image", "name", "axes", "shape", "dtype", "µm/px", "fault"]
    put_page(
        f"Images of {project}",
        page,
        columns,
        lambda each: [
            each.id,
            each.name,
            each.axes,
            "×".join(map(str, each.shape or [])),
            each.dtype,
            None if each.pixel_size_um is None else f"{each.pixel_size_um:g}",
            each.error,
        ],
        as_json,
    )


def list_runs(kit: Any, as_json: bool, *, project: str | None, limit: int, after: str | None, offset: int | None, **_: Any) -> None:
    """List runs, of all projects or of one."""
    page = (kit.project(project) if project else kit).runs(limit, after=after, offset=offset)
    put_page("Runs", page, RUN_COLUMNS, run_row, as_json)


def list_jobs(
    kit: Any, as_json: bool, *, run: int | None, status: str | None, limit: int, after: str | None, offset: int | None, **_: Any
) -> None:
    """List the jobs of a run."""
    if run is None:
        raise typer.BadParameter("Say of which run: segkit list jobs --run NUMBER")
    page = kit.run(run).jobs(status=status, limit=limit, after=after, offset=offset)
    columns = ["job", "image", "status", "attempt", "worker", "ended", "reason"]
    put_page(
        f"Jobs of run {run}",
        page,
        columns,
        lambda each: [each.id, each.image_name, each.status, each.attempt, each.worker, each.finished_at, each.error],
        as_json,
    )


def list_segmenters(kit: Any, as_json: bool, **_: Any) -> None:
    """List the segmenters that are installed; one that cannot be loaded is named with its fault, and hides no other."""
    faults = segmenters.broken()
    found = [segmenters.get(name) for name in segmenters.names() if name not in faults]
    if as_json:
        listed = [
            {"name": each.name, "version": each.version, "summary": each.summary, "schema": each.parameters.model_json_schema()}
            for each in found
        ]
        put_json([*listed, *({"name": name, "fault": fault} for name, fault in faults.items())])
        return
    put_table("Segmenters", ["name", "version", "tile-exact", "what it does"], [[e.name, e.version, e.exact, e.summary] for e in found])
    for fault in faults.values():
        typer.echo(fault, err=True)


def list_exports(kit: Any, as_json: bool, **_: Any) -> None:
    """List the export formats."""
    listed = exports.formats()
    if as_json:
        put_json([{"name": name, "summary": summary} for name, summary in listed.items()])
    else:
        put_table("Export formats", ["format", "what it writes"], [list(pair) for pair in listed.items()])


LISTINGS: dict[str, Callable[..., None]] = {
    "projects": list_projects,
    "images": list_images,
    "runs": list_runs,
    "jobs": list_jobs,
    "segmenters": list_segmenters,
    "exports": list_exports,
}


def show_segmenter(segmenter: Any, as_json: bool) -> None:
    """Show a segmenter's parameters."""
    schema = segmenter.parameters.model_json_schema()
    if as_json:
        put_json(
            {"name": segmenter.name, "version": segmenter.version, "summary": segmenter.summary, "exact": segmenter.exact, "schema": schema}
        )
        return
    rows = [[name, each.get("default"), each.get("unit"), each.get("description")] for name, each in schema["properties"].items()]
    put_table(f"{segmenter.name} {segmenter.version}: {segmenter.summary}", ["parameter", "default", "unit", "what it does"], rows)
