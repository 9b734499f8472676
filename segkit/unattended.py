"""What a kit does while nobody watches: batches of notebooks, and their schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader

from segkit.database import Database
from segkit.pages import Page
from segkit.settings import Settings

if TYPE_CHECKING:
    from segkit import batches, schedule
    from segkit.batches import Batch, BatchWorker, Record
else:
    # papermill and what it stands on take a second to load, which only those wait for who run batches.
    batches = lazy_loader.load("segkit.batches", suppress_warning=True)
    schedule = lazy_loader.load("segkit.schedule", suppress_warning=True)


class Unattended:
    """The part of a kit that queues notebooks; `Kit` has it."""

    settings: Settings
    database: Database

    # Batches

    def batch(self, notebook: str | Path, parameters: Mapping[str, Any] | None = None, **options: Any) -> Batch:
        """Queue a notebook to be run by papermill. It is durable: it survives a crash of everything, and continues where it was.

        Parameters
        ----------
        notebook : str or path
            Name or path of a notebook in the allowed folders, such as "run_batch".
        parameters : mapping, optional
            Values for its parameters, each of the type that the notebook declares.
        **options
            `time_limit_s`; `kernel`, another than the notebook names; `folder`, where relative paths start; `priority`, higher is
            sooner; `max_attempts`; `notify`, addresses that are told `notify_on` "failure" (as it is), "success" or "always".

        Returns
        -------
        Batch
            Queued; call `wait` to see it through.

        Raises
        ------
        NotebookError
            The notebook, a parameter or the kernel will not do; nothing is started, and the refusal is recorded.
        """
        return batches.start(self.database, self.settings, notebook, [parameters or {}], **options)[0]

    def batch_sweep(self, notebook: str | Path, sets: Sequence[Mapping[str, Any]], **options: Any) -> list[Batch]:
        """Queue a notebook once for each set of parameters; all, or none when one set will not do."""
        return batches.start(self.database, self.settings, notebook, sets, **options)

    def batches(self, limit: int = 100, *, status: str | None = None, after: str | None = None, offset: int | None = None) -> Page[Record]:
        """List batches, newest first, of one status or all."""
        with self.database.read() as connection:
            return batches.page(connection, limit, status=status, after=after, offset=offset)

    def find_batch(self, number: int) -> Batch:
        """Return a batch by its number."""
        return batches.look_up(self.database, self.settings, number)

    def batches_left(self) -> int:
        """Count the batches that have not ended."""
        with self.database.read() as connection:
            return batches.left(connection)

    def batch_worker(self, watch: Callable[[int], None] | None = None) -> BatchWorker:
        """Make a worker of batches; its `run` works them off until it is stopped."""
        return batches.BatchWorker(self.database, self.settings, watch)

    # Schedules

    def schedules(self) -> list[schedule.Record]:
        """List the schedules by name."""
        with self.database.read() as connection:
            return schedule.all_schedules(connection)

    def scheduler(self, file: str | Path | None = None) -> schedule.Scheduler:
        """Make what lets schedules tick, those of a file too; its `run` goes on until it is stopped. Any number may be up."""
        return schedule.Scheduler(self.database, self.settings, file)
