"""The hub of live events by itself: windows, ends that hurry and overtake, slow readers, and what it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest

from segkit.events import Change
from segkit.kit import Kit
from segkit.server.readers import EVERYTHING, MOST_KEPT, Hub, Reader, Subscription
from segkit.settings import Settings
from tests.finished_runs import queue_run
from tests.live_service import singly
from tests.plates import open_kit


@pytest.fixture
def embedded(make_settings: Callable[..., Settings]) -> Iterator[Kit]:
    with open_kit(make_settings("sqlite")) as kit:
        yield kit


@contextlib.asynccontextmanager
async def opened_hub(kit: Kit) -> AsyncIterator[Hub]:
    hub = Hub(kit)
    await hub.open()
    try:
        yield hub
    finally:
        await hub.close()


def test_the_newest_value_of_a_window_wins_and_ends_are_sent_at_once(embedded: Kit) -> None:
    run = queue_run(embedded, 1)

    async def read() -> None:
        async with opened_hub(embedded) as hub:
            reader = Reader(EVERYTHING, None)
            await hub.next(reader)
            await asyncio.sleep(0.3)
            await hub.now(reader)
            reader.since = hub._identity(hub._number)
            numbers = []
            started = time.monotonic()
            while time.monotonic() - started < 1.05:
                for status in ("queued", "running"):
                    embedded.events.publish(Change(run.number, 7_000_000, f"{status}", "a"), Change(run.number, 7_000_001, status, "b"))
                with contextlib.suppress(TimeoutError):
                    _, text = await asyncio.wait_for(hub.next(reader), 0.01)
                    numbers.append([event["status"] for event in singly(json.loads(text)["events"]) if event["type"] == "jobs"])
            assert len(numbers) <= 11
            assert all(statuses in (["running"], ["running", "running"]) for statuses in numbers)
            delays = []
            for job in range(3):
                await asyncio.sleep(0.12)
                embedded.events.publish(Change(run.number, 7_000_002 + job, "running", "c"))
                await asyncio.wait_for(hub.next(reader), 1)
                started = time.monotonic()
                embedded.events.publish(Change(run.number, 7_000_002 + job, "done", "c"))
                await asyncio.wait_for(hub.next(reader), 1)
                delays.append(time.monotonic() - started)
            assert min(delays) < 0.06  # a window is 0.1 s

    asyncio.run(read())


def test_many_ends_do_not_become_many_messages(embedded: Kit) -> None:
    run = queue_run(embedded, 1)

    async def read() -> int:
        async with opened_hub(embedded) as hub:
            reader = Reader(EVERYTHING, None)
            await hub.next(reader)
            count, job, started = 0, 8_000_000, time.monotonic()
            while time.monotonic() - started < 1:
                job += 1
                embedded.events.publish(Change(run.number, job, "done", "a"))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hub.next(reader), 0.003)
                    count += 1
            return count

    assert asyncio.run(read()) <= 10 + 7 + 5 + 3  # windows, ends that may hurry, and those saved up before


def test_a_slow_reader_gets_fewer_and_newer_messages(embedded: Kit) -> None:
    run = queue_run(embedded, 1)

    async def read() -> None:
        async with opened_hub(embedded) as hub:
            reader = Reader(EVERYTHING, None)
            await hub.next(reader)
            for number in range(5):
                status = "running" if number % 2 else "queued"
                embedded.events.publish(*(Change(run.number, 9_000_000 + job, status, f"{number}") for job in range(50)))
                await asyncio.sleep(0.15)
            _, text = await hub.next(reader)
            (event,) = (event for event in json.loads(text)["events"] if event["type"] == "jobs")
            told = singly([event])
            assert len(told) == 50
            assert {event["image"] for event in told} == {"4"}

    asyncio.run(read())


def test_memory_is_bounded_and_a_reader_too_far_behind_gets_the_state(embedded: Kit) -> None:
    run = queue_run(embedded, 1)

    async def read() -> None:
        async with opened_hub(embedded) as hub:
            reader, late = Reader(EVERYTHING, None), Reader(Subscription(runs=frozenset([run.number])), None)
            await hub.next(reader)
            await hub.next(late)
            for start in range(0, MOST_KEPT + 2000, 4000):
                hub._deliver([Change(run.number, 10_000_000 + start + job, "running") for job in range(4000)])
                await hub.next(reader)
            assert len(hub._entries) == MOST_KEPT
            _, text = await hub.next(late)
            assert "state" in json.loads(text)

    asyncio.run(read())


def test_a_message_is_made_once_for_all_readers(embedded: Kit) -> None:
    run = queue_run(embedded, 1)

    async def read() -> None:
        async with opened_hub(embedded) as hub:
            readers = [Reader(Subscription(runs=frozenset([run.number])), None) for _ in range(20)]
            await asyncio.gather(*(hub.next(reader) for reader in readers))
            waiting = [asyncio.create_task(hub.next(reader)) for reader in readers]
            await asyncio.sleep(0.05)
            embedded.events.publish(Change(run.number, 11_000_000, "done"))
            texts = {id(text) for _, text in await asyncio.gather(*waiting)}
            assert len(texts) == 1

    asyncio.run(read())


def test_an_end_overtakes_what_is_being_given_to_readers(embedded: Kit) -> None:
    run = queue_run(embedded, 1)
    given: dict[int, list[bytes]] = {number: [] for number in range(200)}

    async def read() -> None:
        async with opened_hub(embedded) as hub:
            readers = [Reader(Subscription(runs=frozenset([run.number])), None) for _ in given]
            waiting = [asyncio.create_task(follow(hub, reader)) for reader in readers]
            await asyncio.sleep(0.5)
            for number, reader in enumerate(readers):
                reader.push = partial(push, number)
            embedded.events.publish(Change(run.number, 12_000_000, "running", "a"))
            await asyncio.sleep(0.5)
            for task in waiting:
                task.cancel()

    async def follow(hub: Hub, reader: Reader) -> None:
        while True:
            await hub.next(reader)

    def push(number: int, frame: bytes) -> bool:
        given[number].append(frame)
        if number == 100 and len(given[100]) == 1:
            embedded.events.publish(Change(run.number, 12_000_001, "done", "b"))
            time.sleep(0.1)  # the loop is kept from going on until others had time to hear of it
        return True

    asyncio.run(read())
    told = {number: [statuses_of(frame) for frame in frames] for number, frames in given.items()}
    assert all(told[number] == [["running"], ["done"]] for number in range(101))
    assert all(told[number] == [["running", "done"]] for number in range(160, 200)), "who was not told yet hears of both at once"


def statuses_of(frame: bytes) -> list[str]:
    return [each["status"] for each in json.loads(frame[frame.index(b"{") :])["events"]]
