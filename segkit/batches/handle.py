"""`Batch`: a batch as a person holds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from segkit import previews, results
from segkit.batches import lists, queue
from segkit.batches.execution import NOTEBOOK, PAGE
from segkit.batches.notebooks import prepare
from segkit.batches.records import Notify, Record, Request
from segkit.batches.worker import BatchWorker
from segkit.database import Database
from segkit.errors import BatchFailedError, SegkitError, WaitTimeout
from segkit.schema import JobStatus
from segkit.settings import Settings

LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Batch:
    """One papermill execution of a notebook with given parameters."""

    database: Database
    settings: Settings
    record: Record  #: as it was when it was looked up; `refreshed` looks again

    @property
    def number(self) -> int:
        """The batch's number."""
        return self.record.id

    @property
    def status(self) -> JobStatus:
        """Its state when it was looked up."""
        return self.record.status

    def refreshed(self) -> Batch:
        """Look the batch up again."""
        return look_up(self.database, self.settings, self.number)

    @property
    def notebook(self) -> str:
        """Path or URL of the executed notebook of its last attempt, also when it failed."""
        return results.locate(self.settings.home, f"{self.record.folder_name}/{NOTEBOOK}")

    @property
    def page(self) -> str:
        """Path or URL of the same as a page of HTML."""
        return results.locate(self.settings.home, f"{self.record.folder_name}/{PAGE}")

    def wait(self, timeout: float | None = None, *, work: bool | None = None) -> Batch:
        """See the batch through, with a progress bar that moves by cells.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; the batch itself goes on, or back to the queue if it was run here.
        work : bool, optional
            Also work batches off in this process. Default: yes with the embedded database, no with PostgreSQL, where
            `segkit worker` does.

        Raises
        ------
        WaitTimeout
            It has not ended in time.
        BatchFailedError
            It failed, or was cancelled.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with tqdm(desc=f"batch {self.number} {self.record.notebook}", unit="cell", total=self.record.cells or None) as bar:
            self._work(bar, deadline) if (self.database.dialect == "sqlite" if work is None else work) else self._look(bar, deadline)
        ended = self.refreshed()
        if ended.record.left:
            raise WaitTimeout("The batch was not finished in the time given. It goes on; call wait() again.")
        if ended.status != JobStatus.DONE:
            raise BatchFailedError(f"Batch {self.number} is {ended.status}. {ended.record.error or ''}")
        return ended

    def _work(self, bar: Any, deadline: float | None) -> None:
        """Work in this process; past the deadline what runs here goes back to the queue."""

        def watch(number: int) -> None:
            self._show(bar, None)

        worker = BatchWorker(self.database, self.settings, watch)
        timer = None if deadline is None else threading.Timer(max(0.0, deadline - time.monotonic()), worker.stop)
        if timer is not None:
            timer.start()
        try:
            worker.run(lambda: self._show(bar, deadline))
        finally:
            if timer is not None:
                timer.cancel()

    def _look(self, bar: Any, deadline: float | None) -> None:
        while not self._show(bar, deadline):
            time.sleep(LOOK_SECONDS)

    def _show(self, bar: Any, deadline: float | None) -> bool:
        """Move the bar; returns whether there is nothing left to wait for."""
        record = self.refreshed().record
        bar.total, bar.n = record.cells or None, record.cell
        bar.refresh()
        return not record.left or (deadline is not None and time.monotonic() > deadline)

    def cancel(self) -> bool:
        """Withdraw the batch; its kernel is ended. Returns whether it had not ended already."""
        with self.database.write() as connection:
            return queue.cancel(connection, self.number)

    def retry(self) -> bool:
        """Queue it again when it failed or was cancelled: it continues with the images that are not done."""
        with self.database.write() as connection:
            return queue.retry(connection, self.number, self.settings.max_attempts)

    def __repr__(self) -> str:
        record = self.record
        return f"<batch {record.id} {record.notebook}: {record.status}, {record.cell} of {record.cells} cells>"

    def _repr_html_(self) -> str:
        record = self.refreshed().record
        facts = {
            "notebook": record.notebook,
            "status": record.status,
            "cells": f"{record.cell} of {record.cells}",
            "parameters": ", ".join(f"{name}={value}" for name, value in record.parameters.items()),
            "seconds": None if record.seconds is None else f"{record.seconds:.1f}",
            "error": record.error,
            "page": Path(self.page).as_posix() if record.status in {JobStatus.DONE, JobStatus.FAILED} and record.attempt else None,
        }
        return previews.facts_html(f"Batch {record.id}", facts)


def look_up(database: Database, settings: Settings, number: int) -> Batch:
    """Return a batch by its number.

    Raises
    ------
    UnknownBatchError
        There is none.
    """
    with database.read() as connection:
        return Batch(database, settings, lists.record(connection, number))


def start(
    database: Database,
    settings: Settings,
    notebook: str | Path,
    sets: Sequence[Mapping[str, Any]],
    *,
    priority: int = 0,
    max_attempts: int | None = None,
    notify: Sequence[str] = (),
    notify_on: str = "failure",
    **options: Any,
) -> list[Batch]:
    """Queue one batch for each set of parameters: all, or none when one of them will not do.

    What is refused is recorded as a failed batch, with the reason.
    """
    told = Notify(on=notify_on, urls=tuple(notify)) if notify else Notify()
    requests = [checked(database, settings, notebook, each, notify=told, **options) for each in sets]
    attempts = settings.max_attempts if max_attempts is None else max_attempts
    with database.write() as connection:
        numbers = [queue.submit(connection, each, priority=priority, max_attempts=attempts) for each in requests]
    return [look_up(database, settings, number) for number in numbers]


def start_request(database: Database, settings: Settings, request: Request) -> Batch:
    """Queue a batch that was checked already."""
    with database.write() as connection:
        number = queue.submit(connection, request, max_attempts=settings.max_attempts)
    return look_up(database, settings, number)


def checked(database: Database, settings: Settings, notebook: str | Path, parameters: Mapping[str, Any], **options: Any) -> Request:
    """Check one batch; one that will not do is recorded, and refused."""
    try:
        return prepare(settings, notebook, parameters, **options)
    except SegkitError as error:
        record_refusal(database, str(notebook), parameters, str(options.get("folder", ".")), str(error))
        raise


def record_refusal(database: Database, notebook: str, parameters: Mapping[str, Any], folder: str, reason: str) -> int:
    """Keep a batch that was refused in the list; values that cannot be stored are kept as text."""
    shown = {
        sayable_name(name): value if isinstance(value, str | int | float | bool | None) else repr(value)
        for name, value in parameters.items()
    }
    with database.write() as connection:
        return queue.refuse(connection, notebook, shown, str(Path(folder).resolve()), reason)


def sayable_name(name: object) -> str:
    """A parameter's name as it can be stored, whatever was given."""
    return str(name).replace("\0", "")
