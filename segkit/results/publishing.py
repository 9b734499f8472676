"""Putting results into their final place, and clearing away what dead attempts left."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence

import fsspec

from segkit.files import faults_in_words, flush_path, folder, is_local, local_path
from segkit.results.places import RESULTS, locate, root, run_path

#: What renaming a folder over one that is not empty, or over a file, fails with.
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def publish(home: str, staging: str, run_id: int, image_id: int) -> str:
    """Put one written result into its final place; see `publish_all`."""
    return publish_all(home, [(staging, run_id, image_id)])[0]


def publish_all(home: str, results: Sequence[tuple[str, int, int]], moved: dict[str, str] | None = None) -> list[str]:
    """Put written results into their final places, each in one step; nothing is ever replaced.

    Where the place is taken, by an earlier result of the job or by what a dead attempt left, the attempt's own place is the
    final one, as it always is in a store, which has no rename. So an attempt that wakes long after it lost its job can spoil
    nothing. What no row names any more is swept later. Many at once wait for the disk once.

    Parameters
    ----------
    home : str
        The home folder or URL.
    results : sequence of (staging, run id, image id)
        Where each was written, and what it is of.
    moved : dict, optional
        Is told of each result that is in place, also when the next one fails: where it was written, and the path that is returned.

    Returns
    -------
    list of str
        Paths relative to the home folder, for the database.

    Raises
    ------
    DiskFullError, NotWritableError
        The disk says so. What is not moved lies where it was written.
    """
    moved = {} if moved is None else moved
    if not is_local(home):
        moved.update({staging: staging.removeprefix(root(home)).lstrip("/") for staging, _, _ in results})
        return [moved[staging] for staging, _, _ in results]
    with faults_in_words(locate(home, RESULTS)):
        try:
            for staging, run_id, image_id in results:
                moved[staging] = place(home, staging, f"{RESULTS}/{run_id}/{image_id}")
        finally:
            for run in {run_path(home, run_id) for _, run_id, _ in results}:
                flush_path(run)
    return [moved[staging] for staging, _, _ in results]


def place(home: str, staging: str, path: str) -> str:
    """Rename a written result to a path, or leave it where it is if that is taken; return its path in the home folder."""
    written = local_path(staging)
    try:
        os.rename(written, locate(home, path))
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        return os.path.relpath(written, root(home))
    return path


def discard(path: str) -> None:
    """Delete a result, or what an attempt left of one, if it is there."""
    folder(path).remove()


def sweep(home: str, keep: set[str], older_than_s: float) -> list[str]:
    """Delete what dead attempts left.

    Parameters
    ----------
    home : str
        The home folder or URL.
    keep : set of str
        The paths in the database, relative to the home folder.
    older_than_s : float
        Younger folders stay: an attempt may still be writing them, or be about to commit. At least two leases.

    Returns
    -------
    list of str
        The paths that were deleted, relative to the home folder.
    """
    limit = time.time() - older_than_s
    swept = [stored for stored, touched in _folders(home) if stored not in keep and touched < limit and _newest(home, stored) < limit]
    for stored in swept:
        discard(locate(home, stored))
    return swept


def _folders(home: str) -> Iterator[tuple[str, float]]:
    """Yield every result folder relative to the home folder, with the time it was made or moved (0 in a store)."""
    if not is_local(home):
        store, inside = fsspec.core.url_to_fs(locate(home, RESULTS))
        runs = store.ls(inside, detail=False) if store.exists(inside) else []
        for run in runs:
            yield from ((f"{RESULTS}/{place.split(f'{inside}/', 1)[1]}", 0.0) for place in store.ls(run, detail=False))
        return
    for run in _listed(locate(home, RESULTS)):
        for entry in _listed(run.path):
            yield f"{RESULTS}/{run.name}/{entry.name}", entry.stat(follow_symlinks=False).st_ctime


def _listed(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _newest(home: str, stored: str) -> float:
    """When a file of a result was last written."""
    path = locate(home, stored)
    if is_local(path):
        return max((os.stat(os.path.join(place, name)).st_mtime for place, _, names in os.walk(path) for name in names), default=0.0)
    store, inside = fsspec.core.url_to_fs(path)
    return max((store.modified(name).timestamp() for name in store.find(inside)), default=0.0)
