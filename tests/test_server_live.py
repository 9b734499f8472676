"""Live events as readers meet them: windows, ends at once, slow readers, resuming, and other processes that change things."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI
from sqlalchemy.event import listen

import segkit
from segkit import jobs
from segkit.events import Change
from segkit.kit import Kit
from segkit.runs import Run
from segkit.server import live, problems
from segkit.settings import Settings
from tests.finished_runs import finish_run, queue_run, write_result
from tests.live_service import serving, singly


def app_of(kit: Kit) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.kit = kit
        async with live.opened(app):
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(live.router)
    problems.install(app)
    return app


def open_kit(settings: Settings, **arguments: Any) -> Kit:
    url = settings.database_url and settings.database_url.get_secret_value()
    return segkit.open(settings.home, database_url=url, **arguments)


@pytest.fixture
def kit(database_settings: Settings) -> Iterator[Kit]:
    with open_kit(database_settings) as kit:
        yield kit


@pytest.fixture
def address(kit: Kit) -> Iterator[str]:
    with serving(app_of(kit), lifespan="on") as service:
        yield f"{service.url}/api/events"


@pytest.fixture
def embedded(make_settings: Callable[..., Settings]) -> Iterator[Kit]:
    with open_kit(make_settings("sqlite")) as kit:
        yield kit


@pytest.fixture
def embedded_address(embedded: Kit) -> Iterator[str]:
    with serving(app_of(embedded), lifespan="on") as service:
        yield f"{service.url}/api/events"


@contextlib.asynccontextmanager
async def reading(address: str, query: str = "") -> AsyncIterator[websockets.ClientConnection]:
    async with websockets.connect(f"{address.replace('http', 'ws')}{query}") as socket:
        yield socket


async def message_of(socket: websockets.ClientConnection, seconds: float = 5) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), seconds))
    return message


async def until(socket: websockets.ClientConnection, wanted: Callable[[dict[str, Any]], bool], seconds: float = 8) -> list[dict[str, Any]]:
    """Read events until one is wanted; return all of them."""
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(seconds):
        while not any(map(wanted, seen)):
            seen += singly(json.loads(await socket.recv()).get("events", []))
    return seen


def is_done(run: Run) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["type"] == "run" and event["run_id"] == run.number and event["queued"] + event["running"] == 0


def work(kit: Kit, go_on: threading.Event | None = None) -> None:
    """Claim all jobs, finish them when told to, and publish it as workers do."""
    with kit.database.write() as connection:
        claims = jobs.claim(connection, "test", 100, 600)
    if go_on is not None:
        go_on.wait(8)
    for claim in claims:
        write_result(kit, claim, 32)
        kit.events.publish(Change(claim.run_id, claim.job_id, "done", claim.name, "10 objects"))


def test_a_run_is_told_from_its_start_to_its_end(kit: Kit, address: str) -> None:
    async def read() -> list[dict[str, Any]]:
        async with reading(address) as socket:
            first = await message_of(socket)
            assert first["state"] == {"runs": [], "jobs": []}
            run = await asyncio.to_thread(queue_run, kit, 3)
            running, done, go_on = set[int](), is_done(run), threading.Event()

            def seen(event: dict[str, Any]) -> bool:
                if event.get("status") == "running":
                    running.add(event["job_id"])
                if len(running) == 3:  # of a job that ends within 100 ms nobody is told that it ran
                    go_on.set()
                return done(event)

            return (await asyncio.gather(asyncio.to_thread(work, kit, go_on), until(socket, seen)))[1]

    seen = asyncio.run(read())
    statuses: dict[int, list[str]] = {}
    for event in seen:
        if event["type"] == "jobs":
            statuses.setdefault(event["job_id"], []).append(event["status"])
    assert len(statuses) == 3
    assert all(each == ["running", "done"] for each in statuses.values())
    last = [event for event in seen if event["type"] == "run"][-1]
    assert (last["done"], last["running"], last["objects"]) == (3, 0, 30)
    assert last["project_id"] is not None


def test_subscriptions_cut_what_is_not_wanted(kit: Kit, address: str) -> None:
    async def read() -> None:
        one, two = await asyncio.to_thread(queue_run, kit, 2), await asyncio.to_thread(queue_run, kit, 2)
        jobs_of_two = [each.id for each in two.jobs().items]
        async with (
            reading(address, f"?runs={one.number}") as first,
            reading(address, f"?jobs={jobs_of_two[0]}") as second,
            reading(address, f"?projects={one.record.project_id}") as third,
        ):
            state = (await message_of(first))["state"]
            assert [each["run_id"] for each in state["runs"]] == [one.number]
            assert [each["job_id"] for each in singly((await message_of(second))["state"]["jobs"])] == jobs_of_two[:1]
            assert len((await message_of(third))["state"]["runs"]) == 2
            worked = asyncio.create_task(asyncio.to_thread(work, kit))
            assert {event["run_id"] for event in await until(first, is_done(one))} == {one.number}
            seen = await until(second, lambda event: event["status"] == "done")
            assert {event.get("job_id") for event in seen} == {jobs_of_two[0]}
            await until(third, is_done(two))
            await first.send(json.dumps({"subscribe": {"runs": [two.number]}}))
            changed: dict[str, Any] = {}
            while "state" not in changed:
                changed = await message_of(first)
            assert [each["run_id"] for each in changed["state"]["runs"]] == [two.number]
            await worked

    asyncio.run(read())


NO_SUBSCRIPTIONS = [
    "", "{", "[]", "1", '{"subscribe": 1}', '{"subscribe": {"runs": "1"}}', '{"subscribe": {"runs": [0]}}',
    '{"subscribe": {"runs": [true]}}', '{"subscribe": {"cats": [1]}}', '{"subscribe": {"runs": [1e400]}}',
    json.dumps({"subscribe": {"jobs": list(range(1, 1500))}}),
]  # fmt: skip
NO_QUERIES = ["?runs=x", "?runs=-1", "?jobs=", "?projects=1,,2", "?runs=99999999999999999999", "?runs=%00", f"?runs={'9' * 5000}"]


def test_a_subscription_that_is_none_is_told_so(embedded_address: str) -> None:
    async def read() -> list[str]:
        async with reading(embedded_address) as socket:
            await message_of(socket)
            told = []
            for message in NO_SUBSCRIPTIONS:
                await socket.send(message)
                told.append((await message_of(socket)).get("error", ""))
            return told

    assert [message for message, error in zip(NO_SUBSCRIPTIONS, asyncio.run(read()), strict=True) if "subscription" not in error] == []


def test_a_query_that_is_none_closes_the_socket(embedded_address: str) -> None:
    async def read(query: str) -> None:
        with pytest.raises(websockets.InvalidStatus):
            async with reading(embedded_address, query):
                pass

    for query in NO_QUERIES:
        asyncio.run(read(query))
    answers = {query: httpx.get(f"{embedded_address}{query}").status_code for query in NO_QUERIES}
    assert {query: status for query, status in answers.items() if status not in (400, 422)} == {}


def test_resuming(kit: Kit, address: str) -> None:
    """What was missed comes after the id; an id of another server, or one that is too old, gets the whole state."""
    before = httpx.get(address).json()
    run = finish_run(kit, 2)
    deadline = time.monotonic() + 5
    while not (missed := httpx.get(address, params={"since": before["id"]}).json())["events"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert {event["run_id"] for event in missed["events"]} == {run.number}
    assert "state" in httpx.get(address, params={"since": "other-1"}).json()
    assert "state" in httpx.get(address, params={"since": before["id"] + "99"}).json()
    again = httpx.get(address, headers={"Last-Event-ID": before["id"]}).json()
    assert again["events"]


def test_server_sent_events(kit: Kit, address: str) -> None:
    with httpx.stream("GET", address, headers={"Accept": "text/event-stream"}, timeout=8) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in answer.headers
        lines = answer.iter_lines()
        assert next(lines).startswith("retry:")
        found: list[tuple[str, Any]] = []
        identity = ""
        for line in lines:
            if line.startswith("id: "):
                identity = line[4:]
            elif line.startswith("data: "):
                found.append((identity, json.loads(line[6:])))
                if len(found) == 1:
                    run = finish_run(kit, 1)
                elif any(is_done(run)(event) for event in found[-1][1]["events"]):
                    break
    assert all(identity == data["id"] for identity, data in found)


WORKER = """
import json, sys, time
import segkit
from segkit import jobs
from tests.finished_runs import write_result
settings = json.loads(sys.argv[1])
with segkit.open(settings["home"], database_url=settings["url"], redis_url=settings["redis"]) as kit:
    with kit.database.write() as connection:
        claims = jobs.claim(connection, "other", 100, 600)
    time.sleep(0.3)
    for claim in claims:
        write_result(kit, claim, 32)
        kit.events.publish(segkit.events.Change(claim.run_id, claim.job_id, "done", claim.name))
    print("done", flush=True)
