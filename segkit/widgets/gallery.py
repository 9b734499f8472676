"""Scroll through the images of a project; only those in view are read, drawn and sent."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import traitlets
from cachetools import LRUCache
from numpy.typing import NDArray
from PIL import Image as Pillow

from segkit import catalog, kit
from segkit.errors import NoResultError, SegkitError
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Answering, Asked
from segkit.widgets.listing import Listing
from segkit.widgets.viewer import Viewer

EDGE = 200
#: Pictures that are kept, some 10 kB each.
KEPT = 1000
QUALITY = 80


class Gallery(Answering):
    """Shows the images of a project side by side, newest first; with a run, each with the outlines of its objects.

    Parameters
    ----------
    project : kit.Project
        Whose images.
    run : kit.Run, optional
        Whose objects are drawn, where an image has a result.
    edge : int
        Longest side of a picture, in pixels.
    height : int
        On the page, in pixels.

    Examples
    --------
    >>> gallery = Gallery(project)                           # doctest: +SKIP
    >>> gallery.image                                        # doctest: +SKIP
    <image 7 'A01.tif': YX 512 × 512>
    """

    _esm = assets.script("gallery.js")
    _css = assets.style()

    title = traitlets.Unicode().tag(sync=True)
    total = traitlets.Int(0, help="Images of the project.").tag(sync=True)
    edge = traitlets.Int(EDGE).tag(sync=True)
    height = traitlets.Int(480).tag(sync=True)
    selected = traitlets.Int(None, allow_none=True, help="Number of the image that was chosen.").tag(sync=True)

    def __init__(self, project: kit.Project, run: kit.Run | None = None, *, edge: int = EDGE, height: int = 480) -> None:
        self._project, self._run = project, run
        self._listing = Listing(project.images)
        self._pictures: LRUCache[int, tuple[bytes, str]] = LRUCache(KEPT)
        self._lock = threading.Lock()
        super().__init__(title=project.name, total=project.refreshed().record.images, edge=edge, height=height)

    @property
    def image(self) -> kit.Image | None:
        """The image that was chosen."""
        return None if self.selected is None else self._project.kit.image(self.selected)

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what the page asks for."""
        return {"rows": self._rows, "picture": self._picture, "look": self._look}

    def _rows(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        images: list[catalog.Image] = self._listing.rows(int(asked["start"]), int(asked["count"]))
        return {"rows": [[each.id, each.name, each.error or size_of(each)] for each in images]}, []

    def _look(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        """See whether images were added."""
        total = self._project.refreshed().record.images
        if total != self.total:
            self._listing.forget()
            self.total = total
        return {}, []

    def _picture(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        number = int(asked["image"])
        with self._lock:
            known = self._pictures.get(number)
        data, note = known or self._draw(number)
        with self._lock:
            self._pictures[number] = (data, note)
        return {"note": note}, [data]

    def _draw(self, number: int) -> tuple[bytes, str]:
        """Draw one picture, and say what is on it; no bytes when the image cannot be read."""
        image = self._project.kit.image(number)
        try:
            if self._run is not None:
                result = self._run.result(image)
                return encoded(result.preview(self.edge)), f"{result.objects:,} objects"
        except NoResultError:
            return self._plain(image, "no result yet")
        except SegkitError as error:
            return b"", str(error)
        return self._plain(image, size_of(image.record))

    def _plain(self, image: kit.Image, note: str) -> tuple[bytes, str]:
        try:
            return encoded(image.thumbnail(self.edge)), note
        except SegkitError as error:
            return b"", str(error)


class Browser(ipywidgets.VBox):
    """A gallery, and below it the image that was chosen in it.

    Parameters
    ----------
    project : kit.Project
        Whose images.
    run : kit.Run, optional
        Whose objects are drawn.
    """

    def __init__(self, project: kit.Project, run: kit.Run | None = None) -> None:
        self.gallery = Gallery(project, run, height=300)
        self._run = run
        self._below: ipywidgets.Widget | None = None
        super().__init__([self.gallery])
        self.gallery.observe(self._show, "selected")

    def _show(self, change: Any) -> None:
        image = self.gallery.image
        old, self._below = self._below, None if image is None else self._viewer(image)
        self.children = (self.gallery,) if self._below is None else (self.gallery, self._below)
        if old is not None:
            old.close()

    def _viewer(self, image: kit.Image) -> ipywidgets.Widget:
        try:
            return Viewer(image, self._run)
        except NoResultError:
            return Viewer(image)
        except SegkitError as error:
            return ipywidgets.Label(str(error))


def encoded(picture: NDArray[np.uint8]) -> bytes:
    """Return a small picture as WebP."""
    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()


def size_of(record: catalog.Image) -> str:
    """Say how large an image is."""
    return " × ".join(map(str, record.shape or ())) or "unreadable"
