"""Connections for one statement at a time, with next to nothing around it.

asyncpg's pool makes and mends the connections. What it does at every checkout (a shielded release,
a timer per statement) costs as much as a third of a small statement on the client, so connections
stay checked out here and go round in a list; one timer watches for statements that take too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

__all__ = ["LeanPool", "is_alive"]

WATCH = 1.0
"""Seconds between looks for statements that have taken too long."""

CLOSE_PATIENCE = 5.0

_LOST = (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class LeanPool:
    """Offers `fetch`, `fetchrow`, `fetchval`, `execute` and `acquire` like asyncpg's pool."""

    def __init__(self, pool: asyncpg.Pool, *, size: int, command_timeout: float) -> None:
        """`command_timeout` is in seconds; a connection that is silent for longer is cut."""
        self._pool = pool
        self._command_timeout = command_timeout
        self._idle: list[asyncpg.Connection] = []
        self._free = asyncio.Semaphore(size)
        self._lendable = asyncio.Semaphore(max(1, size - 1))
        self._busy: dict[asyncpg.Connection, float] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def fetch(self, query: str, *arguments: Any) -> Any:
        """Run a statement and return its rows."""
        return await self._run("fetch", query, arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        """Run a statement and return its first row, or None."""
        return await self._run("fetchrow", query, arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        """Run a statement and return the first column of its first row."""
        row = await self.fetchrow(query, *arguments)
        return None if row is None else row[0]

    async def execute(self, query: str, *arguments: Any) -> Any:
        """Run a statement."""
        return await self._run("execute", query, arguments)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection for several statements. Its transaction must be over at the end."""
        async with self._free:
            connection = await self._take()
            try:
                yield connection
            finally:
                del self._busy[connection]
                # asyncpg waits for a cancelled statement to be over, and resets what is left.
                await asyncio.shield(self._release(connection))

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection to somebody who watches over its time himself.

        One is always left for the statements of others, renewals of leases among them. What he
        has set for the session is reset.
        """
        async with self._lendable, self.acquire() as connection:
            self._busy[connection] = float("inf")
            connection.lend()
            yield connection

    def lends(self, connection: Any) -> bool:
        """Tell whether a connection is one that is lent just now."""
        return any(each is connection and each.is_lent for each in self._busy)

    async def close(self) -> None:
        """Close all connections, those that do not answer without asking."""
        if self._watch is not None:
            self._watch.cancel()
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                for connection in filter(is_alive, self._idle):
                    await self._pool.release(connection)
                await self._pool.close()
        except _LOST:
            self._pool.terminate()
        self._idle.clear()

    async def _run(self, method: str, query: str, arguments: tuple[Any, ...]) -> Any:
        async with self._free:
            connection = await self._take()
            try:
                return await getattr(connection, method)(query, *arguments)
            except (asyncpg.InternalClientError, asyncpg.InterfaceError):
                connection.terminate()  # what it was doing when it broke will never end
                raise
            finally:
                self._give_back(connection)

    async def _release(self, connection: asyncpg.Connection) -> None:
        """Give a connection back to asyncpg, which cuts one that cannot be reset."""
        if not (is_alive(connection) and connection.is_lent):
            await self._pool.release(connection)
            return
        # The transaction is over by now, and committed perhaps: no error may say otherwise.
        with suppress(*_LOST):
            await self._pool.release(connection, timeout=CLOSE_PATIENCE)

    async def _take(self) -> asyncpg.Connection:
        while self._idle:
            connection = self._idle.pop()
            if is_alive(connection):
                break
        else:
            connection = await self._pool.acquire()
        self._busy[connection] = self._loop.time() + self._command_timeout
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH, self._look)
        return connection

    def _give_back(self, connection: asyncpg.Connection) -> None:
        del self._busy[connection]
        if is_alive(connection):
            self._idle.append(connection)

    def _look(self) -> None:
        now = self._loop.time()
        for connection, until in self._busy.items():
            if until < now:
                connection.terminate()
        self._watch = self._loop.call_later(WATCH, self._look) if self._busy else None


def is_alive(connection: asyncpg.Connection) -> bool:
    """Tell whether a connection can be used. The pool takes back by itself one that has died."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False
