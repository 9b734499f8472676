"""A read-through cache of bytes: in this process, and in Redis or Valkey when `SEGKIT_REDIS_URL` names one.

A cached read is never stale after a commit, because every key holds the revision that the database had when it was asked;
whoever writes raises the revision in the same transaction. The cache need not be told, and old entries just age out.

Nothing here can make a read fail or wait long. Calls to Redis give up after 0.2 s and are not repeated; after a failure Redis is
left alone for a while (a circuit breaker), so a dead one costs nothing per read. Each value carries a checksum of key and content:
anything else that is found under a key is thrown away. Values are bytes that the caller serialised; there is no pickle.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import lazy_loader
from cachetools import TLRUCache

from segkit.errors import SettingsError
from segkit.settings import Settings

if TYPE_CHECKING:
    import redis
else:
    redis = lazy_loader.load("redis")  # 0.3 s that only those pay who set a URL

Kind = Literal["projects", "images", "results", "queue"]

#: Raised when the bytes of any kind change their form, so that another version's entries are not read.
FORM = 1
CALL_SECONDS = 0.2
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
#: What an entry in this process costs besides its bytes, roughly.
OVERHEAD_BYTES = 300
#: What redis-py's parser raises, besides its own errors, over bytes that no Redis sends.
GARBLED = (ValueError, TypeError, AttributeError, LookupError, RuntimeError)

#: What is kept, for how many seconds, and its size in bytes.
Entry = tuple[object, int, int]
MARK_BYTES = 12


@dataclass(frozen=True)
class CacheStatistics:
    """What the cache did since it was made."""

    hits: int = 0  #: answered from this process
    shared_hits: int = 0  #: answered from Redis
    joined: int = 0  #: waited for another thread that was already asking the database the same
    misses: int = 0  #: asked the database
    evictions: int = 0  #: entries of this process that made room for others
    replaced: int = 0  #: entries of this process that were found outdated
    garbage: int = 0  #: entries of Redis that were not ours, and were deleted
    shared_failures: int = 0  #: calls to Redis that failed
    fill_seconds: float = 0.0  #: time spent asking the database
    entries: int = 0  #: in this process now
    bytes: int = 0  #: in this process now

    @property
    def hit_rate(self) -> float:
        """Share of reads that did not ask the database; 0 before the first."""
        spared = self.hits + self.shared_hits + self.joined
        return spared / (spared + self.misses) if spared + self.misses else 0.0


class Cache:
    """The cache of one process. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._seconds: dict[str, int] = {
            "projects": settings.cache_ttl_projects,
            "images": settings.cache_ttl_images,
            "results": settings.cache_ttl_results,
            "queue": settings.cache_ttl_queue,
        }
        self.memory = Memory(settings.cache_bytes)  #: what this process keeps, shared with whoever keeps more than bytes
        self._shared = Shared(settings.redis_url.get_secret_value()) if settings.redis_url else None
        self._asking: dict[str, Future[bytes]] = {}
        self._counts: dict[str, float] = {}
        self._lock = threading.Lock()

    def read(self, kind: Kind, key: tuple[object, ...], fill: Callable[[], bytes]) -> bytes:
        """Return what is cached under a key, or ask `fill` and keep its answer.

        Several threads that miss the same key at once ask once.

        Parameters
        ----------
        kind
            Decides how long the answer is kept (`SEGKIT_CACHE_TTL_...`); 0 seconds: not at all.
        key
            Must hold the revision of whatever the answer shows, and everything else that it depends on.
        fill
            Asks the database. What it raises is raised here, and nothing is kept.
        """
        seconds = self._seconds[kind]
        if seconds == 0:
            return fill()
        name = name_of(kind, key)
        found: bytes | None = self.memory.get(name)
        if found is not None:
            self.count("hits")
            return found
        return self._ask_once(name, seconds, fill)

    def seconds(self, kind: Kind) -> int:
        """How long answers of a kind are kept."""
        return self._seconds[kind]

    @property
    def is_shared(self) -> bool:
        """Whether other processes share what is kept."""
        return self._shared is not None

    @property
    def shared_answers(self) -> bool:
        """Whether Redis answered when it was last called; true where there is none."""
        return self._shared is None or self._shared.answers

    def fetch(self, kind: Kind, key: tuple[object, ...] | None, fill: Callable[[], bytes]) -> bytes:
        """Return what other processes share under a key, or ask `fill` and share its answer; this process keeps nothing.

        For who keeps in `memory` what he makes of it. Without a key, or without Redis, nothing is shared.
        """
        if self._shared is None or key is None:
            return self._fill(fill)
        return self._fetch(self._shared, name_of(kind, key), self._seconds[kind], fill)

    def statistics(self) -> CacheStatistics:
        """Tell how well the cache does."""
        memory = self.memory
        with self._lock:
            counts = {name: number if name == "fill_seconds" else int(number) for name, number in self._counts.items()}
        shared = {"garbage": self._shared.garbage, "shared_failures": self._shared.failures} if self._shared else {}
        return CacheStatistics(**counts, **shared, evictions=memory.evictions, entries=memory.entries, bytes=memory.bytes)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Forget what this process holds. Redis keeps its entries; they are right as long as they are there."""
        self.memory.clear()

    def close(self) -> None:
        """Close the connections to Redis."""
        if self._shared is not None:
            self._shared.close()

    def _ask_once(self, name: str, seconds: int, fill: Callable[[], bytes]) -> bytes:
        mine: Future[bytes] = Future()
        with self._lock:
            asking = self._asking.setdefault(name, mine)
        if asking is not mine:
            self.count("joined")
            return self._join(asking, fill)
        try:
            answer = self._ask(name, seconds, fill)
            mine.set_result(answer)
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            mine.cancel()  # does nothing to one that ended; who waits for one that was interrupted asks for himself
            with self._lock:
                del self._asking[name]
        return answer

    def _join(self, asking: Future[bytes], fill: Callable[[], bytes]) -> bytes:
        try:
            return asking.result()
        except CancelledError:
            return fill()

    def _ask(self, name: str, seconds: int, fill: Callable[[], bytes]) -> bytes:
        answer: bytes | None = self.memory.get(name)  # another thread may have ended asking since this one looked
        if answer is not None:
            self.count("hits")
            return answer
        answer = self._fetch(self._shared, name, seconds, fill) if self._shared else self._fill(fill)
        self.memory.keep(name, answer, seconds, len(answer))
        return answer

    def _fetch(self, shared: Shared, name: str, seconds: int, fill: Callable[[], bytes]) -> bytes:
        answer = shared.get(name)
        if answer is not None:
            self.count("shared_hits")
            return answer
        answer = self._fill(fill)
        shared.keep(name, answer, seconds)
        return answer

    def _fill(self, fill: Callable[[], bytes]) -> bytes:
        started = time.perf_counter()
        answer = fill()
        self.note_fill(time.perf_counter() - started)
        return answer

    def note_fill(self, seconds: float) -> None:
        """Count an answer that was made, and how long that took."""
        self.count("misses")
        self.count("fill_seconds", seconds)

    def count(self, what: str, number: float = 1) -> None:
        """Count what happened, by the name of its statistic."""
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + number


def name_of(kind: str, key: tuple[object, ...]) -> str:
    """Write a key as a name; lengths keep two different keys from giving one name.

    Examples
    --------
    >>> name_of("images", (3, 17, "a:b"))
    'segkit:1:images:1.3:2.17:3.a:b'
    """
    return ":".join([f"segkit:{FORM}:{kind}", *(f"{len(str(part))}.{part}" for part in key)])


class Memory:
    """What this process keeps, by its size in bytes: the longest unused make room for new ones, and each has its time to go."""

    def __init__(self, most_bytes: int) -> None:
        self.evictions = 0
        self._entries: TLRUCache[Hashable, Entry] = TLRUCache(most_bytes, _expires, time.monotonic, _weight)
        self._lock = threading.Lock()

    def get(self, name: Hashable) -> Any:
        """Return what is kept under a name, or None."""
        with self._lock:
            try:
                found: Entry = self._entries[name]  # `get` would look twice
            except KeyError:
                return None
        return found[0]

    def keep(self, name: Hashable, value: object, seconds: int, size: int) -> None:
        """Keep something of a size in bytes for a time, unless it is larger than the whole cache."""
        entry = (value, seconds, size)
        if _weight(entry) > self._entries.maxsize:
            return
        with self._lock:
            self._entries.expire()
            there = len(self._entries) + (name not in self._entries)
            self._entries[name] = entry
            self.evictions += there - len(self._entries)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    @property
    def entries(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._entries)

    @property
    def bytes(self) -> int:
        """What they take, overhead included."""
        with self._lock:
            return int(self._entries.currsize)

    @property
    def most_bytes(self) -> int:
        """What they may take."""
        return int(self._entries.maxsize)


def _expires(name: Hashable, entry: Entry, now: float) -> float:
    return now + entry[1]


def _weight(entry: Entry) -> int:
    return entry[2] + OVERHEAD_BYTES


class Shared:
    """Bytes in Redis or Valkey. Every fault there is a miss."""

    def __init__(self, url: str) -> None:
        self.garbage = 0
        self.failures = 0
        self._redis = client(url)
        self._not_before = 0.0
        self._pause = PAUSE_SECONDS
        self._failed = False
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name; None when it is not there, not ours, or Redis does not answer."""
        stored = self._call(lambda: self._redis.get(name))
        if stored is None:
            return None
        value = unseal(name, stored) if isinstance(stored, bytes) else None
        if value is None:
            self.garbage += 1
            self._call(lambda: self._redis.delete(name))
        return value

    def keep(self, name: str, value: bytes, seconds: int) -> None:
        """Keep bytes for a time, if Redis has room and answers."""
        self._call(lambda: self._redis.set(name, seal(name, value), ex=seconds))

    @property
    def answers(self) -> bool:
        """Whether the last call was answered."""
        return not self._failed

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _call(self, call: Callable[[], object]) -> object:
        """Call Redis unless it failed lately. A failed call says nothing about others when Redis answered it at all."""
        if not self._may_call():
            return None
        try:
            answer = call()
        except redis.ResponseError as error:
            self.failures += 1
            answer = _WRONG_TYPE if "WRONGTYPE" in str(error) else None
        except (redis.RedisError, OSError, *GARBLED):
            self._leave_alone()
            return None
        self._failed = False
        return answer

    def _may_call(self) -> bool:
        """After a failure one thread at a time tries again, and the others go on without."""
        if not self._failed:
            return True
        with self._lock:
            if time.monotonic() < self._not_before:
                return False
            self._not_before = time.monotonic() + self._pause
            return True

    def _leave_alone(self) -> None:
        with self._lock:
            self.failures += 1
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS) if self._failed else PAUSE_SECONDS
            self._failed = True
            self._not_before = time.monotonic() + self._pause


