"""One large image through any tile-exact segmenter: the passes in order.

Where a pass runs on an executor, its tasks get a `Work`, a `Box` and a number or two; everything else goes through files. What
crosses over to the coordinator between two passes is what meets the borders of tiles, and one row of tiles of the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa

from segkit.errors import NotTileExactError, TileFailedError
from segkit.images import ImageInfo, Limits, Selection, open_image
from segkit.segmenters import Parameters, Segmenter
from segkit.tiling.borders import Cluster, join_tiles
from segkit.tiling.clusters import finish_cluster
from segkit.tiling.components import segment_tile
from segkit.tiling.grid import Box
from segkit.tiling.numbering import number_objects
from segkit.tiling.painting import LabelSink, paint_region, regions
from segkit.tiling.survey import merge_surveys, survey_tile
from segkit.tiling.whole import WHOLE, segment_whole
from segkit.tiling.work import ATTEMPTS, Executor, Work, attempt_numbered, in_turn, memory_of

#: Told what is being done, how many pieces of it are finished, and how many there are.
Progress = Callable[[str, int, int], None]


class ObjectSink(Protocol):
    """Where rows of objects go, in the order of their labels. `segkit.objects.ObjectWriter` is one."""

    def write(self, table: pa.Table) -> None:
        """Add rows."""


@dataclass(frozen=True)
class Tiled:
    """What became of a large image."""

    objects: int
    tiles: int
    done: int  #: pieces of work that were done now
    found_done: int  #: pieces of work that an earlier attempt had finished
    told: dict[str, float] = field(default_factory=dict)  #: what the segmenter has to tell of the image, such as the size it estimated


def segment_large(
    uri: str,
    segmenter: Segmenter,
    parameters: Parameters,
    *,
    folder: str,
    labels: LabelSink,
    objects: ObjectSink,
    selection: Selection | None = None,
    time: int = 0,
    tile: int = 2048,
    pixel_size_um: float | None = None,
    memory_bytes: int = 2 * 2**30,
    executor: Executor = in_turn,
    worker_died: tuple[type[Exception], ...] = (),
    progress: Progress = lambda stage, done, total: None,
    limits: Limits | None = None,
) -> Tiled:
    """Segment and measure one plane of an image of any size, tile by tile.

    The labels are those of `segmenter.function` on the whole plane, pixel for pixel, and the rows those of
    `segkit.measure.measure`, bit for bit, whatever the tiles, the executor and its order.

    Parameters
    ----------
    uri : str
        The image, which every thread of the executor can open.
    segmenter, parameters
        What to do. Without a recipe it is done in one piece, if that fits into the memory.
    folder : str
        Path or fsspec URL for what lies between the passes, the same for every attempt at this plane, and for no other. An
        attempt goes on where the last one ended. It may be deleted when labels and objects are safe.
    labels : LabelSink
        Gets the label image, int32, from the executor's threads.
    objects : ObjectSink
        Gets the rows, from this thread, at least one table.
    selection, time
        Which plane; `selection.z` is not "volume".
    tile : int
        Edge of a tile in pixels, rounded up to what the segmenter needs. Of a file in strips, tiles are as wide as the image and
        accordingly lower.
    pixel_size_um : float, optional
        Edge of a pixel.
    memory_bytes : int
        Memory of one worker process. The largest component that crosses tiles may take half of it, about 22 million pixels of its
        bounding box in 2 GiB; an image that is segmented whole, too.
    executor : Executor
        Runs the tasks.
    worker_died : tuple of exception classes
        What the executor raises when a process that it runs tasks in was killed.
    progress : callable
        Called from this thread; what it raises ends the work, to be gone on with later.
    limits : Limits
        For opening the image.

    Raises
    ------
    ComponentTooLargeError
        A connected piece of foreground does not fit into the memory; the message says where it is.
    NotTileExactError
        The segmenter cannot be tiled, and the image is too large to be segmented whole.
    TileFailedError
        A tile failed again and again; the message says where it is.
    TooManyObjectsError
        More than 2^31 - 1.
    """
    work = _lay_out(uri, segmenter, parameters, folder, selection or Selection(), time, tile, pixel_size_um, limits or Limits())
    passes = Passes(work, executor, progress, worker_died)
    if segmenter.recipe is None:
        return passes.whole(labels, objects, memory_bytes)
    work.scratch.begin(work.describe())
    passes.run("survey", survey_tile, _tiles(work))
    merge_surveys(work)
    passes.run("segment", segment_tile, _tiles(work))
    clusters = join_tiles(work, memory_bytes)
    passes.finish(clusters)
    count = number_objects(work, clusters, objects.write)
    if not count:
        objects.write(work.no_objects())
    passes.run("write", paint_region, [(box, reaching, labels) for box, reaching in regions(work, labels, clusters)])
    return replace(passes.outcome(count), told=work.recipe.told(work.plan))


def _lay_out(
    uri: str,
    segmenter: Segmenter,
    parameters: Parameters,
    folder: str,
    selection: Selection,
    time: int,
    tile: int,
    pixel_size_um: float | None,
    limits: Limits,
) -> Work:
    with open_image(uri, limits=limits) as image:
        info, shape, chunks = image.info, image.levels[selection.level], image.chunks
    tile, edges = choose_edges(shape, chunks, tile, segmenter.recipe.block if segmenter.recipe else 1)
    seen, measured, channels = choose_channels(info, selection, segmenter)
    return Work(
        uri, info.content_hash, seen, measured, channels, time, limits, segmenter, parameters, pixel_size_um, shape, tile, edges, folder
    )  # fmt: skip


def choose_channels(
    info: ImageInfo, selection: Selection, segmenter: Segmenter
) -> tuple[Selection, tuple[Selection, ...], tuple[str, ...] | None]:
    """Choose what a segmenter looks at, and what its objects are measured in.

    Returns
    -------
    Selection
        One that wants gray sees the brightness of a colour image, unless a colour is chosen.
    tuple of Selection
        Every channel of the image; none when that is what the segmenter looks at.
    tuple of str or None
        Their names.
    """
    if "C" in info.axes and "S" not in info.axes:
        every = tuple(replace(selection, channel=number) for number in range(len(info.channels)))
        return selection, every, info.channels
    if "S" not in info.axes or "C" in info.axes:
        return selection, (), None
    colours = replace(selection, channel=None)
    seen = replace(selection, channel="gray") if selection.channel is None and not segmenter.colour else selection
    return seen, () if seen == colours else (colours,), info.channels


def choose_edges(shape: tuple[int, int], chunks: tuple[int, int], tile: int, block: int) -> tuple[int, tuple[int, int]]:
    """Choose tiles that suit a file.

    Returns
    -------
    int
        The edge that was asked for, on whole blocks.
    (int, int)
        Rows and columns of a tile. Where the file is decoded in strips across the whole image, square tiles would decode each
        strip many times: then a tile is a few strips.

    Examples
    --------
    >>> choose_edges((32768, 32768), (512, 512), 2048, 64)
    (2048, (2048, 2048))
    >>> choose_edges((32768, 32768), (16, 32768), 2048, 64)
    (2048, (128, 32768))
    """
    tile = -(-tile // block) * block
    rows = max(tile * tile // shape[1] // block, 2) * block
    in_strips = chunks[1] >= shape[1] > tile and chunks[0] <= rows
    if not in_strips or rows * shape[1] > 2 * tile * tile:
        return tile, (tile, tile)
    return tile, (min(rows, tile), -(-shape[1] // block) * block)


def _tiles(work: Work) -> list[tuple[Any, ...]]:
    return [(work.grid.box(tile), tile) for tile in work.grid.tiles]


class Passes:
    """Runs passes, each to its end before the next, and counts their pieces."""

    def __init__(self, work: Work, executor: Executor, progress: Progress, worker_died: tuple[type[Exception], ...]) -> None:
        self._work = work
        self._executor = executor
        self._progress = progress
        self._worker_died = worker_died
        self._done = 0
        self._found_done = 0

    def run(self, stage: str, step: Callable[..., bool], pieces: Sequence[tuple[Any, ...]]) -> None:
        """Do one step for every piece, each of which starts with its box."""
        self._progress(stage, 0, len(pieces))
        for number, was_needed in enumerate(self._results(step, pieces), start=1):
            self._done += was_needed
            self._found_done += not was_needed
            self._progress(stage, number, len(pieces))

    def _results(self, step: Callable[..., bool], pieces: Sequence[tuple[Any, ...]]) -> Iterator[bool]:
        """Yield what each piece gave. Where a worker dies, each of those it may have died of is tried with nothing beside it."""
        waiting = iter(range(len(pieces)))
        flying: set[int] = set()
        while True:
            try:
                for number, was_needed in self._executor(attempt_numbered, self._drawn(waiting, flying, step, pieces)):
                    flying.discard(number)
                    yield was_needed
                return
            except self._worker_died:
                suspects = sorted(flying)
                flying.clear()
            for number in suspects:
                yield self._alone(step, pieces[number])

    def _drawn(
        self, waiting: Iterable[int], flying: set[int], step: Callable[..., bool], pieces: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[Any, ...]]:
        for number in waiting:
            flying.add(number)
            yield number, step, self._work, *pieces[number]

    def _alone(self, step: Callable[..., bool], piece: tuple[Any, ...]) -> bool:
        """Do one piece with nothing beside it; say where it is when it takes its worker down every time."""
        for left in reversed(range(ATTEMPTS)):
            try:
                ((_, was_needed),) = self._executor(attempt_numbered, [(0, step, self._work, *piece)])
                return bool(was_needed)
            except self._worker_died as error:
                if not left:
                    raise TileFailedError(
                        f"The piece of the image at {piece[0]} took its worker down {ATTEMPTS} times, which is mostly for want of memory. "
                        "All others are kept; raise SEGKIT_WORKER_MEMORY or lower SEGKIT_THREADS_PER_WORKER, then `segkit retry` does "
                        "only what is missing."
                    ) from error
        return False

    def finish(self, clusters: Sequence[Cluster]) -> None:
        """Finish the clusters: those no larger than a tile side by side, then the large ones one at a time."""
        room = self._work.edges[0] * self._work.edges[1]
        self.run("join", finish_cluster, [(each.box, each.number) for each in clusters if each.box.area <= room])
        for each in clusters:
            if each.box.area > room:
                self.run("join large", finish_cluster, [(each.box, each.number)])

    def outcome(self, objects: int) -> Tiled:
        """Return what became of the image."""
        return Tiled(objects, self._work.grid.rows * self._work.grid.columns, self._done, self._found_done)

    def whole(self, labels: LabelSink, objects: ObjectSink, memory_bytes: int) -> Tiled:
        """Segment the image in one piece, in one task."""
        box = Box(0, 0, *self._work.shape)
        room = memory_bytes // 2
        if memory_of(box, 0) > room:
            name, need = self._work.segmenter.name, memory_of(box, 0) // 2**20
            raise NotTileExactError(
                f'Segmenter "{name}" cannot be tiled without cutting objects, and this image would take about {need} MiB in one piece, '
                f"where {room // 2**20} MiB are allowed, half of a worker's memory. Raise SEGKIT_WORKER_MEMORY, choose a smaller pyramid "
                "level, or a segmenter that is exact, such as nuclei or threshold."
            )
        self.run("segment", segment_whole, [(box, labels)])
        record = self._work.scratch.read(WHOLE)
        objects.write(record.table("table"))
        return self.outcome(int(record["objects"][0]))
