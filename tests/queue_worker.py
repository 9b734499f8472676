"""A worker that only writes small files, for tests that kill and freeze it at any moment."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from segkit import jobs, results
from segkit.database import Database, open_database
from segkit.settings import load


def work(arguments: dict[str, Any], folder: str, lease: float) -> None:
    """Work until no job is left."""
    name = f"worker {os.getpid()}"
    with open_database(load(**arguments)) as database:
        while left(database):
            with database.write() as connection:
                claims = jobs.claim(connection, name, 3, lease)
            for claim in claims:
                time.sleep(random.uniform(0.002, 0.03))
                (Path(folder) / f"{claim.job_id}.{claim.attempt}.part").write_text(f"attempt {claim.attempt}")
            commit(database, claims, Path(folder))
            if not claims:
                time.sleep(0.02)


def left(database: Database) -> int:
    """How many jobs have not ended."""
    with database.read() as connection:
        return jobs.summary(connection).left


def commit(database: Database, claims: list[jobs.Claim], folder: Path) -> None:
    """Put the files of what is still held in place, and finish it."""
    with database.write() as connection:
        held = {row.id for row in jobs.hold(connection, claims)}
        mine = [claim for claim in claims if claim.job_id in held]
        for claim in mine:
            (folder / f"{claim.job_id}.{claim.attempt}.part").rename(folder / str(claim.job_id))
        results.insert(connection, [result_of(claim) for claim in mine])
        jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, claim.attempt) for claim in mine])


def result_of(claim: jobs.Claim) -> results.NewResult:
    """The row of a result."""
    return results.NewResult(
        job_id=claim.job_id,
        run_id=claim.run_id,
        image_id=claim.image_id,
        attempt=claim.attempt,
        path=str(claim.job_id),
        checksum="",
        objects=claim.attempt,
        summary={},
        bytes=1,
        seconds=0.01,
    )
