"""Telling others, from a thread of its own: whoever publishes waits for nothing and is never disturbed."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import lazy_loader

from segkit.cache import GARBLED
from segkit.database import Database
from segkit.errors import SegkitError
from segkit.events.changes import Change, encode
from segkit.revisions import own_connection
from segkit.settings import Settings

if TYPE_CHECKING:
    import psycopg
    import redis
    from sqlalchemy import exc
else:
    psycopg = lazy_loader.load("psycopg")
    redis = lazy_loader.load("redis")
    exc = lazy_loader.load("sqlalchemy.exc")

log = logging.getLogger(__name__)

WINDOW_SECONDS = 0.1
#: Changes of one commit follow each other; so long they are waited for.
GATHER_SECONDS = 0.001
#: Changes kept while others cannot be told; beyond that they are dropped, and followers find out by looking.
MOST_PENDING = 20_000
#: PostgreSQL refuses longer messages.
NOTIFY_BYTES = 7900
REDIS_BYTES = 2**18
CHANNEL = "segkit_events"
CALL_SECONDS = 0.5
PAUSE_SECONDS = 1.0


class Transport(Protocol):
    """Takes messages to other processes."""

    most_bytes: int

    def send(self, message: bytes) -> None:
        """Send one message; raises what its driver raises."""

    def close(self) -> None:
        """Let go of connections."""


class PostgresqlTransport:
    """NOTIFY on a connection of its own, outside of anybody's transaction."""

    most_bytes = NOTIFY_BYTES

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Any = None

    def send(self, message: bytes) -> None:
        """Notify whoever listens."""
        if self._connection is None:
            self._connection = own_connection(self._database)
            self._connection.autocommit = True
        try:
            self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, message.decode()))
        except psycopg.Error:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class RedisTransport:
    """Redis's PUBLISH."""

    most_bytes = REDIS_BYTES

    def __init__(self, settings: Settings, database: Database) -> None:
        self._redis = redis_client(settings)
        self._channel = redis_channel(database)

    def send(self, message: bytes) -> None:
        """Publish to whoever is subscribed."""
        self._redis.publish(self._channel, message)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def redis_client(settings: Settings, timeout: float | None = CALL_SECONDS) -> redis.Redis:
    """Make a client of the Redis that the settings name."""
    assert settings.redis_url is not None
    return redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=timeout, socket_connect_timeout=CALL_SECONDS)


def redis_channel(database: Database) -> str:
    """Name the channel of one database, of the several that may share a Redis."""
    url = database.engine.url
    return f"{CHANNEL}:{database.path or f'{url.host}:{url.port}/{url.database}'}"


def transport_of(settings: Settings, database: Database) -> Transport | None:
    """Return the way to other processes; None when they notice by themselves."""
    if settings.redis_url is not None:
        return RedisTransport(settings, database)
    return PostgresqlTransport(database) if database.dialect == "postgresql" else None


_loading = threading.Lock()


def faults() -> tuple[type[BaseException], ...]:
    """Return what goes wrong between processes.

    Called before a thread needs it, and by one at a time: a lazy module that two threads load at once has no attributes for one of them,
    and that ended the threads that publish and follow just when the database was lost.
    """
    with _loading:
        return (psycopg.Error, exc.SQLAlchemyError, SegkitError, redis.RedisError, sqlite3.Error, OSError, *GARBLED)


class Publisher:
    """Publishes changes of one process. Safe to use from several threads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._is_heard = settings.redis_url is not None or database.dialect == "postgresql"
        self._listeners: list[Callable[[list[Change]], None]] = []
        self._pending: dict[tuple[int, int | None], Change] = {}  #: wait for the end of the window
        self._ended: dict[tuple[int, int | None], Change] = {}  #: of jobs; they wait for nothing
        self._last = 0.0  #: when a window was sent
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.dropped = 0  #: changes that could not be kept until others could be told
        self.failures = 0  #: messages that could not be sent

    def listen(self, listener: Callable[[list[Change]], None]) -> Callable[[], None]:
        """Tell a function of this process too, from the publishing thread; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, *changes: Change) -> None:
        """Tell others soon: what ended at once, everything else within a tenth of a second, only the newest of each job."""
        if not self._is_heard and not self._listeners:
            return
        with self._changed:
            for change in changes:
                self._pending.pop(change.key, None)
                self._ended.pop(change.key, None)
                if len(self._pending) + len(self._ended) < MOST_PENDING:
                    (self._ended if change.is_urgent else self._pending)[change.key] = change
                else:
                    self.dropped += 1
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="segkit-events", daemon=True)
                self._thread.start()
            self._changed.notify()

    def watching(self, watch: Callable[[Any], None] | None) -> Callable[[Any], None]:
        """Return what publishes each event of a worker, and then tells whoever else watches."""

        def tell(event: Any) -> None:
            self.publish(Change(event.run_id, event.job_id, event.status, event.image, event.detail))
            if watch is not None:
                watch(event)

        return tell

    def close(self) -> None:
        """Send what is left, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(2)

    def _run(self) -> None:
        transport, known = transport_of(self._settings, self._database), faults()
        paused_until = 0.0
        while changes := self._next():
            self._tell_listeners(changes)
            now = time.monotonic()
            if transport is None or now < paused_until:
                continue
            try:
                for message in encode(changes, transport.most_bytes):
                    transport.send(message)
            except known as error:
                self.failures += 1
                paused_until = now + PAUSE_SECONDS
                log.debug("others could not be told: %s", error)
        if transport is not None:
            transport.close()

    def _next(self) -> list[Change]:
        """Wait for the next changes to send: all at the end of the window, before it what ended. Nothing means the end."""
        changes: list[Change] = []
        while not changes:
            with self._changed:
                while not (self._pending or self._ended or self._closed):
                    self._changed.wait()
                while not (self._ended or self._closed) and (left := self._last + WINDOW_SECONDS - time.monotonic()) > 0:
                    self._changed.wait(left)
            if not self._closed:
                time.sleep(GATHER_SECONDS)
            with self._changed:
                changes, self._ended = list(self._ended.values()), {}
                now = time.monotonic()
                if self._closed or now >= self._last + WINDOW_SECONDS:
                    changes += self._pending.values()
                    self._pending, self._last = {}, now
                if self._closed:
                    break
        return changes

    def _tell_listeners(self, changes: list[Change]) -> None:
        for listener in list(self._listeners):
            listener(changes)
