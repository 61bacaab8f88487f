"""Wake-ups by `SUBSCRIBE`, on a connection of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from saga_backends.redis.faults import our_errors
from saga_core.errors import SagaError
from saga_core.records import Wakeup

__all__ = ["listen"]

logger = logging.getLogger("saga_backends.redis")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
PATIENCE = 15.0
"""Seconds between checks that the connection is alive."""


async def listen(client: Any, where: str, namespace: str, channel: str) -> AsyncIterator[Wakeup]:
    """Yield a hint for every notification; subscribe again for ever."""
    pause = FIRST_PAUSE
    task = asyncio.current_task()
    cancelled_before = 0 if task is None else task.cancelling()
    while True:
        subscription = client.pubsub(ignore_subscribe_messages=False)
        try:
            with our_errors(where):
                await subscription.subscribe(channel)
                while True:
                    # While it connects, the driver may swallow a cancellation.
                    if task is not None and task.cancelling() > cancelled_before:
                        raise asyncio.CancelledError
                    message = await subscription.get_message(timeout=PATIENCE)
                    if message is not None:
                        pause = FIRST_PAUSE
                        # Also for the subscription itself: what came while nobody listened.
                        yield Wakeup(namespace)
        except SagaError as error:
            logger.warning("wake-ups: %s; polling goes on", error)
        finally:
            with suppress(Exception):
                await subscription.aclose()
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
