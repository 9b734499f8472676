"""`Kit`: what a person holds, with `projects.py` and `runs.py` below it. Thin; every method is one call of a module below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lazy_loader

from segkit import catalog, jobs, previews, settings, tokens, upkeep
from segkit.database import Database, open_database
from segkit.events import Change, Publisher
from segkit.pages import Page
from segkit.projects import Image, Project
from segkit.runs import Result, Run
from segkit.schema import JobStatus
from segkit.tokens import Scope, Token
from segkit.unattended import Unattended
from segkit.worker import Event, Worker

if TYPE_CHECKING:
    from segkit import client
else:
    client = lazy_loader.load("segkit.client", suppress_warning=True)

__all__ = ["Event", "Image", "Kit", "Project", "Result", "Run", "open"]

#: Projects that a notebook shows of a kit.
SHOWN = 10


def open(home: str | Path | None = None, **arguments: Any) -> Kit:
    """Open segkit: its settings, database and results.

    Parameters
    ----------
    home : str or path, optional
        Folder (or fsspec URL) that holds the database, results and exports. Default: `SEGKIT_HOME`, or `./segkit-data`.
        Or the address of a service (`segkit serve`), such as "http://127.0.0.1:8765": the kit is then that of the service.
    **arguments
        Any setting by name, such as `threads_per_worker=2`; `segkit settings` lists them. For a service `token`, or `SEGKIT_TOKEN`.

    Returns
    -------
    Kit
        Ready to use; the embedded database is made when it is not there. Of a service a `RemoteKit`, which has the same methods for
        all that can be done from afar.

    Raises
    ------
    SettingsError
        A setting is unknown or cannot be used.
    DatabaseError
        The database cannot be reached, is too old, too new, or read-only.
    ServiceUnreachableError, NotAdmittedError
        The service cannot be reached, or the token is not good.
    """
    chosen = settings.load(home=None if home is None else str(home), **arguments)
    if chosen.home.startswith(("http://", "https://")):
        return cast(Kit, client.RemoteKit(chosen.home, chosen.token.get_secret_value() if chosen.token else None))
    return Kit(chosen, open_database(chosen))


class Kit(Unattended):
    """An open segkit. Use as a context manager, or call `close` when done."""

    def __init__(self, chosen: settings.Settings, database: Database) -> None:
        self.settings = chosen
        self.database = database
        self.catalog = catalog.Catalog(database, chosen)
        self.events = Publisher(chosen, database)

    # What there is

    def project(self, name: str, *, create: bool = False) -> Project:
        """Return a project by name, making it when `create` is true and there is none.

        Raises
        ------
        UnknownProjectError
            There is none and `create` is false; the nearest name is suggested.
        """
        with self.database.write() if create else self.database.read() as connection:
            record = catalog.ensure_project(connection, name) if create else catalog.project(connection, name)
        return Project(self, record)

    def project_numbered(self, number: int) -> Project:
        """Return a project by its number."""
        with self.database.read() as connection:
            return Project(self, catalog.project_numbered(connection, number))

    def new_project(self, name: str) -> Project:
        """Make a project.

        Raises
        ------
        ProjectExistsError
            There is one of this name.
        """
        with self.database.write() as connection:
            return Project(self, catalog.create_project(connection, name))

    def projects(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[catalog.Project]:
        """List projects, newest first, with their counts."""
        return self.catalog.projects(limit, after=after, offset=offset)

    def image(self, number: int) -> Image:
        """Return an image by its number."""
        with self.database.read() as connection:
            return Image(self, catalog.image(connection, number))

    def run(self, number: int) -> Run:
        """Return a run by its number."""
        with self.database.read() as connection:
            return Run(self, jobs.run(connection, number))

    def runs(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[jobs.Run]:
        """List runs of all projects, newest first."""
        with self.database.read() as connection:
            return jobs.runs(connection, limit, after=after, offset=offset)

    def job(self, number: int) -> jobs.Job:
        """Return a job by its number, with the reason when it failed."""
        with self.database.read() as connection:
            return jobs.job(connection, number)

    def retry_job(self, number: int) -> int:
        """Queue one failed or cancelled job again; returns how many were, 0 or 1."""
        with self.database.write() as connection:
            queued = jobs.retry(connection, job_id=number, max_attempts=self.settings.max_attempts)
        self.events.publish(Change(self.job(number).run_id))
        return queued

    def cancel_job(self, number: int) -> int:
        """Withdraw one job that is not done; returns how many were, 0 or 1."""
        with self.database.write() as connection:
            cancelled = jobs.cancel(connection, job_id=number)
        self.events.publish(Change(self.job(number).run_id, status=JobStatus.CANCELLED))
        return cancelled

    def activity(self, limit: int = 100, *, after: str | None = None, offset: int | None = None) -> Page[jobs.Activity]:
        """List projects, newest first, with their images, jobs and objects of now."""
        with self.database.read() as connection:
            return jobs.activity(connection, limit, after=after, offset=offset)

    def queue(self) -> jobs.Summary:
        """Count the jobs of all runs by status."""
        with self.database.read() as connection:
            return jobs.summary(connection)

    def workers(self) -> list[jobs.Holder]:
        """List who holds jobs now."""
        with self.database.read() as connection:
            return jobs.workers(connection)

    # Working

    def worker(self, watch: Callable[[Event], None] | None = None) -> Worker:
        """Make a worker; its `run` works jobs off until it is stopped."""
        return Worker(self.database, self.settings, self.events.watching(watch))

    def idle(self) -> bool:
        """Whether no job is left to do, here or with another worker."""
        return self.queue().left == 0

    def work_off(self, runs: Sequence[Run] | None = None, watch: Callable[[Event], None] | None = None) -> None:
        """Work in this process until these runs have ended, or until the whole queue is empty."""
        self.worker(watch).run(self.idle if runs is None else lambda: all(run.progress().left == 0 for run in runs))

    def sweep(self) -> list[str]:
        """Delete what dead attempts left among the results; returns the paths that are gone."""
        return upkeep.sweep(self.database, self.settings, touched_within_s=None)

    # Who may use the service

    def new_token(self, name: str, scope: str = Scope.READ, lifetime: timedelta | None = None) -> tuple[Token, str]:
        """Make a token of the service; returns what is kept of it, and the token itself, which cannot be looked up later."""
        with self.database.write() as connection:
            return tokens.create(connection, name, Scope(scope), lifetime)

    def tokens(self) -> list[Token]:
        """List the tokens of the service, also those that are good no more."""
        with self.database.read() as connection:
            return tokens.tokens(connection)

    def known_token(self, token: str) -> Token | None:
        """Find a token that is good now."""
        with self.database.read() as connection:
            return tokens.known(connection, token)

    def revoke_token(self, name: str) -> Token:
        """Make a token good no more."""
        with self.database.write() as connection:
            return tokens.revoke(connection, name)

    def close(self) -> None:
        """Close the cache and the database."""
        self.events.close()
        self.catalog.close()
        self.database.close()

    def __enter__(self) -> Kit:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<segkit at {self.settings.home}>"

    def _repr_html_(self) -> str:
        queue = self.queue()
        facts = {"home": self.settings.home, "database": self.database.dialect, "jobs to do": queue.left, "done": queue.done}
        rows = [(each.name, each.images, each.unreadable) for each in self.projects(SHOWN).items]
        return previews.facts_html("segkit", facts) + previews.rows_html(("project", "images", "unreadable"), rows)
