"""Teach the classifier with strokes: paint, train, look, and segment the project with what it learned."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np
import traitlets
from numpy.typing import NDArray

from segkit import kernels, kit, results, segmenters
from segkit.corrections.edits import brushed
from segkit.errors import SegkitError, TrainingError
from segkit.files import folder, join
from segkit.images import Selection
from segkit.measure import measure
from segkit.segmenters.classifier import Stroke
from segkit.tasks import seen_by
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Asked
from segkit.widgets.newest import Newest
from segkit.widgets.stage import Stage
from segkit.widgets.tiles import HeldLabels, Measurements

if TYPE_CHECKING:
    from segkit.segmenters import training
else:
    # scikit-learn is an extra: without it one can paint and look, and is told what is missing on training.
    training = lazy_loader.load("segkit.segmenters.training", suppress_warning=True)

#: Longest edge of what is painted on, in pixels.
CROP = 1024
KINDS = {"background": Stroke.BACKGROUND, "object": Stroke.OBJECT, "border": Stroke.BORDER, "rub out": Stroke.UNPAINTED}
NAMES = re.compile(r"[\w\- ]{1,80}")


class Painter(Stage):
    """Strokes on an image make a model, and the model segments thousands. Strokes and model are saved with the project.

    Parameters
    ----------
    image : kit.Image
        What is painted on. Strokes on other images under the same name are learned from too.
    name : str
        Of the classifier: letters, digits, spaces, "-" and "_".
    channel, z, level
        Which pixels are looked at, as in `Project.segment`.

    Raises
    ------
    TrainingError
        The name cannot be used.
    ImageReadError
        The image cannot be read.

    Examples
    --------
    >>> painter = Painter(image, "cells")                    # doctest: +SKIP
    >>> painter.stroke("object", [(10, 10), (14, 18)], radius=2)     # doctest: +SKIP
    >>> painter.stroke("background", [(40, 2), (40, 60)], radius=2)  # doctest: +SKIP
    >>> painter.train(); painter.apply()                     # doctest: +SKIP
    """

    _esm = assets.script("painter.js")

    name = traitlets.Unicode(help="Name of the classifier.").tag(sync=True)
    kinds = traitlets.List(list(KINDS), help="What can be painted.").tag(sync=True)
    crop = traitlets.List(traitlets.Int(), help="Row, column, rows and columns of what is painted on.").tag(sync=True)
    painted = traitlets.Dict(help="Pixels painted here, by kind.").tag(sync=True)
    strokes = traitlets.List(traitlets.Dict(), help="What was painted here, in order: kind, points, radius.").tag(sync=True)
    busy = traitlets.Bool(False, help="Whether it is learning.").tag(sync=True)
    model = traitlets.Unicode(help="Where the model lies, once there is one.").tag(sync=True)
    run = traitlets.Any(None, allow_none=True, help="The run that was queued last.")

    def __init__(
        self,
        image: kit.Image,
        name: str = "classifier",
        *,
        channel: int | str | None = None,
        z: int | str | None = None,
        level: int = 0,
        height: int = 480,
    ) -> None:
        if not NAMES.fullmatch(name) or not name.strip():
            raise TrainingError('A classifier is named with letters, digits, spaces, "-" and "_", at most 80 of them.')
        self._image = image
        self._project = image.kit.project_numbered(image.record.project_id)
        self._place = join(results.classifiers_path(image.kit.settings.home, image.record.project_id), name.strip())
        self._selection = Selection(channel, z, level)
        self._newest, self._lock = Newest(), threading.RLock()
        super().__init__(image, self._selection, height=height, objects=0, name=name.strip())
        rows, columns = min(CROP, self.rows), min(CROP, self.columns)
        self.crop = [(self.rows - rows) // 2, (self.columns - columns) // 2, rows, columns]
        self._crop_pixels = self._read()
        self._canvas = np.zeros((rows, columns), np.uint8)
        self._load()

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what the page asks for."""
        asks = {"stroke": self._stroke, "undo": self._undo, "train": self._train, "apply": self._apply}
        return {**super().answers(), **asks}

    def stroke(self, kind: str, points: Sequence[Sequence[float]], radius: float) -> None:
        """Paint: places are (row, column) of the whole image, the radius is in pixels.

        Raises
        ------
        TrainingError
            There is no such kind of stroke.
        CorrectionError
            The places are none.
        """
        if kind not in KINDS:
            raise TrainingError(f"There is no stroke {kind!r}: paint {', '.join(KINDS)}.")
        with self._lock:
            self._put(kind, points, radius)
            self.strokes = [
                *self.strokes,
                {"kind": kind, "points": [[float(each) for each in point] for point in points], "radius": radius},
            ]
            self.painted = self._counted()

    def undo(self) -> None:
        """Take the last stroke back."""
        with self._lock:
            self.strokes = self.strokes[:-1]
            self._canvas[:] = 0
            for each in self.strokes:
                self._put(each["kind"], each["points"], each["radius"])
            self.painted = self._counted()

    def train(self, *, wait: bool = True) -> None:
        """Learn from all strokes under this name, save model and strokes with the project, and show what it finds here."""
        self._newest.submit(self._learn)
        if wait:
            self._newest.wait()

    def apply(self) -> kit.Run:
        """Queue a run over the whole project with the model.

        Raises
        ------
        TrainingError
            There is none yet.
        """
        if not self.model:
            raise TrainingError("There is no model yet: paint some background and some object, and train.")
        look = self._selection
        self.run = self._project.segment("classifier", channel=look.channel, z=look.z, level=look.level, model=self.model)
        self.say(f"Run {self.run.number} is queued: {self.run.progress().total} images. Work it off with run.wait() or segkit worker.")
        return self.run

    # How

    def _read(self) -> NDArray[Any]:
        segmenter = segmenters.get("classifier")
        look = seen_by(segmenter, self._open, self._selection)
        row, column, rows, columns = self.crop
        flat = Selection(look.channel, "max" if look.z == "volume" else look.z, look.level)
        return segmenter.prepare(self._open.region(flat, slice(row, row + rows), slice(column, column + columns)))

    def _put(self, kind: str, points: Sequence[Sequence[float]], radius: float) -> None:
        row, column = self.crop[:2]
        local = [(point[0] - row, point[1] - column) for point in points]
        self._canvas[brushed(self._canvas.shape, local, radius)] = KINDS[kind]

    def _counted(self) -> dict[str, int]:
        return {kind: int(np.count_nonzero(self._canvas == value)) for kind, value in KINDS.items() if value}

    def _learn(self) -> None:
        try:
            self.busy = True
            with self._lock:
                self._store_strokes()
                images, strokes = self._all_strokes()
            learned = training.train(images, strokes)
            self.model = learned.save(join(self._place, f"{learned.content_hash[:16]}.npz"))
            self._preview()
        except SegkitError as error:
            self.say(str(error), failed=True)
        finally:
            self.busy = False

    def _preview(self) -> None:
        kernels.ready()
        labels = segmenters.segment(self._crop_pixels, "classifier", model=self.model)
        self._labels = HeldLabels(labels, (self.crop[0], self.crop[1]), (self.rows, self.columns))
        self._measured = Measurements(measure(labels, self._crop_pixels, pixel_size_um=self.pixel_size_um))
        self.objects = int(labels.max(initial=0))
        self.say(f"Trained: {self.objects} objects here. The model is saved with the project.")
        self.tell("labels")

    # Strokes are kept with the pixels below them, so that learning needs no image that may have gone.

    def _store_strokes(self) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, pixels=self._crop_pixels, strokes=self._canvas, crop=np.array(self.crop))
        folder(self._place).write(f"strokes-{self._image.id}.npz", buffer.getvalue())

    def _all_strokes(self) -> tuple[list[NDArray[Any]], list[NDArray[np.uint8]]]:
        names = [name for name in folder(self._place).names() if name.startswith("strokes-")]
        stored = [np.load(io.BytesIO(folder(self._place).read(name)), allow_pickle=False) for name in names]
        used = [each for each in stored if each["strokes"].any()]
        return [each["pixels"] for each in used], [each["strokes"] for each in used]

    def _load(self) -> None:
        """Go on with what was painted here before."""
        try:
            stored = np.load(io.BytesIO(folder(self._place).read(f"strokes-{self._image.id}.npz")), allow_pickle=False)
        except FileNotFoundError:
            return
        if stored["crop"].tolist() == self.crop:
            self._canvas[:] = stored["strokes"]
            self.painted = self._counted()

    # What the page asks

    def _stroke(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        self.stroke(asked["kind"], asked["points"], float(asked["radius"]))
        return {}, []

    def _undo(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        self.undo()
        return {}, []

    def _train(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        self.train(wait=False)
        return {}, []

    def _apply(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        return {"run": self.apply().number}, []
