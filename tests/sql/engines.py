"""Engines whose connections must all be back in the pool when a test ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

__all__ = ["all_given_back", "open_engine"]


@asynccontextmanager
async def open_engine(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Open an engine with a pool that counts; look at the count, and dispose of it, at the end.

    On SQLite it does not wait for the disk: no test takes the power away.
    """
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _leave_the_disk_alone)
    try:
        yield engine
        await all_given_back(engine)
    finally:
        await engine.dispose()


def _leave_the_disk_alone(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")


async def all_given_back(engine: AsyncEngine) -> None:
    """Wait until no connection is checked out: a call whose caller was cancelled runs on."""
    pool = engine.pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    async with asyncio.timeout(5):
        while pool.checkedout():  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0.001)
