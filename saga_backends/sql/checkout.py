"""A driver's connection from SQLAlchemy's pool, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from saga_core.errors import StoreUnavailableError

__all__ = ["checkout"]


@asynccontextmanager
async def checkout(engine: AsyncEngine, where: str) -> AsyncIterator[PoolProxiedConnection]:
    """Lend a pooled connection, and in it the driver's own, for a block; no transaction is begun.

    A connection that was lost while it lay in the pool is replaced. What the driver raises comes
    out as it is, for the caller to translate; what SQLAlchemy itself raises becomes
    `StoreUnavailableError`. The caller must see to it that nothing cancels the block.
    """
    proxied = await _healthy(engine, where)
    try:
        yield proxied
    except BaseException as error:
        if _is_closed(proxied.driver_connection):
            proxied.invalidate(error)
        raise
    finally:
        await greenlet_spawn(proxied.close)


async def _healthy(engine: AsyncEngine, where: str) -> PoolProxiedConnection:
    try:
        while True:
            proxied: PoolProxiedConnection = await engine.raw_connection()
            if not _is_closed(proxied.driver_connection):
                return proxied
            proxied.invalidate()
            await greenlet_spawn(proxied.close)
    except PoolTimeoutError as error:
        raise StoreUnavailableError(
            f"{where}: no connection of the engine's pool came free in time; raise pool_size"
        ) from error
    except DBAPIError as error:
        raise _driver_error(error.orig or error) from None
    except SQLAlchemyError as error:
        raise StoreUnavailableError(f"{where}: {type(error).__name__}") from error
    except Exception as error:
        # Connecting, SQLAlchemy raises its dialect's own errors, or the driver's as they are.
        raise _driver_error(error) from None


def _is_closed(connection: Any) -> bool:
    is_closed = getattr(connection, "is_closed", None)
    return bool(is_closed()) if is_closed is not None else False


def _driver_error(error: BaseException) -> BaseException:
    """Return what the driver raised, out of what SQLAlchemy has made of it."""
    return error.__cause__ or error
