"""`SqlSagaStore`'s transactions, lent to a step as a session of the user's own kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from saga_core.errors import (
    SagaError,
    SagaStateError,
    StoreUnavailableError,
    TransactionFailedError,
)
from saga_core.hookspecs import Capability
from saga_core.records import Committed, Transition
from saga_core.transactions import ended_by_the_step

__all__ = ["SQL_CAPABILITIES", "LentSession", "driver_connection", "lend_session"]

SQL_CAPABILITIES = frozenset({Capability.MULTI_PROCESS, Capability.DURABLE, Capability.TRANSACTION})

Apply = Callable[[Any, Transition], Any]


class LentSession:
    """One open transaction of a session; `apply` writes a transition on the driver's connection."""

    def __init__(
        self, session: AsyncSession, connection: Connection, where: str, apply: Apply
    ) -> None:
        """`connection` is that of the transaction."""
        self._session = session
        self._connection = connection
        self._transaction = connection.get_transaction()
        self._where = where
        self._apply = apply
        self._commits = False
        # Whatever the step commits by, it comes down to this.
        event.listen(connection, "commit", self._refuse_commit)

    @property
    def handle(self) -> AsyncSession:
        return self._session

    async def commit(self, transition: Transition) -> Committed:
        """Flush, apply the transition last, and commit; see `StoreTransaction.commit`."""
        # Neither driver leaves a connection in order when it is cancelled in the middle.
        return await asyncio.shield(asyncio.ensure_future(self._commit(transition)))

    async def _commit(self, transition: Transition) -> Committed:
        try:
            await self._session.flush()
            await self._session.connection()  # one that has failed says so better
            if self._connection.get_transaction() is not self._transaction:
                raise ended_by_the_step(transition.saga_id)
            # With its first statement SQLAlchemy begins a transaction that the step has not begun.
            await self._session.execute(text("SELECT 1"))
            connection = await driver_connection(self._session)
            committed: Committed = await self._apply(connection, transition)
        except SagaError:
            raise
        except DBAPIError as error:
            if error.connection_invalidated:
                raise StoreUnavailableError(f"{self._where}: {error.orig}") from error
            raise self._refused(error.orig or error) from error
        except SQLAlchemyError as error:
            raise self._refused(error) from error
        self._commits = True
        try:
            await self._session.commit()
        except DBAPIError as error:
            raise self._lost_or_refused(error) from error
        except SQLAlchemyError as error:
            raise self._refused(error) from error
        return committed

    def _refuse_commit(self, _: Connection) -> None:
        if not self._commits:
            raise SagaStateError(
                f"commit is not for the step: the transaction of {self._where} is committed with "
                "the step's record"
            )

    def _lost_or_refused(self, error: DBAPIError) -> SagaError:
        original = error.orig or error
        # sqlalchemy.dialects.postgresql.asyncpg tells a server's verdict by its SQLSTATE.
        verdict = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
        if error.connection_invalidated or verdict is None or verdict.startswith(("08", "57P")):
            return StoreUnavailableError(f"{self._where}: {type(original).__name__}")
        return self._refused(original)

    def _refused(self, error: BaseException) -> TransactionFailedError:
        said = str(error).partition("\n")[0]
        return TransactionFailedError(f"{self._where} refused the transaction: {said}")


async def driver_connection(session: AsyncSession) -> Any:
    """Return the driver's own connection of a session's transaction."""
    connection = await session.connection()
    return (await connection.get_raw_connection()).driver_connection


@asynccontextmanager
async def lend_session(
    make: Callable[[], AsyncSession], where: str, apply: Apply, begin: Callable[[AsyncSession], Any]
) -> AsyncIterator[LentSession]:
    """Lend a session in a transaction that `begin` has begun; roll it back at the block's end."""
    session = make()
    try:
        try:
            await begin(session)
            connection = (await session.connection()).sync_connection
            assert connection is not None  # noqa: S101 - the session has begun
        except SagaError:
            raise
        except (SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            raise StoreUnavailableError(
                f"{where}: a transaction could not be begun: {type(cause).__name__}: {cause}"
            ) from error
        yield LentSession(session, connection, where, apply)
    finally:
        try:
            await _close(session)
        finally:
            _end(session, where)


async def _close(session: AsyncSession) -> None:
    """Roll back and give the connection back, whatever cancels the caller."""
    closing = asyncio.ensure_future(session.close())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait({closing})
        raise
    except (SQLAlchemyError, OSError):
        await session.invalidate()


def _end(session: AsyncSession, where: str) -> None:
    """Let a session that somebody has kept begin no transaction of its own."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise SagaStateError(
            f"a session of {where} was used although its step has ended: take one of your own for "
            "what comes later"
        )

    session.sync_session.get_bind = refuse  # type: ignore[method-assign]
