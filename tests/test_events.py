"""Events as they travel between processes, and that publishing never costs anything. Followers are in `test_server_live`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import segkit
from segkit import events
from segkit.events import Change, Looker
from segkit.kit import Kit
from segkit.settings import Settings
from tests.finished_runs import finish_run, queue_run
from tests.test_widgets import wait_until


@pytest.fixture
def kit(database_settings: Settings) -> Iterator[Kit]:
    url = database_settings.database_url and database_settings.database_url.get_secret_value()
    with segkit.open(database_settings.home, database_url=url) as kit:
        yield kit


def look(looker: Looker, kit: Kit, *touched: int) -> tuple[Any, list[Change]]:
    with kit.database.read() as connection:
        return looker.look(connection, touched)


def test_looking_tells_what_changed_and_nothing_twice(kit: Kit) -> None:
    looker = Looker()
    run = queue_run(kit, 2)
    states, changes = look(looker, kit)
    assert [(state.run_id, state.queued) for state in states] == [(run.number, 2)]
    assert not changes
    assert look(looker, kit) == ([], [])
    done = finish_run(kit, 1)
    states, changes = look(looker, kit, done.number)
    assert {state.run_id: state.done for state in states} == {run.number: 2, done.number: 1}
    assert {change.run_id for change in changes} == {run.number}
    assert [change.status for change in changes] == ["done", "done"]
    assert look(looker, kit) == ([], [])


def test_published_messages_survive_anything_in_them() -> None:
    wild = [Change(1, 2, "done", "naïve \0 \ud800" * 100, "x" * 10_000)] * 200
    messages = list(events.encode(wild, 7900))
    assert len(messages) > 5
    assert all(len(message) <= 7900 for message in messages)
    assert sum(len(events.decode(message)) for message in messages) == 200
    assert events.decode(b"{") == events.decode("[1]") == events.decode('[["a", 1, 2, 3, 4]]') == []


def test_publishing_without_a_server_that_answers_costs_nothing(make_settings: Callable[..., Settings]) -> None:
    with segkit.open(make_settings("sqlite").home, redis_url="redis://127.0.0.1:1/0") as kit:
        started = time.monotonic()
        for number in range(50_000):
            kit.events.publish(Change(1, number, ("done", "running")[number % 2]))
        assert time.monotonic() - started < 2
        assert len(kit.events._pending) + len(kit.events._ended) <= 20_000


def test_the_end_of_a_job_waits_for_no_window_and_takes_nothing_along(make_settings: Callable[..., Settings]) -> None:
    with segkit.open(make_settings("sqlite").home) as kit:
        heard: list[list[Change]] = []
        kit.events.listen(heard.append)
        kit.events.publish(Change(1, 0, "queued"))
        wait_until(lambda: len(heard) == 1)  # a window has just been sent
        ended, others = Change(1, 50, "done"), [Change(1, number, "running") for number in range(50)]
        kit.events.publish(*others[:25], ended, *others[25:])
        wait_until(lambda: len(heard) == 3)
        assert heard[1:] == [[ended], others]


def test_what_began_anew_just_after_it_ended_is_told_as_it_is(make_settings: Callable[..., Settings]) -> None:
    with segkit.open(make_settings("sqlite").home) as kit:
        heard: list[list[Change]] = []
        kit.events.listen(heard.append)
        for number in range(200):
            kit.events.publish(Change(1, number % 7, "failed"))
            kit.events.publish(Change(1, number % 7, "queued"))
        kit.events.publish(Change(1, 99, "done"))
        told = {**dict.fromkeys(range(7), "queued"), 99: "done"}
        wait_until(lambda: {change.job_id: change.status for changes in list(heard) for change in changes} == told)
