"""Wake-ups by `LISTEN`, on a connection of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from saga_backends.postgresql.connection import connect
from saga_backends.postgresql.options import PostgresqlOptions
from saga_core.errors import SagaError
from saga_core.records import Wakeup

__all__ = ["listen"]

logger = logging.getLogger("saga_backends.postgresql")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


async def listen(url: str, options: PostgresqlOptions, channel: str) -> AsyncIterator[Wakeup]:
    """Yield a hint for any number of notifications since the last one; reconnect for ever."""
    heard = asyncio.Event()
    lost = asyncio.Event()
    pause = FIRST_PAUSE

    def on_notify(*_: Any) -> None:
        heard.set()

    def on_end(*_: Any) -> None:
        lost.set()
        heard.set()

    while True:
        try:
            connection = await connect(url, options)
        except SagaError as error:
            logger.warning("wake-ups: %s; polling goes on", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            continue
        try:
            lost.clear()
            connection.add_termination_listener(on_end)
            await connection.add_listener(channel, on_notify)
            pause = FIRST_PAUSE
            yield Wakeup(options.namespace)  # what came while nobody listened
            while not lost.is_set():
                await heard.wait()
                heard.clear()
                if not lost.is_set():
                    yield Wakeup(options.namespace)
        except OSError as error:
            logger.warning("wake-ups were interrupted: %s", error)
        finally:
            connection.remove_termination_listener(on_end)
            connection.terminate()
        await asyncio.sleep(pause)
