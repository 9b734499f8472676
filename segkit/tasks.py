"""What runs on a Dask thread: an image's URI and parameters in, a result's files out.

A task knows no database and no queue. It reads one image, segments it, measures it, writes label image and object table
beside their final place, checks them, and returns where they are. Every failure of an image becomes words, not an exception.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segkit import logs, results, segmenters
from segkit.errors import (
    DiskFullError,
    ImageChangedError,
    ImageMissingError,
    NotWritableError,
    SegkitError,
)
from segkit.images import Image, Limits, Selection, open_image
from segkit.measure import measure, summarise, with_confidence
from segkit.schema import ErrorKind
from segkit.segmenters.volume import segment_volume

log = logging.getLogger(__name__)
#: What a summary says per area of the image.
PER_AREA = ("coverage", "density_per_")
#: Images that compute less than this are mostly Python's own work, which the threads of a process can only take from each other.
QUICK_SECONDS = 0.1
#: Images that take so many times as long as they compute, while no other thread is in their way, wait for a disk or a network.
WAITING = 2.0
#: Held by the bundle of quick images that this process is at.
turn = threading.Lock()


@dataclass(frozen=True)
class Task:
    """One attempt of one job, small and picklable."""

    job_id: int
    attempt: int
    uri: str
    name: str
    content_hash: str
    segmenter: str
    parameters: dict[str, Any]
    selection: Selection
    pixel_size_um: float | None
    z_step_um: float | None
    staging: str  #: folder of this attempt, where its files are written
    most_pixels: int  #: planes of more pixels are not done here but tile by tile (`large.py`)
    compression_level: int
    limits: Limits
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A task that wrote its result."""

    job_id: int
    attempt: int
    written: results.Written
    summary: dict[str, Any]
    seconds: float
    busy_seconds: float = math.inf  #: of these, those that its thread computed; infinite when that was not measured


@dataclass(frozen=True)
class Failed:
    """A task that could not, and why."""

    job_id: int
    attempt: int
    kind: ErrorKind
    reason: str


@dataclass(frozen=True)
class Large:
    """A task whose image must be spread over the cluster."""

    job_id: int
    attempt: int


@dataclass(frozen=True)
class Segmented:
    """Labels and objects of one image, before they are written."""

    labels: NDArray[np.int32]
    objects: pa.Table
    axes: str
    pixel_size_um: float | None  #: of the pyramid level that was looked at
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """How fast the images of a run go, in seconds per image; not known before the first are done."""

    seconds: float = math.inf
    busy_seconds: float = math.inf
    waits: bool = False  #: a process that does one after another has nothing to do meanwhile

    @property
    def in_turn(self) -> bool:
        """Whether bundles of such images should be done one at a time by each process.

        Examples
        --------
        >>> Pace(0.12, 0.03).in_turn, Pace(0.12, 0.03, waits=True).in_turn, Pace(2.0, 1.9).in_turn
        (True, False, False)
        """
        return self.busy_seconds <= QUICK_SECONDS and not self.waits

    def after(self, outcomes: Iterable[Done | Failed | Large], *, in_turn: bool) -> Pace:
        """Return the pace of the latest bundle; that images wait is seen only in one that went in turn, and not forgotten.

        Most of that must have waited: its first images may run beside the last of bundles that did not go in turn.
        """
        done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
        if not done:
            return self
        seconds, busy = (sum(times) / len(done) for times in zip(*((each.seconds, each.busy_seconds) for each in done), strict=True))
        waited = sum(each.seconds > WAITING * each.busy_seconds for each in done)
        return Pace(seconds, busy, self.waits or (in_turn and 2 * waited > len(done)))


def perform(tasks: Sequence[Task], *, in_turn: bool = False) -> list[Done | Failed | Large]:
    """Work off a bundle of tasks, one after another; small images share one so that Dask's cost per task does not show.

    Parameters
    ----------
    tasks
        The bundle.
    in_turn : bool
        Wait until no other such bundle is being worked off in this process. It saves what threads that want the same lock of
        Python's cost each other, a tenth of the time of a small image, and the process has its next bundle at hand.
    """
    with turn if in_turn else nullcontext():
        return [attempt(task) for task in tasks]


def attempt(task: Task) -> Done | Failed | Large:
    """Work off one task; whatever is wrong with its image comes back as a reason in words."""
    with logs.about(run=task.provenance.get("run"), job=task.job_id, attempt=task.attempt):
        log.debug("%s begins", task.name)
        outcome = _attempt(task)
        if isinstance(outcome, Failed):
            log.info("%s failed: %s", task.name, outcome.reason)
        elif isinstance(outcome, Done):
            log.debug("%s is done after %.2f s: %d objects", task.name, outcome.seconds, outcome.written.objects)
        return outcome


def _attempt(task: Task) -> Done | Failed | Large:
    started, busy = time.perf_counter(), time.thread_time()
    try:
        segmented = segment_image(task)
        if segmented is None:
            return Large(task.job_id, task.attempt)
        written = results.write(
            task.staging,
            segmented.labels,
            segmented.objects,
            axes=segmented.axes,
            pixel_size_um=segmented.pixel_size_um,
            z_step_um=task.z_step_um,
            provenance=task.provenance,
            compression_level=task.compression_level,
        )
    except (SegkitError, MemoryError, OSError) as error:
        results.discard(task.staging)
        return Failed(task.job_id, task.attempt, kind_of(error), reason_of(error))
    except Exception as error:
        results.discard(task.staging)
        log.info("The segmenter failed:", exc_info=error)
        return Failed(task.job_id, task.attempt, ErrorKind.INPUT, f'Segmenter "{task.segmenter}" failed: {type(error).__name__}: {error}')
    return Done(task.job_id, task.attempt, written, segmented.summary, time.perf_counter() - started, time.thread_time() - busy)


