"""The PostgreSQL store's own transaction, lent to a step; and sagas written in a caller's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from saga_backends.postgresql.pool import is_alive
from saga_core.errors import (
    SagaStateError,
    StaleVersionError,
    StoreUnavailableError,
    TransactionFailedError,
)
from saga_core.hookspecs import Capability
from saga_core.records import Committed, Created, NewSaga, Transition
from saga_core.transactions import StoreTransaction, ended_by_the_step

__all__ = ["LentTransaction", "PostgresqlLender", "apply_last"]

T = TypeVar("T")

ROLLBACK_PATIENCE = 5.0
"""Seconds for which a rollback is waited for before the connection is cut."""


class PostgresqlLender:
    """What `TransactionalStore` asks for beside `SagaStore`."""

    # Of the store that it is part of.
    _pool: Any
    _sql: Any
    _options: Any
    _where: str
    _errors: Any
    _create: Any
    _commit: Any
    _made_by: Any
    namespace: str
    _own_engine: Any = None
    """Whose sessions are of the store's database in any case, if it has one of SQLAlchemy's."""

    capabilities = frozenset(
        {
            Capability.WAKEUP,
            Capability.MULTI_PROCESS,
            Capability.DURABLE,
            Capability.TRANSACTION,
        }
    )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StoreTransaction]:
        """Lend a connection in a transaction; see `TransactionalStore.transaction`."""
        async with self._pool.lend() as connection:
            transaction = connection.transaction()
            with self._errors():
                await transaction.start()
            try:
                yield LentTransaction(self, connection, transaction)
            finally:
                await _roll_back(connection, transaction)

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        """Look for a commit, behind whoever holds the row; see `TransactionalStore.recorded`."""
        with self._errors():
            # Two statements: one alone would look at what was there before it waited.
            await self._pool.execute(self._sql.wait_for, self.namespace, saga_id)
            found: Committed | None = await self._made_by(self._pool, saga_id, commit_id)
            return found

    async def create_in(self, session: object, new: NewSaga) -> Created:
        """Write a saga in a caller's transaction; see `TransactionalStore.create_in`."""
        from saga_backends.sql.joining import joined

        with self._errors(), _callers_errors():
            if self._pool.lends(session):
                connection: Any = session
            else:
                connection = await joined(session, self._where, self._identity, self._own_engine)
            patience = str(int(self._options.lock_timeout * 1000))
            before = await connection.fetchval(
                "SELECT current_setting('lock_timeout')", timeout=self._options.command_timeout
            )
            try:
                # A savepoint, so that what is refused leaves his transaction usable.
                async with connection.transaction():
                    await connection.execute(_WAIT_FOR_LOCKS, patience)
                    created: Created = await self._create(connection, new)
                    return created
            finally:
                if is_alive(connection):
                    await connection.execute(_WAIT_FOR_LOCKS, before)

    async def _identity(self, connection: Any = None) -> Any:
        """Return what no other database has in common with that of a connection, or our own."""
        row = await (connection or self._pool).fetchrow(self._sql.identity)
        return tuple(row)


@contextmanager
def _callers_errors() -> Iterator[None]:
    """Turn what comes of the state of a caller's own transaction into `SagaStateError`."""
    from saga_backends.sql.joining import has_failed, in_use

    try:
        yield
    except asyncpg.SerializationError as error:
        raise SagaStateError(
            "session= looks at the past, as REPEATABLE READ and SERIALIZABLE do, and what has come "
            "since is in the way, a saga of the same id or aggregate: roll it back and start anew, "
            "or use READ COMMITTED"
        ) from error
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise SagaStateError(f"session= may not write: {error}") from error
    except asyncpg.InFailedSQLTransactionError as error:
        raise has_failed() from error
    except asyncpg.InterfaceError as error:
        if "another operation" not in str(error):
            raise
        raise in_use() from error


_WAIT_FOR_LOCKS = "SELECT set_config('lock_timeout', $1, true)"


class LentTransaction:
    """One open transaction on a connection of the store's."""

    def __init__(self, store: Any, connection: Any, transaction: Any) -> None:
        self._store = store
        self._connection = connection
        self._transaction = transaction

    @property
    def handle(self) -> Any:
        return self._connection

    async def commit(self, transition: Transition) -> Committed:
        """Apply the transition last, and commit; see `StoreTransaction.commit`."""
        committed = await apply_last(self._store, self._connection, transition)
        await in_time(self._store, self._connection, self._transaction.commit())
        return committed


async def apply_last(store: Any, connection: Any, transition: Transition) -> Committed:
    """Apply a transition within a transaction that is open on a connection.

    Raises `StaleVersionError`, `TransactionFailedError`, and `StoreUnavailableError` for a
    connection that is gone, with all that the transaction has done.
    """
    if is_alive(connection) and not connection.is_in_transaction():
        raise ended_by_the_step(transition.saga_id)

    async def apply() -> Committed:
        committed: Committed = await store._commit(connection, transition)
        for new in transition.spawn:
            await store._create(connection, new)
        return committed

    return await in_time(store, connection, apply())


async def in_time(store: Any, connection: Any, work: Awaitable[T]) -> T:
    """Await what a server does for a transaction, and say what became of it if it failed."""
    try:
        async with asyncio.timeout(store._options.command_timeout):
            return await work
    except StaleVersionError:
        raise
    except TimeoutError as error:
        _cut(connection)
        raise StoreUnavailableError(f"{store._where} did not answer in time") from error
    except asyncpg.InFailedSQLTransactionError as error:
        raise TransactionFailedError(
            f"{store._where}: a statement of the step had failed before, which fails the whole "
            "transaction: use a savepoint for what may fail, `async with "
            "ctx.transaction.transaction():`"
        ) from error
    except asyncpg.PostgresError as error:
        if not is_alive(connection):
            raise StoreUnavailableError(f"{store._where}: {type(error).__name__}") from error
        raise TransactionFailedError(f"{store._where} refused the transaction: {error}") from error
    except asyncpg.InterfaceError as error:
        if is_alive(connection):
            # Nothing was sent: the connection is in use. Asked again, the step would do the same.
            raise TransactionFailedError(
                f"{store._where}: the step has left the transaction in use ({error}): await all "
                "that uses it, tasks too, before the step returns"
            ) from error
        raise StoreUnavailableError(f"{store._where}: {type(error).__name__}: {error}") from error
    except (asyncpg.InternalClientError, OSError, EOFError) as error:
        raise StoreUnavailableError(f"{store._where}: {type(error).__name__}: {error}") from error


async def _roll_back(connection: Any, transaction: Any) -> None:
    """Roll back what was not committed; a connection that does not do that is cut."""
    if not is_alive(connection) or not connection.is_in_transaction():
        return
    try:
        async with asyncio.timeout(ROLLBACK_PATIENCE):
            await transaction.rollback()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, EOFError, TimeoutError):
        _cut(connection)
    except BaseException:
        _cut(connection)
        raise


def _cut(connection: Any) -> None:
    """End a connection without asking the server. The pool takes back by itself one that died."""
    if is_alive(connection):
        connection.terminate()
