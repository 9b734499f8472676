"""JupyterLab's own "Create Notebook Job" page (jupyter-scheduler), going through the queue of batches, with its cap.

`conf/jupyter_server_config.py` puts these two classes in. jupyter-scheduler keeps its own list and forms; what it would run in a
process of its own right away is queued here instead, and waited for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fsspec
from jupyter_scheduler.executors import DefaultExecutionManager
from jupyter_scheduler.orm import Job
from jupyter_scheduler.scheduler import Scheduler

from segkit import batches, kit
from segkit.errors import SegkitError, UnknownBatchError

#: How a notebook job names its batch, for people and for `stop_job`.
NOTE = "segkit batch {}"


class QueueExecutionManager(DefaultExecutionManager):
    """Runs a notebook job as a batch: checked, queued, capped, recorded; its notebook and page are handed back."""

    def execute(self) -> None:
        """Queue the notebook and see it through; parameters arrive as text and are read as the types that it declares."""
        with kit.open() as opened:
            batch = self._queue(opened)
            self._note(batch.number)
            try:
                batch.wait()
            finally:
                self._hand_back(batch.refreshed())

    def _queue(self, opened: kit.Kit) -> batches.Batch:
        """Queue it; what will not do is recorded, and becomes the job's message."""
        title, given, folder = self.model.input_filename, dict(self.model.parameters or {}), self._folder()
        try:
            source = Path(self.staging_paths["input"]).read_text("utf-8")
            request = batches.may_lack_parameters(opened.settings, title, source, given, folder)
        except SegkitError as error:
            batches.record_refusal(opened.database, title, given, folder, str(error))
            raise
        return batches.start_request(opened.database, opened.settings, request)

    def _folder(self) -> str:
        """Where relative paths start: among the files that came along, or at the server's root."""
        return str(Path(self.staging_paths["input"]).parent) if self.model.package_input_folder else self.root_dir

    def _note(self, number: int) -> None:
        """Tell the job which batch it is."""
        with self.db_session() as session:
            session.query(Job).filter(Job.job_id == self.job_id).update({"status_message": NOTE.format(number)})
            session.commit()

    def _hand_back(self, batch: batches.Batch) -> None:
        """Put the notebook and page where jupyter-scheduler looks for them, also when the batch failed."""
        made = {"ipynb": batch.notebook, "html": batch.page}
        for name in self.model.output_formats or []:
            if name in made and self._exists(made[name]):
                with fsspec.open(made[name], "rb") as source, fsspec.open(self.staging_paths[name], "wb") as target:
                    target.write(source.read())

    @staticmethod
    def _exists(url: str) -> bool:
        files, path = fsspec.core.url_to_fs(url)
        return bool(files.exists(path))


class QueueScheduler(Scheduler):
    """jupyter-scheduler's scheduler; a job that is stopped takes its batch with it, on whatever machine that runs."""

    def stop_job(self, job_id: str) -> Any:
        """Cancel the batch, whose kernel is ended, then the job."""
        with self.db_session() as session:
            note = session.query(Job.status_message).filter(Job.job_id == job_id).scalar()
        named = re.fullmatch(NOTE.format(r"(\d+)"), note or "")
        if named:
            with kit.open() as opened:
                try:
                    opened.find_batch(int(named[1])).cancel()
                except UnknownBatchError:
                    self.log.warning("%s is not there any more", note)
        return super().stop_job(job_id)