def segment_image(task: Task) -> Segmented | None:
    """Read, segment and measure one image: a plane, a volume, or each time point by itself; None when it is too large for that."""
    segmenter = segmenters.get(task.segmenter)
    parameters = segmenters.parse_parameters(segmenter, task.parameters)
    with open_image(task.uri, limits=task.limits) as image:
        if plane_pixels(task.selection, image) > task.most_pixels:
            return None
        if image.info.content_hash != task.content_hash:
            raise ImageChangedError
        task = replace(task, pixel_size_um=pixel_size_at(task, image))
        look = _volume if task.selection.z == "volume" else _plane
        frames = [look(task, image, segmenter, parameters, time) for time in range(image.times)]
        image.refuse_changed()
    return frames[0] if len(frames) == 1 else _series(frames)


def plane_pixels(selection: Selection, image: Image) -> int:
    """Pixels of the plane that is looked at; 0 where that is a volume, or a level that is not there, which reading tells."""
    there = selection.level in range(-len(image.levels), len(image.levels))
    return math.prod(image.levels[selection.level]) if there and selection.z != "volume" else 0


def _plane(task: Task, image: Image, segmenter: segmenters.Segmenter, parameters: segmenters.Parameters, time: int) -> Segmented:
    pixels = image.plane(seen_by(segmenter, image, task.selection), time)
    labels, confidence, told = segmenter.apply(segmenter.prepare(pixels), parameters, task.pixel_size_um)
    intensities, channels = intensities_of(image, task.selection, pixels, time)
    objects = with_confidence(measure(labels, intensities, channels=channels, pixel_size_um=task.pixel_size_um), confidence)
    return Segmented(labels, objects, "YX", task.pixel_size_um, summarise(objects) | told)


def _volume(task: Task, image: Image, segmenter: segmenters.Segmenter, parameters: segmenters.Parameters, time: int) -> Segmented:
    pixels = image.volume(task.selection, time)
    labels = segment_volume(pixels, parameters, segmenter=segmenter, pixel_size_um=task.pixel_size_um, z_step_um=task.z_step_um)
    objects = measure(labels, pixels, pixel_size_um=task.pixel_size_um, z_step_um=task.z_step_um)
    return Segmented(labels, objects, "ZYX", task.pixel_size_um, summarise(objects))


def pixel_size_at(task: Task, image: Image) -> float | None:
    """Return the pixel size at the pyramid level that is looked at: a level of half the rows has pixels twice as large.

    Levels of odd sizes are rounded up or down by whoever wrote them, so a ratio that fits a whole number is one.
    """
    if task.pixel_size_um is None or task.selection.level not in range(-len(image.levels), len(image.levels)):
        return task.pixel_size_um
    full, here = max(image.levels[0]), max(image.levels[task.selection.level])
    steps = round(full / here)
    return task.pixel_size_um * (steps if abs(full - steps * here) <= steps else full / here)


def seen_by(segmenter: segmenters.Segmenter, image: Image, selection: Selection) -> Selection:
    """Select what the segmenter looks at: one that wants gray sees the brightness of a colour image."""
    colour = "S" in image.info.axes and "C" not in image.info.axes
    return replace(selection, channel="gray") if colour and selection.channel is None and not segmenter.colour else selection


def intensities_of(image: Image, selection: Selection, pixels: NDArray[Any], time: int) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Return what intensities are measured in: every channel of the image, or the one plane there is."""
    info = image.info
    if "C" in info.axes and "S" not in info.axes:
        planes = [image.plane(replace(selection, channel=number), time) for number in range(len(info.channels))]
        return np.stack(planes, axis=-1), info.channels
    if "S" in info.axes and "C" not in info.axes:
        return image.plane(replace(selection, channel=None), time), info.channels
    return pixels, None


def _series(frames: Sequence[Segmented]) -> Segmented:
    """Put time points together: labels as one more axis, objects with their time point; ids are those of each frame."""
    labels = np.stack([frame.labels for frame in frames])
    timed = [
        frame.objects.append_column("time", pa.array(np.full(len(frame.objects), time, np.int32))) for time, frame in enumerate(frames)
    ]
    objects = pa.concat_tables(timed)
    return Segmented(labels, objects, f"T{frames[0].axes}", frames[0].pixel_size_um, summarise_frames(objects, len(frames)))


def summarise_frames(objects: pa.Table, frames: int) -> dict[str, Any]:
    """Summarise the objects of several time points; what is told per area is told per area of all of them."""
    summary = summarise(objects)
    return summary | {name: summary[name] / frames for name in summary if name.startswith(PER_AREA) and summary[name] is not None}


def kind_of(error: Exception) -> ErrorKind:
    """Tell whether trying again can help."""
    if isinstance(error, (MemoryError, DiskFullError)):
        return ErrorKind.RESOURCE
    if isinstance(error, (ImageMissingError, NotWritableError)) or not isinstance(error, SegkitError):
        return ErrorKind.INFRASTRUCTURE
    return ErrorKind.INPUT


def reason_of(error: Exception) -> str:
    """Say what went wrong in words."""
    if isinstance(error, SegkitError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There was not enough memory for this image. Raise SEGKIT_WORKER_MEMORY, or lower SEGKIT_THREADS_PER_WORKER."
    return f"{type(error).__name__}: {error}"
