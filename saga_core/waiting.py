"""Wait for a saga's end, whoever drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from saga_core.engine import SagaEngine
from saga_core.errors import SagaDefinitionError
from saga_core.names import check_saga_id
from saga_core.records import SagaRecord
from saga_core.snapshot import SagaSnapshot
from saga_core.status import SagaStatus

__all__ = ["wait_until_heard", "wait_until_rest"]

FIRST_LOOK = 0.01
LONGEST_LOOK = 0.5
"""Seconds between looks at a saga that another process drives."""


async def wait_until_rest(
    engine: SagaEngine,
    saga_id: UUID,
    timeout: float | None,  # noqa: ASYNC109 - part of the public contract, in seconds
) -> SagaSnapshot:
    """Return the saga once it has ended or is STUCK. Raises `TimeoutError`; the saga goes on.

    Raises `SagaDefinitionError` for a timeout that is not a number above zero.
    """
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout > 0):
        raise SagaDefinitionError(
            f"timeout must be a number of seconds above zero, or None, got {timeout!r}"
        )

    async def rests(record: SagaRecord) -> bool:
        return record.state.status.is_terminal or record.state.status is SagaStatus.STUCK

    check_saga_id(saga_id)
    return SagaSnapshot.of(await _wait_until(engine, saga_id, rests, timeout))


async def wait_until_heard(engine: SagaEngine, saga_id: UUID, event_id: str) -> None:
    """Return once a command in the inbox was heard, and nobody drives the saga on because of it."""

    async def heard(record: SagaRecord) -> bool:
        if record.state.status.is_terminal:
            return True
        if record.worker is not None or (record.due_at is not None and record.due_at <= record.now):
            return False
        inbox = await engine.store.inbox(saga_id)
        return any(signal.event_id == event_id and signal.consumed for signal in inbox)

    await _wait_until(engine, saga_id, heard, None)


async def _wait_until(
    engine: SagaEngine,
    saga_id: UUID,
    so: Callable[[SagaRecord], Awaitable[bool]],
    timeout: float | None,  # noqa: ASYNC109 - part of the public contract, in seconds
) -> SagaRecord:
    changed = engine.watchers.watch(saga_id)
    pause = FIRST_LOOK
    try:
        async with asyncio.timeout(timeout):
            while True:
                changed.clear()
                record = await engine.store.load(saga_id)
                if await so(record):
                    return record
                try:
                    async with asyncio.timeout(pause):
                        await changed.wait()
                except TimeoutError:
                    pause = min(pause * 1.5, LONGEST_LOOK)
    finally:
        engine.watchers.unwatch(saga_id, changed)
