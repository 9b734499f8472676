"""Cards of the queue: how it stands, its runs, the jobs of a run, what failed, and who works."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit import jobs, logs
from segkit.boards.board import POINT_SECONDS, Board, Snapshot, board_of
from segkit.boards.cards import PATIENCE_SECONDS, Card, Facts, Stop, lookers, moment, within
from segkit.errors import NoResultError, SegkitError
from segkit.kit import Kit
from segkit.schema import JobStatus

#: Rows that a page may ask for at once.
MOST_ROWS = 200
PICTURE_EDGE = 320
RAISE_BY, HIGHEST = 10, 1000
LOG_LINES = 40
#: Names that mean something in what a page and a card say to each other.
SPOKEN = ("id", "error")


class BoardCard(Card):
    """A card that shows what the board shows."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.board: Board = board_of(kit)

    def facts(self) -> Facts:
        """Return what is to be shown now."""
        snapshot = self.board.snapshot()
        return self.shown(snapshot) | {"fault": snapshot.fault, "at": moment(snapshot.at)}

    def shown(self, snapshot: Snapshot) -> Facts:
        """Return what this card shows of a snapshot."""
        raise NotImplementedError

    def follow(self, tell: Callable[[], None]) -> Stop:
        """Follow the board."""
        return self.board.follow(lambda snapshot: tell())


def counts_of(counted: jobs.Counts) -> Facts:
    """Return jobs by status, and objects."""
    return {name: getattr(counted, name) for name in (*JobStatus, "objects", "total", "left")}


def pace_facts(pace: jobs.Pace | None, left: int) -> Facts | None:
    """Return a pace and the seconds it leaves; None when it is not known."""
    if pace is None:
        return None
    least, most = pace.time_left(left)
    rates = {"per_minute": 60 * pace.per_second, "low": 60 * pace.low, "high": 60 * pace.high}
    return rates | {"ended": pace.ended, "seconds": pace.seconds, "least": least, "most": most}


class QueueCard(BoardCard):
    """How the whole queue stands: jobs by state, how fast it goes, and when it will be done."""

    kind = "queue"
    title = "Queue"

    def shown(self, snapshot: Snapshot) -> Facts:
        """Return counts, pace and the sparkline."""
        summary = snapshot.summary
        return {
            "counts": counts_of(summary),
            "runs": summary.runs,
            "active": summary.active,
            "pace": pace_facts(snapshot.pace, summary.left),
            "spark": list(snapshot.ended),
            "spark_seconds": POINT_SECONDS,
        }


class RunsCard(BoardCard):
    """The runs at work and the latest others, with what can be done about each."""

    kind = "runs"
    title = "Runs"
    changes = frozenset({"retry", "cancel", "raise"})

    def shown(self, snapshot: Snapshot) -> Facts:
        """Return the runs."""
        return {"runs": [self._run(run, snapshot.paces.get(run.id)) for run in snapshot.runs], "total": snapshot.summary.runs}

    def _run(self, run: jobs.Run, pace: jobs.Pace | None) -> Facts:
        known = {name: getattr(run, name) for name in ("id", "project", "segmenter", "version", "priority")}
        times = {"asked": moment(run.created_at), "ended": moment(run.finished_at)}
        return known | times | {"counts": counts_of(run), "pace": pace_facts(pace, run.left), "parameters": parameters_of(run)}

    def answers(self) -> Mapping[str, Callable[[Facts], Facts]]:
        """Return what can be done about a run."""
        return {"retry": self._retry, "cancel": self._cancel, "raise": self._raise}

    def _retry(self, asked: Facts) -> Facts:
        number = self.kit.run(int(asked["run"])).retry()
        return self._did(f"{counted(number, 'job')} queued again.")

    def _cancel(self, asked: Facts) -> Facts:
        number = self.kit.run(int(asked["run"])).cancel()
        return self._did(f"{counted(number, 'job')} cancelled.")

    def _raise(self, asked: Facts) -> Facts:
        run = self.kit.run(int(asked["run"]))
        priority = min(HIGHEST, run.record.priority + RAISE_BY)
        with self.kit.database.write() as connection:
            number = jobs.prioritise(connection, priority, run_id=run.number)
        return self._did(f"Run {run.number} has priority {priority} now: {counted(number, 'job')} will be sooner.")

    def _did(self, what: str) -> Facts:
        self.board.wake()
        return {"said": what}


class FailuresCard(BoardCard):
    """The jobs that were given up last, each with its reason."""

    kind = "failures"
    title = "Latest failures"

    def shown(self, snapshot: Snapshot) -> Facts:
        """Return the failures."""
        rows = [
            {"job": job.id, "run": job.run_id, "image": job.image_name, "reason": job.error, "ended": moment(job.finished_at)}
            for job in snapshot.failures
        ]
        return {"failures": rows, "total": snapshot.summary.failed}


