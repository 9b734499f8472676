"""Read the headers of many files with several threads, and add them to a project as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar, cast

from sqlalchemy import Connection, Table, or_, select, update

from segkit.catalog.adding import add
from segkit.catalog.projects import count_images, lock_project
from segkit.catalog.records import Added, Unreadable
from segkit.database import Database
from segkit.errors import SegkitError
from segkit.images import ImageInfo
from segkit.schema import Image

table = cast(Table, Image.__table__)
THREADS = 8
#: Reading runs ahead of adding by this many files per thread.
AHEAD = 4
#: So many images, or so many seconds of reading, are added in one transaction; a crash loses no more than that.
MOST_AT_ONCE = 1000
SECONDS_AT_ONCE = 2.0
#: The total is known beforehand when there are no more files than this; their names are held in memory.
COUNTED_AHEAD = 100_000

Progress = Callable[[int, int | None], None]
Item = TypeVar("Item")


def register(
    database: Database,
    project_id: int,
    uris: Iterable[str],
    probe: Callable[[str], ImageInfo],
    *,
    pixel_size_um: float | None = None,
    z_step_um: float | None = None,
    progress: Progress | None = None,
    threads: int = THREADS,
) -> Added:
    """Register files in a project. One that cannot be read is listed with its reason, and the others go on.

    Parameters
    ----------
    database
        Opened for writing in short transactions; what was added stays, however this ends.
    project_id : int
        Where to.
    uris : iterable of str
        What to read, in the order in which it is to be listed. Any number; few are held at a time.
    probe : callable
        Reads the header and hash of one URI, in one of the threads.
    pixel_size_um, z_step_um : float, optional
        Given to images that were known already too.
    progress : callable, optional
        Called with how many are done and how many there are; None for the latter when nobody knows.
    threads : int
        How many files are read at once.
    """
    counted, total = count_ahead(uris)
    given = {name: value for name, value in (("pixel_size_um", pixel_size_um), ("z_step_um", z_step_um)) if value is not None}
    sum_up, done = Added(), 0
    for group in grouped(probe_all(counted, probe, threads)):
        with database.write() as connection:
            sum_up += add_group(connection, project_id, group, given)
        done += len(group)
        if progress is not None:
            progress(done, total)
    return sum_up


def count_ahead(uris: Iterable[str]) -> tuple[Iterable[str], int | None]:
    """Look how many there are, unless there are very many."""
    rest = iter(uris)
    first = list(islice(rest, COUNTED_AHEAD))
    return chain(first, rest), len(first) if len(first) < COUNTED_AHEAD else None


def probe_all(uris: Iterable[str], probe: Callable[[str], ImageInfo], threads: int) -> Iterator[ImageInfo | Unreadable]:
    """Probe with several threads; yield in the order of the URIs, with few of them held at a time."""
    waiting: deque[Future[ImageInfo | Unreadable]] = deque()
    with ThreadPoolExecutor(threads, "segkit-probe") as pool:
        try:
            for uri in uris:
                waiting.append(pool.submit(probe_one, uri, probe))
                if len(waiting) > threads * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def probe_one(uri: str, probe: Callable[[str], ImageInfo]) -> ImageInfo | Unreadable:
    """Probe one file; a fault is its own."""
    try:
        return probe(uri)
    except (SegkitError, OSError) as error:
        return Unreadable(uri, uri.rstrip("/").rpartition("/")[2], str(error))


def grouped(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Gather items into groups, each ended by its number or by the time that it took."""
    group: list[Item] = []
    until = time.monotonic() + SECONDS_AT_ONCE
    for item in items:
        group.append(item)
        if len(group) == MOST_AT_ONCE or time.monotonic() > until:
            yield group
            group, until = [], time.monotonic() + SECONDS_AT_ONCE
    if group:
        yield group


def add_group(connection: Connection, project_id: int, group: Sequence[ImageInfo | Unreadable], given: dict[str, float]) -> Added:
    """Add some images, and look up which they are."""
    lock_project(connection, project_id)
    hashes = [each.content_hash for each in group if isinstance(each, ImageInfo)]
    rescaled = rescale(connection, project_id, hashes, given) if given and hashes else 0
    added = add(connection, project_id, group)
    found = select(table.c.id).where(table.c.project_id == project_id, table.c.content_hash.in_(hashes)).order_by(table.c.id)
    ids = tuple(connection.scalars(found)) if hashes else ()
    return Added(added.added, added.duplicates, added.unreadable, rescaled, ids)


def rescale(connection: Connection, project_id: int, hashes: Sequence[str], given: dict[str, float]) -> int:
    """Give images that are there already the pixel size or step of now; returns how many had another one."""
    other = or_(*(table.c[name].is_distinct_from(value) for name, value in given.items()))
    known = (table.c.project_id == project_id, table.c.content_hash.in_(hashes))
    rescaled = connection.execute(update(table).where(*known, other).values(given)).rowcount
    if rescaled:
        count_images(connection, project_id, 0, 0)
    return rescaled
