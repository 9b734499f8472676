"""Schedules: the right times, one batch for each tick, what was missed made up for once, and everything that goes wrong recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hooks import webhook
from notebook_files import write_notebook
from plates import QUICK
from sqlalchemy import update

from segkit import batches, schedule
from segkit.batches import Notify, notices, queue
from segkit.batches.records import Ended
from segkit.database import Database, now
from segkit.errors import (
    NotebookError,
    NotebookParameterError,
    NotificationError,
    ScheduleError,
    UnknownNotebookError,
    UnknownScheduleError,
)
from segkit.schedule.cron import last_tick, next_tick, next_ticks
from segkit.schedule.store import table
from segkit.schema import ErrorKind, JobStatus
from segkit.settings import Settings, load

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


# When


@pytest.mark.parametrize(
    ("cron", "zone", "after", "ticks"),
    [
        ("30 2 * * *", "UTC", "2026-03-01T12:00+00:00", ["2026-03-02T02:30:00+00:00", "2026-03-03T02:30:00+00:00"]),
        ("0 9 * * MON-FRI", "Asia/Tokyo", "2026-03-06T12:00+00:00", ["2026-03-09T09:00:00+09:00", "2026-03-10T09:00:00+09:00"]),
        # the night in which 02:30 does not exist, and the one in which it comes twice
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+00:00", ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+00:00", ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
        ("0 0 29 2 *", "UTC", "2026-03-01T00:00+00:00", ["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]),
        ("*/20 * * * *", "UTC", "2026-03-01T12:00+00:00", ["2026-03-01T12:20:00+00:00", "2026-03-01T12:40:00+00:00"]),
    ],
)
def test_ticks(cron: str, zone: str, after: str, ticks: list[str]) -> None:
    assert [each.isoformat() for each in next_ticks(cron, zone, datetime.fromisoformat(after), 2)] == ticks


@pytest.mark.parametrize(
    ("cron", "zone", "says"),
    [
        ("0 0 30 2 *", "UTC", "never fires"),
        ("0 0 31 4,6,9,11 *", "UTC", "never fires"),
        ("* * * *", "UTC", "five fields"),
        ("* * * * * *", "UTC", "five fields"),
        ("", "UTC", "five fields"),
        ("61 * * * *", "UTC", "minute"),
        ("x * * * *", "UTC", "minute"),
        ("* * * * *", "Europe/Berlyn", 'Did you mean "Europe/Berlin"'),
        ("* * * * *", "../../etc/passwd", "no time zone"),
        ("* * * * *", "", "no time zone"),
    ],
)
def test_what_never_fires_or_cannot_be_read_is_refused(cron: str, zone: str, says: str) -> None:
    with pytest.raises(ScheduleError, match=says):
        next_tick(cron, zone, NOON)


def test_of_missed_ticks_the_last_is_made_up_for() -> None:
    assert last_tick("0 * * * *", "UTC", NOON, NOON + timedelta(hours=5, minutes=7)) == NOON + timedelta(hours=5)
    assert last_tick("0 * * * *", "UTC", NOON, NOON) == NOON
    assert last_tick("0 * * * *", "UTC", NOON, NOON + timedelta(seconds=30)) == NOON
    assert last_tick("0 * * * *", "UTC", NOON, NOON + timedelta(minutes=59, seconds=59.6)) == NOON, "not the one that comes in a moment"


# Keeping


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a notebook "add"."""
    write_notebook(tmp_path / "notebooks" / "add.ipynb", "print(size)", parameters="size: int = 1")
    return tmp_path


@pytest.fixture
def settings(place: Path) -> Settings:
    return load(home=str(place / "home"), **QUICK)


Keep = Callable[..., schedule.Record]


@pytest.fixture
def keep(database: Database, settings: Settings, place: Path) -> Keep:
    def add(**arguments: Any) -> schedule.Record:
        usual = {"name": "nightly", "cron": "* * * * *", "notebook": "add", "folder": str(place)}
        return schedule.add(database, settings, schedule.Wanted(**(usual | arguments)))

    return add


def due(database: Database, seconds: float = 0) -> None:
    """Let the tick that a schedule waits for have come, so long ago."""
    with database.write() as connection:
        connection.execute(update(table).values(next_at=now(connection) - timedelta(seconds=seconds)))


def listed(database: Database) -> list[batches.Record]:
    with database.read() as connection:
        return list(batches.page(connection).items)


def kept(database: Database, name: str = "nightly") -> schedule.Record:
    with database.read() as connection:
        return schedule.schedule(connection, name)


def end(database: Database, ended: Ended | None = None) -> None:
    """Run the next batch without running anything."""
    with database.write() as connection:
        (claim,) = queue.claim(connection, "worker", 1, 60, 1)
        assert queue.finish(connection, claim, ended or Ended())