class WorkersCard(BoardCard):
    """Who holds jobs now, since when, and for how long."""

    kind = "workers"
    title = "Workers"

    def shown(self, snapshot: Snapshot) -> Facts:
        """Return the workers."""
        return {
            "workers": [
                {
                    "worker": each.worker,
                    "jobs": each.jobs,
                    "late": each.late,
                    "since": moment(each.since),
                    "until": moment(each.lease_until),
                }
                for each in snapshot.workers
            ],
            "waiting": snapshot.summary.queued,
        }


class JobsCard(BoardCard):
    """The jobs of one run, of any number: a page asks for the rows it shows, and for what is known of one of them."""

    kind = "jobs"
    title = "Jobs"
    changes = frozenset({"retry", "cancel"})

    def __init__(self, kit: Kit, run: int | None = None) -> None:
        super().__init__(kit)
        self._run = run

    def shown(self, snapshot: Snapshot) -> Facts:
        """Return whose jobs are shown: of the run asked for, or else of the first."""
        number = self._run if self._run is not None else next((run.id for run in snapshot.runs), None)
        run = next((run for run in snapshot.runs if run.id == number), None)
        if run is None and number is not None:
            run = self._looked_up(number)
        if run is None:
            return {"run": None}
        return {"run": run.id, "project": run.project, "segmenter": run.segmenter, "counts": counts_of(run)}

    def _looked_up(self, number: int) -> jobs.Run | None:
        try:
            return within(PATIENCE_SECONDS, lookers().submit(self.kit.run, number)).record
        except SegkitError:
            return None

    def answers(self) -> Mapping[str, Callable[[Facts], Facts]]:
        """Return what can be asked: another run, rows, one job; and what can be done about a job."""
        return {"open": self._open, "rows": self._rows, "job": self._job, "find": self._find, "retry": self._retry, "cancel": self._cancel}

    def _open(self, asked: Facts) -> Facts:
        self._run = int(asked["run"])
        return self.facts()

    def _rows(self, asked: Facts) -> Facts:
        """Return rows of the table from one on: an index finds the first, whatever its place."""
        status = JobStatus(asked["status"]) if asked.get("status") else None
        first, count = max(0, int(asked["first"])), min(MOST_ROWS, int(asked["count"]))
        with self.kit.database.read() as connection:
            page = jobs.rows(connection, int(asked["run"]), status, first, count)
        return {"rows": [row_of(job) for job in page.items], "total": page.total, "first": first}

    def _find(self, asked: Facts) -> Facts:
        """Return the place of an image's job among the jobs of a run."""
        with self.kit.database.read() as connection:
            return {"row": jobs.place(connection, int(asked["run"]), int(asked["image"]))}

    def _job(self, asked: Facts) -> Facts:
        """Return all that is known of a job."""
        job = self.kit.job(int(asked["job"]))
        known = {name: value for name, value in asdict(job).items() if name not in SPOKEN and not hasattr(value, "timestamp")}
        times = {name: moment(getattr(job, name)) for name in ("created_at", "started_at", "finished_at", "lease_until", "not_before")}
        picture, note = self._picture(job)
        tail = logs.tail(self.kit.settings.home, job.worker, job.id, LOG_LINES) if job.worker else []
        return known | times | {"job": job.id, "reason": job.error, "picture": picture, "note": note, "log": tail}

    def _picture(self, job: jobs.Job) -> tuple[str | None, str]:
        """Draw the job's image small, with its objects when it is done; or say why not."""
        try:
            if job.status == JobStatus.DONE:
                result = self.kit.run(job.run_id).result(job.image_id)
                return picture_url(result.preview(PICTURE_EDGE)), counted(result.objects, "object")
            return picture_url(self.kit.image(job.image_id).thumbnail(PICTURE_EDGE)), ""
        except NoResultError:
            return None, "Its result is gone."
        except SegkitError as error:
            return None, str(error)

    def _retry(self, asked: Facts) -> Facts:
        number = self.kit.retry_job(int(asked["job"]))
        self.board.wake()
        return {"said": "Queued again." if number else "There is nothing to do again: it is not failed or cancelled."}

    def _cancel(self, asked: Facts) -> Facts:
        number = self.kit.cancel_job(int(asked["job"]))
        self.board.wake()
        return {"said": "Cancelled." if number else "It has ended already."}


def row_of(job: jobs.Job) -> list[Any]:
    """Return a row of the table: id, image, name, status, attempts, worker, when it started and ended, reason."""
    reason = job.error.partition("\n")[0][:200] if job.error else None
    return [
        job.id,
        job.image_id,
        job.image_name,
        job.status,
        job.attempt,
        job.worker,
        moment(job.started_at),
        moment(job.finished_at),
        reason,
    ]


def parameters_of(run: jobs.Run) -> str:
    """Write a run's parameters on one line."""
    return ", ".join(f"{name} {value}" for name, value in run.parameters.items() if value is not None)


def counted(number: int, what: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> counted(1, "job"), counted(1200, "job")
    ('1 job', '1,200 jobs')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def picture_url(picture: NDArray[np.uint8]) -> str:
    """Put a small picture, (rows, columns) or (rows, columns, 3) uint8, into an address: nothing else is fetched."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
