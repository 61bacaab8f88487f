"""The PostgreSQL store's statements on the engine of a user's sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from saga_backends.postgresql.connection import our_errors
from saga_backends.postgresql.lending import apply_last
from saga_backends.postgresql.options import PostgresqlOptions
from saga_backends.postgresql.queues import Queues
from saga_backends.postgresql.statements import Statements
from saga_backends.postgresql.store import PostgresqlStore
from saga_backends.sql.checkout import checkout
from saga_backends.sql.lending import SQL_CAPABILITIES, lend_session
from saga_backends.sql.names import Names
from saga_core.records import Committed, Transition
from saga_core.transactions import StoreTransaction

__all__ = ["ModelStore"]

COMMAND_TIMEOUT = PostgresqlOptions().command_timeout

_PLAIN = "saga_read_committed"
"""In the notes SQLAlchemy keeps with a connection: whether statements are READ COMMITTED anyway."""


class ModelStore(PostgresqlStore):
    """The PostgreSQL store on a model's tables, without wake-ups."""

    capabilities = SQL_CAPABILITIES

    def __init__(
        self,
        engine: AsyncEngine,
        names: Names,
        *,
        make_session: Callable[[], AsyncSession],
        namespace: str,
        where: str,
        remedy: str,
    ) -> None:
        self._make_session = make_session
        self._pool = EnginePool(engine, where)
        self._own_engine = engine.sync_engine
        self._where = where
        self._remedy = remedy
        self._sql = Statements(names, notifies=False)
        self._options = PostgresqlOptions(namespace=namespace, wakeup=False)
        self._inbox_table = names.inbox.rpartition(".")[2].strip('"')
        self._channel = ""
        self.namespace = namespace
        self._queues = Queues(self._sql, namespace, self._channel)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StoreTransaction]:
        """Lend a session in a transaction; see `TransactionalStore.transaction`."""

        async def apply(connection: Any, transition: Transition) -> Committed:
            return await apply_last(self, connection, transition)

        async def begin(session: AsyncSession) -> None:
            await session.connection(execution_options={"isolation_level": "READ COMMITTED"})

        async with lend_session(self._make_session, self._where, apply, begin) as lent:
            yield lent

    def _errors(self) -> Any:
        return our_errors(self._where, self._sql.names.sagas, self._remedy)


class EnginePool:
    """Offers what the store uses of a pool, on an engine's connections.

    Each statement is a transaction of its own. They are READ COMMITTED, whatever the server or
    the engine takes for its default: the store's one-statement forms rely on it.
    """

    def __init__(self, engine: AsyncEngine, where: str) -> None:
        self._engine = engine
        self._where = where

    async def fetch(self, query: str, *arguments: Any) -> Any:
        """Run a statement and return its rows."""
        return await self._run("fetch", query, arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        """Run a statement and return its first row, or None."""
        return await self._run("fetchrow", query, arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        """Run a statement and return the first column of its first row."""
        return await self._run("fetchval", query, arguments)

    async def execute(self, query: str, *arguments: Any) -> Any:
        """Run a statement."""
        return await self._run("execute", query, arguments)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Lend a connection for several statements. Its transaction must be over at the end."""
        async with checkout(self._engine, self._where) as proxied:
            connection = proxied.driver_connection
            try:
                yield _ReadCommitted(connection)
            except TimeoutError:
                connection.terminate()  # type: ignore[union-attr]
                raise

    def lends(self, connection: object) -> bool:
        """Return False: what is lent is a session of the engine's."""
        return False

    async def _run(self, method: str, query: str, arguments: tuple[Any, ...]) -> Any:
        async with checkout(self._engine, self._where) as proxied:
            connection: Any = proxied.driver_connection
            plain = proxied.info.get(_PLAIN)
            try:
                if plain is None:
                    plain = proxied.info[_PLAIN] = await _is_read_committed(connection)
                call = getattr(connection, method)
                if plain:
                    return await call(query, *arguments, timeout=COMMAND_TIMEOUT)
                async with connection.transaction(isolation="read_committed"):
                    return await call(query, *arguments, timeout=COMMAND_TIMEOUT)
            except TimeoutError:
                connection.terminate()
                raise


async def _is_read_committed(connection: asyncpg.Connection) -> bool:
    level = await connection.fetchval("SHOW default_transaction_isolation", timeout=COMMAND_TIMEOUT)
    return bool(level == "read committed")


class _ReadCommitted:
    """A connection whose transactions are READ COMMITTED unless another level is asked for."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def transaction(self, *, isolation: str = "read_committed", readonly: bool = False) -> Any:
        return self._connection.transaction(isolation=isolation, readonly=readonly)
