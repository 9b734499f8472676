"""`Project` and `Image`: what a person holds of a kit. Thin; every method is one call of a module below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit import __version__, catalog, files, jobs, previews, results, segmenters, settings, uploads
from segkit.errors import ConfirmationRequired, SegkitError
from segkit.events import Change
from segkit.images import Image as OpenImage
from segkit.images import Limits, Selection, open_image, thumbnail
from segkit.pages import Page
from segkit.runs import Run

if TYPE_CHECKING:
    from segkit.kit import Kit

PAGE = 1000
#: Rows and pictures that a notebook shows of a kit or project.
SHOWN, THUMBNAILS = 10, 3


@dataclass(frozen=True)
class Project:
    """A named set of images."""

    kit: Kit
    record: catalog.Project  #: as it was when it was looked up; `refreshed` looks again

    @property
    def name(self) -> str:
        """The project's name."""
        return self.record.name

    def refreshed(self) -> Project:
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
        """Register images: a folder, a pattern, a file, a URI, or several of them. Headers are read and contents hashed.

        Parameters
        ----------
        where
            Files stay where they are. A file that cannot be read is listed with its reason, and the others go on.
        pixel_size_um, z_step_um : float, optional
            In micrometres; outweigh what the files say.
        progress : callable, optional
            Called with how many are done and how many there are, if that is known.

        Returns
        -------
        Added
            How many were added, known already, and unreadable, and the ids of all of them.

        Raises
        ------
        NothingToAddError
            Nothing there looks like an image.
        PixelSizeError
            A size is not a positive number.
        """
        return self.kit.catalog.register(
            self.record.id, where, pixel_size_um=pixel_size_um, z_step_um=z_step_um, limits=limits_of(self.kit.settings), progress=progress
        )

    def add_upload(self, upload: uploads.Upload) -> Image:
        """Register an image that was sent over the network; returns it, or the one of the same contents that is there already.

        Raises
        ------
        UploadError, ImageReadError
            It is empty, or no image that can be read; nothing of it stays.
        """
        info, new = upload.place(limits_of(self.kit.settings))
        added = catalog.register(self.kit.database, self.record.id, [info.uri], lambda uri: info, threads=1)
        image = self.kit.image(added.image_ids[0])
        if new and image.record.uri != info.uri:
            uploads.drop(info)
        return image

    def images(
        self, limit: int = 100, *, after: str | None = None, offset: int | None = None, unreadable: bool = False
    ) -> Page[catalog.Image]:
        """List images, newest first; with `unreadable` only those that cannot be read, each with its reason."""
        return self.kit.catalog.images(self.record.id, limit, after=after, offset=offset, unreadable=unreadable)

    def __iter__(self) -> Iterator[Image]:
        """Go through all images, newest first, a page at a time."""
        page = self.images(PAGE)
        while True:
            yield from (Image(self.kit, record) for record in page.items)
            if page.next is None:
                return
            page = self.images(PAGE, after=page.next)

    def segment(
        self,
        method: str = "nuclei",
        *,
        images: Iterable[int | Image] | None = None,
        channel: int | str | None = None,
        z: int | str | None = None,
        level: int = 0,
        priority: int = 0,
        notebook: str | None = None,
        **parameters: Any,
    ) -> Run:
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
            The segmenter's own; `segkit show segmenter NAME` lists them.

        Returns
        -------
        Run
            Queued; call `wait` to see it through.

        Raises
        ------
        UnknownSegmenterError, UnknownParameterError, InvalidParameterError
            Each with the nearest known name, before anything is queued.
        NothingToRunError
            No image can be read.
        """
        segmenter = segmenters.get(method)
        values = segmenters.parse_parameters(segmenter, parameters)
        chosen = None if images is None else [each.id if isinstance(each, Image) else each for each in images]
        with self.kit.database.write() as connection:
            record = jobs.submit(
                connection,
                self.record.id,
                segmenter=segmenter.name,
                version=segmenter.version,
                parameters=values.model_dump(mode="json"),
                selection=asdict(Selection(channel=channel, z=z, level=level)),
                images=chosen,
                priority=priority,
                max_attempts=self.kit.settings.max_attempts,
                segkit_version=__version__,
                notebook=notebook,
            )
        self.kit.events.publish(Change(record.id))
        return Run(self.kit, record)

    def runs(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[jobs.Run]:
        """List the project's runs, newest first."""
        with self.kit.database.read() as connection:
            return jobs.runs(connection, limit, project_id=self.record.id, after=after, offset=offset)

    def delete(self, *, confirm: bool = False) -> None:
        """Delete the project with its runs and all their results. The image files stay.

        Raises
        ------
        ConfirmationRequired
            `confirm` is not true.
        """
        if not confirm:
            raise ConfirmationRequired
        with self.kit.database.write() as connection:
            run_ids = catalog.delete_project(connection, self.record.id)
        if files.is_local(self.kit.settings.home):
            files.remove(uploads.folder_of(self.kit.settings.home, self.record.id))
        results.discard(results.classifiers_path(self.kit.settings.home, self.record.id))
        for run_id in run_ids:
            results.discard(results.run_path(self.kit.settings.home, run_id))
            results.discard(results.scratch(self.kit.settings.home, run_id))

    def __repr__(self) -> str:
        record = self._now()
        return f"<project {self.name!r}: {record.images} images, {record.unreadable} unreadable>"

    def _repr_html_(self) -> str:
        record = self._now()
        facts = {"images": record.images, "unreadable": record.unreadable or None}
        readable = [each for each in self.images(SHOWN).items if each.error is None][:THUMBNAILS] if record.images else []
        return previews.facts_html(f"Project {self.name}", facts) + previews.tiles_html(Image(self.kit, each).tile() for each in readable)

    def _now(self) -> catalog.Project:
        """Return the counts of now; those of when it was looked up when the project, or its database, is gone."""
        try:
            return self.refreshed().record
        except SegkitError:
            return self.record


def limits_of(chosen: settings.Settings) -> Limits:
    """How much an image may promise, from the settings."""
    return Limits(max_pixels=chosen.max_pixels, max_decoded_pixels=chosen.max_decoded_pixels)


@dataclass(frozen=True)
class Image:
    """One registered image."""

    kit: Kit
    record: catalog.Image

    @property
    def id(self) -> int:
        """The image's number."""
        return self.record.id

    @property
    def name(self) -> str:
        """The image's file name."""
        return self.record.name

    def open(self) -> OpenImage:
        """Open the file, to read planes and regions of it. Use it in a `with` block."""
        return open_image(self.record.uri, limits=limits_of(self.kit.settings))

    def pixels(self, channel: int | str | None = None, z: int | str | None = None, time: int = 0) -> NDArray[Any]:
        """Read one plane: (rows, columns), or (rows, columns, 3) of a colour image."""
        with self.open() as image:
            return image.plane(Selection(channel=channel, z=z), time)

    def thumbnail(self, edge: int = 256) -> NDArray[np.uint8]:
        """Draw the image small: (rows, columns) or (rows, columns, 3) uint8, contrast stretched."""
        with self.open() as image:
            return thumbnail(image, Selection(), edge)

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
