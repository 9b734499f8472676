"""Every index serves the query that its comment names: both databases say so of the statements that segkit really sends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, UniqueConstraint, event, insert, select, text

from segkit import batches, catalog, corrections, history, jobs, results, schedule, tokens
from segkit.batches import notices, queue
from segkit.catalog.registering import add_group
from segkit.database import Database, now_sql, open_database, upgrade
from segkit.images import ImageInfo
from segkit.pages import Place, encode_cursor
from segkit.schedule import store
from segkit.schema import Base, Batch, Correction, Image, Job, JobStatus, Moment, Project, Result, Run, Sample, Schedule, Token
from segkit.settings import load
from segkit.tokens import hash_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROJECTS, IMAGES, RUNS, LARGE_RUN, MIXED_RUN = 1500, 6000, 1500, 1, 2
#: Deep in every list.
DEEP = Place(NOON + timedelta(seconds=600), 600)

Call = Callable[[Connection], object]
CORRECTED = Correction.__table__.columns.keys()


def info(number: int) -> ImageInfo:
    name = f"{number:06}.tif"
    return ImageInfo(f"/plate/{name}", name, "tiff", "YX", (512, 512), "uint16", (), 0.5, None, None, 1000, f"{number:040x}")


def submit(connection: Connection) -> object:
    asked = {"segmenter": "nuclei", "version": "1", "parameters": {}, "selection": {}, "segkit_version": "1"}
    return jobs.submit(connection, 1, images=[3, 5, 6], **asked)  # type: ignore[arg-type]


def after(scope: str) -> str:
    return encode_cursor(DEEP, scope)


#: Index, and calls of which each must use it in one of the statements that it sends.
SERVED: dict[str, list[Call]] = {
    "ix_project_created_at_id": [
        lambda connection: catalog.projects(connection, 50),
        lambda connection: catalog.projects(connection, 50, after=after("projects")),
    ],
    "uq_project_name": [lambda connection: catalog.project(connection, "project 77")],
    "uq_image_project_id_content_hash": [lambda connection: add_group(connection, 1, [info(3), info(4)], {"pixel_size_um": 0.7})],
    "ix_image_project_id_created_at_id": [
        lambda connection: catalog.images(connection, 1, 50),
        lambda connection: catalog.images(connection, 1, 50, offset=20),
        lambda connection: catalog.images(connection, 1, 50, after=after("images of 1")),
    ],
    "ix_image_unreadable": [
        lambda connection: catalog.images(connection, 1, 50, unreadable=True),
        lambda connection: catalog.images(connection, 1, 50, unreadable=True, after=after("unreadable images of 1")),
    ],
    "uq_run_project_id_fingerprint": [submit],
    "ix_run_project_id_created_at_id": [
        lambda connection: jobs.runs(connection, 50, project_id=1),
        lambda connection: jobs.runs(connection, 50, project_id=1, after=after("runs of 1")),
    ],
    "ix_run_created_at_id": [
        lambda connection: jobs.runs(connection, 50),
        lambda connection: jobs.runs(connection, 50, after=after("runs of all projects")),
    ],
    "ix_run_active": [jobs.active_runs],
    "uq_job_run_id_image_id": [lambda connection: jobs.page(connection, LARGE_RUN, limit=50)],
    "ix_job_queued": [lambda connection: jobs.claim(connection, "worker", 8, 60)],
    "ix_job_suspect": [lambda connection: jobs.claim(connection, "worker", 8, 60)],
    "ix_job_lease": [lambda connection: jobs.claim(connection, "worker", 8, 60), jobs.workers],
    "ix_job_run_id_status_id": [
        lambda connection: jobs.page(connection, MIXED_RUN, JobStatus.FAILED, 50),
        lambda connection: jobs.retry(connection, run_id=MIXED_RUN),
    ],
    # what both databases ask themselves when an image is deleted; EXPLAIN does not show it
    "ix_job_image_id": [lambda connection: connection.execute(select(Job.id).where(Job.image_id == 17))],
    "ix_result_image_id_created_at": [lambda connection: results.of_image(connection, 17, 50)],
    "uq_token_name": [lambda connection: tokens.revoke(connection, "token 77")],
    "uq_token_hash": [lambda connection: tokens.known(connection, "token 77")],
    "ix_sample_window_s_at": [lambda connection: history.read(connection, history.HOUR, NOON)],
    "uq_schedule_name": [lambda connection: schedule.schedule(connection, "schedule 77")],
    "ix_schedule_next_at": [lambda connection: connection.execute(store.due())],
    "uq_batch_schedule_id_tick": [lambda connection: store.going(connection, 77)],
    "ix_batch_created_at_id": [
        lambda connection: batches.page(connection, 50),
        lambda connection: batches.page(connection, 50, after=after("all batches of all")),
    ],
    "ix_batch_queued": [lambda connection: queue.claim(connection, "worker", 8, 60, 1000)],
    "ix_batch_lease": [lambda connection: queue.claim(connection, "worker", 8, 60, 1000), queue.left],
    "ix_batch_notice": [notices.take],
    "uq_correction_run_id_image_id_version": [lambda connection: corrections.history(connection, MIXED_RUN, 17)],
    # what both databases ask themselves when an image is deleted; EXPLAIN does not show it
    "ix_correction_image_id": [lambda connection: connection.execute(select(Correction.id).where(Correction.image_id == 17))],
    "ix_result_run_id_job_id": [lambda connection: results.of_run(connection, MIXED_RUN, 50)],
}


def test_every_index_is_shown_to_be_used() -> None:
    indexes = {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes}
    unique = {unique_name(table.name, each) for table in Base.metadata.tables.values() for each in table.constraints}
    assert set(SERVED) == indexes | unique - {None}


def unique_name(table: str, constraint: object) -> str | None:
    if not isinstance(constraint, UniqueConstraint):
        return None
    return f"uq_{table}_{'_'.join(column.name for column in constraint.columns)}"


@dataclass(frozen=True)
class Sent:
    """A statement as the driver got it."""

    statement: str
    parameters: Any


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with enough rows, and statistics, that its planner has a choice."""
    arguments = {"database_url": request.getfixturevalue("postgresql_server").create()} if request.param == "postgresql" else {}
    with open_database(load(home=str(tmp_path_factory.mktemp("filled")), **arguments), check=False) as database:
        upgrade(database)
        with database.write() as connection:
            fill(connection)
        with database.write() as connection:
            connection.execute(text("ANALYZE"))
        yield database


