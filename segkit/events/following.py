"""Hearing of what others change, in a thread: by NOTIFY, by Redis, or by SQLite's own count of commits."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from segkit.database import Database
from segkit.events.changes import Change, decode
from segkit.events.publishing import CHANNEL, faults, redis_channel, redis_client
from segkit.revisions import own_connection
from segkit.settings import Settings

log = logging.getLogger(__name__)

#: How often SQLite is asked whether anybody committed.
ASK_SECONDS = 0.01
#: How long a listener sleeps at most before it looks whether it is to stop.
LOOK_SECONDS = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0

#: Called with changes, or with none when something changed and nobody says what.
Deliver = Callable[[list[Change]], None]


class Follower:
    """A thread that delivers what others publish. Close it when done."""

    def __init__(self, listen: Callable[[Deliver, threading.Event], None], deliver: Deliver) -> None:
        self._listen, self._deliver = listen, deliver
        self._over = threading.Event()
        self.losses = 0  #: connections that broke
        self._thread = threading.Thread(target=self._run, name="segkit-follow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._over.set()
        self._thread.join(2)

    def _run(self) -> None:
        pause, known = FIRST_PAUSE, faults()
        while not self._over.is_set():
            try:
                self._listen(self._heard, self._over)
            except known as error:
                self.losses += 1
                log.debug("what others change cannot be heard: %s", error)
            pause = FIRST_PAUSE if self._has_heard else min(2 * pause, LONGEST_PAUSE)
            self._has_heard = False
            self._over.wait(pause)

    _has_heard = False

    def _heard(self, changes: list[Change]) -> None:
        self._has_heard = True
        if not self._over.is_set():
            self._deliver(changes)


def follow(settings: Settings, database: Database, deliver: Deliver) -> Follower:
    """Follow what other processes publish or commit.

    Parameters
    ----------
    settings, database
        Say how it is heard of.
    deliver : callable
        Called from a thread with changes; with an empty list when there may be some that nobody named, such as after a broken
        connection.
    """
    if settings.redis_url is not None:
        return Follower(lambda heard, over: listen_to_redis(settings, database, heard, over), deliver)
    if database.dialect == "postgresql":
        return Follower(lambda heard, over: listen_to_postgresql(database, heard, over), deliver)
    return Follower(lambda heard, over: watch_sqlite(database, heard, over), deliver)


def listen_to_postgresql(database: Database, heard: Deliver, over: threading.Event) -> None:
    """Hear notifications until told to stop."""
    connection: Any = own_connection(database)
    try:
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}")
        heard([])
        while not over.is_set():
            for notification in connection.notifies(timeout=LOOK_SECONDS, stop_after=1):
                heard(decode(notification.payload))
    finally:
        connection.close()


def listen_to_redis(settings: Settings, database: Database, heard: Deliver, over: threading.Event) -> None:
    """Hear publications until told to stop."""
    client = redis_client(settings, timeout=2 * LOOK_SECONDS)
    subscription = client.pubsub(ignore_subscribe_messages=True)
    try:
        subscription.subscribe(redis_channel(database))
        heard([])
        while not over.is_set():
            message = subscription.get_message(timeout=LOOK_SECONDS)
            if message is not None:
                heard(decode(message["data"]))
    finally:
        subscription.close()
        client.close()


def watch_sqlite(database: Database, heard: Deliver, over: threading.Event) -> None:
    """Notice commits of any other connection until told to stop."""
    path = f"file:{quote(str(database.path))}?mode=ro"
    connection = sqlite3.connect(path, uri=True, isolation_level=None, check_same_thread=False)
    try:
        known = None
        while not over.wait(ASK_SECONDS):
            version = connection.execute("PRAGMA data_version").fetchone()
            if version != known:
                known = version
                heard([])
    finally:
        connection.close()
