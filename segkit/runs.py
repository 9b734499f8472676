"""`Run` and `Result`: a run as a person holds it. Thin; every method is one call of a module below."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Connection
from tqdm.auto import tqdm

from segkit import building, exports, jobs, overlays, previews, results
from segkit.errors import NoResultError, RunFailedError, SegkitError, UnknownJobError, UnknownStatusError, WaitTimeout
from segkit.events import Change
from segkit.images import Selection, thumbnail
from segkit.jobs import Job, Progress
from segkit.pages import Page
from segkit.results import ObjectPage, Record
from segkit.schema import JobStatus
from segkit.worker import Event

if TYPE_CHECKING:
    from segkit.kit import Image, Kit

LOOK_SECONDS = 0.2
PAGE = 1000


@dataclass(frozen=True)
class Result:
    """What a done job committed for one image."""

    run: Run
    record: Record

    @property
    def image(self) -> Image:
        """The image that was segmented."""
        return self.run.kit.image(self.record.image_id)

    @property
    def objects(self) -> int:
        """How many objects were found."""
        return self.record.objects

    @property
    def seconds(self) -> float:
        """Seconds of computing."""
        return self.record.seconds

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and distributions of the image's objects."""
        return self.record.summary

    @property
    def path(self) -> str:
        """Folder of the result: `labels.ome.zarr`, `objects.parquet`, `provenance.json`."""
        return results.locate(self.run.kit.settings.home, self.record.path)

    @property
    def item(self) -> exports.Item:
        """The result as exports take it."""
        return exports.item(self.path, self.record.image_id, self.record.image, self.record.uri)

    def labels(self, level: int = 0) -> NDArray[np.int32]:
        """Read the label image: the shape of the image's plane, planes or time points; 0 is background."""
        return results.read_labels(self.path, level)

    def table(self) -> pa.Table:
        """Read the object table, one row per object."""
        return results.read_objects(self.path)

    def overlay(self, time: int = 0) -> NDArray[np.uint8]:
        """Draw the objects' outlines over the image at full size, of a volume over its projection: (rows, columns, 3) uint8."""
        with self.image.open() as image:
            pixels = image.plane(self._drawn, time)
        return overlays.draw(pixels, self._flat_labels(0, time))

    def pair(self) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Read what was segmented beside what was made of it: the plane, and its labels of the same rows and columns."""
        with self.image.open() as image:
            return image.plane(self._drawn, 0), self._flat_labels(0, 0)

    def preview(self, edge: int = previews.EDGE, time: int = 0) -> NDArray[np.uint8]:
        """Draw the same small, `edge` pixels on the longer side: the pyramids are read, so memory does not grow with the image."""
        shapes = results.open_result(self.path).labels.layout
        level = max((each for each in range(shapes.levels) if max(shapes.shape_at(each)[-2:]) >= edge), default=0)
        with self.image.open() as image:
            picture = thumbnail(image, self._drawn, edge, time)
        return overlays.draw(picture, previews.picked(self._flat_labels(level, time), picture.shape[:2]))

    @property
    def _drawn(self) -> Selection:
        """What the run looked at; a volume is drawn as its projection."""
        asked = Selection(**self.run.record.selection)
        return Selection(asked.channel, "max" if asked.z == "volume" else asked.z, asked.level)

    def _flat_labels(self, level: int, time: int) -> NDArray[np.int32]:
        """Read one time point of the label image as (rows, columns); of the planes of a volume the highest number is taken."""
        opened = results.open_result(self.path)
        region = tuple(slice(time, time + 1) if axis == "T" else slice(None) for axis in opened.axes)
        labels = opened.labels.read(level, region)
        return labels.reshape(-1, *labels.shape[-2:]).max(axis=0)

    def tile(self) -> previews.Tile:
        """Show the result small, as one of a gallery; when its image cannot be read any more, the reason."""
        try:
            picture, note = self.preview(), f"{self.objects} objects"
        except SegkitError as error:
            picture, note = None, f"{self.objects} objects. {error}"
        return previews.Tile(self.record.image, note, picture)


def typical_size(summary: Mapping[str, Any]) -> float:
    """Return the median area or volume of an image's objects; NaN when there is none."""
    sizes = [each["median"] for name, each in summary.items() if name.startswith(("area_", "volume_"))]
    return float("nan") if not sizes or sizes[0] is None else sizes[0]


