"""A model of the queue that hypothesis plays against the real one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import func, insert, select, update

from segkit import jobs, results
from segkit.database import Database, now_sql
from segkit.schema import Base, ErrorKind, JobStatus

TABLES = Base.metadata.tables
IMAGES = 4
MOST_ATTEMPTS = 3


@dataclass
class Expected:
    """What the model knows of a job."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    allowed: int = MOST_ATTEMPTS
    late: bool = False  #: its lease ran out
    short: bool = False  #: its last failure was a lack of memory or disk
    alone: bool = False


class Queue(RuleBasedStateMachine):
    """Workers claim, beat, freeze, die, commit, fail and give back; people cancel and retry. The model says what must come of it."""

    database: Database  #: set on a subclass, with its tables empty

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[jobs.Claim] = []  #: all that were ever handed out: an old one must do no harm
        self.expected: dict[int, Expected] = {}

    @initialize()
    def submit(self) -> None:
        with self.database.write() as connection:
            new = insert(TABLES["project"]).values(name="p", created_at=now_sql(), revision=0, images=0, unreadable=0)
            project_id = connection.execute(new.returning(TABLES["project"].c.id)).scalar_one()
            names = [{"content_hash": str(number), "name": f"{number}.tif"} for number in range(IMAGES)]
            connection.execute(insert(TABLES["image"]).values(project_id=project_id, uri="/x", bytes=1, created_at=now_sql()), names)
            run = jobs.submit(
                connection,
                project_id,
                segmenter="s",
                version="1",
                parameters={},
                selection={},
                max_attempts=MOST_ATTEMPTS,
                segkit_version="0",
            )
            self.run_id = run.id
            self.expected = {job.id: Expected() for job in jobs.page(connection, run.id).items}

    # Workers

    @rule(limit=st.integers(1, IMAGES + 1))
    def claim(self, limit: int) -> None:
        with self.database.write() as connection:
            new = jobs.claim(connection, "w", limit, 60)
            after = {job.id: job for job in jobs.page(connection, self.run_id).items}
        assert len(new) <= limit
        assert sum(claim.suspect for claim in new) <= 1
        for job_id, job in after.items():
            known = self.expected[job_id]
            if known.late and job.status == JobStatus.FAILED:
                assert known.attempt >= known.allowed
                known.status, known.late = JobStatus.FAILED, False
            elif known.late and not (job.status == JobStatus.RUNNING and job.attempt == known.attempt):
                assert known.attempt < known.allowed
                known.status, known.late, known.alone, known.short = JobStatus.QUEUED, False, True, False
        for claim in new:
            known = self.expected[claim.job_id]
            assert known.status == JobStatus.QUEUED
            assert claim.attempt == known.attempt + 1
            assert claim.suspect == known.alone
            known.status, known.attempt = JobStatus.RUNNING, claim.attempt
        if len(new) < limit:  # nothing was left that could have been claimed, but for further suspects
            left = [each for each in self.expected.values() if each.status == JobStatus.QUEUED and not each.alone]
            assert not left
            assert not any(each.late for each in self.expected.values())
        self.claims += new

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        with self.database.write() as connection:
            lost = jobs.renew(connection, "w", [claim], 60)
        assert lost == (set() if self.holds(claim) else {claim.job_id})
        if not lost:
            self.expected[claim.job_id].late = False

    @precondition(lambda self: any(each.status == JobStatus.RUNNING for each in self.expected.values()))
    @rule(data=st.data())
    def die_or_freeze(self, data: st.DataObject) -> None:
        """A worker falls silent until its lease is over; should it wake up, it still has its claim."""
        job_id = data.draw(st.sampled_from([number for number, each in self.expected.items() if each.status == JobStatus.RUNNING]))
        with self.database.write() as connection:
            job = TABLES["job"]
            connection.execute(
                update(job).where(job.c.id == job_id).values(lease_until=jobs.statements.later("seconds")), {"seconds": -1.0}
            )
        self.expected[job_id].late = True

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        with self.database.write() as connection:
            held = jobs.hold(connection, [claim])
            results.insert(connection, [self.result_of(claim) for _ in held])
            accepted = jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, claim.attempt)])
        assert accepted == ({claim.job_id} if self.holds(claim) else set())
        if accepted:
            self.ended(claim.job_id, JobStatus.DONE)

    @rule()
    def be_killed_in_a_commit(self) -> None:
        """All that a transaction did is undone when its worker dies in it."""
        with contextlib.suppress(KeyboardInterrupt), self.database.write() as connection:
            held = [claim for claim in self.claims if self.holds(claim)]
            results.insert(connection, [self.result_of(claim) for claim in held])
            jobs.exchange(connection, "w", 2, 60, [jobs.Finished(claim.job_id, claim.attempt, 1) for claim in held])
            raise KeyboardInterrupt

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), kind=st.sampled_from([ErrorKind.INPUT, ErrorKind.RESOURCE, ErrorKind.CRASH]))
    def fail(self, data: st.DataObject, kind: ErrorKind) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        with self.database.write() as connection:
            jobs.fail(connection, claim, kind, "why", 0)
        if not self.holds(claim):
            return
        known = self.expected[claim.job_id]
        again = kind != ErrorKind.INPUT and known.attempt < known.allowed and not (kind == ErrorKind.RESOURCE and known.short)
        self.ended(claim.job_id, JobStatus.QUEUED if again else JobStatus.FAILED)
        known.alone, known.short = again, kind == ErrorKind.RESOURCE

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        with self.database.write() as connection:
            back = jobs.release(connection, [claim])
        assert back == ({claim.job_id} if self.holds(claim) else set())
        if back:
            self.ended(claim.job_id, JobStatus.QUEUED)
            self.expected[claim.job_id].allowed += 1

    # People

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.expected)))
        with self.database.write() as connection:
            number = jobs.cancel(connection, job_id=job_id)
        live = self.expected[job_id].status in (JobStatus.QUEUED, JobStatus.RUNNING)
        assert number == live
        if live:
            self.ended(job_id, JobStatus.CANCELLED)

    @rule(done_too=st.booleans())
    def retry(self, done_too: bool) -> None:
        with self.database.write() as connection:
            number = jobs.retry(connection, run_id=self.run_id, max_attempts=MOST_ATTEMPTS, done_too=done_too)
        ended = (JobStatus.FAILED, JobStatus.CANCELLED, *((JobStatus.DONE,) if done_too else ()))
        again = [each for each in self.expected.values() if each.status in ended]
        assert number == len(again)
        for known in again:
            known.status, known.allowed, known.short, known.alone = JobStatus.QUEUED, known.attempt + MOST_ATTEMPTS, False, False

    # What must hold

    @invariant()
    def tables_are_as_expected(self) -> None:
        with self.database.write() as connection:
            stored = {job.id: (job.status, job.attempt) for job in jobs.page(connection, self.run_id).items} if self.expected else {}
            committed = {row.job_id: row.attempt for row in connection.execute(select(TABLES["result"]))}
            over = connection.scalar(select(func.count()).where(TABLES["job"].c.attempt > TABLES["job"].c.max_attempts))
            wrong = jobs.recount(connection)
            state = jobs.progress(connection, self.run_id) if self.expected else None
        assert stored == {number: (each.status, each.attempt) for number, each in self.expected.items()}
        assert committed == {number: each.attempt for number, each in self.expected.items() if each.status == JobStatus.DONE}
        assert not over
        assert wrong == []
        assert state is None or (state.finished_at is not None) == (state.left == 0)

    # The model

    def holds(self, claim: jobs.Claim) -> bool:
        known = self.expected[claim.job_id]
        return known.status == JobStatus.RUNNING and known.attempt == claim.attempt

    def ended(self, job_id: int, status: JobStatus) -> None:
        self.expected[job_id].status, self.expected[job_id].late = status, False

    def result_of(self, claim: jobs.Claim) -> Any:
        return results.NewResult(claim.job_id, claim.run_id, claim.image_id, claim.attempt, "path", "sum", claim.attempt, {}, 1, 0.1)
