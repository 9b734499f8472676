"""Exports that are built on demand and kept until the run changes: `exports/<run>/<format>/<stamp>/` under the home folder.

The stamp says what the run held. A built export is whole or absent: it is written beside and renamed. All of it may be deleted.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segkit import exports, jobs, results
from segkit.errors import NotWritableError, UnknownExportError
from segkit.files import PART, faults_in_words, is_local, remove

EXPORTS = "exports"
#: An older export of the same run and format is kept for so long, for those who are downloading it.
KEPT_SECONDS = 3600


@dataclass(frozen=True)
class Built:
    """An export that lies ready."""

    format: str
    path: Path  #: its file, or the folder of its files
    single: bool  #: one file, not a folder of them
    files: int
    bytes: int

    @property
    def name(self) -> str:
        """Its place below the folder of exports."""
        return "/".join(self.path.parts[-4 if self.single else -3 :])


def stamp_of(run_id: int, progress: jobs.Progress) -> str:
    """Name what a run holds now; anything that changes its results changes its counters or the time of its end."""
    ended = "open" if progress.finished_at is None else f"{progress.finished_at:%Y%m%dT%H%M%S%f}"
    return f"run-{run_id}-{progress.done}-{progress.objects}-{ended}"


def folder_of(home: str, run_id: int, format: str) -> Path:
    """Where the exports of a run in a format lie.

    Raises
    ------
    UnknownExportError
        There is no such format.
    NotWritableError
        The home is a store.
    """
    if format not in exports.FORMATS:
        raise UnknownExportError(format, exports.FORMATS)
    if not is_local(home):
        raise NotWritableError("Exports are built on a disk, and the home folder is a store. Use `segkit export`, which takes a place.")
    return Path(results.root(home)) / EXPORTS / str(run_id) / format


def find(home: str, run_id: int, format: str, stamp: str) -> Built | None:
    """Return the export of what the run holds now, when it was built."""
    folder = folder_of(home, run_id, format) / stamp
    if not folder.is_dir():
        return None
    single = exports.FORMATS[format].single
    files = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    return Built(format, folder / single if single else folder, single is not None, len(files), sum(each.stat().st_size for each in files))


def build(
    home: str,
    run_id: int,
    format: str,
    stamp: str,
    items: Iterable[exports.Item],
    progress: Callable[[int, str], None] | None = None,
) -> Built:
    """Build an export unless it is there.

    Raises
    ------
    DiskFullError, NotWritableError
        The disk says so; nothing half-written stays.
    """
    there = find(home, run_id, format, stamp)
    if there is not None:
        return there
    folder = folder_of(home, run_id, format)
    part = folder / f"{PART}{uuid.uuid4().hex}"
    try:
        with faults_in_words(folder):
            part.mkdir(parents=True)
        exports.export(format, items, part, progress=progress)
        with faults_in_words(folder):
            move(part, folder / stamp)
    finally:
        remove(part)
    prune(folder, keep=stamp)
    built = find(home, run_id, format, stamp)
    assert built is not None
    return built


def move(part: Path, place: Path) -> None:
    """Put a folder at its place, unless somebody was faster."""
    try:
        os.rename(part, place)
    except OSError:
        if not place.is_dir():
            raise


def prune(folder: Path, keep: str) -> None:
    """Delete exports of what the run held before, and what was left half-built, once they are old enough."""
    for each in folder.iterdir():
        with suppress(FileNotFoundError):
            if each.name != keep and time.time() - each.stat().st_mtime > KEPT_SECONDS:
                remove(each)
