"""Claims and how they end, on both databases: each attempt is one worker's, each result committed once, each failure said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text, update
from sqlalchemy.dialects import postgresql, sqlite

from segkit import jobs, results
from segkit.database import Database, now_sql
from segkit.jobs import claims as claims_module
from segkit.jobs.outcomes import pause
from segkit.schema import ErrorKind, JobStatus
from tests.queue_steps import (
    NUCLEI,
    TABLES,
    add_project,
    claim,
    commit,
    fail,
    let_leases_run_out,
    look,
    progress,
    recounted,
    result_of,
    revision,
    submit,
)


@pytest.fixture
def database(database: Database) -> Iterator[Database]:
    with recounted(database):
        yield database


# Claim


def test_a_claim_has_all_that_a_worker_needs(database: Database) -> None:
    project_id = add_project(database, images=1)
    run = submit(database, project_id, notebook="plate.ipynb")
    (claimed,) = claim(database, 5, worker="bench:1")
    assert claimed == jobs.Claim(
        job_id=1,
        attempt=1,
        suspect=False,
        priority=0,
        run_id=run.id,
        segmenter="nuclei",
        version="1",
        parameters={"diameter_um": 9.0},
        selection=NUCLEI["selection"],
        notebook="plate.ipynb",
        image_id=1,
        uri="/images/0.tif",
        name="0.tif",
        content_hash="None0",
        pixel_size_um=None,
        z_step_um=None,
        shape=[20, 30],
    )
    job = look(database, 1)
    assert (job.status, job.worker, job.attempt, job.image_name) == (JobStatus.RUNNING, "bench:1", 1, "0.tif")
    assert job.lease_until is not None
    assert job.started_at is not None
    assert timedelta(seconds=59) < job.lease_until - job.started_at < timedelta(seconds=61)


def test_higher_priority_comes_first_and_then_the_oldest(database: Database) -> None:
    project_id = add_project(database, images=2)
    submit(database, project_id)
    submit(database, project_id, version="urgent", priority=10)
    submit(database, project_id, version="later", priority=-1)
    assert [each.version for each in claim(database, 3)] == ["urgent", "urgent", "1"]
    assert [(each.version, each.image_id) for each in claim(database, 9)] == [("1", 2), ("later", 1), ("later", 2)]
    assert claim(database, 9) == []


def test_no_two_workers_get_the_same_attempt(database: Database) -> None:
    submit(database, add_project(database, images=60))

    def work(number: int) -> list[int]:
        taken: list[int] = []
        while claimed := claim(database, 3, worker=f"w{number}"):
            taken += [each.job_id for each in claimed]
            assert {each.attempt for each in claimed} == {1}
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for part in pool.map(work, range(8)) for job_id in part]
    assert sorted(taken) == list(range(1, 61))


def test_a_lease_that_ran_out_puts_the_job_back_and_refuses_the_old_attempt(database: Database) -> None:
    submit(database, add_project(database, images=1))
    old = claim(database, worker="frozen")
    assert claim(database) == []
    let_leases_run_out(database)
    (new,) = claim(database, worker="fresh")
    assert (new.attempt, new.suspect) == (2, True)
    with database.write() as connection:
        assert jobs.renew(connection, "frozen", old, 60) == {1}
        assert jobs.renew(connection, "fresh", [new], 60) == set()
    assert commit(database, old) == set()
    assert look(database, 1).worker == "fresh"
    assert commit(database, [new]) == {1}
    assert look(database, 1).error is None


def test_a_late_worker_may_commit_while_nobody_took_its_job_over(database: Database) -> None:
    submit(database, add_project(database, images=1))
    claimed = claim(database)
    let_leases_run_out(database)
    assert commit(database, claimed) == {1}


def test_a_renewed_lease_holds(database: Database) -> None:
    submit(database, add_project(database, images=2))
    claimed = claim(database, 2)
    let_leases_run_out(database)
    with database.write() as connection:
        assert jobs.renew(connection, "w", claimed, 60) == set()
    assert claim(database, 2) == []


def test_an_image_that_kills_its_workers_is_given_up_and_named(database: Database) -> None:
    run = submit(database, add_project(database, images=2), max_attempts=3)
    (poison,) = claim(database, worker="first")
    for attempt in (2, 3):
        let_leases_run_out(database)
        (again,) = [each for each in claim(database, 9, worker=f"number {attempt}") if each.job_id == poison.job_id]
        assert again.attempt == attempt
        commit(database, [each for each in claim(database, 9) if each.job_id != poison.job_id])
    let_leases_run_out(database)
    assert [each.job_id for each in claim(database, 9)] != [poison.job_id]
    job = look(database, poison.job_id)
    assert (job.status, job.error_kind) == (JobStatus.FAILED, ErrorKind.CRASH)
    assert job.error is not None
    assert job.error.startswith("0.tif: gave up after 3 attempts: its worker died or froze each time (last number 3).")
    assert progress(database, run).failed == 1


def test_suspects_are_claimed_one_at_a_time(database: Database) -> None:
    submit(database, add_project(database, images=8))
    assert len(claim(database, 4)) == 4
    let_leases_run_out(database)
    assert len(claim(database, 1)) == 1
    assert [(each.job_id, each.suspect) for each in claim(database, 3)] == [(1, True), (6, False), (7, False)]
    assert [(each.job_id, each.suspect) for each in claim(database, 4)] == [(2, True), (8, False)]
    assert [each.job_id for each in claim(database, 1)] == [3]


def test_late_jobs_are_taken_over_even_while_others_wait(database: Database) -> None:
    submit(database, add_project(database, images=9))
    first = claim(database, 1)
    let_leases_run_out(database)
    claim(database, 2)
    assert first[0].job_id in {each.job_id for each in claim(database, 2)}


# End


def test_a_result_is_committed_once(database: Database) -> None:
    run = submit(database, add_project(database, images=2))
    claimed = claim(database, 2)
    assert commit(database, claimed, objects=7) == {1, 2}
    assert commit(database, claimed, objects=7) == set()
    done = progress(database, run)
    assert (done.done, done.objects, done.left) == (2, 14, 0)
    assert done.finished_at is not None


def test_exchange_ends_some_and_claims_others(database: Database) -> None:
    run = submit(database, add_project(database, images=5))
    first = claim(database, 3)
    with database.write() as connection:
        results.insert(connection, [result_of(first[0])])
        finished, lost = [jobs.Finished(first[0].job_id, 1, 3)], jobs.Failed(first[1].job_id, 1, ErrorKind.INPUT, "It is a text file.")
        accepted, new = jobs.exchange(connection, "w", 2, 60, finished, [lost])
    assert (accepted, [each.job_id for each in new]) == ({1}, [4, 5])
    state = progress(database, run)
    assert (state.done, state.failed, state.running, state.queued) == (1, 1, 3, 0)


def test_exchange_refuses_old_attempts_and_ends_runs(database: Database) -> None:
    project_id = add_project(database, images=3)
    first, other = submit(database, project_id), submit(database, project_id, version="2", priority=-1)
    old = claim(database, 3)
    let_leases_run_out(database)
    assert claim(database, 1)[0].run_id == other.id
    new = [claim(database, 1)[0] for _ in range(2)] + old
    with database.write() as connection:
        accepted, claims = jobs.exchange(connection, "w", 5, 60, [jobs.Finished(each.job_id, each.attempt, 4) for each in new])
        results.insert(connection, [result_of(each, 4) for each in new[:2] if each.job_id in accepted])
    assert accepted == {each.job_id for each in new[:2]}
    with database.write() as connection:
        last = [each for each in claims if each.run_id == first.id]
        rest = [each for each in claims if each.run_id == other.id]
        results.insert(connection, [result_of(each) for each in claims])
        assert jobs.exchange(connection, "w", 5, 60, [jobs.Finished(each.job_id, each.attempt, 3) for each in last + rest])[1] == []
    assert progress(database, first).finished_at is not None
    assert (progress(database, first).done, progress(database, first).left) == (3, 0)
    assert revision(database, project_id) == 3


def test_a_bad_image_fails_at_once(database: Database) -> None:
    submit(database, add_project(database, images=1))
    job = fail(database, claim(database)[0], ErrorKind.INPUT, "The file ends before its pixels do.")
    assert (job.status, job.error, job.attempt) == (JobStatus.FAILED, "The file ends before its pixels do.", 1)
    assert job.finished_at is not None


def test_a_lack_of_memory_is_tried_once_more_and_alone(database: Database) -> None:
    submit(database, add_project(database, images=1), max_attempts=9)
    assert fail(database, claim(database)[0], ErrorKind.RESOURCE).status == JobStatus.QUEUED
    (again,) = claim(database)
    assert again.suspect
    job = fail(database, again, ErrorKind.RESOURCE, "Raise SEGKIT_WORKER_MEMORY.")
    assert (job.status, job.error) == (JobStatus.FAILED, "0.tif: gave up after 2 attempts. Raise SEGKIT_WORKER_MEMORY.")


def test_a_lost_store_is_tried_again_after_a_while_until_attempts_are_used_up(database: Database) -> None:
    submit(database, add_project(database, images=1), max_attempts=2)
    job = fail(database, claim(database)[0], ErrorKind.INFRASTRUCTURE, retry_seconds=100)
    assert job.status == JobStatus.QUEUED
    assert job.started_at is not None
    assert timedelta(seconds=45) < job.not_before - job.started_at < timedelta(seconds=110)
    assert claim(database) == []
    with database.write() as connection:
        connection.execute(update(TABLES["job"]).values(not_before=now_sql()))
    (again,) = claim(database)
    assert not again.suspect
    assert fail(database, again, ErrorKind.INFRASTRUCTURE).status == JobStatus.FAILED


def test_a_crash_that_is_reported_is_tried_again_at_once_and_named_when_given_up(database: Database) -> None:
    submit(database, add_project(database, images=1), max_attempts=2)
    assert fail(database, claim(database)[0], ErrorKind.CRASH, retry_seconds=100).status == JobStatus.QUEUED
    job = fail(database, claim(database)[0], ErrorKind.CRASH, "The worker process died.")
    assert (job.status, job.error) == (
        JobStatus.FAILED,
        "0.tif: gave up after 2 attempts: its worker died each time. The worker process died.",
    )


def test_the_wait_doubles_up_to_ten_minutes() -> None:
    for attempt in range(1, 101):
        longest = min(600, 2 * 2 ** (attempt - 1))
        assert longest / 2 <= pause(2, attempt) <= longest
    assert len({pause(2, 3) for _ in range(20)}) > 10
    assert pause(0, 5) == 0


def test_reasons_with_characters_that_no_database_takes_are_kept_readable(database: Database) -> None:
    submit(database, add_project(database, images=1))
    job = fail(database, claim(database)[0], ErrorKind.INPUT, "caf\udce9\x00.tif \N{MICROSCOPE} " + "x" * 50_000)
    assert job.error is not None
    assert job.error.startswith("caf\\udce9.tif \N{MICROSCOPE} xxx")
    assert len(job.error) == 10_000


def test_giving_back_uses_up_no_attempt_and_keeps_the_fence(database: Database) -> None:
    submit(database, add_project(database, images=1), max_attempts=1)
    first = claim(database)
    with database.write() as connection:
        assert jobs.release(connection, first) == {1}
        assert jobs.release(connection, first) == set()
    (again,) = claim(database)
    assert (again.attempt, again.suspect) == (2, False)
    assert commit(database, first) == set()
    let_leases_run_out(database)
    assert claim(database) == []
    assert look(database, 1).status == JobStatus.FAILED


# Plans


def test_a_claim_reads_the_head_of_the_queue_only(database: Database) -> None:
    submit(database, add_project(database, images=3000))
    dialect = postgresql.dialect() if database.dialect == "postgresql" else sqlite.dialect()
    statement = claims_module.claim_statement(database.dialect).compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    values = {"limit": "16", "lease": "60.0", "claimant": "'w'", "status": "'running'", "attempt_1": "1", "suspects": "1"}
    with database.write() as connection:
        plan = explained(connection, statement, values)
    assert "ix_job_suspect" in plan
    assert re.search(r"SCAN job USING INDEX ix_job_queued|LockRows[^\n]*\n *-> *Index Scan using ix_job_queued", plan), plan


def explained(connection: Connection, statement: Any, values: dict[str, str]) -> str:
    """How the database would execute a statement."""
    if connection.dialect.name == "sqlite":
        parameters = tuple({"lease": 60.0, "claimant": "w"}.get(name, 1) for name in statement.positiontup)
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "\n".join(row[-1] for row in rows)
    prepared = str(statement) % {name: values.get(name, "1") for name in statement.params}
    return "\n".join(connection.execute(text("EXPLAIN " + prepared.replace(":", r"\:"))).scalars())
