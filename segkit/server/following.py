"""Stamps of what the database holds, for a server: at most one question at a time, asked for all who wait.

A request waits for an answer to a question that was sent after the request came, never for one that was on its way. So what it is
given is as new as every commit before it, and a thousand requests a second cost few questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import psycopg
from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from segkit.database import Database
from segkit.revisions import ANSWER_SECONDS, PostgresqlRevisions, Scope, SqliteRevisions, Stamp

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0


class Following:
    """Follows one database on one event loop. `stamp` answers None while it cannot know; then the database is to be asked."""

    def __init__(self, database: Database) -> None:
        self.questions = 0  #: asked of PostgreSQL
        self.losses = 0  #: connections that were lost
        self._sqlite = SqliteRevisions(database) if database.dialect == "sqlite" else None
        self._postgresql = PostgresqlRevisions(database) if database.dialect == "postgresql" else None
        self._asking = False
        self._everything = False  #: whether somebody who waits for the next question asks for a snapshot
        self._waiting: asyncio.Future[bool] | None = None
        self._asked: asyncio.Future[bool] | None = None
        self._give_up: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._connecting = asyncio.Lock()

    async def open(self) -> None:
        """Start to follow. A database that cannot be followed now is tried again and again."""
        if self._postgresql is not None:
            self._loop = asyncio.get_running_loop()
            await self._connect()
            self._keeper = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        """Stop."""
        if self._keeper is not None:
            async with self._connecting:  # a thread that connects cannot be cancelled, and would leave its connection behind
                self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._sqlite is not None:
            self._sqlite.close()
        self._disconnect()

    @property
    def follows(self) -> bool:
        """Whether stamps can be given now."""
        return self._sqlite is not None or (self._postgresql is not None and self._postgresql.listens)

    async def stamp(self, scope: Scope) -> Stamp | None:
        """Return a stamp that knows of everything that was committed before this call."""
        if self._sqlite is not None:
            return self._sqlite.stamp(scope)
        assert self._postgresql is not None
        if not self._postgresql.listens or not await self._next_answer(scope == "everything"):
            return None
        return self._postgresql.stamp(scope)

    def _next_answer(self, everything: bool) -> asyncio.Future[bool]:
        """Join those who wait for the next question, which is not sent yet."""
        self._everything |= everything
        if self._waiting is None:
            self._waiting = self._loop.create_future()
            if not self._asking:
                self._asking = True
                self._loop.call_soon(self._ask)  # all requests of this turn of the loop share the question
        return self._waiting

    def _ask(self) -> None:
        if self._postgresql is None or not self._postgresql.listens or self._waiting is None:
            return
        self._asked, self._waiting, everything = self._waiting, None, self._everything
        self._everything = False
        self.questions += 1
        try:
            self._postgresql.ask(everything=everything)
        except psycopg.Error:
            self._disconnect()
            return
        self._give_up = self._loop.call_later(ANSWER_SECONDS, self._disconnect)

    def _receive(self) -> None:
        assert self._postgresql is not None
        try:
            answered = self._postgresql.receive()
        except psycopg.Error:
            self._disconnect()
            return
        if answered and self._asked is not None:
            self._settle(True)
            self._asking = self._waiting is not None
            if self._asking:
                self._loop.call_soon(self._ask)

    def _settle(self, known: bool) -> None:
        if self._give_up is not None:
            self._give_up.cancel()
        asked, self._asked = self._asked, None
        if asked is not None and not asked.done():
            asked.set_result(known)

    def _disconnect(self) -> None:
        """Give the connection up; whoever waits is told that nothing is known."""
        if self._postgresql is not None and self._postgresql.listens:
            self._loop.remove_reader(self._postgresql.fileno)
            self._postgresql.close()
            self.losses += 1
        self._settle(False)
        self._asked, self._waiting = self._waiting, None
        self._settle(False)
        self._asking = self._everything = False
        self._lost.set()

    async def _connect(self) -> bool:
        assert self._postgresql is not None
        try:
            async with self._connecting:
                await to_thread.run_sync(self._postgresql.connect)
        except (psycopg.Error, SQLAlchemyError, OSError) as error:
            log.debug("cannot follow the database: %s", error)
            return False
        self._lost.clear()
        self._loop.add_reader(self._postgresql.fileno, self._receive)
        return True

    async def _keep_connected(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if self.follows:
                await self._lost.wait()
                log.warning("The connection that hears of changes was lost; the database is asked at each read until it is back.")
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            await self._connect()
