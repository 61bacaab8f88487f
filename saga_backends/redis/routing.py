"""Calls to a cluster, which redis-py's own client sends to the node that has the namespace."""

from __future__ import annotations

import asyncio
from typing import Any

from redis import exceptions

from saga_backends.redis.lines import CLOSED, end

__all__ = ["Routed"]


class Routed:
    """Sends commands through a cluster's client, at most `size` at once, each in its own task.

    A call that is cancelled is sent all the same. The client would connect again after it was
    closed; this does not.
    """

    def __init__(self, client: Any, *, size: int) -> None:
        self._client = client
        self._room = asyncio.Semaphore(size)
        self._busy: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def execute_command(self, *command: Any) -> Any:
        """Return the answer. Raises what redis-py raises."""
        if self._closed:
            raise exceptions.ConnectionError(CLOSED)
        task = asyncio.create_task(self._send(command))
        self._busy.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise exceptions.ConnectionError(CLOSED) from None
            raise

    async def aclose(self) -> None:
        """Send nothing more; what is in flight gets no answer but an error."""
        self._closed = True
        await end(self._busy)

    async def _send(self, command: tuple[Any, ...]) -> Any:
        async with self._room:
            return await self._client.execute_command(*command)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._busy.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, also if nobody waits for it any more
