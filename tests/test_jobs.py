"""The queue, on both databases: what is asked for once, ordered by people, counted right and listed in pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, update

from segkit import jobs, results
from segkit.database import Database
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
from segkit.schema import ErrorKind, JobStatus
from tests.queue_steps import NUCLEI, TABLES, add_images, add_project, claim, commit, fail, progress, recounted, result_of, revision, submit


@pytest.fixture
def database(database: Database) -> Iterator[Database]:
    with recounted(database):
        yield database


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
