"""The catalog with its cache: lists that are read often, and registering files by where they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from segkit.cache import Cache
from segkit.catalog.images import images
from segkit.catalog.projects import projects
from segkit.catalog.records import Added, Image, Project
from segkit.catalog.registering import THREADS, Progress, register
from segkit.database import Database
from segkit.errors import NothingToAddError, PixelSizeError
from segkit.images import ImageInfo, Limits, discover, probe
from segkit.pages import Page
from segkit.revisions import revision_of, revision_of_all
from segkit.settings import Settings

PROJECTS = TypeAdapter(Page[Project])
IMAGES = TypeAdapter(Page[Image])


class Catalog:
    """The projects and images of one database. Lists are cached, and never older than the last commit."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.cache = Cache(settings)
        self._database = database

    def projects(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[Project]:
        """List projects, newest first; see `catalog.projects`."""
        with self._database.read() as connection:

            def fill() -> bytes:
                return PROJECTS.dump_json(projects(connection, limit, after=after, offset=offset))

            key = (*revision_of_all(connection), limit, after, offset)
            return PROJECTS.validate_json(self.cache.read("projects", key, fill))

    def images(
        self, project_id: int, limit: int = 100, *, after: str | None = None, offset: int | None = None, unreadable: bool = False
    ) -> Page[Image]:
        """List the images of a project, newest first; see `catalog.images`."""
        with self._database.read() as connection:

            def fill() -> bytes:
                return IMAGES.dump_json(images(connection, project_id, limit, after=after, offset=offset, unreadable=unreadable))

            key = (project_id, revision_of(connection, project_id), limit, after, offset, unreadable)
            return IMAGES.validate_json(self.cache.read("images", key, fill))

    def register(
        self,
        project_id: int,
        where: str | Path | Iterable[str | Path],
        *,
        pixel_size_um: float | None = None,
        z_step_um: float | None = None,
        limits: Limits | None = None,
        progress: Progress | None = None,
        threads: int = THREADS,
    ) -> Added:
        """Register a folder, pattern, file or URI, or several of them; see `catalog.register`.

        Raises
        ------
        NothingToAddError
            Nothing there looks like an image.
        PixelSizeError
            A size or step is not a positive number.
        """
        sizes = {"pixel_size_um": checked_size(pixel_size_um), "z_step_um": checked_size(z_step_um)}
        given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}

        def look(uri: str) -> ImageInfo:
            return replace(probe(uri, limits or Limits()), **given)

        return register(self._database, project_id, found(where), look, **sizes, progress=progress, threads=threads)

    def close(self) -> None:
        """Close the cache's connections; the database is its owner's."""
        self.cache.close()


def found(where: str | Path | Iterable[str | Path]) -> Iterator[str]:
    """Find candidates; nothing at all is an error."""
    uris = discover(where)
    first = next(uris, None)
    if first is None:
        place = f"in {where}" if isinstance(where, str | Path) else "there"
        raise NothingToAddError(f"Nothing that looks like an image was found {place}. Check the folder or the pattern.")
    return chain([first], uris)


def checked_size(size: float | None) -> float | None:
    """Refuse a size that no pixel has.

    Raises
    ------
    PixelSizeError
        It is not a positive number.
    """
    if size is not None and not (size > 0 and math.isfinite(size)):
        raise PixelSizeError
    return size
