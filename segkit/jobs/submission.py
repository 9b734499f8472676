"""Asking for work: a run and its jobs in one transaction, once however often it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, exists, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from segkit.errors import InvalidParameterError, NothingToRunError, PriorityError, UnknownImageError
from segkit.jobs import lists
from segkit.jobs.counters import Tally, raise_revisions
from segkit.jobs.records import Run
from segkit.jobs.statements import image, job, now, run, word
from segkit.rows import given_ids, hand_ids
from segkit.schema import JobStatus

PRIORITIES = range(-1000, 1001)
#: So many jobs queued at once change what the best way to claim is.
MANY = 1000


def submit(
    connection: Connection,
    project_id: int,
    *,
    segmenter: str,
    version: str,
    parameters: Mapping[str, Any],
    selection: Mapping[str, Any],
    images: Sequence[int] | None = None,
    priority: int = 0,
    max_attempts: int = 3,
    segkit_version: str,
    notebook: str | None = None,
) -> Run:
    """Queue one job for each readable image asked for; asking twice does nothing twice.

    The same segmenter, version, parameters, selection and images are the same run. A run over all images grows with its
    project: asked for again, it queues the images that are new.

    Parameters
    ----------
    connection
        In a write transaction; nothing is queued until the caller commits.
    images
        Ids of images of the project; None: all of them.
    priority
        -1000 to 1000, higher is sooner. A run that exists keeps its own; `prioritise` changes it.
    max_attempts
        Attempts before a job is given up.

    Raises
    ------
    NothingToRunError
        None of the images can be read.
    UnknownImageError
        Some of `images` are not in the project.
    """
    check_priority(priority)
    chosen = None if images is None else sorted(set(images))
    if chosen is not None:
        refuse_unknown(connection, project_id, chosen)
    parts = hand_ids(chosen or [])
    if not connection.scalar(select(exists().where(wanted(connection, project_id, chosen))), parts):
        raise NothingToRunError
    mark = fingerprint(segmenter, version, parameters, selection, chosen)
    connection.execute(
        new_run(connection.dialect.name),
        {
            "project_id": project_id,
            "fingerprint": mark,
            "segmenter": segmenter,
            "version": version,
            "parameters": dict(parameters),
            "selection": dict(selection),
            "segkit_version": segkit_version,
            "notebook": notebook,
            "priority": priority,
        },
    )
    same = select(run.c.id, run.c.priority).where(run.c.project_id == project_id, run.c.fingerprint == mark)
    run_id, kept_priority = connection.execute(same.with_for_update(key_share=True)).one()
    queue_images(connection, run_id, project_id, chosen, priority=kept_priority, max_attempts=max_attempts)
    return lists.run(connection, run_id)


def fingerprint(
    segmenter: str, version: str, parameters: Mapping[str, Any], selection: Mapping[str, Any], images: Sequence[int] | None
) -> str:
    """Name what is asked for: 64 hexadecimal digits, the same for the same request in any order of its parameters."""
    request = [segmenter, version, dict(parameters), dict(selection), "all" if images is None else sorted(set(images))]
    try:
        text = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"The parameters cannot be stored: {error}.") from None
    return hashlib.sha256(text.encode()).hexdigest()


def check_priority(priority: int) -> None:
    """Refuse a priority that is out of range."""
    if priority not in PRIORITIES:
        raise PriorityError(f"{PriorityError()} It was {priority}.")


def wanted(connection: Connection, project_id: int, images: Sequence[int] | None) -> ColumnElement[bool]:
    """Be a readable image that was asked for."""
    readable = (image.c.project_id == project_id) & image.c.error.is_(None)
    return readable if images is None else readable & image.c.id.in_(given_ids(connection.dialect.name))


def refuse_unknown(connection: Connection, project_id: int, images: Sequence[int]) -> None:
    """Refuse images that are not in the project."""
    there = select(image.c.id).where(image.c.project_id == project_id, image.c.id.in_(given_ids(connection.dialect.name)))
    missing = sorted(set(images) - set(connection.scalars(there, hand_ids(images))))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UnknownImageError(f"The project has no image {shown}. `segkit list images` shows them.")


def new_run(dialect: str) -> Insert:
    """Insert a run unless it is there; two who ask at the same time wait for each other."""
    new = postgresql.insert(run) if dialect == "postgresql" else sqlite.insert(run)
    counters = dict.fromkeys((*JobStatus, "objects"), 0)
    return new.values(counters | {"created_at": now()}).on_conflict_do_nothing(index_elements=["project_id", "fingerprint"])


def queue_images(
    connection: Connection, run_id: int, project_id: int, images: Sequence[int] | None, *, priority: int, max_attempts: int
) -> None:
    """Queue the images that the run does not have yet, on the server, in order of their ids."""
    queued = select(job.c.id).where(job.c.run_id == run_id, job.c.image_id == image.c.id)
    columns = {
        "run_id": literal(run_id),
        "image_id": image.c.id,
        "status": word(JobStatus.QUEUED),
        "priority": literal(priority),
        "attempt": literal(0),
        "max_attempts": literal(max_attempts),
        "not_before": now(),
        "created_at": now(),
    }
    rows = (
        select(*(value.label(name) for name, value in columns.items()))
        .where(wanted(connection, project_id, images), ~exists(queued))
        .order_by(image.c.id)
    )
    new = insert(job).from_select(list(columns), rows, include_defaults=False)
    added = connection.execute(new, hand_ids(images or []), execution_options={"preserve_rowcount": True}).rowcount
    if added:
        tally = Tally()
        tally.add(run_id, JobStatus.QUEUED, added)
        tally.write(connection)
        raise_revisions(connection, {project_id})
    tell_planner(connection, added)


def tell_planner(connection: Connection, queued: int) -> None:
    """Have PostgreSQL look at the jobs anew when many were queued at once.

    Until its own daemon does so, it would believe that few jobs are queued, and sort them all at every claim.
    """
    if connection.dialect.name == "postgresql" and queued >= MANY:
        connection.exec_driver_sql("ANALYZE job")
