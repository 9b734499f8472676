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
            kit.events.publish(Change(1, number, "done"))
        assert time.monotonic() - started < 2
        assert len(kit.events._pending) <= 20_000
