"""A job whose image is too large for one task: its tiles are spread over the whole cluster, in passes.

What lies between the passes is kept beside the results under the image's number, not under the attempt's, so that another
attempt, of this worker or another, goes on with the tiles that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from segkit import cluster, logs, results, segmenters
from segkit.errors import ImageChangedError, SegkitError
from segkit.files import folder, join
from segkit.images import Image, open_image
from segkit.measure import summarised
from segkit.tasks import Done, Failed, Task, kind_of, pixel_size_at, reason_of, summarise_frames
from segkit.tiling import Executor, segment_large


@dataclass(frozen=True)
class Frame:
    """One time point of a label image, for a writer that knows only planes."""

    writer: results.LabelWriter
    time: int

    @property
    def path(self) -> str:
        """Names the label image and the time point."""
        return f"{self.writer.path}#{self.time}"

    @property
    def chunk(self) -> tuple[int, ...]:
        """Size of a chunk along rows and columns."""
        return self.writer.chunk[-2:]

    def write(self, labels: ArrayLike, origin: Sequence[int] | None = None) -> None:
        """Store a region of this time point."""
        self.writer.write(np.asarray(labels)[None], (self.time, *(origin or (0, 0))))


@dataclass(frozen=True)
class TimedObjects:
    """Rows of objects, each told its time point."""

    writer: results.ObjectWriter
    time: int

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self.writer.write(table.append_column("time", pa.array(np.full(len(table), self.time, np.int32))))


def perform_large(task: Task, scratch: str, executor: Executor, *, tile: int, memory_bytes: int) -> list[Done | Failed]:
    """Work off a large image as if it were a bundle; see `attempt_large`."""
    with logs.about(run=task.provenance.get("run"), job=task.job_id, attempt=task.attempt):
        return [attempt_large(task, scratch, executor, tile=tile, memory_bytes=memory_bytes)]


def attempt_large(task: Task, scratch: str, executor: Executor, *, tile: int, memory_bytes: int) -> Done | Failed:
    """Work off one task tile by tile.

    Parameters
    ----------
    task
        As for `tasks.attempt`.
    scratch : str
        Folder for what lies between the passes: the same for every attempt of the job. It is deleted when the result is whole.
    executor
        Runs tiles side by side, such as `Cluster.map`.
    tile : int
        Edge of a tile in pixels.
    memory_bytes : int
        Memory of one worker, which the largest connected piece of foreground must fit.
    """
    started = time.perf_counter()
    try:
        with open_image(task.uri, limits=task.limits) as image:
            if image.info.content_hash != task.content_hash:
                raise ImageChangedError
            task = replace(task, pixel_size_um=pixel_size_at(task, image))
            written, told = _write(task, image, scratch, executor, tile, memory_bytes)
            image.refuse_changed()
            frames = image.times
        result = results.open_result(task.staging)
        summary = summarise_frames(result.read_objects(summarised(result.read_schema().names)), frames) | told
        folder(scratch).remove()
    except (SegkitError, MemoryError, OSError) as error:
        results.discard(task.staging)
        if isinstance(error, ImageChangedError):
            folder(scratch).remove()  # some of the tiles may be of the other image
        return Failed(task.job_id, task.attempt, kind_of(error), reason_of(error))
    return Done(task.job_id, task.attempt, written, summary, time.perf_counter() - started)


def _write(
    task: Task, image: Image, scratch: str, executor: Executor, tile: int, memory_bytes: int
) -> tuple[results.Written, dict[str, float]]:
    """Segment every time point into one label image and one object table; of a single one, return also what the segmenter has to tell."""
    segmenter = segmenters.get(task.segmenter)
    parameters = segmenters.parse_parameters(segmenter, task.parameters)
    shape = image.levels[task.selection.level]
    series, told = image.times > 1, {}
    writer = results.LabelWriter.create(
        results.labels_path(task.staging),
        (image.times, *shape) if series else shape,
        "TYX" if series else "YX",
        pixel_size_um=task.pixel_size_um,
        compression_level=task.compression_level,
    )
    with results.ObjectWriter(results.objects_path(task.staging), task.provenance, task.compression_level) as objects:
        for frame in range(image.times):
            tiled = segment_large(
                task.uri,
                segmenter,
                parameters,
                folder=join(scratch, str(frame)),
                labels=Frame(writer, frame) if series else writer,
                objects=TimedObjects(objects, frame) if series else objects,
                selection=task.selection,
                time=frame,
                tile=tile,
                pixel_size_um=task.pixel_size_um,
                memory_bytes=memory_bytes,
                executor=executor,
                worker_died=(cluster.WorkerDied,),
                limits=task.limits,
            )
            told = {} if series else tiled.told
    writer.finish()
    return results.seal(task.staging, task.provenance), told