def test_a_schedule_is_kept_paused_resumed_and_removed(database: Database, settings: Settings, keep: Keep) -> None:
    record = keep(parameters={"size": 3}, zone="Europe/Berlin")
    assert (record.cron, record.zone, record.parameters, record.error) == ("* * * * *", "Europe/Berlin", {"size": 3}, None)
    assert record.next_at is not None
    with pytest.raises(ScheduleError, match="already"):
        keep()
    with database.write() as connection:
        assert schedule.pause(connection, "nightly").next_at is None
    assert schedule.tick(database, settings) == []
    with database.write() as connection:
        resumed = schedule.resume(connection, "nightly")
        assert not resumed.paused
        assert resumed.next_at is not None
        with pytest.raises(UnknownScheduleError, match='Did you mean "nightly"'):
            schedule.pause(connection, "nigthly")
        schedule.remove(connection, "nightly")
        assert schedule.all_schedules(connection) == []


@pytest.mark.parametrize(
    ("arguments", "fault", "says"),
    [
        ({"cron": "0 0 31 2 *"}, ScheduleError, "never fires"),
        ({"zone": "Mars/Olympus"}, ScheduleError, "no time zone"),
        ({"notebook": "addd"}, UnknownNotebookError, 'Did you mean "add"'),
        ({"parameters": {"size": "x"}}, NotebookParameterError, "declared as int"),
        ({"parameters": {"sise": 1}}, NotebookParameterError, 'Did you mean "size"'),
        ({"time_limit_s": -1}, NotebookError, "time limit"),
        ({"notify": Notify(on="failure", urls=("planet://x",))}, NotificationError, "planet"),
        ({"notify": Notify(on="sometimes", urls=("json://x",))}, NotebookError, "sometimes"),
    ],
)
def test_a_schedule_that_will_not_do_is_refused_and_recorded(
    database: Database, settings: Settings, keep: Keep, arguments: dict[str, Any], fault: type[Exception], says: str
) -> None:
    with pytest.raises(fault, match=says):
        keep(**arguments)
    record = kept(database)
    assert says in (record.error or "")
    assert record.next_at is None
    assert schedule.tick(database, settings) == []
    with database.write() as connection, pytest.raises(ScheduleError, match="cannot run"):
        schedule.resume(connection, "nightly")
    assert keep().error is None, "asked for again, and right, it takes the place of the refused one"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_a_name_is_one_line(keep: Keep, name: str) -> None:
    with pytest.raises(ScheduleError, match="name"):
        keep(name=name)


# Ticking


def test_one_batch_for_each_tick_however_many_schedulers_are_up(database: Database, settings: Settings, keep: Keep) -> None:
    keep(parameters={"size": 3})
    due(database)
    with ThreadPoolExecutor(6) as pool:
        made = [number for numbers in pool.map(lambda _: schedule.tick(database, settings), range(18)) for number in numbers]
    (record,) = listed(database)
    assert made == [record.id]
    assert (record.notebook, record.parameters, record.status) == ("add", {"size": 3}, JobStatus.QUEUED)
    assert record.tick is not None
    assert kept(database).next_at > record.tick  # type: ignore[operator]


def test_missed_ticks_are_made_up_for_once(database: Database, settings: Settings, keep: Keep) -> None:
    keep()
    due(database, seconds=3600 * 5)
    assert len(schedule.tick(database, settings)) == 1
    assert schedule.tick(database, settings) == []
    (record,) = listed(database)
    assert record.tick is not None
    assert abs((record.tick - record.created_at).total_seconds()) <= 61, "the last of the ticks that were missed"


def test_no_overlap_with_a_batch_that_is_still_going(database: Database, settings: Settings, keep: Keep) -> None:
    keep()
    due(database)
    schedule.tick(database, settings)
    due(database, seconds=-0.001)
    time.sleep(0.01)
    assert schedule.tick(database, settings) == []
    assert kept(database).skipped_at is not None
    with pytest.raises(ScheduleError, match="not ended"):
        schedule.run_now(database, settings, "nightly")
    end(database)
    number = schedule.run_now(database, settings, "nightly")
    assert listed(database)[0].id == number
    assert listed(database)[0].tick is None
    end(database)
    assert [each.status for each in listed(database)] == [JobStatus.DONE, JobStatus.DONE]


def test_a_notebook_that_is_gone_when_it_ticks_is_recorded(database: Database, settings: Settings, keep: Keep, place: Path) -> None:
    keep()
    (place / "notebooks" / "add.ipynb").unlink()
    due(database)
    (number,) = schedule.tick(database, settings)
    (record,) = listed(database)
    assert (record.id, record.status, record.error_kind) == (number, JobStatus.FAILED, ErrorKind.INPUT)
    assert "no notebook" in (record.error or "")
    with pytest.raises(NotebookError, match="recorded as batch"):
        schedule.run_now(database, settings, "nightly")


