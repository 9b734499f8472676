"""The tables. Each index says which query it serves; `tests/test_schema.py` shows with EXPLAIN that the query uses it.

Ids are given by the database. Times are UTC, by the database's clock. Counters (`Project.images`, `Run.done`, ...) are kept
in the transaction that changes what they count, so that a list or summary never counts rows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class JobStatus(StrEnum):
    """The states of a job."""

    QUEUED = "queued"  #: waiting for a worker
    RUNNING = "running"  #: held by a worker whose lease has not run out
    DONE = "done"  #: its result is committed
    FAILED = "failed"  #: given up; `Job.error` says why
    CANCELLED = "cancelled"  #: withdrawn by a person


class ErrorKind(StrEnum):
    """Why a job failed; decides whether trying again can help."""

    INPUT = "input"  #: the image or a parameter; trying again gives the same
    RESOURCE = "resource"  #: memory or disk; tried again alone
    INFRASTRUCTURE = "infrastructure"  #: network, database, store; tried again later
    CRASH = "crash"  #: the worker process died under it


class Moment(TypeDecorator[datetime]):
    """A time in UTC. SQLite keeps microseconds as text, sorts it right, and gives it back with its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC; SQLite's type drops the zone."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


#: SQLite numbers rows by itself only when the key is its own INTEGER type.
Id = BigInteger().with_variant(Integer(), "sqlite")
#: SQLite gives the number of a deleted last row to the next one, unless told not to. A worker that still holds job 7 of a deleted
#: project could then finish another job 7, and a cached page of project 3 could be shown for another project 3.
NEVER_REUSED = {"sqlite_autoincrement": True}


class Base(DeclarativeBase):
    """What all tables share; constraint names are fixed so that a revision can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class Project(Base):
    """A named set of images."""

    __tablename__ = "project"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    revision: Mapped[int] = mapped_column(BigInteger, default=0)  #: raised by every write that a cached list shows
    images: Mapped[int] = mapped_column(BigInteger, default=0)  #: all images, unreadable ones included
    unreadable: Mapped[int] = mapped_column(BigInteger, default=0)  #: images that have an `error`

    __table_args__ = (
        # catalog.projects: newest first by keyset
        Index("ix_project_created_at_id", created_at.desc(), id.desc()),
        NEVER_REUSED,
    )


class Image(Base):
    """One registered file or OME-Zarr array, by content hash and URI."""

    __tablename__ = "image"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    content_hash: Mapped[str] = mapped_column(String(80))  #: of the file's bytes; "unreadable:<hash of the URI>" when they cannot be read
    uri: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    format: Mapped[str | None] = mapped_column(String(16))
    axes: Mapped[str | None] = mapped_column(String(8))
    shape: Mapped[list[int] | None] = mapped_column(JSON)
    dtype: Mapped[str | None] = mapped_column(String(16))
    channels: Mapped[list[str] | None] = mapped_column(JSON)
    pixel_size_um: Mapped[float | None] = mapped_column()
    z_step_um: Mapped[float | None] = mapped_column()
    time_step_s: Mapped[float | None] = mapped_column()
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    error: Mapped[str | None] = mapped_column(Text)  #: why it cannot be read; such an image is listed but never queued
    created_at: Mapped[datetime] = mapped_column(Moment)

    __table_args__ = (
        # catalog.add: a duplicate is recognised by its hash and not added twice
        UniqueConstraint("project_id", "content_hash"),
        # catalog.images: images of a project, newest first by keyset
        Index("ix_image_project_id_created_at_id", project_id, created_at.desc(), id.desc()),
        # catalog.images: images of a project that cannot be read, newest first by keyset
        Index(
            "ix_image_unreadable",
            project_id,
            created_at.desc(),
            id.desc(),
            postgresql_where=error.is_not(None),
            sqlite_where=error.is_not(None),
        ),
        NEVER_REUSED,
    )


class Run(Base):
    """One segmenter with one set of parameters over many images of a project."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    fingerprint: Mapped[str] = mapped_column(String(64))  #: of segmenter, version, parameters, selection and the images asked for
    segmenter: Mapped[str] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(40))
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    selection: Mapped[dict[str, Any]] = mapped_column(JSON)  #: channel, z, level (images.Selection)
    segkit_version: Mapped[str] = mapped_column(String(40))
    notebook: Mapped[str | None] = mapped_column(Text)  #: the notebook that asked, when one did
    priority: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)  #: when its last job ended; empty again while jobs are re-run
    queued: Mapped[int] = mapped_column(BigInteger, default=0)
    running: Mapped[int] = mapped_column(BigInteger, default=0)
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    failed: Mapped[int] = mapped_column(BigInteger, default=0)
    cancelled: Mapped[int] = mapped_column(BigInteger, default=0)
    objects: Mapped[int] = mapped_column(BigInteger, default=0)  #: in all results of the run

    __table_args__ = (
        # jobs.submit: the same request twice is the same run
        UniqueConstraint("project_id", "fingerprint"),
        # jobs.runs: runs of a project, newest first by keyset
        Index("ix_run_project_id_created_at_id", project_id, created_at.desc(), id.desc()),
        # jobs.runs over all projects, newest first by keyset
        Index("ix_run_created_at_id", created_at.desc(), id.desc()),
        # jobs.active_runs: runs that are going, those claimed first before others
        Index("ix_run_active", priority.desc(), id, postgresql_where=finished_at.is_(None), sqlite_where=finished_at.is_(None)),
        NEVER_REUSED,
    )


