"""Corrections in the database: each version of a result, who made it, when, and what changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from segkit.database import now_sql
from segkit.errors import CorrectionConflictError, NoResultError, UnknownVersionError
from segkit.jobs.counters import Tally, raise_revisions
from segkit.schema import Base

correction, job, result, run = (Base.metadata.tables[name] for name in ("correction", "job", "result", "run"))

#: What a version and the result that shows it have in common.
SHARED = ("path", "checksum", "objects", "summary", "bytes")


@dataclass(frozen=True)
class Version:
    """One version of the result of an image. Version 0 is what the segmenter made."""

    run_id: int
    image_id: int
    version: int
    who: str
    note: str
    changes: list[dict[str, Any]]  #: what was done, in order: kind, objects, made
    path: str  #: relative to the home folder; `results.locate` gives the full one
    checksum: str
    objects: int
    summary: dict[str, Any]
    bytes: int
    created_at: datetime


@dataclass(frozen=True)
class NewVersion:
    """A version that lies on the disk and is about to be committed."""

    who: str
    note: str
    changes: list[dict[str, Any]]
    path: str
    checksum: str
    objects: int
    summary: dict[str, Any]
    bytes: int


def history(connection: Connection, run_id: int, image_id: int) -> list[Version]:
    """List the versions of the result of one image, oldest first; empty while nobody has corrected it."""
    chosen = select(correction).where(correction.c.run_id == run_id, correction.c.image_id == image_id).order_by(correction.c.version)
    return [version_of(row) for row in connection.execute(chosen)]


def version(connection: Connection, run_id: int, image_id: int, number: int) -> Version:
    """Return one version.

    Raises
    ------
    UnknownVersionError
        There is none of this number.
    """
    found = [each for each in history(connection, run_id, image_id) if each.version == number]
    if not found:
        raise UnknownVersionError(f"Image {image_id} of run {run_id} has no version {number}.")
    return found[0]


def version_of(row: Row[Any]) -> Version:
    """Turn a row into a record."""
    fields = dict(row._mapping)
    del fields["id"]
    return Version(**fields)


def commit(connection: Connection, run_id: int, image_id: int, new: NewVersion, *, checksum: str | None) -> Version:
    """Add a version and let the result show it. What the segmenter made becomes version 0, with its files where they are.

    Parameters
    ----------
    connection
        In a write transaction.
    new : NewVersion
        Written and flushed.
    checksum : str or None
        Of the result that was corrected: another one there by now is not replaced. None: whatever is there.

    Raises
    ------
    NoResultError
        The image has no result any more.
    CorrectionConflictError
        The result was changed since.
    """
    shown = lock(connection, run_id, image_id)
    versions = history(connection, run_id, image_id)
    if checksum is not None and shown.checksum != checksum:
        who = f" by {versions[-1].who}, {versions[-1].created_at:%Y-%m-%d %H:%M} UTC" if versions else ""
        raise CorrectionConflictError(f"This result was changed{who} since it was opened. Open it again and repeat your corrections.")
    number = versions[-1].version + 1 if versions else 0
    if all(each.checksum != shown.checksum for each in versions):
        whose = connection.execute(select(run.c.segmenter, run.c.version).where(run.c.id == run_id)).one()
        made = {"who": f"{whose.segmenter} {whose.version}", "note": "as segmented", "changes": [], "created_at": shown.created_at}
        add(connection, run_id, image_id, number, made | {name: shown._mapping[name] for name in SHARED})
        number += 1
    add(connection, run_id, image_id, number, vars(new) | {"created_at": now_sql()})
    show(connection, shown, {name: getattr(new, name) for name in SHARED})
    return version(connection, run_id, image_id, number)


def lock(connection: Connection, run_id: int, image_id: int) -> Row[Any]:
    """Lock the job of an image and return the row of its result."""
    locked = select(job.c.id).where(job.c.run_id == run_id, job.c.image_id == image_id).with_for_update(key_share=True)
    number = connection.scalar(locked)
    chosen = select(result, run.c.project_id).join_from(result, run, run.c.id == result.c.run_id).where(result.c.job_id == number)
    shown = None if number is None else connection.execute(chosen).one_or_none()
    if shown is None:
        raise NoResultError
    return shown


def add(connection: Connection, run_id: int, image_id: int, number: int, fields: dict[str, Any]) -> None:
    """Add a row."""
    connection.execute(insert(correction).values(run_id=run_id, image_id=image_id, version=number, **fields))


def show(connection: Connection, shown: Row[Any], fields: dict[str, Any]) -> None:
    """Let the result show another version, count its objects, and tell caches."""
    connection.execute(update(result).where(result.c.job_id == shown.job_id).values(fields))
    tally = Tally()
    tally.add(shown.run_id, "objects", fields["objects"] - shown.objects)
    tally.write(connection)
    raise_revisions(connection, {shown.project_id})


def corrected(connection: Connection, run_id: int) -> int:
    """Count the images of a run that a person corrected."""
    chosen = select(func.count(correction.c.image_id.distinct())).where(correction.c.run_id == run_id)
    return connection.scalar(chosen) or 0
