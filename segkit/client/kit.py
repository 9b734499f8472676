"""`RemoteKit`: a service, held as a `Kit` is."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import TypeAdapter

from segkit import catalog, jobs, previews
from segkit.client.connection import ANSWER_SECONDS, Connection
from segkit.client.faults import OnlyThere
from segkit.client.projects import IMAGE, RUN, RUNS, RemoteImage, RemoteProject
from segkit.client.runs import CHANGED, RemoteRun
from segkit.pages import Page

#: Projects that a notebook shows of a kit.
SHOWN = 10
PROJECT, PROJECTS = TypeAdapter(catalog.Project), TypeAdapter(Page[catalog.Project])
ACTIVITY = TypeAdapter(Page[jobs.Activity])
JOB, SUMMARY, HOLDERS = TypeAdapter(jobs.Job), TypeAdapter(jobs.Summary), TypeAdapter(list[jobs.Holder])
WORKERS = "Start `segkit worker` where the service runs."
COMMANDS = "Use `segkit` where the service runs."


class RemoteKit(OnlyThere):
    """An open service. Use as a context manager, or call `close` when done; threads may share it.

    Parameters
    ----------
    url : str
        Address of the service, such as "http://127.0.0.1:8765"; the link that `segkit serve` printed will do.
    token : str, optional
        Lets in; a service that serves its own machine alone needs none.
    timeout : float
        Seconds that an answer may take to begin.

    Raises
    ------
    ServiceUnreachableError
        Nobody answers there.
    NotAServiceError
        Something else answers there.
    NotAdmittedError
        The token is missing or wrong.
    """

    only_there: ClassVar[dict[str, str]] = {
        "worker": WORKERS,
        "work_off": WORKERS,
        "batch_worker": WORKERS,
        "scheduler": WORKERS,
        **dict.fromkeys(("sweep", "batch", "batch_sweep", "batches", "find_batch", "batches_left", "schedules"), COMMANDS),
        **dict.fromkeys(("new_token", "tokens", "known_token", "revoke_token"), "`segkit token` does it where the service runs."),
        **dict.fromkeys(("settings", "database", "catalog", "events"), "They are the service's own."),
    }

    def __init__(self, url: str, token: str | None = None, *, timeout: float = ANSWER_SECONDS) -> None:
        self.connection = Connection(url, token, timeout)
        try:
            self.queue()  # tells now, and not at the first use, whether anybody is there and lets us in
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The service's address."""
        return self.connection.url

    # What there is

    def project(self, name: str, *, create: bool = False) -> RemoteProject:
        """Return a project by name, making it when `create` is true and there is none.

        Raises
        ------
        UnknownProjectError
            There is none and `create` is false; the nearest name is suggested.
        """
        if create:
            return RemoteProject(self, self.connection.post(PROJECT, "/api/projects", {"name": name, "exist_ok": True}, repeat=True))
        return RemoteProject(self, self.connection.get(PROJECT, "/api/project", name=name))

    def project_numbered(self, number: int) -> RemoteProject:
        """Return a project by its number."""
        return RemoteProject(self, self.connection.get(PROJECT, f"/api/projects/{number:d}"))

    def new_project(self, name: str) -> RemoteProject:
        """Make a project.

        Raises
        ------
        ProjectExistsError
            There is one of this name.
        """
        return RemoteProject(self, self.connection.post(PROJECT, "/api/projects", {"name": name}))

    def projects(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[catalog.Project]:
        """List projects, newest first, with their counts."""
        return self.connection.page(PROJECTS, "/api/projects", limit, after, offset)

    def activity(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[jobs.Activity]:
        """List projects, newest first, with their images, jobs and objects of now."""
        return self.connection.page(ACTIVITY, "/api/activity", limit, after, offset)

    def image(self, number: int) -> RemoteImage:
        """Return an image by its number."""
        return RemoteImage(self, self.connection.get(IMAGE, f"/api/images/{number:d}"))

    def run(self, number: int) -> RemoteRun:
        """Return a run by its number."""
        return RemoteRun(self, self.connection.get(RUN, f"/api/runs/{number:d}"))

    def runs(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[jobs.Run]:
        """List runs of all projects, newest first."""
        return self.connection.page(RUNS, "/api/runs", limit, after, offset)

    def job(self, number: int) -> jobs.Job:
        """Return a job by its number, with the reason when it failed."""
        return self.connection.get(JOB, f"/api/jobs/{number:d}")

    def retry_job(self, number: int) -> int:
        """Queue one failed or cancelled job again; returns how many were, 0 or 1."""
        return self.connection.post(CHANGED, f"/api/jobs/{number:d}/retry").jobs

    def cancel_job(self, number: int) -> int:
        """Withdraw one job that is not done; returns how many were, 0 or 1."""
        return self.connection.post(CHANGED, f"/api/jobs/{number:d}/cancel").jobs

    def queue(self) -> jobs.Summary:
        """Count the jobs of all runs by status; the service may know it for two seconds."""
        return self.connection.get(SUMMARY, "/api/queue")

    def workers(self) -> list[jobs.Holder]:
        """List who holds jobs now."""
        return self.connection.get(HOLDERS, "/api/queue/workers")

    def idle(self) -> bool:
        """Whether no job is left to do."""
        return self.queue().left == 0

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> RemoteKit:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<segkit at {self.url}>"

    def _repr_html_(self) -> str:
        queue = self.queue()
        facts: dict[str, Any] = {"service": self.url, "jobs to do": queue.left, "done": queue.done}
        rows = [(each.name, each.images, each.unreadable) for each in self.projects(SHOWN).items]
        return previews.facts_html("segkit", facts) + previews.rows_html(("project", "images", "unreadable"), rows)
