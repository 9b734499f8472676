"""`RemoteRun`: a run as a person holds it, asked of a service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter
from tqdm.auto import tqdm

from segkit import jobs, previews
from segkit.client.connection import Connection
from segkit.client.downloads import download
from segkit.client.exporting import export
from segkit.client.faults import OnlyThere
from segkit.client.results import RemoteResult
from segkit.errors import (
    DatabaseError,
    NoResultError,
    NotOverHttpError,
    RunFailedError,
    SegkitError,
    ServiceUnreachableError,
    UnknownJobError,
    UnknownStatusError,
    WaitTimeout,
)
from segkit.jobs import Job, Progress
from segkit.pages import Page
from segkit.results import ObjectPage, Record
from segkit.runs import mean_confidence, typical_size
from segkit.schema import JobStatus

if TYPE_CHECKING:
    from segkit.client.kit import RemoteKit
    from segkit.client.projects import RemoteImage

LOOK_SECONDS = 0.5
#: A service that does not answer is waited for so long, as when it is started anew.
PATIENCE_SECONDS = 120.0
PROGRESS, JOBS = TypeAdapter(Progress), TypeAdapter(Page[Job])
RECORDS = TypeAdapter(Page[Record])


@dataclass(frozen=True)
class Changed:
    """How many jobs an order changed."""

    jobs: int


CHANGED = TypeAdapter(Changed)


@dataclass(frozen=True)
class RemoteRun(OnlyThere):
    """One segmenter with one set of parameters over many images of a project."""

    kit: RemoteKit
    record: jobs.Run  #: as it was when it was looked up; `progress` has the counts of now

    only_there: ClassVar[dict[str, str]] = {
        "work_off": "Start `segkit worker` where the service runs, and `wait` for it here.",
        "dataset": "`stream_objects` reads in bounded memory.",
        "build": "`export` builds and downloads.",
        "built": "`export` builds and downloads.",
    }

    @property
    def number(self) -> int:
        """The run's number."""
        return self.record.id

    @property
    def segmenter(self) -> str:
        """The segmenter's name."""
        return self.record.segmenter

    @property
    def _connection(self) -> Connection:
        return self.kit.connection

    @property
    def _place(self) -> str:
        return f"/api/runs/{self.number}"

    def progress(self) -> Progress:
        """Count the run's jobs by status, and its objects."""
        return self._connection.get(PROGRESS, f"{self._place}/progress")

    def wait(self, timeout: float | None = None, *, work: bool | None = None) -> RemoteRun:
        """See the run through, with a progress bar. It is worked off where the service runs, by `segkit worker`.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; the run itself goes on.
        work : bool, optional
            Cannot be true here.

        Returns
        -------
        RemoteRun
            With the counts of now.

        Raises
        ------
        WaitTimeout
            It has not ended in time.
        RunFailedError
            None of its images could be segmented.
        ServiceUnreachableError
            The service has not answered for two minutes.
        """
        if work:
            raise NotOverHttpError(f"The images cannot be worked off from here. {self.only_there['work_off']}")
        state = self._watch(None if timeout is None else time.monotonic() + timeout)
        if state.failed and not state.done:
            raise RunFailedError(f"Every image of run {self.number} failed. First: {self.failures(1).items[0].error}")
        return self.kit.run(self.number)

    def _watch(self, deadline: float | None) -> Progress:
        """Show the counts until no job is left."""
        state, seen = self.progress(), time.monotonic()
        with tqdm(total=state.total, desc=f"run {self.number} {self.segmenter}", unit="image") as bar:
            while True:
                bar.total, bar.n = state.total, state.total - state.left
                bar.set_postfix(objects=state.objects, failed=state.failed, refresh=False)
                bar.refresh()
                if not state.left:
                    return state
                left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
                if left <= 0:
                    raise WaitTimeout
                time.sleep(left)
                try:
                    state, seen = self.progress(), time.monotonic()
                except (ServiceUnreachableError, DatabaseError):
                    if time.monotonic() - seen > PATIENCE_SECONDS:
                        raise

    def jobs(self, status: str | None = None, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[Job]:
        """List the run's jobs, of one status or all.

        Raises
        ------
        UnknownStatusError
            There is no such status.
        """
        if status is not None and status not in set(JobStatus):
            raise UnknownStatusError(status, JobStatus)
        return self._connection.page(JOBS, f"{self._place}/jobs", limit, after, offset, status=status)

    def failures(self, limit: int = 100, *, after: str | None = None) -> Page[Job]:
        """List the jobs that were given up, each with its reason."""
        return self.jobs(JobStatus.FAILED, limit, after=after)

    def retry(self, job: int | None = None, *, done_too: bool = False) -> int:
        """Queue failed and cancelled jobs again, all or one; returns how many. What is done stays.

        Raises
        ------
        UnknownJobError
            The run has no such job.
        NotOverHttpError
            Results that are there are made again where the service runs, with `segkit retry`.
        """
        if done_too:
            raise NotOverHttpError("Results that are there are made again where the service runs: `segkit retry`.")
        return self._order("retry", job)

    def cancel(self, job: int | None = None) -> int:
        """Withdraw jobs that are not done, all or one; returns how many.

        Raises
        ------
        UnknownJobError
            The run has no such job.
        """
        return self._order("cancel", job)

    def _order(self, what: str, job: int | None) -> int:
        if job is None:
            return self._connection.post(CHANGED, f"{self._place}/{what}").jobs
        if self.kit.job(job).run_id != self.number:
            raise UnknownJobError(f"Run {self.number} has no job {job}. `segkit list jobs --run {self.number}` shows those it has.")
        return self._connection.post(CHANGED, f"/api/jobs/{job}/{what}").jobs

    def results(self) -> Iterator[RemoteResult]:
        """Go through the results, a page at a time."""
        return (RemoteResult(self, record) for record in self._connection.rows(RECORDS, f"{self._place}/results"))

    def result(self, image: int | RemoteImage) -> RemoteResult:
        """Return the result of one image.

        Raises
        ------
        NoResultError
            There is none yet.
        """
        for record in self._connection.rows(RECORDS, f"/api/images/{number_of(image)}/results"):
            if record.run_id == self.number:
                return RemoteResult(self, record)
        raise NoResultError

    def labels(self, image: int | RemoteImage) -> NDArray[np.int32]:
        """Read the label image of one image."""
        return self.result(image).labels()

    def objects(self) -> pa.Table:
        """Read the objects of all images: `image_id` and `image`, then the measurements, one row per object.

        For runs of millions of objects, `stream_objects` reads a piece at a time.
        """
        return table_of(self._connection.request("GET", f"{self._place}/objects", query=asked_of((), (), None)))

    def objects_page(
        self,
        columns: Sequence[str] = (),
        where: Sequence[str] = (),
        limit: int = 100,
        *,
        after: str | None = None,
        image: int | RemoteImage | None = None,
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
        image : int or RemoteImage, optional
            Only of this image.

        Raises
        ------
        FilterError, SelectionError
            A filter cannot be used, or there is no column of a name.
        """
        query = asked_of(columns, where, image) | {"limit": limit, "after": after}
        answer = self._connection.request("GET", f"{self._place}/objects", query=query)
        table = table_of(answer)
        return ObjectPage((table,) if len(table) else (), next_of(answer))

    def stream_objects(
        self, columns: Sequence[str] = (), where: Sequence[str] = (), *, image: int | RemoteImage | None = None
    ) -> tuple[pa.Schema, Iterator[pa.Table]]:
        """Read all objects, a piece at a time, in bounded memory; the columns are known before the first piece is read."""
        with TemporaryDirectory(prefix="segkit-") as folder:
            place = f"{folder}/objects.parquet"
            self._connection.save(f"{self._place}/objects", place, asked_of(columns, where, image))
            file = pq.ParquetFile(pa.memory_map(place))  # which holds on to the file when its folder is gone
        return file.schema_arrow, (file.read_row_group(number) for number in range(file.num_row_groups))

    def export(self, format: str, out: str | Path, *, overwrite: bool = False, progress: Callable[[int, str], None] | None = None) -> Path:
        """Have the results written in another tool's format, and download what was written.

        Parameters
        ----------
        format : str
            "coco", "geojson", "yolo", "imagej", "csv", "excel", "tiff", ...
        out : path
            File or folder to write.
        overwrite : bool
            Replace what is there.
        progress : callable, optional
            Called with how many more images the service has written, and the format.

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
        return export(self._connection, self.number, format, Path(out), overwrite, progress)

    def download(self, out: str | Path = ".", *, overwrite: bool = False, bar: bool = True) -> Path:
        """Download all results as one ZIP archive, a folder for each image; asked for again, it goes on from where it stopped.

        Parameters
        ----------
        out : path
            File to write, or a folder in which it becomes `segkit-run-N.zip`.
        overwrite : bool
            Replace what is there.
        bar : bool
            Show a progress bar.

        Raises
        ------
        OutputExistsError
            It is there and `overwrite` is false.
        NoResultError
            Nothing is done yet.
        """
        return download(self._connection, f"/api/download/runs/{self.number}.zip", out, overwrite=overwrite, bar=bar)

    def worst(self, count: int = 6) -> previews.Gallery:
        """Show the images that most deserve a look: those that failed, then those that differ most from the rest of the run."""
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
            "service": self.kit.url,
        }
        tiles = [previews.Tile(job.image_name, job.error or "") for job in self.failures(3).items] if state.failed else []
        first = next(self.results(), None) if state.done else None
        return previews.facts_html(f"Run {self.number}", facts) + previews.tiles_html([*tiles, *([first.tile()] if first else [])])

    def _now(self) -> Progress:
        """Return the counts of now; those of when it was looked up when the run, or its service, is gone."""
        try:
            return self.progress()
        except SegkitError:
            return self.record


def number_of(image: int | RemoteImage) -> int:
    """Return the number of an image."""
    return image if isinstance(image, int) else image.id


def asked_of(columns: Sequence[str], where: Sequence[str], image: int | RemoteImage | None) -> dict[str, Any]:
    """Write what is asked of objects as a query. The form is Parquet, which keeps every bit; the service's Arrow streams are narrower."""
    named = ",".join(columns) or None
    return {"format": "parquet", "columns": named, "where": list(where) or None, "image_id": None if image is None else number_of(image)}


def table_of(answer: httpx.Response) -> pa.Table:
    """Read an answer that is a table."""
    return pq.ParquetFile(pa.BufferReader(answer.content)).read()


def next_of(answer: httpx.Response) -> str | None:
    """Return the cursor of the next page, which the header `Link` leads to."""
    link = answer.links.get("next", {}).get("url")
    return None if link is None else parse_qs(urlsplit(link).query)["after"][0]