"""


@pytest.mark.parametrize(("dialect", "with_redis"), [("sqlite", False), ("postgresql", False), ("postgresql", True)])
def test_another_process_is_heard(
    make_settings: Callable[..., Settings], dialect: str, with_redis: bool, request: pytest.FixtureRequest
) -> None:
    database_settings = make_settings(dialect)
    redis_url = request.getfixturevalue("valkey_url") if with_redis else None
    url = database_settings.database_url and database_settings.database_url.get_secret_value()
    told = json.dumps({"home": database_settings.home, "url": url, "redis": redis_url})

    async def read(address: str, run: Run) -> list[dict[str, Any]]:
        async with reading(address) as socket:
            await message_of(socket)
            other = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, told, cwd=Path(__file__).parent.parent)
            seen = await until(socket, is_done(run), 20)
            assert await other.wait() == 0
            return seen

    with open_kit(database_settings, redis_url=redis_url) as kit, serving(app_of(kit), lifespan="on") as service:
        run = queue_run(kit, 2)
        seen = asyncio.run(read(f"{service.url}/api/events", run))
        assert {event["job_id"] for event in seen if event.get("status") == "done"} == {each.id for each in run.jobs().items}


def test_cancelling_and_retrying_is_told(kit: Kit, address: str) -> None:
    async def read() -> None:
        run = await asyncio.to_thread(queue_run, kit, 2)
        async with reading(address, f"?runs={run.number}") as socket:
            await message_of(socket)
            await asyncio.to_thread(run.cancel)
            assert (await until(socket, lambda event: event.get("cancelled") == 2, 1.5))[-1]["queued"] == 0
            await asyncio.to_thread(run.retry)
            await until(socket, lambda event: event.get("queued") == 2, 1.5)

    asyncio.run(read())


def test_clients_that_leave_are_forgotten(kit: Kit) -> None:
    app = app_of(kit)
    with serving(app, lifespan="on") as service:
        address = f"{service.url}/api/events"

        async def come_and_go() -> None:
            for _ in range(5):
                async with reading(address) as socket:
                    await message_of(socket)

        asyncio.run(come_and_go())
        with httpx.stream("GET", address, headers={"Accept": "text/event-stream"}) as answer:
            next(answer.iter_raw(10))
        deadline = time.monotonic() + 5
        while app.state.live.readers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert app.state.live.readers == 0


def test_of_a_run_that_ended_no_job_is_told_later(kit: Kit, address: str) -> None:
    """Jobs end while the hub looks at the database, and too many have ended for them to be told at once."""
    run = queue_run(kit, 6)
    with kit.database.write() as connection:
        claims = jobs.claim(connection, "test", 100, 600)
    looks = 0

    def end_jobs(*about: Any) -> None:
        nonlocal looks
        if "run.queued + run.running" in about[2] and "queued" in about[2]:
            looks += 1
            if looks == 2:
                ended.start()
                ended.join()
                time.sleep(0.2)  # until the hub has heard of it

    def end() -> None:
        for claim in claims:
            write_result(kit, claim, 32)
            kit.events.publish(Change(run.number, claim.job_id, "done", claim.name, "10 objects"))

    async def read() -> list[dict[str, Any]]:
        async with reading(address, f"?runs={run.number}") as socket:
            await message_of(socket)
            listen(kit.database.engine, "before_cursor_execute", end_jobs)
            return await until(socket, is_done(run))

    ended = threading.Thread(target=end)
    seen = asyncio.run(read())
    assert {each["job_id"] for each in seen if each.get("status") == "done"} == {claim.job_id for claim in claims}
