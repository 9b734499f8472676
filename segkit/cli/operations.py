"""Commands that keep segkit running for years: `backup restore gc`. `doctor` is beside `init`, in `setting_up`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import lazy_loader
import typer

from segkit.cli.terminal import Home, Json, Yes, ask, counting, log_as, opened
from segkit.tables import put_json, put_table

# Loaded when a command uses them, so that `segkit --help` is instant.
backups = lazy_loader.load("segkit.backups", suppress_warning=True)
database = lazy_loader.load("segkit.database", suppress_warning=True)
doctors = lazy_loader.load("segkit.doctor", suppress_warning=True)
settings_module = lazy_loader.load("segkit.settings", suppress_warning=True)
upkeep = lazy_loader.load("segkit.upkeep", suppress_warning=True)

SOME_DAMAGED = 3
SHOWN = 20

commands = typer.Typer()


@commands.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Folder of all backups, best on another disk; the second copies only what is new.")],
    keep: Annotated[int | None, typer.Option(min=1, help="Delete older backups until so many are left.")] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Give files second names instead of copying them: quick, but no help when the disk dies.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Back up all tables, results, uploads, classifiers and notebooks, while workers and servers go on. Ends with 3 when any is damaged."""
    with opened(home) as kit, counting("backing up") as advance:
        there, manifest = backups.take(kit.database, kit.settings.home, folder, link=link, keep=keep, progress=advance)
    if as_json:
        put_json({"backup": str(there), **vars(manifest)})
    else:
        typer.echo(f"{there}: {sum(manifest.rows.values())} rows, {manifest.files} files, {mebibytes(manifest.bytes)}.")
        typer.echo(f"New since the last: {manifest.added_files} files, {mebibytes(manifest.added_bytes)}.")
        for place in manifest.damaged[:SHOWN]:
            typer.echo(f"  {place} was damaged already: its row is in the backup, its files are not.")
    raise typer.Exit(SOME_DAMAGED if manifest.damaged else 0)


@commands.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup, or the folder of all: then the newest.")],
    force: Annotated[
        bool, typer.Option("--force", help="Lose what is in the home folder and database now. Stop workers and servers first.")
    ] = False,
    home: Home = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put a backup back into an empty home folder and database, SQLite or PostgreSQL, whichever it is of, and examine what came of it."""
    chosen = settings_module.load(home=home)
    log_as(chosen)
    if force:
        ask(f"Delete everything in {chosen.home} and its database, and put the backup in its place?", yes)
    with database.open_database(chosen, check=False) as opened_database, counting("restoring") as advance:
        done = backups.restore(opened_database, chosen.home, folder, force=force, progress=advance)
    checks = list(doctors.examine(chosen, with_cluster=False))
    faults = [check for check in checks if check.state == "fault"]
    if as_json:
        facts = {"backup": str(done.backup), "at": done.manifest.at, "rows": done.rows, "files": done.files, "recounted": done.recounted}
        put_json(facts | {"damaged": done.manifest.damaged, "faults": [vars(check) for check in faults]})
    else:
        typer.echo(f"Restored {done.backup}, of {done.manifest.at:%Y-%m-%d %H:%M} UTC: {sum(done.rows.values())} rows, {done.files} files.")
        typer.echo("Every file and table was compared with its checksum.")
        for place in done.manifest.damaged[:SHOWN]:
            typer.echo(f"  {place} was damaged when it was backed up. Make it again: segkit retry {place.split('/')[1]} --done-too")
        for check in faults:
            typer.echo(f"  {check.part}: {check.detail} {check.advice}")
    raise typer.Exit(1 if faults else SOME_DAMAGED if done.manifest.damaged else 0)


@commands.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without this nothing is changed.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Find what lies in the home folder and belongs to nothing: how much of what, and with --delete delete it."""
    with opened(home) as kit:
        found = list(upkeep.find(kit.database, kit.settings))
        gone = list(upkeep.delete_orphans(kit.database, kit.settings, found)) if delete else []
        cleared = upkeep.clear(kit.database, kit.settings) if delete else None
    if as_json:
        put_json({"orphans": [vars(orphan) for orphan in found], "deleted": len(gone), "bytes": sum(orphan.bytes for orphan in found)})
        return
    if found:
        put_table("Orphans", ["what", "how many", "MiB", "such as"], by_kind(found))
    if not delete:
        typer.echo(
            f"{mebibytes(sum(orphan.bytes for orphan in found))} in all. Nothing was deleted; segkit gc --delete does."
            if found
            else "None."
        )
        return
    typer.echo(f"Deleted {len(gone)} of {len(found)}, {mebibytes(sum(orphan.bytes for orphan in gone))}.")
    if cleared:
        typer.echo(f"Over its time, and gone too: {cleared}.")


def by_kind(found: list[Any]) -> list[list[Any]]:
    """One row for each kind of orphan."""
    numbers, sizes = Counter(orphan.kind for orphan in found), Counter[str]()
    for orphan in found:
        sizes[orphan.kind] += orphan.bytes
    example = {orphan.kind: orphan.place for orphan in reversed(found)}
    return [[kind, numbers[kind], sizes[kind] / 2**20, example[kind]] for kind in sorted(numbers)]


def mebibytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 2**20:.1f} MiB"
