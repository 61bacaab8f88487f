"""Wait for a saga's end, whoever drives it."""

from __future__ import annotations

import asyncio
from uuid import UUID

from saga_core.engine import SagaEngine
from saga_core.snapshot import SagaSnapshot
from saga_core.status import SagaStatus

__all__ = ["wait_until_rest"]

FIRST_LOOK = 0.01
LONGEST_LOOK = 0.5
"""Seconds between looks at a saga that another process drives."""


async def wait_until_rest(
    engine: SagaEngine,
    saga_id: UUID,
    timeout: float | None,  # noqa: ASYNC109 - part of the public contract, in seconds
) -> SagaSnapshot:
    """Return the saga once it has ended or is STUCK. Raises `TimeoutError`; the saga goes on."""
    changed = engine.watch(saga_id)
    pause = FIRST_LOOK
    try:
        async with asyncio.timeout(timeout):
            while True:
                changed.clear()
                snapshot = SagaSnapshot.of(await engine.store.load(saga_id))
                if snapshot.status.is_terminal or snapshot.status is SagaStatus.STUCK:
                    return snapshot
                try:
                    async with asyncio.timeout(pause):
                        await changed.wait()
                except TimeoutError:
                    pause = min(pause * 1.5, LONGEST_LOOK)
    finally:
        engine.unwatch(saga_id, changed)
