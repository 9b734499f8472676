"""Pages that PostgreSQL writes, asked for on the event loop.

A thread for each question, and SQLAlchemy in it, take as long as PostgreSQL does for a page. Here the driver is asked straight away.
Nothing depends on it: whatever goes wrong, the caller asks in a thread, where faults are put in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import psycopg

from segkit.catalog import Written
from segkit.database import Database
from segkit.database.engines import SESSION

log = logging.getLogger(__name__)
#: Rows of the longest page that is read here: the loop stands still while it is made bytes of.
MOST_ROWS = 200
#: After a connection could not be made, no other one is tried for so long.
PAUSE_SECONDS = 5.0


class Asking:
    """Connections of one event loop to one database.

    Parameters
    ----------
    database : Database
        Where to connect, and who counts statements. SQLite is never asked here.
    most : int
        Connections at once; whoever comes later waits.
    """

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._serves = database.dialect == "postgresql"
        self._places = asyncio.Semaphore(most)
        self._free: list[psycopg.AsyncConnection[Any]] = []
        self._not_before = 0.0

    async def page(self, written: Written) -> bytes | None:
        """Return a page as JSON; None when it is to be asked for otherwise. What the page's `read` raises is raised."""
        if not self._serves or written.limit > MOST_ROWS:
            return None
        async with self._places:
            if time.monotonic() < self._not_before:
                return None
            try:
                found = await self._ask(written)
            except psycopg.Error as error:
                log.info("A page is asked for in a thread: %s", error)
                await self._forget()
                return None
        return written.read(found[0] if found else None)

    async def _ask(self, written: Written) -> Any:
        connection = self._free.pop() if self._free else await self._connect()
        try:
            started = time.perf_counter()
            cursor = await connection.execute(written.statement, written.parameters)
            found = await cursor.fetchone()
        except BaseException:
            await connection.close()  # in whatever state it is
            raise
        if self._database.timings is not None:
            self._database.timings.add(written.statement, time.perf_counter() - started)
        if self._serves:
            self._free.append(connection)
        else:
            await connection.close()
        return found

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        try:
            connection = await psycopg.AsyncConnection.connect(**self._database.driver_arguments(), autocommit=True)
        except psycopg.Error:
            self._not_before = time.monotonic() + PAUSE_SECONDS
            raise
        try:
            await connection.execute(SESSION)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _forget(self) -> None:
        """Close what lies idle: what broke one connection has often broken all."""
        idle, self._free = self._free, []
        for connection in idle:
            with contextlib.suppress(psycopg.Error):
                await connection.close()

    async def close(self) -> None:
        """Ask nothing more."""
        self._serves = False
        await self._forget()
