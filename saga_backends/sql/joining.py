"""A caller's SQLAlchemy session or connection, and in it the driver's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from saga_core.errors import SagaStateError

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["another_database", "joined", "no_transaction", "own_connection"]


async def own_connection(
    session: object, wanted: str, where: str, ours: Engine | None = None
) -> tuple[Any, bool]:
    """Return the driver's connection of a session, in its open transaction.

    And whether it is one of `ours`: then nothing need be asked of another connection, which a
    small pool may not have. `wanted` is the dialect and driver. Raises `SagaStateError`.
    """
    connection = await _connection_of(session)
    engine = connection.engine
    driver = f"{engine.url.get_backend_name()}+{engine.dialect.driver}"
    if driver != wanted:
        raise SagaStateError(
            f"session= is one of {driver}, but the store, {where}, needs one of {wanted}: use a "
            "session of the store's own database"
        )
    # SQLAlchemy begins the driver's transaction with the first statement that it sends itself.
    await connection.exec_driver_sql("SELECT 1")
    return (await connection.get_raw_connection()).driver_connection, engine.sync_engine is ours


async def _connection_of(session: object) -> Any:
    try:
        from sqlalchemy.ext import asyncio as sqlalchemy
    except ImportError:
        sqlalchemy = None  # type: ignore[assignment]
    if sqlalchemy is not None and isinstance(session, sqlalchemy.AsyncSession):
        return await session.connection()
    if sqlalchemy is not None and isinstance(session, sqlalchemy.AsyncConnection):
        return session
    raise SagaStateError(
        f"session= takes an SQLAlchemy AsyncSession or AsyncConnection, got "
        f"{type(session).__name__}"
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
