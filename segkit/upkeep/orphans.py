"""What lies in the home folder and belongs to nothing: found, weighed, and deleted when that is asked for.

Nothing is an orphan that a row names, that a job which is running now may be writing, or that is younger than two leases (a day, where
people and not workers write). Before a result's place is cleared its job is locked and looked at again, as whoever commits does, so what is
committed in between stays.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Table, select

from segkit import results
from segkit.database import Database
from segkit.errors import NotWritableError
from segkit.files import PART, is_local, remove
from segkit.results.places import CLASSIFIERS, RESULTS, SCRATCH
from segkit.schema import Base, JobStatus
from segkit.settings import Settings

DAY = 86_400.0
#: A place of a result, as `results.staging` and `publish` name it: image, and for one that is being written its attempt.
PLACE = re.compile(r"(\d+)(?:\.(\d+)-[0-9a-f]{8})?")
NUMBER = re.compile(r"\d+")
batch, correction, image, job, project, result, run = (
    Base.metadata.tables[name] for name in ("batch", "correction", "image", "job", "project", "result", "run")
)


@dataclass(frozen=True)
class Orphan:
    """A file or folder that belongs to nothing."""

    kind: str
    place: str  #: relative to the home folder
    bytes: int
    age_s: float  #: since anything in it was last written


@dataclass(frozen=True)
class Home:
    """The home folder, and what the database names in it."""

    database: Database
    path: Path
    settings: Settings

    @property
    def young(self) -> float:
        """Seconds within which a worker may still be writing, or about to commit."""
        return 2 * self.settings.lease_seconds

    def below(self, *names: str) -> list[os.DirEntry[str]]:
        """What lies in a folder."""
        try:
            with os.scandir(self.path.joinpath(*names)) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def orphan(self, kind: str, place: str, least_age: float) -> Iterator[Orphan]:
        """Yield a place as an orphan when it is old enough."""
        size, newest = weigh(self.path / place)
        age = time.time() - newest
        if age >= least_age:
            yield Orphan(kind, place, size, age)


def find(database: Database, settings: Settings) -> Iterator[Orphan]:
    """Yield every orphan of a home folder, one kind after another.

    Raises
    ------
    NotWritableError
        The home is a store, of which only dead attempts are cleared, by `Kit.sweep`.
    """
    if not is_local(settings.home):
        raise NotWritableError("Orphans are looked for on a disk, and the home folder is a store. Workers clear what dead attempts left.")
    home = Home(database, Path(results.root(settings.home)), settings)
    for look in LOOKS:
        yield from look(home)


def delete(database: Database, settings: Settings, orphans: Iterable[Orphan]) -> Iterator[Orphan]:
    """Delete orphans, each looked at once more; yields those that are gone."""
    home = Home(database, Path(results.root(settings.home)), settings)
    for orphan in orphans:
        size, newest = weigh(home.path / orphan.place)
        if not os.path.lexists(home.path / orphan.place) or size != orphan.bytes or time.time() - newest < orphan.age_s:
            continue  # it is gone, or somebody writes to it
        if (clear_result if orphan.place.startswith(f"{RESULTS}/") else clear)(home, orphan.place):
            yield orphan


def sweep(database: Database, settings: Settings, touched_within_s: float | None = DAY) -> list[str]:
    """Delete what dead attempts left, in the folders of runs that were written to lately; what a worker does when it is idle.

    Only the rows of these runs are read, so that it costs the same however many results there are. None: of all runs.
    """
    if not is_local(settings.home):
        with database.read() as connection:
            return results.sweep(settings.home, results.paths(connection), 2 * settings.lease_seconds)
    home = Home(database, Path(results.root(settings.home)), settings)
    found = list(unfinished_results(home, touched_within_s))
    return [orphan.place for orphan in delete(database, settings, found)]


def clear(home: Home, place: str) -> bool:
    """Delete a place that nothing can name any more."""
    remove(home.path / place)
    return True


def clear_result(home: Home, place: str) -> bool:
    """Move a result's place away while its job is locked, unless it is named or written to by now; then delete it."""
    _, run_id, name = place.split("/")
    aside = home.path / RESULTS / run_id / f"{PART}{name}"
    with home.database.write() as connection:
        if (known := PLACE.fullmatch(name)) is not None:
            number = int(known[1])
            connection.execute(select(job.c.id).where(job.c.run_id == int(run_id), job.c.image_id == number).with_for_update()).all()
        if name in named(connection, int(run_id)) or name in written(connection, int(run_id), [name]):
            return False
        os.rename(home.path / place, aside)
    remove(aside)
    return True


