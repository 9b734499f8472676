"""Watch a run: its jobs as they are worked off, of which only those in view are read and exist on the page."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import traitlets

from segkit import jobs, kit
from segkit.errors import SegkitError
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Answering, Asked
from segkit.widgets.listing import Listing

#: Runs that can be chosen.
RUNS = 100
LOOK_SECONDS = 1.0
#: The pace of a run is that of so many seconds.
PACE_SECONDS = 30.0
#: Longest reason that is sent; `Kit.job` has all of it.
LONGEST_REASON = 500


class Queue(Answering):
    """Shows how far a run is, and each of its jobs. It follows by itself, also while a cell is running.

    Parameters
    ----------
    opened : kit.Kit
        Whose runs.
    run : kit.Run, optional
        Which one to begin with; default: the newest. The page offers the newest 100.
    height : int
        Of the list of jobs on the page, in pixels.

    Examples
    --------
    >>> Queue(kit, run)                                      # doctest: +SKIP
    """

    _esm = assets.script("queue.js")
    _css = assets.style()

    runs = traitlets.List(traitlets.Dict(), help="Number and name of the runs that can be chosen.").tag(sync=True)
    run = traitlets.Int(None, allow_none=True, help="Number of the run that is shown.").tag(sync=True)
    counts = traitlets.Dict(help="Jobs by status, objects, and how fast they are done.").tag(sync=True)
    height = traitlets.Int(360).tag(sync=True)

    def __init__(self, opened: kit.Kit, run: kit.Run | None = None, *, height: int = 360) -> None:
        self._kit = opened
        self._listings: dict[tuple[int | None, str], Listing] = {}
        self._view: dict[str, Any] = {"status": "", "start": 0, "count": 20}
        self._ended: deque[tuple[float, int]] = deque(maxlen=round(PACE_SECONDS / LOOK_SECONDS))
        self._following: threading.Thread | None = None
        self._stop = threading.Event()
        super().__init__(height=height)
        self._list_runs()
        self.run = run.number if run is not None else (self.runs[0]["number"] if self.runs else None)
        self.observe(self._choose, "run")
        self.look()

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what the page asks for."""
        return {"rows": self._rows, "look": self._look, "retry": self._retry}

    def look(self) -> dict[str, Any]:
        """Count the jobs of now."""
        if self.run is None:
            return {}
        state = self._kit.run(self.run).progress()
        ended = state.done + state.failed + state.cancelled
        self._ended.append((time.monotonic(), ended))
        rate = self._rate()
        counted = {name: getattr(state, name) for name in ("queued", "running", "done", "failed", "cancelled", "objects", "total", "left")}
        counted |= {"per_second": rate, "seconds_left": state.left / rate if rate and state.left else None}
        if counted != self.counts:
            self.counts = counted
        return counted

    def close(self) -> None:
        """Close the widget and stop following."""
        self._stop.set()
        super().close()

    def _rate(self) -> float | None:
        (since, before), (until, now) = self._ended[0], self._ended[-1]
        return (now - before) / (until - since) if until > since and now > before else None

    def _list_runs(self) -> None:
        listed = self._kit.runs(RUNS).items
        self.runs = [{"number": each.id, "name": f"Run {each.id} · {each.segmenter} · {each.project}"} for each in listed]

    def _choose(self, change: Any) -> None:
        self._ended.clear()
        self.look()

    # What the page asks

    def _rows(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        self._view = {"status": str(asked.get("status", "")), "start": int(asked["start"]), "count": min(int(asked["count"]), 1000)}
        return {"rows": self._in_view()}, []

    def _look(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        """The page is there: count, and follow for as long as there is something to follow."""
        self._list_runs()
        counted = self.look()
        if counted.get("left") and (self._following is None or not self._following.is_alive()):
            self._stop.clear()
            self._following = threading.Thread(target=self._follow, name="segkit-queue", daemon=True)
            self._following.start()
        return {}, []

    def _retry(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        count = 0 if self.run is None else self._kit.run(self.run).retry()
        self.look()
        return {"count": count}, []

    def _follow(self) -> None:
        """Tell the page what changed, also while the kernel runs a cell and cannot be asked."""
        before: dict[str, Any] = {}
        while not self._stop.wait(LOOK_SECONDS) and self.comm is not None:
            try:
                counted = self.look()
                if self._changed(before, counted):
                    self.tell("rows", **self._view, rows=self._in_view())
            except SegkitError:
                return
            before = counted
            if not counted.get("left"):
                return

    @staticmethod
    def _changed(before: dict[str, Any], now: dict[str, Any]) -> bool:
        return any(before.get(status) != now.get(status) for status in jobs.Counts.__dataclass_fields__)

    def _in_view(self) -> list[list[Any]]:
        if self.run is None:
            return []
        number, status = self.run, self._view["status"]
        if (number, status) not in self._listings:
            self._listings[number, status] = Listing(self._pages(number, status or None))
        listing = self._listings[number, status]
        if status:  # jobs come and go in it
            listing.forget()
        return [row_of(job) for job in listing.rows(self._view["start"], self._view["count"])]

    def _pages(self, number: int, status: str | None) -> Callable[..., Any]:
        run = self._kit.run(number)
        return lambda limit, **place: run.jobs(status, limit, **place)


def row_of(job: jobs.Job) -> list[Any]:
    """Return what the page shows of a job: number, image, status, attempt, seconds, worker, reason."""
    reason = job.error or ""
    worker = (job.worker or "").split(":")[0]
    return [job.id, job.image_name, job.status.value, job.attempt, seconds_of(job), worker, reason[:LONGEST_REASON]]


def seconds_of(job: jobs.Job) -> float | None:
    """How long a job took, or has been running."""
    if job.started_at is None or job.status == "queued":
        return None
    return max(0.0, round(((job.finished_at or datetime.now(UTC)) - job.started_at).total_seconds(), 2))
