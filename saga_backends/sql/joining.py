"""A caller's SQLAlchemy session or connection, and in it the driver's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from saga_core.errors import SagaStateError

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = [
    "another_database",
    "has_failed",
    "in_use",
    "joined",
    "no_transaction",
    "own_connection",
]


async def own_connection(
    session: object, wanted: str, where: str, ours: Engine | None = None
) -> tuple[Any, bool]:
    """Return the driver's connection of a session, in its open transaction.

    And whether it is one of `ours`: then nothing need be asked of another connection, which a
    small pool may not have. `wanted` is the dialect and driver. Raises `SagaStateError`, and
    `StoreUnavailableError` where the connection is lost.
    """
    try:
        from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

        from saga_backends.sql.refusals import session_errors
    except ImportError:
        raise _no_session(session) from None
    with session_errors(where):
        if isinstance(session, AsyncSession):
            connection = await session.connection()
        elif isinstance(session, AsyncConnection):
            connection = session
        else:
            raise _no_session(session)
        engine = connection.engine
        driver = f"{engine.url.get_backend_name()}+{engine.dialect.driver}"
        if driver != wanted:
            raise SagaStateError(
                f"session= is one of {driver}, but the store, {where}, needs one of {wanted}: use "
                "a session of the store's own database"
            )
        # SQLAlchemy begins the driver's transaction with the first statement that it sends itself.
        await connection.exec_driver_sql("SELECT 1")
        raw = await connection.get_raw_connection()
        return raw.driver_connection, engine.sync_engine is ours


def _no_session(session: object) -> SagaStateError:
    return SagaStateError(
        f"session= takes an SQLAlchemy AsyncSession or AsyncConnection, got "
        f"{type(session).__name__}"
    )


def has_failed() -> SagaStateError:
    """Return what is raised for a session that the database takes nothing from any more."""
    return SagaStateError(
        "the transaction of session= has failed: roll it back, and do its work anew. What may "
        "fail wants a savepoint, `async with session.begin_nested():`"
    )


def in_use() -> SagaStateError:
    """Return what is raised for a session that is not free."""
    return SagaStateError(
        "session= is not free, another task uses it: await one after the other, or give each task "
        "a session of its own"
    )


def another_database(where: str) -> SagaStateError:
    """Return what is raised for a session of another database."""
    return SagaStateError(
        f"session= belongs to another database than the store, {where}, so the saga could not be "
        "committed with it: use a session of the same one, or start without session="
    )


def no_transaction() -> SagaStateError:
    """Return what is raised for a session that commits each statement by itself."""
    return SagaStateError(
        "session= is in autocommit mode, so there is no transaction for the saga to be part "
        "of: use one of an engine with an isolation level"
    )


async def joined(
    session: object,
    where: str,
    identity: Callable[..., Awaitable[object]],
    ours: Engine | None = None,
) -> Any:
    """Return the asyncpg connection of a session of the same database as the store's.

    `identity` tells a connection's database, or without one the store's; sessions of the engine
    that is `ours` need not be asked. Raises `SagaStateError`.
    """
    connection, is_ours = await own_connection(session, "postgresql+asyncpg", where, ours)
    if not is_ours and await identity(connection) != await identity():
        raise another_database(where)
    if not connection.is_in_transaction():
        raise no_transaction()
    return connection