#: Stands for an entry that somebody else made under our name, such as a list.
_WRONG_TYPE = object()


def client(url: str) -> redis.Redis:
    """Make a client of Redis with time-outs that a cache may cost; redis-py's own are 5 s, tried several times."""
    never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    try:
        return redis.Redis.from_url(url, socket_timeout=CALL_SECONDS, socket_connect_timeout=CALL_SECONDS, retry=never)
    except ValueError:
        raise SettingsError("SEGKIT_REDIS_URL cannot be used. Write redis://host:6379/0, rediss:// for TLS, or unix:///path.") from None


def seal(name: str, value: bytes) -> bytes:
    """Put a checksum of name and value before the value."""
    return _mark(name, value) + value


def unseal(name: str, stored: bytes) -> bytes | None:
    """Return the value, or None when its checksum is not right."""
    value = stored[MARK_BYTES:]
    return value if stored[:MARK_BYTES] == _mark(name, value) else None


def _mark(name: str, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=MARK_BYTES, key=hashlib.blake2b(name.encode(), digest_size=32).digest()).digest()


def reachable(settings: Settings) -> bool:
    """Whether the Redis that the settings name answers now."""
    if settings.redis_url is None:
        return False
    connection = client(settings.redis_url.get_secret_value())
    try:
        return bool(connection.ping())
    except (redis.RedisError, OSError, *GARBLED):
        return False
    finally:
        connection.close()
