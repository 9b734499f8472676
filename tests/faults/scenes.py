"""Small scenes for faults: a plate that is queued, a disk that fills up, a client that misbehaves."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import segkit
from segkit.database import open_database, upgrade
from segkit.kit import Kit
from segkit.runs import Run
from segkit.settings import Settings, load
from tests.plates import QUICK, write_plate

PAGE = 4096


def url_of(settings: Settings) -> str | None:
    """The database that settings name, to hand on."""
    return settings.database_url.get_secret_value() if settings.database_url else None


@contextmanager
def kit_of(home: Path, url: str | None = None, **arguments: Any) -> Iterator[Kit]:
    """Open a kit; a database that `url` names is made first."""
    if url is not None:
        with open_database(load(home=str(home), database_url=url), check=False) as database:
            upgrade(database)
    with segkit.open(home, database_url=url, **(QUICK | arguments)) as kit:
        yield kit


def queue_plate(kit: Kit, folder: Path, counts: list[int], **parameters: Any) -> Run:
    """Register a plate with images of so many squares, and queue a run over it."""
    project = kit.project("plate", create=True)
    project.add(write_plate(folder, counts))
    return project.segment("threshold", **parameters)


def room(disk: Path) -> int:
    """Bytes that are left on a disk."""
    state = os.statvfs(disk)
    return state.f_bavail * state.f_frsize


@contextmanager
def filled(disk: Path, left: int) -> Iterator[Path]:
    """Fill a disk until so many bytes are left, in this block."""
    ballast = disk / ".ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, room(disk) - left)))
    try:
        yield ballast
    finally:
        ballast.unlink(missing_ok=True)


def files_below(folder: Path, *ignored: str) -> list[str]:
    """Every file below a folder, but those whose path begins with one of these."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in found if not name.startswith((".ballast", *ignored))]


@contextmanager
def many_files(number: int) -> Iterator[None]:
    """Let this process open so many files, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def disturb_while_working(kit: Kit, disturb: Callable[[], None], stop: threading.Event) -> None:
    """Work the queue off while something is done again and again."""
    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        kit.work_off()
    finally:
        stop.set()
        disturbing.join(60)