def weigh(path: Path) -> tuple[int, float]:
    """Bytes of a file or of all files in a folder, and when the newest was written or the folder moved; links are not followed."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0, 0.0
    size, newest = (0 if path.is_dir() and not path.is_symlink() else status.st_size), max(status.st_mtime, status.st_ctime)
    for top, _, names in os.walk(path):
        for name in names:
            try:
                status = os.lstat(os.path.join(top, name))
            except FileNotFoundError:
                continue
            size, newest = size + status.st_size, max(newest, status.st_mtime)
    return size, newest


# What there is, kind by kind


def unfinished_results(home: Home, touched_within_s: float | None = None) -> Iterator[Orphan]:
    """Places among the results that no row names: of dead attempts, of deleted runs, of results that were made again."""
    since = 0.0 if touched_within_s is None else time.time() - touched_within_s
    for folder in home.below(RESULTS):
        if not NUMBER.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False) or folder.stat().st_mtime < since:
            continue
        there = [entry.name for entry in home.below(RESULTS, folder.name)]
        with home.database.read() as connection:
            kept = named(connection, int(folder.name))
            kept |= written(connection, int(folder.name), [name for name in there if name not in kept])
        for name in there:
            if name not in kept:
                yield from home.orphan("result that was never finished", f"{RESULTS}/{folder.name}/{name}", home.young)


def named(connection: Connection, run_id: int) -> set[str]:
    """Names in the folder of a run that its results and their versions use."""
    both = select(result.c.path).where(result.c.run_id == run_id).union(select(correction.c.path).where(correction.c.run_id == run_id))
    return {path.rpartition("/")[2] for path in connection.scalars(both)}


def written(connection: Connection, run_id: int, names: Iterable[str]) -> set[str]:
    """Those of these names that an attempt which is running now may be writing."""
    attempts = {name: PLACE.fullmatch(name) for name in names}
    running = select(job.c.image_id, job.c.attempt).where(job.c.run_id == run_id, job.c.status == JobStatus.RUNNING)
    live = {(str(image_id), str(attempt)) for image_id, attempt in connection.execute(running)}
    return {name for name, known in attempts.items() if known is not None and known.groups() in live}


def scratch(home: Home) -> Iterator[Orphan]:
    """Tiles of large images whose jobs are done, cancelled or gone; of failed ones, which a retry goes on from, when they are old."""
    for folder in home.below(SCRATCH):
        with home.database.read() as connection:
            number = int(folder.name) if NUMBER.fullmatch(folder.name) else -1
            wanted = select(job.c.image_id, job.c.status).where(job.c.run_id == number)
            status = {row.image_id: row.status for row in connection.execute(wanted)}
        for entry in home.below(SCRATCH, folder.name):
            state = status.get(int(entry.name)) if NUMBER.fullmatch(entry.name) else None
            if state not in (JobStatus.QUEUED, JobStatus.RUNNING):
                least = home.settings.keep_exports_days * DAY if state == JobStatus.FAILED else home.young
                yield from home.orphan("tiles of an image that is not segmented any more", f"{SCRATCH}/{folder.name}/{entry.name}", least)


def uploads(home: Home) -> Iterator[Orphan]:
    """Uploads that no image leads to."""
    for folder in home.below("uploads"):
        prefix = f"{home.path}/uploads/{folder.name}/"
        with home.database.read() as connection:
            number = int(folder.name) if NUMBER.fullmatch(folder.name) else -1
            wanted = select(image.c.uri).where(image.c.project_id == number, image.c.uri.startswith(prefix, autoescape=True))
            kept = {uri.removeprefix(prefix).partition("/")[0] for uri in connection.scalars(wanted)}
        for entry in home.below("uploads", folder.name):
            if entry.name not in kept:
                yield from home.orphan("upload that is no image", f"uploads/{folder.name}/{entry.name}", DAY)


def exports(home: Home) -> Iterator[Orphan]:
    """Built exports that are old, or whose run is gone; they are built again when asked for."""
    for folder in home.below("exports"):
        gone = not there(home, run, folder.name)
        for form in home.below("exports", folder.name):
            for entry in home.below("exports", folder.name, form.name):
                hidden = entry.name.startswith(PART)
                least = DAY if gone or hidden else home.settings.keep_exports_days * DAY
                yield from home.orphan("export that is old", f"exports/{folder.name}/{form.name}/{entry.name}", least)


def indices(home: Home) -> Iterator[Orphan]:
    """Indices of archives, which are made again when asked for."""
    for entry in home.below("archives"):
        gone = entry.name.startswith(PART) or (entry.name.startswith("run-") and not there(home, run, entry.name.removeprefix("run-")))
        yield from home.orphan("index of an archive", f"archives/{entry.name}", DAY if gone else home.settings.keep_exports_days * DAY)


def classifiers(home: Home) -> Iterator[Orphan]:
    """Classifiers of projects that are gone."""
    for entry in home.below(CLASSIFIERS):
        if not there(home, project, entry.name):
            yield from home.orphan("classifier of a deleted project", f"{CLASSIFIERS}/{entry.name}", DAY)


def batches(home: Home) -> Iterator[Orphan]:
    """Executed notebooks of batches that are gone."""
    for entry in home.below("batches"):
        if not there(home, batch, entry.name):
            yield from home.orphan("notebook of a batch that is gone", f"batches/{entry.name}", DAY)


def parts(home: Home) -> Iterator[Orphan]:
    """Files beside their place whose writers died."""
    for entry in home.below():
        if entry.name.startswith(PART):
            yield from home.orphan("file that was never finished", entry.name, DAY)


def logs(home: Home) -> Iterator[Orphan]:
    """Log files that nobody writes to any more."""
    for entry in home.below("logs"):
        if ".log" in entry.name:
            yield from home.orphan("log that is old", f"logs/{entry.name}", home.settings.keep_logs_days * DAY)


def there(home: Home, table: Table, name: str) -> bool:
    """Whether a row of this number is in a table."""
    if not NUMBER.fullmatch(name):
        return False
    with home.database.read() as connection:
        return connection.scalar(select(table.c.id).where(table.c.id == int(name))) is not None


LOOKS: tuple[Callable[[Home], Iterator[Orphan]], ...] = (
    unfinished_results,
    scratch,
    uploads,
    exports,
    indices,
    classifiers,
    batches,
    parts,
    logs,
)
