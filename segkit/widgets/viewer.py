"""Look at an image of any size: pan, zoom, channels, contrast, its objects and their measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segkit import kit, results
from segkit.images import Selection
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Asked
from segkit.widgets.stage import Stage
from segkit.widgets.tiles import Measurements, StoredLabels


class Viewer(Stage):
    """Shows an image, and the objects that a run found in it. Only what the page shows is read and sent.

    Parameters
    ----------
    image : kit.Image
        What to look at.
    run : kit.Run, optional
        Whose objects to draw; by pointing at one its number and measurements are shown.
    time : int
        Time point, from 0.
    z : int or str, optional
        Plane by number, "max" or "mean"; default: what the run looked at, or the maximum projection.
    height : int
        Of the picture on the page, in pixels.

    Raises
    ------
    NoResultError
        The run has no result for this image yet.
    ImageReadError
        The image cannot be read.

    Examples
    --------
    >>> Viewer(project.images()[0], run)                    # doctest: +SKIP
    """

    _esm = assets.script("viewer.js")

    def __init__(
        self, image: kit.Image, run: kit.Run | None = None, *, time: int = 0, z: int | str | None = None, height: int = 480
    ) -> None:
        result = None if run is None else run.result(image)
        selection = Selection() if result is None else Selection(**result.run.record.selection)
        shown = selection if z is None else Selection(selection.channel, z, selection.level)
        opened = None if result is None else results.open_result(result.path, result.record.checksum)
        super().__init__(image, shown, time, height=height, objects=None if opened is None else opened.objects)
        self._result, self._time = opened, time
        if opened is not None:
            self._labels = StoredLabels(opened, time, z if isinstance(z, int) else None)

    def _send_object(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        """Tell of an object; the table is read when somebody first points at one."""
        if self._measured is None and self._result is not None:
            self._measured = Measurements(self._result.read_objects(), self._time)
        return super()._send_object(asked, buffers)
