"""What travels: changes of jobs, and the counts of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from segkit.schema import JobStatus

ENDED = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED})
#: A longer reason is cut; the job itself has all of it.
LONGEST_DETAIL = 300
LONGEST_NAME = 200


@dataclass(frozen=True)
class Change:
    """A job has a new status; without a job, something about its run is new."""

    run_id: int
    job_id: int | None = None
    status: str = ""
    image: str = ""
    detail: str = ""

    @property
    def key(self) -> tuple[int, int | None]:
        """What it is about; a newer change of the same takes its place."""
        return self.run_id, self.job_id

    @property
    def is_urgent(self) -> bool:
        """Whether people wait for it: a job ended."""
        return self.status in ENDED


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    run_id: int
    project_id: int
    queued: int
    running: int
    done: int
    failed: int
    cancelled: int
    objects: int
    priority: int

    @property
    def ended(self) -> int:
        """Jobs that have ended."""
        return self.done + self.failed + self.cancelled

    @property
    def total(self) -> int:
        """All jobs."""
        return self.queued + self.running + self.ended


def encode(changes: Iterable[Change], most_bytes: int) -> Iterator[bytes]:
    """Write changes as messages of at most so many bytes."""
    parts: list[bytes] = []
    size = 2
    for change in changes:
        part = orjson.dumps(
            [change.run_id, change.job_id, change.status, sayable(change.image, LONGEST_NAME), sayable(change.detail, LONGEST_DETAIL)]
        )
        if parts and size + len(part) + 1 > most_bytes:
            yield b"[" + b",".join(parts) + b"]"
            parts, size = [], 2
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield b"[" + b",".join(parts) + b"]"


def sayable(text: str, longest: int) -> str:
    """Cut a text, and replace what JSON and PostgreSQL cannot carry."""
    return text[:longest].replace("\0", "").encode("utf-8", "backslashreplace").decode()


def decode(message: bytes | str) -> list[Change]:
    """Read a message; what is none of ours is nothing."""
    try:
        return [
            Change(int(run), None if job is None else int(job), str(status), str(image), str(detail))
            for run, job, status, image, detail in orjson.loads(message)
        ]
    except (ValueError, TypeError):
        return []