class Job(Base):
    """One image of a run."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(String(10), default=JobStatus.QUEUED)
    priority: Mapped[int] = mapped_column(Integer, default=0)  #: higher is sooner
    attempt: Mapped[int] = mapped_column(Integer, default=0)  #: raised at each claim: the fencing token, and the count of starts
    max_attempts: Mapped[int] = mapped_column(Integer)
    not_before: Mapped[datetime] = mapped_column(Moment)  #: a failed attempt waits until then
    lease_until: Mapped[datetime | None] = mapped_column(Moment)  #: the claim holds until then unless renewed
    worker: Mapped[str | None] = mapped_column(String(200))  #: who holds it, or held it last
    error_kind: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(Text)  #: the reason in words, of the last failed attempt
    created_at: Mapped[datetime] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)

    __table_args__ = (
        # jobs.submit: one job per image of a run; jobs.page: jobs of a run
        UniqueConstraint("run_id", "image_id"),
        # jobs.claim: queued jobs, highest priority first, then oldest
        Index(
            "ix_job_queued",
            priority.desc(),
            id,
            postgresql_where=status == JobStatus.QUEUED.value,
            sqlite_where=status == JobStatus.QUEUED.value,
        ),
        # jobs.claim: queued jobs that failed before, highest priority first, then oldest; of those to be run alone it takes one
        Index(
            "ix_job_suspect",
            priority.desc(),
            id,
            postgresql_where=(status == JobStatus.QUEUED.value) & error_kind.is_not(None),
            sqlite_where=(status == JobStatus.QUEUED.value) & error_kind.is_not(None),
        ),
        # jobs.claim and worker status: running jobs by the end of their lease
        Index(
            "ix_job_lease",
            lease_until,
            postgresql_where=status == JobStatus.RUNNING.value,
            sqlite_where=status == JobStatus.RUNNING.value,
        ),
        # jobs.page: jobs of a run in one state, in the order they were queued; jobs.retry
        Index("ix_job_run_id_status_id", run_id, status, id),
        # deleting an image or project finds its jobs
        Index("ix_job_image_id", image_id),
        NEVER_REUSED,
    )


class Result(Base):
    """What a done job committed: a label image, an object table and a summary."""

    __tablename__ = "result"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, autoincrement=False)
    #: Those of its job, with which it goes; as foreign keys they would be looked up again for each result that is committed.
    run_id: Mapped[int] = mapped_column(Id)
    image_id: Mapped[int] = mapped_column(Id)
    attempt: Mapped[int] = mapped_column(Integer)
    path: Mapped[str] = mapped_column(Text)  #: folder of the result, relative to the home folder
    checksum: Mapped[str] = mapped_column(String(80))
    objects: Mapped[int] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    bytes: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float] = mapped_column()  #: of computing, without waiting
    created_at: Mapped[datetime] = mapped_column(Moment)

    __table_args__ = (
        # results.of_image: results of an image, newest first
        Index("ix_result_image_id_created_at", image_id, created_at.desc()),
        # results.of_run: results of a run by keyset
        Index("ix_result_run_id_job_id", run_id, job_id),
    )


class Token(Base):
    """What lets a person or program use the service from outside. The token itself is shown once and kept nowhere."""

    __tablename__ = "token"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    hash: Mapped[str] = mapped_column(String(80))  #: of the token
    scope: Mapped[str] = mapped_column(String(10))  #: "read", or "write", which includes it
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime | None] = mapped_column(Moment)  #: never, when empty
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)

    __table_args__ = (
        # tokens.known: a token is looked up by its hash
        UniqueConstraint("hash"),
        NEVER_REUSED,
    )


class Sample(Base):
    """What one process measured in a window of time; thinned with age."""

    __tablename__ = "sample"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(Moment)  #: end of the window
    window_s: Mapped[int] = mapped_column(Integer)  #: seconds it covers
    source: Mapped[str] = mapped_column(String(200))  #: the process that measured
    measured: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (
        # history.read: samples of one window length, by time
        Index("ix_sample_window_s_at", window_s, at),
        NEVER_REUSED,
    )


class Schedule(Base):
    """A notebook that is run again and again, at the times of a cron expression."""

    __tablename__ = "schedule"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    cron: Mapped[str] = mapped_column(String(200))
    zone: Mapped[str] = mapped_column(String(100))  #: time zone of `cron`, such as "Europe/Berlin"
    notebook: Mapped[str] = mapped_column(Text)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    folder: Mapped[str] = mapped_column(Text)  #: where the notebook is found, and where its relative paths start
    kernel: Mapped[str | None] = mapped_column(String(200))
    time_limit_s: Mapped[float | None] = mapped_column()
    notify_on: Mapped[str | None] = mapped_column(String(10))  #: "failure", "success" or "always"
    notify: Mapped[list[str]] = mapped_column(JSON)  #: addresses that are told, secrets included
    from_file: Mapped[bool] = mapped_column(default=False)  #: `conf/schedule.toml` names it
    paused: Mapped[bool] = mapped_column(default=False)
    next_at: Mapped[datetime | None] = mapped_column(Moment)  #: the tick it waits for; none while it is paused or cannot run
    skipped_at: Mapped[datetime | None] = mapped_column(Moment)  #: the last tick that found the batch before it still going
    error: Mapped[str | None] = mapped_column(Text)  #: why it can never run
    created_at: Mapped[datetime] = mapped_column(Moment)

    __table_args__ = (
        # schedule.due: those whose tick has come
        Index("ix_schedule_next_at", next_at, postgresql_where=next_at.is_not(None), sqlite_where=next_at.is_not(None)),
        NEVER_REUSED,
    )


class Batch(Base):
    """One papermill execution of a notebook with given parameters; queued, leased and fenced as jobs are."""

    __tablename__ = "batch"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    notebook: Mapped[str] = mapped_column(Text)  #: its name, or its path
    source: Mapped[str | None] = mapped_column(Text)  #: the notebook as it was when it was asked for; none when it was refused
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    kernel: Mapped[str | None] = mapped_column(String(200))
    folder: Mapped[str] = mapped_column(Text)  #: where relative paths start
    time_limit_s: Mapped[float | None] = mapped_column()
    status: Mapped[str] = mapped_column(String(10), default=JobStatus.QUEUED)
    priority: Mapped[int] = mapped_column(Integer, default=0)  #: higher is sooner
    attempt: Mapped[int] = mapped_column(Integer, default=0)  #: raised at each claim: the fencing token, and the count of starts
    max_attempts: Mapped[int] = mapped_column(Integer)
    not_before: Mapped[datetime] = mapped_column(Moment)
    lease_until: Mapped[datetime | None] = mapped_column(Moment)
    worker: Mapped[str | None] = mapped_column(String(200))
    cells: Mapped[int] = mapped_column(Integer, default=0)  #: cells of the notebook, its parameters included; 0 before it starts
    cell: Mapped[int] = mapped_column(Integer, default=0)  #: cells that have ended
    failed_cell: Mapped[int | None] = mapped_column(Integer)  #: the N of the "In [N]" that failed
    error_kind: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(Text)  #: the reason in words
    schedule_id: Mapped[int | None] = mapped_column(ForeignKey("schedule.id", ondelete="SET NULL"))
    tick: Mapped[datetime | None] = mapped_column(Moment)  #: of the schedule; none when it was run by hand
    notify_on: Mapped[str | None] = mapped_column(String(10))  #: "failure", "success" or "always"
    notify: Mapped[list[str]] = mapped_column(JSON)  #: addresses that are told, secrets included
    notice: Mapped[str | None] = mapped_column(String(10))  #: "due", "sent" or "failed"
    notice_attempt: Mapped[int] = mapped_column(Integer, default=0)
    notice_at: Mapped[datetime | None] = mapped_column(Moment)  #: when to try (again), or when it was sent
    notice_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)

    __table_args__ = (
        # schedule.tick: one batch for each tick, however many schedulers are up; whether one of the schedule is still going
        UniqueConstraint("schedule_id", "tick"),
        # batches.page: newest first by keyset
        Index("ix_batch_created_at_id", created_at.desc(), id.desc()),
        # batches.claim: queued batches, highest priority first, then oldest
        Index(
            "ix_batch_queued",
            priority.desc(),
            id,
            postgresql_where=status == JobStatus.QUEUED.value,
            sqlite_where=status == JobStatus.QUEUED.value,
        ),
        # batches.claim: running batches, counted for the cap, and by the end of their lease
        Index(
            "ix_batch_lease",
            lease_until,
            postgresql_where=status == JobStatus.RUNNING.value,
            sqlite_where=status == JobStatus.RUNNING.value,
        ),
        # batches.due_notices: batches whose end is still to be told
        Index("ix_batch_notice", notice_at, postgresql_where=notice == "due", sqlite_where=notice == "due"),
        NEVER_REUSED,
    )


class Correction(Base):
    """One version of the result of an image: version 0 as the segmenter made it, later ones as people corrected it."""

    __tablename__ = "correction"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"))
    version: Mapped[int] = mapped_column(Integer)
    who: Mapped[str] = mapped_column(Text)  #: the person, or the segmenter and its version
    note: Mapped[str] = mapped_column(Text)
    changes: Mapped[list[dict[str, Any]]] = mapped_column(JSON)  #: what was done, in order
    path: Mapped[str] = mapped_column(Text)  #: folder of this version, relative to the home folder
    checksum: Mapped[str] = mapped_column(String(80))
    objects: Mapped[int] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Moment)

    __table_args__ = (
        # corrections.history: versions of the result of an image, oldest first
        UniqueConstraint("run_id", "image_id", "version"),
        # deleting an image or project finds its corrections
        Index("ix_correction_image_id", image_id),
        NEVER_REUSED,
    )
