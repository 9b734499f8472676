"""The queue, on both databases: what is asked for once, claimed by one, committed once, and counted right."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from segkit import jobs, results
from segkit.database import Database, now_sql
from segkit.errors import (
    CursorError,
    InvalidParameterError,
    NothingToRunError,
    PageError,
    PriorityError,
    UnknownImageError,
    UnknownJobError,
    UnknownRunError,
)
from segkit.jobs import claims as claims_module
from segkit.jobs.outcomes import pause
from segkit.schema import Base, ErrorKind, JobStatus

TABLES = Base.metadata.tables
NUCLEI: dict[str, Any] = {
    "segmenter": "nuclei",
    "version": "1",
    "parameters": {"diameter_um": 9.0},
    "selection": {"channel": None, "z": None, "level": 0},
    "segkit_version": "0.1",
}


def add_project(database: Database, images: int, name: str = "plate", unreadable: int = 0) -> int:
    """Make a project with images of which nothing is ever read."""
    with database.write() as connection:
        new = insert(TABLES["project"]).values(name=name, created_at=now_sql(), revision=0, images=0, unreadable=0)
        project_id = connection.execute(new.returning(TABLES["project"].c.id)).scalar_one()
    add_images(database, project_id, images)
    add_images(database, project_id, unreadable, error="The file ends before its pixels do.")
    return project_id


def add_images(database: Database, project_id: int, number: int, error: str | None = None) -> None:
    image = TABLES["image"]
    with database.write() as connection:
        there = connection.execute(select(image.c.id).where(image.c.project_id == project_id)).all()
        rows = [
            {
                "project_id": project_id,
                "content_hash": f"{error}{index}",
                "uri": f"/images/{index}.tif",
                "name": f"{index}.tif",
                "bytes": 9,
                "shape": [20, 30],
                "error": error,
            }
            for index in range(len(there), len(there) + number)
        ]
        if rows:
            connection.execute(insert(image).values(created_at=now_sql()), rows)


def submit(database: Database, project_id: int, **changes: Any) -> jobs.Run:
    with database.write() as connection:
        return jobs.submit(connection, project_id, **(NUCLEI | changes))


def claim(database: Database, limit: int = 1, worker: str = "w", lease: float = 60) -> list[jobs.Claim]:
    with database.write() as connection:
        return jobs.claim(connection, worker, limit, lease)


def commit(database: Database, claims: Sequence[jobs.Claim], objects: int = 3) -> set[int]:
    """Commit results as a worker does: hold, rows, finish."""
    with database.write() as connection:
        held = {row.id for row in jobs.hold(connection, claims)}
        results.insert(connection, [result_of(claim, objects) for claim in claims if claim.job_id in held])
        return jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, objects) for claim in claims])


def result_of(claim: jobs.Claim, objects: int = 3) -> results.NewResult:
    return results.NewResult(claim.job_id, claim.run_id, claim.image_id, claim.attempt, f"r/{claim.job_id}", "c", objects, {}, 10, 0.1)


def fail(database: Database, claim: jobs.Claim, kind: ErrorKind, reason: str = "It broke.", retry_seconds: float = 0.0) -> jobs.Job:
    with database.write() as connection:
        jobs.fail(connection, claim, kind, reason, retry_seconds)
        return jobs.job(connection, claim.job_id)


def let_leases_run_out(database: Database) -> None:
    job = TABLES["job"]
    with database.write() as connection:
        late = jobs.statements.later("seconds")
        connection.execute(update(job).where(job.c.status == "running").values(lease_until=late), {"seconds": -1.0})


def look(database: Database, job_id: int) -> jobs.Job:
    with database.read() as connection:
        return jobs.job(connection, job_id)


def progress(database: Database, run: jobs.Run) -> jobs.Progress:
    with database.read() as connection:
        return jobs.progress(connection, run.id)


def revision(database: Database, project_id: int) -> int:
    project = TABLES["project"]
    with database.read() as connection:
        return connection.execute(select(project.c.revision).where(project.c.id == project_id)).scalar_one()


@pytest.fixture
def database(database: Database) -> Iterator[Database]:
    """A database whose counters, whatever a test does, must equal a recount afterwards."""
    if database.dialect == "sqlite":  # no test cuts the power, and each commit is 10 times faster
        event.listen(database.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous=OFF"))
    yield database
    with database.write() as connection:
        assert jobs.recount(connection) == []


# Submit


def test_a_run_has_a_job_for_each_readable_image(database: Database) -> None:
    project_id = add_project(database, images=3, unreadable=2)
    run = submit(database, project_id, priority=5, notebook="plate.ipynb")
    assert (run.queued, run.total, run.left, run.finished_at) == (3, 3, 3, None)
    assert (run.project, run.segmenter, run.parameters, run.selection) == ("plate", "nuclei", {"diameter_um": 9.0}, NUCLEI["selection"])
    assert (run.priority, run.notebook, run.segkit_version) == (5, "plate.ipynb", "0.1")


def test_asking_twice_does_nothing_twice(database: Database) -> None:
    project_id = add_project(database, images=3)
    asked = {"diameter_um": 9.0, "smooth": 1}
    first = submit(database, project_id, parameters=asked)
    again = submit(database, project_id, parameters=dict(reversed(asked.items())), priority=7, notebook="other.ipynb")
    assert again == first
    assert revision(database, project_id) == 1


@pytest.mark.parametrize(
    "change", [{"segmenter": "tissue"}, {"version": "2"}, {"parameters": {}}, {"selection": {"channel": 1}}, {"images": [1, 2]}]
)
def test_another_request_is_another_run(database: Database, change: dict[str, Any]) -> None:
    project_id = add_project(database, images=2)
    assert submit(database, project_id).id != submit(database, project_id, **change).id


def test_a_run_grows_with_its_project(database: Database) -> None:
    project_id = add_project(database, images=2)
    run = submit(database, project_id)
    assert commit(database, claim(database, 2)) == {1, 2}
    assert progress(database, run).finished_at is not None
    add_images(database, project_id, 3)
    grown = submit(database, project_id)
    assert (grown.id, grown.queued, grown.done, grown.finished_at) == (run.id, 3, 2, None)


def test_a_run_of_chosen_images_does_not_grow(database: Database) -> None:
    project_id = add_project(database, images=4)
    run = submit(database, project_id, images=[3, 1, 3])
    assert run.total == 2
    add_images(database, project_id, 2)
    assert submit(database, project_id, images=[1, 3]) == run
    assert [each.image_id for each in claim(database, 9)] == [1, 3]


def test_nothing_to_run_leaves_nothing_behind(database: Database) -> None:
    project_id = add_project(database, images=0, unreadable=2)
    with pytest.raises(NothingToRunError):
        submit(database, project_id)
    with pytest.raises(NothingToRunError):
        submit(database, project_id, images=[1])
    with database.read() as connection:
        assert jobs.runs(connection).total == 0


def test_images_of_another_project_are_refused(database: Database) -> None:
    add_project(database, images=2, name="other")
    project_id = add_project(database, images=1)
    with pytest.raises(UnknownImageError, match=r"no image 1, 99\."):
        submit(database, project_id, images=[1, 3, 99])


def test_what_cannot_be_stored_is_refused(database: Database) -> None:
    project_id = add_project(database, images=1)
    with pytest.raises(InvalidParameterError):
        submit(database, project_id, parameters={"diameter": float("nan")})
    with pytest.raises(PriorityError, match="1001"):
        submit(database, project_id, priority=1001)


def test_twenty_who_ask_at_once_make_one_run(database: Database) -> None:
    project_id = add_project(database, images=30)
    start = threading.Barrier(20)

    def ask(_: int) -> int:
        start.wait()
        return submit(database, project_id).id

    with ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(ask, range(20)))) == 1
    assert [each.job_id for each in claim(database, 100)] == list(range(1, 31))


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


# Orders


def test_what_is_cancelled_is_neither_claimed_nor_committed(database: Database) -> None:
    run = submit(database, add_project(database, images=3))
    running = claim(database)
    with database.write() as connection:
        assert jobs.cancel(connection, run_id=run.id) == 3
        assert jobs.cancel(connection, run_id=run.id) == 0
        assert jobs.renew(connection, "w", running, 60) == {1}
    assert commit(database, running) == set()
    assert claim(database, 9) == []
    state = progress(database, run)
    assert (state.cancelled, state.left) == (3, 0)
    assert state.finished_at is not None


def test_one_job_is_cancelled_alone(database: Database) -> None:
    submit(database, add_project(database, images=2))
    with database.write() as connection:
        assert jobs.cancel(connection, job_id=1) == 1
    assert [each.job_id for each in claim(database, 9)] == [2]


def test_retry_queues_what_failed_or_was_cancelled_with_fresh_attempts(database: Database) -> None:
    run = submit(database, add_project(database, images=4), max_attempts=1)
    good, bad, *_ = claim(database, 2)
    commit(database, [good])
    fail(database, bad, ErrorKind.CRASH)
    with database.write() as connection:
        jobs.cancel(connection, job_id=3)
        assert jobs.retry(connection, run_id=run.id, max_attempts=2) == 2
        assert jobs.retry(connection, run_id=run.id) == 0
    state = progress(database, run)
    assert (state.queued, state.done, state.finished_at) == (3, 1, None)
    (again, *_) = claim(database)
    assert (again.job_id, again.attempt, again.suspect) == (2, 2, False)
    assert fail(database, again, ErrorKind.CRASH).status == JobStatus.QUEUED


def test_a_done_job_is_made_again_only_when_asked(database: Database) -> None:
    run = submit(database, add_project(database, images=2))
    commit(database, claim(database, 2), objects=5)
    with database.write() as connection:
        assert jobs.retry(connection, job_id=1) == 0
        assert jobs.retry(connection, job_id=1, done_too=True) == 1
    state = progress(database, run)
    assert (state.done, state.queued, state.objects, state.finished_at) == (1, 1, 5, None)
    assert commit(database, claim(database), objects=6) == {1}
    assert progress(database, run).objects == 11


def test_priority_can_be_changed(database: Database) -> None:
    project_id = add_project(database, images=2)
    submit(database, project_id)
    other = submit(database, project_id, version="2")
    with database.write() as connection:
        assert jobs.prioritise(connection, 5, run_id=other.id) == 2
        assert jobs.prioritise(connection, 9, job_id=2) == 1
        assert jobs.run(connection, other.id).priority == 5
        with pytest.raises(PriorityError):
            jobs.prioritise(connection, 10**12, job_id=2)
    assert [each.job_id for each in claim(database, 9)] == [2, 3, 4, 1]


ORDERS: list[Callable[..., Any]] = [
    jobs.retry,
    jobs.cancel,
    lambda connection, **meant: jobs.prioritise(connection, 1, **meant),
]


@pytest.mark.parametrize("order", ORDERS, ids=["retry", "cancel", "prioritise"])
def test_orders_name_a_run_or_job_that_is_there(database: Database, order: Callable[..., Any]) -> None:
    with database.write() as connection:
        with pytest.raises(UnknownRunError, match="no run 7"):
            order(connection, run_id=7)
        with pytest.raises(UnknownJobError, match="no job 8"):
            order(connection, job_id=8)
        with pytest.raises(TypeError):
            order(connection)


# Counters, revisions


def test_the_revision_is_raised_when_a_run_is_queued_and_when_it_ends(database: Database) -> None:
    project_id = add_project(database, images=2)
    seen = [revision(database, project_id)]
    submit(database, project_id)
    seen.append(revision(database, project_id))
    for _ in range(2):
        commit(database, claim(database))
        seen.append(revision(database, project_id))
    assert seen == [0, 1, 1, 2]


def test_recount_mends_wrong_counters(database: Database) -> None:
    run = submit(database, add_project(database, images=2))
    commit(database, claim(database))
    with database.write() as connection:
        connection.execute(update(TABLES["run"]).values(done=17, objects=0))
        assert jobs.recount(connection, run.id) == [run.id]
        assert jobs.recount(connection) == []
        assert jobs.progress(connection, run.id) == replace(jobs.progress(connection, run.id), queued=1, done=1, objects=3)


def give_order(connection: Connection, turn: int, run_id: int) -> None:
    if turn % 3 == 0:
        jobs.cancel(connection, run_id=run_id)
    elif turn % 3 == 1:
        jobs.retry(connection, run_id=run_id, done_too=True)
    else:
        jobs.prioritise(connection, turn, run_id=run_id)


def test_all_at_once_ends_in_no_deadlock_and_right_counters(database: Database) -> None:
    """Workers and people on the same jobs of several runs; a deadlock is an error of PostgreSQL."""
    project_id = add_project(database, images=12)
    runs = [submit(database, project_id, version=str(number), max_attempts=50) for number in range(4)]
    rounds = 15

    def work(number: int) -> None:
        for turn in range(rounds):
            with database.write() as connection:
                mine = jobs.claim(connection, f"w{number}", 7, 60)
            with database.write() as connection:
                held = {row.id for row in jobs.hold(connection, mine)}
                good = [each for each in mine if each.job_id % 3 and each.job_id in held]
                bad = [jobs.Failed(each.job_id, each.attempt, ErrorKind.CRASH, "x") for each in mine if not each.job_id % 3]
                results.insert(connection, [result_of(each) for each in good])
                jobs.exchange(connection, f"w{number}", turn % 3, 0.01, [jobs.Finished(each.job_id, each.attempt, 3) for each in good], bad)

    def order(number: int) -> None:
        for turn in range(rounds):
            with database.write() as connection:
                give_order(connection, turn, run_id=runs[(number + turn) % 4].id)
            submit(database, project_id, version=str(turn % 4))

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(work, number) for number in range(3)] + [pool.submit(order, number) for number in range(2)]:
            done.result()


# Lists


def test_jobs_of_a_run_page_by_cursor(database: Database) -> None:
    project_id = add_project(database, images=7)
    submit(database, project_id, version="other")
    run = submit(database, project_id)
    with database.write() as connection:
        jobs.cancel(connection, job_id=12)
    for status, expected in [(None, list(range(8, 15))), (JobStatus.QUEUED, [8, 9, 10, 11, 13, 14]), (JobStatus.CANCELLED, [12])]:
        assert walk(database, lambda connection, **at: jobs.page(connection, run.id, status, **at)) == expected  # noqa: B023 - called at once
    with database.read() as connection:
        page = jobs.page(connection, run.id, JobStatus.QUEUED, 3)
        assert (page.total, len(page.items)) == (6, 3)
        assert [each.id for each in jobs.page(connection, run.id, None, 3, offset=5).items] == [13, 14]
        assert jobs.page(connection, run.id, JobStatus.FAILED).items == ()
        assert jobs.page(connection, run.id, None, 3, offset=50).total == 7
        with pytest.raises(CursorError):
            jobs.page(connection, run.id, None, 3, after=page.next)
        with pytest.raises(PageError):
            jobs.page(connection, run.id, None, 0)
        with pytest.raises(UnknownRunError):
            jobs.page(connection, 99)
        with pytest.raises(UnknownJobError):
            jobs.job(connection, 99)


def walk(database: Database, list_page: Callable[..., Any]) -> list[int]:
    """All ids of a list, two rows a page."""
    with database.read() as connection:
        page = list_page(connection, limit=2)
        found = [each.id for each in page.items]
        while page.next:
            page = list_page(connection, limit=2, after=page.next)
            found += [each.id for each in page.items]
        return found


def test_runs_page_newest_first(database: Database) -> None:
    projects = [add_project(database, images=1, name=name) for name in ("a", "b")]
    for number in range(5):
        submit(database, projects[number % 2], version=str(number))
    assert walk(database, jobs.runs) == [5, 4, 3, 2, 1]
    assert walk(database, lambda connection, **at: jobs.runs(connection, project_id=projects[1], **at)) == [4, 2]
    with database.read() as connection:
        page = jobs.runs(connection, project_id=projects[0], offset=2)
        assert (page.total, [each.project for each in page.items]) == (3, ["a"])
        assert jobs.runs(connection, offset=50) == replace(page, items=(), total=5)
        with pytest.raises(UnknownRunError):
            jobs.run(connection, 99)
        with pytest.raises(UnknownRunError):
            jobs.progress(connection, 99)


def test_summary_and_workers_tell_what_goes_on(database: Database) -> None:
    with database.read() as connection:
        assert jobs.summary(connection) == jobs.Summary(queued=0, running=0, done=0, failed=0, cancelled=0, objects=0, runs=0, active=0)
    project_id = add_project(database, images=3)
    submit(database, project_id)
    commit(database, claim(database, 3))
    submit(database, project_id, version="2")
    claim(database, 1, worker="a")
    claim(database, 1, worker="b", lease=0.01)
    time.sleep(0.05)
    with database.read() as connection:
        assert jobs.summary(connection) == jobs.Summary(queued=1, running=2, done=3, failed=0, cancelled=0, objects=9, runs=2, active=1)
        (holder, *others) = jobs.workers(connection)
        assert (holder.worker, holder.jobs, holder.late, [each.worker for each in others]) == ("a", 1, 0, ["b"])
        assert others[0].late == 1
        assert others[0].lease_until - others[0].since < timedelta(seconds=1)


def test_failures_are_listed_with_their_reasons(database: Database) -> None:
    run = submit(database, add_project(database, images=3))
    for claimed in claim(database, 2):
        fail(database, claimed, ErrorKind.INPUT, f"{claimed.name} is empty.")
    with database.read() as connection:
        listed = jobs.failures(connection, run.id, limit=1)
        assert (listed.total, [(each.image_name, each.error) for each in listed.items]) == (2, [("0.tif", "0.tif is empty.")])
        assert jobs.failures(connection, run.id, after=listed.next).items[0].error_kind is ErrorKind.INPUT


def test_every_list_is_one_statement(database: Database) -> None:
    run = submit(database, add_project(database, images=5))
    claim(database, 2)
    lists: list[Callable[[Connection], Any]] = [
        jobs.runs,
        jobs.summary,
        jobs.workers,
        lambda connection: jobs.page(connection, run.id),
        lambda connection: jobs.page(connection, run.id, JobStatus.FAILED),
        lambda connection: jobs.progress(connection, run.id),
    ]
    for make in lists:
        with database.read() as connection, counted(connection) as statements:
            make(connection)
        assert len(statements) == 1


@contextmanager
def counted(connection: Connection) -> Iterator[list[str]]:
    """Collect the statements that a connection executes."""
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    event.listen(connection, "before_cursor_execute", note)
    yield statements
    event.remove(connection, "before_cursor_execute", note)


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