def mean_confidence(summary: Mapping[str, Any]) -> float:
    """Return how sure the segmenter was of an image's objects, from 0 to 1; NaN when it does not say, or found none."""
    found = summary.get("confidence") or {}
    return found["mean"] if found.get("mean") is not None else float("nan")


@dataclass(frozen=True)
class Run:
    """One segmenter with one set of parameters over many images of a project."""

    kit: Kit
    record: jobs.Run  #: as it was when it was looked up; `progress` has the counts of now

    @property
    def number(self) -> int:
        """The run's number."""
        return self.record.id

    @property
    def segmenter(self) -> str:
        """The segmenter's name."""
        return self.record.segmenter

    def progress(self) -> Progress:
        """Count the run's jobs by status, and its objects."""
        with self.kit.database.read() as connection:
            return jobs.progress(connection, self.number)

    def wait(self, timeout: float | None = None, *, work: bool | None = None) -> Run:
        """See the run through, with a progress bar.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; the run itself goes on.
        work : bool, optional
            Also work it off in this process. Default: yes with the embedded database, where this process may be the only one;
            no with PostgreSQL, where `segkit worker` does.

        Returns
        -------
        Run
            With the counts of now.

        Raises
        ------
        WaitTimeout
            It has not ended in time.
        RunFailedError
            None of its images could be segmented.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        embedded = self.kit.database.dialect == "sqlite"
        with Bar(self) as bar:
            if embedded if work is None else work:
                self._work(bar, deadline)
            while self.progress().left:
                if deadline is not None and time.monotonic() > deadline:
                    raise WaitTimeout
                bar.update()
                time.sleep(LOOK_SECONDS)
            bar.update()
        state = self.progress()
        if state.failed and not state.done:
            raise RunFailedError(f"Every image of run {self.number} failed. First: {self.failures(1).items[0].error}")
        return self.kit.run(self.number)

    def _work(self, bar: Bar, deadline: float | None) -> None:
        def ended() -> bool:
            return not self.progress().left or (deadline is not None and time.monotonic() > deadline)

        worker = self.kit.worker(lambda event: bar.update())
        try:
            worker.run(ended)
        except KeyboardInterrupt:
            worker.stop()
            raise

    def work_off(self, progress: Callable[[int, str], None] | None = None) -> Run:
        """Work the run off in this process; `progress` is called with each job that ends and its image's name."""

        def advance(event: Event) -> None:
            if progress is not None and event.run_id == self.number:
                progress(1, event.image)

        self.kit.work_off([self], advance)
        return self.kit.run(self.number)

    def jobs(self, status: str | None = None, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[Job]:
        """List the run's jobs, of one status or all.

        Raises
        ------
        UnknownStatusError
            There is no such status.
        """
        if status is not None and status not in set(JobStatus):
            raise UnknownStatusError(status, JobStatus)
        with self.kit.database.read() as connection:
            return jobs.page(connection, self.number, None if status is None else JobStatus(status), limit, after=after, offset=offset)

    def failures(self, limit: int = 100, *, after: str | None = None) -> Page[Job]:
        """List the jobs that were given up, each with its reason."""
        with self.kit.database.read() as connection:
            return jobs.failures(connection, self.number, limit, after=after)

    def retry(self, job: int | None = None, *, done_too: bool = False) -> int:
        """Queue failed and cancelled jobs again, all or one; returns how many. What is done stays.

        Parameters
        ----------
        job : int, optional
            Only this job.
        done_too : bool
            Also make results again that are there, such as a damaged one.

        Raises
        ------
        UnknownJobError
            The run has no such job.
        """
        with self.kit.database.write() as connection:
            chosen = self._meant(connection, job)
            queued = jobs.retry(connection, **chosen, max_attempts=self.kit.settings.max_attempts, done_too=done_too)
        self.kit.events.publish(Change(self.number))
        return queued

    def cancel(self, job: int | None = None) -> int:
        """Withdraw jobs that are not done, all or one; returns how many.

        Raises
        ------
        UnknownJobError
            The run has no such job.
        """
        with self.kit.database.write() as connection:
            cancelled = jobs.cancel(connection, **self._meant(connection, job))
        self.kit.events.publish(Change(self.number, status=JobStatus.CANCELLED))
        return cancelled

    def _meant(self, connection: Connection, job: int | None) -> dict[str, Any]:
        """Name the whole run, or one job that must be its own."""
        if job is None:
            return {"run_id": self.number}
        if jobs.job(connection, job).run_id != self.number:
            raise UnknownJobError(f"Run {self.number} has no job {job}. `segkit list jobs --run {self.number}` shows those it has.")
        return {"job_id": job}

    def results(self) -> Iterator[Result]:
        """Go through the results, a page at a time."""
        after: str | None = None
        while True:
            with self.kit.database.read() as connection:
                page = results.of_run(connection, self.number, PAGE, after=after)
            yield from (Result(self, record) for record in page.items)
            if page.next is None:
                return
            after = page.next

    def result(self, image: int | Image) -> Result:
        """Return the result of one image.

        Raises
        ------
        NoResultError
            There is none yet.
        """
        number = image if isinstance(image, int) else image.id
        after: str | None = None
        while True:
            with self.kit.database.read() as connection:
                page = results.of_image(connection, number, PAGE, after=after)
            for record in page.items:
                if record.run_id == self.number:
                    return Result(self, record)
            if page.next is None:
                raise NoResultError
            after = page.next

    def labels(self, image: int | Image) -> NDArray[np.int32]:
        """Read the label image of one image."""
        return self.result(image).labels()

    def objects(self) -> pa.Table:
        """Read the objects of all images: `image_id` and `image`, then the measurements, one row per object.

        For runs of millions of objects, `dataset` streams instead.
        """
        return self.dataset().to_table()

    def dataset(self) -> Any:
        """Present the objects of all images as a `pyarrow.dataset.Dataset`, read only as it is asked for."""
        return results.objects_of((each.path, each.record.image_id, each.record.image) for each in self.results())

    def objects_page(
        self,
        columns: Sequence[str] = (),
        where: Sequence[str] = (),
        limit: int = 100,
        *,
        after: str | None = None,
        image: int | Image | None = None,
    ) -> ObjectPage:
        """Read some objects, in the order of the run's jobs.

        Parameters
        ----------
        columns : sequence of str
            Default: all.
        where : sequence of str
            Filters such as "area_um2>=10"; all must hold.
        limit, after
            How many at most, and from where: after a page's `next`. A page may hold fewer, even none, while it has a `next`.
        image : int or Image, optional
            Only of this image.

        Raises
        ------
        FilterError, SelectionError
            A filter cannot be used, or there is no column of a name.
        """
        chosen = None if image is None else self.result(image).record

        def find(job: int, count: int) -> Sequence[Record]:
            if chosen is not None:
                return [chosen] if chosen.job_id >= job else []
            with self.kit.database.read() as connection:
                return results.from_job(connection, self.number, job, count)

        return results.objects_page(self.kit.settings.home, self.number, find, results.parse_wanted(columns, where), limit, after)

    def stream_objects(
        self, columns: Sequence[str] = (), where: Sequence[str] = (), *, image: int | Image | None = None
    ) -> tuple[pa.Schema, Iterator[pa.Table]]:
        """Read all objects, a piece at a time, in bounded memory; the columns are known before the first piece is read."""
        wanted, home = results.parse_wanted(columns, where), self.kit.settings.home
        chosen = None if image is None else self.result(image).record

        def records() -> Iterator[Record]:
            return iter([chosen]) if chosen is not None else (each.record for each in self.results())

        schema = results.schema_of(home, records(), wanted)
        return schema, results.stream_objects(home, records(), wanted, schema)

    def built(self, format: str) -> building.Built | None:
        """Return the export that was built of what the run holds now; None when there is none."""
        return building.find(self.kit.settings.home, self.number, format, building.stamp_of(self.number, self.progress()))

    def build(self, format: str, progress: Callable[[int, str], None] | None = None) -> building.Built:
        """Build an export under the home folder, unless it is there.

        Raises
        ------
        UnknownExportError
            There is no such format.
        NoResultError
            Nothing is done yet.
        """
        return building.build(
            self.kit.settings.home, self.number, format, building.stamp_of(self.number, self.progress()), self._items(), progress
        )

    def _items(self) -> Iterator[exports.Item]:
        """Go through the results as exports take them."""
        if not self.progress().done:
            raise NoResultError(f"Run {self.number} has no results yet. Work it off first: segkit worker --until-idle")
        return (each.item for each in self.results())

    def export(self, format: str, out: str | Path, *, overwrite: bool = False, progress: Callable[[int, str], None] | None = None) -> Path:
        """Write the results in another tool's format, one image at a time.

        Parameters
        ----------
        format : str
            "coco", "geojson", "yolo", "imagej", "csv", "excel", "tiff", ...; `segkit list exports` shows all.
        out : path
            File or folder to write.
        overwrite : bool
            Replace what is there.
        progress : callable, optional
            Called with 1 and the image's name after each image.

        Returns
        -------
        Path
            What was written.

        Raises
        ------
        UnknownExportError
            There is no such format; the nearest is suggested.
        OutputExistsError
            Something is there and `overwrite` is false.
        NoResultError
            Nothing is done yet.
        """
        return exports.export(format, self._items(), Path(out), overwrite=overwrite, progress=progress)

    def worst(self, count: int = 6) -> previews.Gallery:
        """Show the images that most deserve a look, with the outlines of their objects.

        First those that failed, each with its reason. Then, where the segmenter says how sure it is of its objects, those in which
        it found nothing, and those of which it is least sure. Of other segmenters, those that differ most from the rest of the
        run: in their number of objects, or in the objects' typical size, as a ratio to the run's median. An image in which nothing
        was found, where the others have hundreds, is among them.

        Parameters
        ----------
        count : int
            Images to show, at most 1000.
        """
        failed = [previews.Tile(job.image_name, job.error or "") for job in self.failures(count).items]
        held = [(each.objects, each.summary) for each in self.results()]
        looks = [(objects, typical_size(summary)) for objects, summary in held]
        chosen = previews.oddest(looks, count - len(failed), [mean_confidence(summary) for _, summary in held])
        found = {number: each.tile() for number, each in enumerate(self.results()) if number in chosen}
        return previews.Gallery((*failed, *(found[number] for number in chosen if number in found)))

    def __repr__(self) -> str:
        state = self._now()
        return (
            f"<run {self.number} {self.segmenter}: {state.done} done, {state.failed} failed, {state.left} to do, {state.objects} objects>"
        )

    def _repr_html_(self) -> str:
        state = self._now()
        facts = {
            "segmenter": f"{self.segmenter} {self.record.version}",
            "project": self.record.project,
            "parameters": ", ".join(f"{name}={value}" for name, value in self.record.parameters.items() if value is not None),
            "done": f"{state.done} of {state.total}",
            "failed": state.failed or None,
            "cancelled": state.cancelled or None,
            "objects": state.objects,
            "asked for": f"{self.record.created_at:%Y-%m-%d %H:%M} UTC",
        }
        tiles = [previews.Tile(job.image_name, job.error or "") for job in self.failures(3).items] if state.failed else []
        first = next(self.results(), None) if state.done else None
        return previews.facts_html(f"Run {self.number}", facts) + previews.tiles_html([*tiles, *([first.tile()] if first else [])])

    def _now(self) -> Progress:
        """Return the counts of now; those of when it was looked up when the run, or its database, is gone."""
        try:
            return self.progress()
        except SegkitError:
            return self.record


class Bar:
    """A progress bar over a run's jobs, in a terminal or a notebook."""

    def __init__(self, run: Run) -> None:
        state = run.progress()
        self._run = run
        self._bar = tqdm(total=state.total, initial=state.total - state.left, desc=f"run {run.number} {run.segmenter}", unit="image")

    def update(self) -> None:
        """Show the counts of now."""
        state = self._run.progress()
        self._bar.total = state.total
        self._bar.n = state.total - state.left
        self._bar.set_postfix(objects=state.objects, failed=state.failed, refresh=False)
        self._bar.refresh()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
