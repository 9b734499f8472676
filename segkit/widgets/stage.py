"""The picture that viewer, tuner, editor and painter share: an image drawn piece by piece, with objects on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import traitlets

from segkit import kit
from segkit.images import Image as OpenImage
from segkit.images import Selection
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Answering, Asked
from segkit.widgets.tiles import TILE, Labels, Measurements, Pixels, packed

#: Columns of the object table that say where an object lies: the page shows that by itself.
PLACES = ("label", "centroid_", "box_", "touches_edge", "orientation")
UNITS = {"um2": "µm²", "um3": "µm³", "um": "µm", "px": "px", "voxels": "voxels"}


class Stage(Answering):
    """An image that is drawn piece by piece, with the outlines of its objects.

    Parameters
    ----------
    image : kit.Image
        What is shown.
    selection : Selection
        Which plane.
    time : int
        Time point.
    """

    _css = assets.style()

    title = traitlets.Unicode(help="Name of the image.").tag(sync=True)
    rows = traitlets.Int().tag(sync=True)
    columns = traitlets.Int().tag(sync=True)
    levels = traitlets.Int().tag(sync=True)
    tile = traitlets.Int(TILE).tag(sync=True)
    pixel_size_um = traitlets.Float(None, allow_none=True).tag(sync=True)
    channels = traitlets.List(traitlets.Dict(), help="Name, colour and first contrast of each channel.").tag(sync=True)
    objects = traitlets.Int(None, allow_none=True, help="How many objects are shown; None without labels.").tag(sync=True)
    height = traitlets.Int(480, help="Height of the picture on the page, in pixels.").tag(sync=True)
    message = traitlets.Unicode(help="What happened last, in words.").tag(sync=True)
    failed = traitlets.Bool(False, help="Whether the message tells of a fault.").tag(sync=True)

    def __init__(self, image: kit.Image, selection: Selection, time: int = 0, **traits: Any) -> None:
        self._open: OpenImage = image.open()
        self._pixels = Pixels(self._open, selection, time)
        self._labels: Labels | None = None
        self._measured: Measurements | None = None
        rows, columns = self._pixels.shape
        size = image.record.pixel_size_um
        known = {"title": image.name, "rows": rows, "columns": columns, "levels": self._pixels.levels}
        known["pixel_size_um"] = None if size is None else size * self._open.levels[0][0] / rows
        super().__init__(**known, channels=[asdict(each) for each in self._pixels.channels], **traits)

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what the page asks for: pieces of the image, pieces of its labels, an object's measurements."""
        return {"pixels": self._send_pixels, "labels": self._send_labels, "object": self._send_object}

    def _send_pixels(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        wanted = [(int(number), float(low), float(high)) for number, low, high in asked["channels"]]
        return {}, [packed(self._pixels.tile(*_place(asked), wanted))]

    def _send_labels(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        labels = None if self._labels is None else self._labels.tile(*_place(asked))
        return {}, [packed(labels.astype("<u4").tobytes()) if labels is not None and labels.any() else b""]

    def _send_object(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        row = {} if self._measured is None else self._measured.of(int(asked["label"]))
        return {"measured": [[worded(name), value] for name, value in readable(row).items()]}, []

    def say(self, message: str, *, failed: bool = False) -> None:
        """Tell a person what happened."""
        with self.hold_sync():
            self.message, self.failed = message, failed

    def close(self) -> None:
        """Close the widget and let go of the image."""
        super().close()
        if hasattr(self, "_open"):
            self._open.close()


def _place(asked: Asked) -> tuple[int, int, int]:
    return int(asked["level"]), int(asked["row"]), int(asked["column"])


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return those measurements of an object that a person reads, as JSON can hold them."""
    shown = {name: value for name, value in row.items() if not name.startswith(PLACES)}
    return {name: value if not isinstance(value, float) or np.isfinite(value) else None for name, value in shown.items()}


def worded(column: str) -> str:
    """Name a column as people do.

    Examples
    --------
    >>> worded("equivalent_diameter_um"), worded("circularity"), worded("intensity_mean_DAPI")
    ('equivalent diameter, µm', 'circularity', 'intensity mean DAPI')
    """
    name, _, unit = column.rpartition("_")
    return f"{name.replace('_', ' ')}, {UNITS[unit]}" if unit in UNITS else column.replace("_", " ")
