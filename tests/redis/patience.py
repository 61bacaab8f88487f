"""Waiting for what another process brings about."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from saga_core import SagaStatus, SagaStore
from saga_core.records import Query

__all__ = ["IN_TIME", "finished", "until"]

IN_TIME = 30.0
"""Seconds: far more than anything takes, on a machine that is busy."""


async def until(holds: Callable[[], Any]) -> None:
    """Wait until something holds; it may be told by a coroutine."""
    async with asyncio.timeout(IN_TIME):
        while True:
            found = holds()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.005)


async def finished(store: SagaStore, many: int) -> None:
    """Wait until so many sagas have ended well."""

    async def are_finished() -> bool:
        return await store.count(Query(statuses=(SagaStatus.COMPLETED,))) >= many

    await until(are_finished)
