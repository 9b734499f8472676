"""Tune a method by moving sliders: the objects of a crop follow, and the project is segmented with what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets
from numpy.typing import NDArray

from segkit import kernels, kit, segmenters
from segkit.errors import NothingToRunError, SegkitError
from segkit.images import Selection
from segkit.measure import measure
from segkit.tasks import seen_by
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Asked
from segkit.widgets.forms import fields_of
from segkit.widgets.newest import Newest
from segkit.widgets.stage import Stage
from segkit.widgets.tiles import HeldLabels, Measurements

#: Longest edge of what is segmented while sliders move, in pixels.
CROP = 1024


class Tuner(Stage):
    """A control for each parameter of a segmenter, and its objects on a crop of an image.

    Parameters
    ----------
    project : kit.Project
        What "apply to project" segments.
    method : str
        The segmenter to begin with; the page offers all of them.
    image : kit.Image, optional
        What to tune on; default: the project's newest readable image.
    channel, z, level
        Which pixels are segmented, as in `Project.segment`.
    crop : int
        Longest edge of what is segmented while sliders move. Numbers that a method takes from the whole image, such as Otsu's
        threshold, come from the crop here.
    parameters
        Values to begin with.

    Raises
    ------
    NothingToRunError
        The project has no readable image.
    UnknownSegmenterError, UnknownParameterError, InvalidParameterError
        Each with the nearest known name.

    Examples
    --------
    >>> tuner = Tuner(project, "threshold", sigma=2)         # doctest: +SKIP
    >>> tuner.values                                         # doctest: +SKIP
    {'sigma': 2.0, 'min_area': 0, ...}
    """

    _esm = assets.script("tuner.js")

    method = traitlets.Unicode(help="Name of the segmenter.").tag(sync=True)
    methods = traitlets.List(traitlets.Unicode(), help="Segmenters that can be chosen.").tag(sync=True)
    fields = traitlets.List(traitlets.Dict(), help="The controls; see `forms.fields_of`.").tag(sync=True)
    values = traitlets.Dict(help="What the controls say; None leaves a parameter to the segmenter.").tag(sync=True)
    crop = traitlets.List(traitlets.Int(), help="Row, column, rows and columns of what is segmented.").tag(sync=True)
    seconds = traitlets.Float(None, allow_none=True, help="How long segmenting the crop took.").tag(sync=True)
    run = traitlets.Any(None, allow_none=True, help="The run that was queued last.")

    def __init__(
        self,
        project: kit.Project,
        method: str = "threshold",
        image: kit.Image | None = None,
        *,
        channel: int | str | None = None,
        z: int | str | None = None,
        level: int = 0,
        crop: int = CROP,
        height: int = 480,
        **parameters: Any,
    ) -> None:
        self._project = project
        self._shown = image or first_readable(project)
        self._selection = Selection(channel, z, level)
        self._edge = crop
        self._newest = Newest()
        self._crops: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}
        segmenter = segmenters.get(method)
        values = segmenters.parse_parameters(segmenter, parameters).model_dump(mode="json")
        super().__init__(self._shown, self._selection, height=height, objects=0, method=method, methods=segmenters.names(), values=values)
        self.crop = self._around(self.rows // 2, self.columns // 2)
        self.fields = self._fields()
        self.observe(self._choose, "method")
        self.observe(lambda change: self.redraw(), ["values", "crop"])
        self.redraw()

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what the page asks for."""
        return {**super().answers(), "apply": self._apply, "crop": self._move}

    @property
    def parameters(self) -> dict[str, Any]:
        """What the segmenter would be told: the values that differ from its own."""
        own = {field["name"]: field["default"] for field in self.fields}
        return {name: value for name, value in self.values.items() if name in own and value != own[name]}

    def wait(self, timeout: float = 60) -> bool:
        """Wait until the objects are those of the values; False when it took longer."""
        return self._newest.wait(timeout)

    def redraw(self) -> None:
        """Segment the crop again, off the main thread. Of what is asked for meanwhile only the newest is done."""
        method, values, crop = self.method, dict(self.values), tuple(self.crop)
        self._newest.submit(lambda: self._segment(method, values, crop))

    def apply(self) -> kit.Run:
        """Queue a run over the whole project with the values as they are.

        Returns
        -------
        Run
            Asked for twice, the same one.
        """
        look = self._selection
        self.run = self._project.segment(
            self.method, channel=look.channel, z=look.z, level=look.level, notebook="tune_segmenter", **self.parameters
        )
        state = self.run.progress()
        self.say(
            f"Run {self.run.number} is queued: {state.total} images, {state.left} to do. Work it off with run.wait() or segkit worker."
        )
        return self.run

    def _segment(self, method: str, values: dict[str, Any], crop: tuple[int, ...]) -> None:
        try:
            segmenter = segmenters.get(method)
            known = {name: value for name, value in values.items() if name in segmenter.parameters.model_fields}
            parameters = segmenters.parse_parameters(segmenter, known)
            pixels = self._cropped(segmenter, crop)
            kernels.ready()
            started = time.perf_counter()
            labels = segmenter.function(segmenter.prepare(pixels), parameters, self.pixel_size_um)
            seconds = time.perf_counter() - started
        except (SegkitError, MemoryError) as error:
            self.say(str(error) or "There is not enough memory for this crop.", failed=True)
            return
        if not self._newest.overtaken:
            self._show(labels, pixels, crop, seconds)

    def _show(self, labels: NDArray[np.int32], pixels: NDArray[Any], crop: tuple[int, ...], seconds: float) -> None:
        self._labels = HeldLabels(labels, (crop[0], crop[1]), (self.rows, self.columns))
        with self.hold_sync():
            self.objects, self.seconds = int(labels.max(initial=0)), seconds
            self.message, self.failed = "", False
        self.tell("labels")
        self._measured = Measurements(measure(labels, pixels, pixel_size_um=self.pixel_size_um))

    def _cropped(self, segmenter: segmenters.Segmenter, crop: tuple[int, ...]) -> NDArray[Any]:
        """Read the crop as the segmenter sees it, once."""
        key = ("colour" if segmenter.colour else "gray", crop)
        if key not in self._crops:
            look = seen_by(segmenter, self._open, self._selection)
            flat = Selection(look.channel, "max" if look.z == "volume" else look.z, look.level)
            row, column, rows, columns = crop
            self._crops = {key: self._open.region(flat, slice(row, row + rows), slice(column, column + columns))}
        return self._crops[key]

    def _choose(self, change: Any) -> None:
        """Another segmenter: its own controls, at its own values."""
        try:
            with self.hold_sync():
                self.fields = self._fields()
                self.values = {field["name"]: field["default"] for field in self.fields}
        except SegkitError as error:
            self.say(str(error), failed=True)
        self.redraw()

    def _fields(self) -> list[dict[str, Any]]:
        contrast = self.channels[0]
        return fields_of(segmenters.get(self.method), (contrast["least"], contrast["most"]))

    def _around(self, row: int, column: int) -> list[int]:
        rows, columns = min(self._edge, self.rows), min(self._edge, self.columns)
        top, left = (
            min(max(0, place - size // 2), most - size) for place, size, most in ((row, rows, self.rows), (column, columns, self.columns))
        )
        return [top, left, rows, columns]

    def _move(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        self.crop = self._around(int(asked["row"]), int(asked["column"]))
        return {}, []

    def _apply(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        return {"run": self.apply().number}, []


def first_readable(project: kit.Project) -> kit.Image:
    """Return the newest image of a project that can be read.

    Raises
    ------
    NothingToRunError
        There is none.
    """
    for image in project:
        if image.record.error is None:
            return image
    raise NothingToRunError