def fill(connection: Connection) -> None:
    def moment(number: int) -> datetime:
        return NOON + timedelta(seconds=number)

    connection.execute(insert(Project), [{"name": f"project {number}", "created_at": moment(number)} for number in range(PROJECTS)])
    connection.execute(insert(Image), [image_row(number, moment(number)) for number in range(IMAGES)])
    token = {"scope": "read", "created_at": NOON}
    connection.execute(insert(Token), [token | {"name": f"token {number}", "hash": hash_of(f"token {number}")} for number in range(1500)])
    run = {"segmenter": "nuclei", "version": "1", "parameters": {}, "selection": {}, "segkit_version": "1"}
    projects = [number % 10 + 1 for number in range(RUNS)]
    connection.execute(
        insert(Run), [run | {"project_id": projects[n], "fingerprint": f"{n:064}", "created_at": moment(n)} for n in range(RUNS)]
    )
    connection.execute(insert(Job), [job_row(LARGE_RUN, number, JobStatus.DONE) for number in range(1, IMAGES)])
    statuses = [mixed_status(number) for number in range(3000)]
    connection.execute(insert(Job), [job_row(MIXED_RUN, number + 1, status) for number, status in enumerate(statuses)])
    connection.execute(insert(Job), [job_row(number % (RUNS - 2) + 3, number // 2 + 1, JobStatus.DONE) for number in range(6000)])
    there = connection.execute(select(Job.id, Job.run_id, Job.image_id)).all()
    connection.execute(insert(Result), [result_row(row, moment(row.id)) for row in there])
    made = {"version": 0, "who": "threshold 1", "note": "", "changes": []} | result_row(there[0], NOON)
    versions = [{**made, "run_id": row.run_id, "image_id": row.image_id} for row in there[:6000]]
    connection.execute(insert(Correction), [{name: each[name] for name in each if name in CORRECTED} for each in versions])
    fill_batches(connection)
    samples = [{"at": moment(60 * number - 200_000), "window_s": 60 if number % 50 else 3600} for number in range(4000)]
    connection.execute(insert(Sample), [sample | {"source": "server", "measured": {}} for sample in samples])


def fill_batches(connection: Connection) -> None:
    """Many batches, few of which are queued, run, late or to be told of."""
    usual = {"notebook": "n", "parameters": {}, "folder": "/", "notify": [], "created_at": NOON}
    ticking = {"cron": "0 0 * * *", "zone": "UTC"}
    connection.execute(
        insert(Schedule),
        [
            usual | ticking | {"name": f"schedule {number}", "next_at": None if number % 50 else NOON + timedelta(days=number - 700)}
            for number in range(1500)
        ],
    )
    statuses = {1: JobStatus.QUEUED, 2: JobStatus.RUNNING}
    connection.execute(
        insert(Batch),
        [
            usual
            | {
                "status": statuses.get(number % 100, JobStatus.DONE),
                "max_attempts": 3,
                "attempt": 0,
                "source": "{}",
                "kernel": "python3",
                "not_before": NOON - timedelta(days=900),
                "lease_until": NOON + timedelta(days=4000 if number % 200 == 2 else -900) if number % 100 == 2 else None,
                "notice": "due" if number % 100 == 3 else None,
                "notice_at": NOON - timedelta(days=number),
                "schedule_id": number % 1000 + 1,
                "tick": NOON + timedelta(days=number),
                "created_at": NOON + timedelta(seconds=number),
            }
            for number in range(6000)
        ],
    )


def result_row(job: Any, created_at: datetime) -> dict[str, object]:
    done = {"attempt": 1, "path": "p", "checksum": "c", "objects": 1, "summary": {}, "bytes": 1, "seconds": 1.0, "created_at": created_at}
    return done | {"job_id": job.id, "run_id": job.run_id, "image_id": job.image_id}


def image_row(number: int, created_at: datetime) -> dict[str, object]:
    same = {"project_id": 1 if number % 3 else number % 50 + 2, "uri": f"/{number}", "name": f"{number}", "created_at": created_at}
    return same | {"content_hash": f"{number:040x}", "error": "cut" if number % 100 == 1 else None, "shape": [512, 512], "channels": []}


def mixed_status(number: int) -> JobStatus:
    few = {0: JobStatus.QUEUED, 1: JobStatus.RUNNING, 2: JobStatus.FAILED}
    return few.get(number % 40, JobStatus.DONE)


def job_row(run_id: int, image_id: int, status: JobStatus) -> dict[str, object]:
    running = status == JobStatus.RUNNING
    return {
        "run_id": run_id,
        "image_id": image_id,
        "status": status,
        "attempt": 1 if running else 0,
        "max_attempts": 3,
        "not_before": NOON - timedelta(days=900),
        "created_at": NOON,
        "error_kind": "crash" if status == JobStatus.QUEUED and image_id % 400 == 1 else None,
        "lease_until": NOON + timedelta(days=4000 if image_id % 80 == 2 else -900) if running else None,
        "worker": "worker" if running else None,
    }


class Undo(Exception):
    """Takes back what a call changed."""


def sent_by(database: Database, call: Call) -> list[Sent]:
    """Everything that a call sends; what it changes is taken back."""
    sent: list[Sent] = []

    def listen(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        if not executemany:
            sent.append(Sent(statement, parameters))

    event.listen(database.engine, "before_cursor_execute", listen)
    try:
        with pytest.raises(Undo), database.write() as connection:
            call_and_undo(connection, call)
    finally:
        event.remove(database.engine, "before_cursor_execute", listen)
    return sent


def call_and_undo(connection: Connection, call: Call) -> None:
    call(connection)
    raise Undo


def plan(connection: Connection, sent: Sent) -> str:
    prefix = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN (COSTS OFF)"
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{prefix} {sent.statement}", sent.parameters))


def uses(plan: str, index: str, dialect: str) -> bool:
    """Whether a plan searches an index; SQLite names those of unique constraints by number."""
    if dialect == "postgresql" or index.startswith("ix_"):
        return re.search(rf"\b{index}\b", plan) is not None
    return (
        re.search(rf"USING (COVERING )?INDEX sqlite_autoindex_{index.split('_')[1]}_{2 if index == 'uq_token_hash' else 1}\b", plan)
        is not None
    )


@pytest.mark.parametrize(("index", "number"), [(index, number) for index, calls in SERVED.items() for number in range(len(calls))])
def test_the_query_uses_its_index(filled: Database, index: str, number: int) -> None:
    sent = sent_by(filled, SERVED[index][number])
    with filled.write() as connection:
        plans = [plan(connection, each) for each in sent if re.match(r"(?i)(select|insert|update|delete|with)\b", each.statement)]
    assert any(uses(each, index, filled.dialect) for each in plans), "\n\n".join(
        f"{each.statement}\n{said}" for each, said in zip(sent, plans, strict=False)
    )


LISTS: dict[str, Call] = {
    "projects": lambda connection: catalog.projects(connection, 50, after=after("projects")),
    "images": lambda connection: catalog.images(connection, 1, 50, after=after("images of 1")),
    "unreadable images": lambda connection: catalog.images(connection, 1, 50, unreadable=True),
    "runs": lambda connection: jobs.runs(connection, 50, after=after("runs of all projects")),
    "runs of a project": lambda connection: jobs.runs(connection, 50, project_id=1),
    "jobs": lambda connection: jobs.page(connection, LARGE_RUN, limit=50),
    "results": lambda connection: results.of_run(connection, LARGE_RUN, 50),
    "batches": lambda connection: batches.page(connection, 50, after=after("all batches of all")),
}


@pytest.mark.parametrize("name", LISTS)
def test_each_list_is_one_statement_and_reads_no_more_than_its_page(filled: Database, name: str) -> None:
    sent = sent_by(filled, LISTS[name])
    assert len(sent) == 1
    if filled.dialect == "postgresql":
        with filled.write() as connection:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sent[0].statement}", sent[0].parameters)
            lines = [str(row[0]) for row in explained]
        read = [line for line in lines if re.search(r"Scan .*\b(image|job|result)\b", line)]
        rows = [float(re.search(r"rows=([\d.]+)", line)[1]) for line in read]  # type: ignore[index]
        assert all(number <= 60 for number in rows), "\n".join(lines)


# Types


def test_times_come_back_in_utc_and_sort_as_they_are(database: Database) -> None:
    given = [NOON.astimezone(tz=None) + timedelta(microseconds=step) for step in (0, 1, 999_999, 1_000_000)]
    with database.write() as connection:
        connection.execute(insert(Project), [{"name": str(number), "created_at": moment} for number, moment in enumerate(given)])
    with database.read() as connection:
        kept = connection.scalars(select(Project.created_at).order_by(Project.created_at.desc())).all()
        assert connection.scalar(select(Project.name).where(Project.created_at == given[1])) == "1"
        assert connection.scalar(select(Project.name).where(Project.created_at < given[1])) == "0"
    assert kept == sorted(given, reverse=True)
    assert {moment.utcoffset() for moment in kept} == {timedelta(0)}


def test_a_time_that_is_missing_stays_missing() -> None:
    assert Moment().process_bind_param(None, None) is None  # type: ignore[arg-type]


def test_deleting_a_project_by_hand_takes_all_that_hangs_on_it(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(Project).values(id=1, name="p", created_at=now_sql()))
        connection.execute(insert(Image), image_row(1, NOON) | {"id": 5, "project_id": 1})
        run = {"segmenter": "s", "version": "1", "parameters": {}, "selection": {}, "segkit_version": "1"}
        connection.execute(insert(Run), run | {"id": 6, "project_id": 1, "fingerprint": "f", "created_at": NOON})
        connection.execute(insert(Job), job_row(6, 5, JobStatus.DONE) | {"id": 7})
        done = {"attempt": 1, "path": "p", "checksum": "c", "objects": 1, "summary": {}, "bytes": 1, "seconds": 1.0}
        connection.execute(insert(Result), done | {"job_id": 7, "run_id": 6, "image_id": 5, "created_at": NOON})
    with database.write() as connection:
        connection.execute(text("DELETE FROM project"))
    with database.read() as connection:
        assert [connection.execute(select(table)).all() for table in (Image, Run, Job, Result)] == [[]] * 4