def test_removing_a_schedule_keeps_its_batches(database: Database, settings: Settings, keep: Keep) -> None:
    keep()
    due(database)
    schedule.tick(database, settings)
    with database.write() as connection:
        schedule.remove(connection, "nightly")
    (record,) = listed(database)
    assert record.schedule_id is None


# Telling


@pytest.mark.parametrize(("on", "told"), [("failure", ["failed"]), ("success", ["done"]), ("always", ["done", "failed"]), (None, [])])
def test_who_wants_to_know_of_an_end_is_told_once(
    database: Database, settings: Settings, keep: Keep, on: str | None, told: list[str]
) -> None:
    with webhook() as hook:
        keep(notify=Notify(on=on, urls=(hook.url,)) if on else Notify())
        for ended in (Ended(), Ended(kind=ErrorKind.INPUT, reason="In [3] 1 / 0: ZeroDivisionError", cell=3)):
            due(database, seconds=60)
            assert len(schedule.tick(database, settings)) == 1
            end(database, ended)
            with database.write() as connection:  # the same minute may tick again
                connection.execute(update(queue.batch).values(tick=None))
            while notices.tell(database):
                pass
    assert [message["title"].split()[-1] for message in hook.received] == told
    assert [each.notice for each in listed(database)[::-1]] == [
        "sent" if "done" in told else None,
        "sent" if "failed" in told else None,
    ]
    assert all("ZeroDivisionError" in message["message"] for message in hook.received if "failed" in message["title"])


def test_a_webhook_that_is_down_is_recorded_and_fails_nothing(database: Database, settings: Settings, keep: Keep) -> None:
    keep(notify=Notify(on="always", urls=("http://127.0.0.1:1/secret-hook",)))
    due(database)
    schedule.tick(database, settings)
    end(database)
    while notices.tell(database, retry_seconds=0):
        pass
    (record,) = listed(database)
    assert (record.status, record.notice) == (JobStatus.DONE, "failed")
    assert "could not be notified" in (record.notice_error or "")
    assert "secret-hook" not in (record.notice_error or "")


def test_a_webhook_that_comes_back_is_told_then(database: Database, settings: Settings, keep: Keep) -> None:
    with webhook(503) as hook:
        keep(notify=Notify(on="success", urls=(hook.url,)))
        due(database)
        schedule.tick(database, settings)
        end(database)
        assert notices.tell(database, retry_seconds=0) == 1
        assert listed(database)[0].notice == "due"
        hook.answer = 200
        assert notices.tell(database, retry_seconds=0) == 1
    assert listed(database)[0].notice == "sent"


# The file


FILE = """
[nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
notebook = "add"
parameters = { size = 3 }

[never]
cron = "0 0 30 2 *"
notebook = "add"
"""


def test_the_file_is_brought_into_the_database(
    database: Database, settings: Settings, place: Path, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    keep(name="by hand")
    path = place / "schedule.toml"
    path.write_text(FILE)
    faults = schedule.sync(database, settings, path)
    assert faults["nightly"] is None
    assert "never fires" in (faults["never"] or "")
    first = kept(database)
    assert (first.from_file, first.parameters, first.zone) == (True, {"size": 3}, "Europe/Berlin")
    with database.write() as connection:
        schedule.pause(connection, "nightly")
    path.write_text(FILE.replace("size = 3", "size = 4"))
    schedule.sync(database, settings, path)
    changed = kept(database)
    assert (changed.id, changed.parameters, changed.paused, changed.next_at) == (first.id, {"size": 4}, True, None)
    path.write_text("")
    schedule.sync(database, settings, path)
    with database.read() as connection:
        assert [each.name for each in schedule.all_schedules(connection)] == ["by hand"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a", "cannot be read"),
        ("[a]\ncron = '* * * * *'", "notebook"),
        ("[a]\ncron = '* * * * *'\nnotebook = 'add'\nzoen = 'UTC'", 'Did you mean "zone"'),
        ("a = 3", "a"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "schedule.toml"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=says):
        schedule.read_file(path)


def test_the_schedule_that_comes_with_segkit_can_be_read() -> None:
    assert schedule.read_file(Path(__file__).parent.parent / "conf" / "schedule.toml") == []


def test_schedulers_in_threads_let_it_tick(database: Database, settings: Settings, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    path = place / "schedule.toml"
    path.write_text('[often]\ncron = "* * * * *"\nnotebook = "add"\n')
    one, two = (schedule.Scheduler(database, settings, path) for _ in range(2))
    with schedule.beside(one), schedule.beside(two):
        deadline = time.monotonic() + 20
        while not listed(database) and time.monotonic() < deadline:
            time.sleep(0.05)
            with database.read() as connection:
                there = schedule.all_schedules(connection)
            if there and not listed(database):
                due(database)
        time.sleep(0.3)
    assert len(listed(database)) == one.queued + two.queued == 1
