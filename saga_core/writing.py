"""Writes that are neither torn by a cancellation nor left in doubt by a lost answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from saga_core.errors import StoreUnavailableError
from saga_core.outage import Outage

__all__ = ["settle", "to_the_end"]

T = TypeVar("T")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


async def to_the_end(write: Awaitable[T]) -> T:
    """Await a write that goes on to its end whatever becomes of the caller.

    If the caller is cancelled, the write is waited for first and `CancelledError` raised after.
    """
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()
        raise


async def settle(
    write: Callable[[], Awaitable[T]],
    *,
    what: Callable[[], str],
    outage: Outage,
    until: float,
    tries: int | None = None,
) -> T:
    """Send a write again, the same with the same id, until the store has answered.

    `what` names the write for the log, `outage` tells of it. `until` is a time of the running
    loop, after which the last `StoreUnavailableError` is raised; `tries` bounds the attempts.
    """
    try:
        answer = await write()
    except StoreUnavailableError as error:
        with outage.repeating():
            answer = await _repeat(write, error, what, outage, until, tries)
    outage.answered()
    return answer


async def _repeat(
    write: Callable[[], Awaitable[T]],
    error: StoreUnavailableError,
    what: Callable[[], str],
    outage: Outage,
    until: float,
    tries: int | None,
) -> T:
    """Send a write again that got this error, by growing pauses."""
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE
    attempt = 1
    while True:
        outage.unanswered(what(), error)
        if loop.time() + pause >= until or attempt == tries:
            raise error
        await asyncio.sleep(pause)
        attempt += 1
        pause = min(pause * 2, LONGEST_PAUSE)
        try:
            return await write()
        except StoreUnavailableError as again:
            error = again
