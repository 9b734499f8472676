"""`RemoteProject` and `RemoteImage`: what a person holds of a service's projects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from segkit import catalog, jobs, previews
from segkit.client import pictures
from segkit.client.connection import looks
from segkit.client.faults import OnlyThere, told_as
from segkit.client.runs import RemoteRun, number_of
from segkit.errors import ConfirmationRequired, NothingToAddError, SegkitError, UploadError
from segkit.images import discover
from segkit.images.storage import normalise
from segkit.pages import Page

if TYPE_CHECKING:
    from segkit.client.kit import RemoteKit

PIECE = 2**20
#: Rows and pictures that a notebook shows of a project.
SHOWN, THUMBNAILS = 10, 3
IMAGE, RUN = TypeAdapter(catalog.Image), TypeAdapter(jobs.Run)
IMAGES, RUNS = TypeAdapter(Page[catalog.Image]), TypeAdapter(Page[jobs.Run])


@dataclass(frozen=True)
class Registration:
    """How far the service is with registering images."""

    id: int
    state: str
    done: int
    total: int | None
    added: int | None
    duplicates: int | None
    unreadable: int | None
    rescaled: int | None
    error: str | None  #: why it ended early
    problem: str | None = None  #: what kind of error that is


REGISTRATION, NUMBERS = TypeAdapter(Registration), TypeAdapter(Page[int])


@dataclass(frozen=True)
class RemoteProject(OnlyThere):
    """A named set of images."""

    kit: RemoteKit
    record: catalog.Project  #: as it was when it was looked up; `refreshed` looks again

    only_there: ClassVar[dict[str, str]] = {"add_upload": "`upload` sends files."}

    @property
    def name(self) -> str:
        """The project's name."""
        return self.record.name

    @property
    def _place(self) -> str:
        return f"/api/projects/{self.record.id}"

    def refreshed(self) -> RemoteProject:
        """Look the project up again, for its counts of now."""
        return self.kit.project(self.name)

    def add(
        self,
        where: str | Path | Iterable[str | Path],
        *,
        pixel_size_um: float | None = None,
        z_step_um: float | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> catalog.Added:
        """Register images from where they lie, as the service sees it; `upload` sends those that it does not see.

        Parameters
        ----------
        where
            A folder, a pattern, a file, a URI, or several of them. Files stay where they are. A relative path starts in the
            working folder of this process.
        pixel_size_um, z_step_um : float, optional
            In micrometres; outweigh what the files say.
        progress : callable, optional
            Called with how many are done and how many there are, if that is known.

        Returns
        -------
        Added
            How many were added, known already, and unreadable, and the ids of all that can be read.

        Raises
        ------
        NothingToAddError
            Nothing there looks like an image, as the service sees it.
        FolderNotAllowedError
            The service may not register images from there.
        """
        places = [where] if isinstance(where, str | Path) else list(where)
        body = {"where": [normalise(place) for place in places], "pixel_size_um": pixel_size_um, "z_step_um": z_step_um}
        connection = self.kit.connection
        seen = connection.post(REGISTRATION, f"{self._place}/images", body, repeat=True)
        pauses = looks()
        while seen.state in ("waiting", "running"):
            time.sleep(next(pauses))
            seen = connection.get(REGISTRATION, f"/api/registrations/{seen.id}")
            if progress is not None:
                progress(seen.done, seen.total)
        if seen.state != "done":
            raise told_as(seen.problem, seen.error)
        ids = tuple(connection.rows(NUMBERS, f"/api/registrations/{seen.id}/images"))
        return catalog.Added(seen.added or 0, seen.duplicates or 0, seen.unreadable or 0, seen.rescaled or 0, ids)

    def upload(
        self, where: str | Path | Iterable[str | Path], *, progress: Callable[[int, int | None], None] | None = None
    ) -> tuple[RemoteImage, ...]:
        """Send image files to the service, which keeps and registers them.

        Parameters
        ----------
        where
            Files of this machine, folders or patterns. One of the same contents is not added twice.
        progress : callable, optional
            Called with how many are sent and how many there are.

        Returns
        -------
        tuple of RemoteImage
            In the order of the files.

        Raises
        ------
        NothingToAddError
            Nothing there looks like an image.
        UploadError, ImageReadError
            A file is a folder, empty, too large, or no image that can be read; those before it are added.
        """
        paths = [Path(uri) for uri in discover(where)]
        if not paths:
            raise NothingToAddError
        images = []
        for number, path in enumerate(paths, 1):
            images.append(self._send(path))
            if progress is not None:
                progress(number, len(paths))
        return tuple(images)

    def _send(self, path: Path) -> RemoteImage:
        if not path.is_file():
            raise UploadError(f"{path} is not a file that can be sent. Send a TIFF, or have the service register it from where it sees it.")
        size = path.stat().st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        query = {"name": path.name}
        try:
            answer = self.kit.connection.request(
                "POST", f"{self._place}/uploads", query=query, content=lambda: pieces_of(path), headers=headers, repeat=True
            )
        except SegkitError as error:
            error.add_note(f"while {path} was being sent")
            raise
        return RemoteImage(self.kit, IMAGE.validate_json(answer.content))

    def images(
        self, limit: int = 100, *, after: str | None = None, offset: int | None = None, unreadable: bool = False
    ) -> Page[catalog.Image]:
        """List images, newest first; with `unreadable` only those that cannot be read, each with its reason."""
        query = {"unreadable": True} if unreadable else {}
        return self.kit.connection.page(IMAGES, f"{self._place}/images", limit, after, offset, **query)

    def __iter__(self) -> Iterator[RemoteImage]:
        """Go through all images, newest first, a page at a time."""
        return (RemoteImage(self.kit, record) for record in self.kit.connection.rows(IMAGES, f"{self._place}/images"))

    def segment(
        self,
        method: str = "nuclei",
        *,
        images: Iterable[int | RemoteImage] | None = None,
        channel: int | str | None = None,
        z: int | str | None = None,
        level: int = 0,
        priority: int = 0,
        notebook: str | None = None,
        **parameters: Any,
    ) -> RemoteRun:
        """Queue a run. It is durable: it survives a crash of everything. Asking twice does nothing twice.

        Parameters
        ----------
        method : str
            Name of a segmenter, such as "nuclei", "tissue", "spheroid" or "threshold".
        images : iterable, optional
            Images or their ids; default all. A run over all images grows with its project: asked for again, it queues those that
            are new.
        channel, z, level
            Which pixels are segmented: channel by number or name; plane by number, "max", "mean" or "volume"; pyramid level.
        priority : int
            Higher is sooner.
        notebook : str, optional
            The notebook that asks, for the record.
        **parameters
            The segmenter's own.

        Returns
        -------
        RemoteRun
            Queued; call `wait` to see it through.

        Raises
        ------
        UnknownSegmenterError, UnknownParameterError, InvalidParameterError
            Each with the nearest known name, before anything is queued.
        NothingToRunError
            No image can be read.
        """
        body = {
            "segmenter": method,
            "parameters": parameters,
            "images": None if images is None else [number_of(each) for each in images],
            "channel": channel,
            "z": z,
            "level": level,
            "priority": priority,
            "notebook": notebook,
        }
        return RemoteRun(self.kit, self.kit.connection.post(RUN, f"{self._place}/runs", body, repeat=True))

    def runs(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[jobs.Run]:
        """List the project's runs, newest first."""
        return self.kit.connection.page(RUNS, f"{self._place}/runs", limit, after, offset)

    def delete(self, *, confirm: bool = False) -> None:
        """Delete the project with its runs and all their results. The image files stay, those that were uploaded excepted.

        Raises
        ------
        ConfirmationRequired
            `confirm` is not true.
        """
        if not confirm:
            raise ConfirmationRequired
        self.kit.connection.request("DELETE", self._place, query={"confirm": True})

    def __repr__(self) -> str:
        record = self._now()
        return f"<project {self.name!r}: {record.images} images, {record.unreadable} unreadable>"

    def _repr_html_(self) -> str:
        record = self._now()
        facts = {"images": record.images, "unreadable": record.unreadable or None, "service": self.kit.url}
        readable = [each for each in self.images(SHOWN).items if each.error is None][:THUMBNAILS] if record.images else []
        tiles = (RemoteImage(self.kit, each).tile() for each in readable)
        return previews.facts_html(f"Project {self.name}", facts) + previews.tiles_html(tiles)

    def _now(self) -> catalog.Project:
        """Return the counts of now; those of when it was looked up when the project, or its service, is gone."""
        try:
            return self.refreshed().record
        except SegkitError:
            return self.record


def pieces_of(path: Path) -> Iterator[bytes]:
    """Read a file piece by piece."""
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


@dataclass(frozen=True)
class RemoteImage(OnlyThere):
    """One registered image."""

    kit: RemoteKit
    record: catalog.Image

    only_there: ClassVar[dict[str, str]] = {
        "open": "Where this machine sees the file too, `segkit.images.open_image(image.record.uri)` opens it.",
        "pixels": "Where this machine sees the file too, `segkit.images.open_image(image.record.uri)` opens it.",
    }

    @property
    def id(self) -> int:
        """The image's number."""
        return self.record.id

    @property
    def name(self) -> str:
        """The image's file name."""
        return self.record.name

    def thumbnail(self, edge: int = 256) -> NDArray[np.uint8]:
        """Draw the image small: (rows, columns) or (rows, columns, 3) uint8, contrast stretched."""
        return pictures.thumbnail(self.kit.connection, self.id, edge)

    def tile(self) -> previews.Tile:
        """Show the image small, as one of a gallery; when it cannot be read, the reason."""
        try:
            return previews.Tile(self.name, self._size, self.thumbnail())
        except SegkitError as error:
            return previews.Tile(self.name, str(error))

    @property
    def _size(self) -> str:
        return " × ".join(map(str, self.record.shape or ())) or "unreadable"

    def _repr_html_(self) -> str:
        record = self.record
        facts = {
            "axes": record.axes,
            "size": self._size,
            "pixels": record.dtype,
            "channels": ", ".join(record.channels) if record.channels else None,
            "µm per pixel": record.pixel_size_um,
            "µm between planes": record.z_step_um,
            "place": record.uri,
        }
        return previews.facts_html(f"Image {self.id}", facts) + previews.tiles_html([self.tile()])

    def __repr__(self) -> str:
        return f"<image {self.id} {self.name!r}: {self.record.axes or ''} {self._size}>"
