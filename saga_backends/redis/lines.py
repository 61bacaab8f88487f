"""A few connections that all calls share: what waits while one group is in flight goes next.

A connection per call spends most of its time on handing connections around. Here a call that
finds a free line is sent at once; the others are sent together when a line comes free. Each is
still one script with one answer of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hiredis import pack_command
from redis import exceptions

__all__ = ["Lines"]

LARGEST_GROUP = 64
_LOST = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, EOFError)

_Call = tuple[bytes, asyncio.Future[Any]]


class Lines:
    """Sends commands over `size` connections that `connect` makes.

    A call that is cancelled is sent all the same unless it was still waiting. A group whose
    connection breaks is sent once more over a new one, so every call must bear being repeated.
    """

    def __init__(self, connect: Callable[[], Any], *, size: int, timeout: float) -> None:
        """`timeout` is how long a group may take, connecting included, in seconds."""
        self._connect = connect
        self._timeout = timeout
        self._waiting: deque[_Call] = deque()
        self._idle: list[Any] = [None] * size
        """Lines that carry nothing now: a connection, or None for one that is yet to be made."""
        self._busy: set[asyncio.Task[None]] = set()

    async def execute_command(self, *command: Any) -> Any:
        """Return the answer. Raises what redis-py raises."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((pack_command(command), future))
        if self._idle:
            task = asyncio.create_task(self._carry(self._idle.pop()))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        return await future

    async def aclose(self) -> None:
        """Close all connections; what is in flight gets no answer."""
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        lines, self._idle = self._idle, []
        for line in lines:
            if line is not None:
                with suppress(Exception):
                    await line.disconnect()

    async def _carry(self, line: Any) -> None:
        """Send groups until nothing waits."""
        try:
            while self._waiting:
                group = [call for call in self._next_group() if not call[1].cancelled()]
                if group:
                    line = await self._send_group(line, group)
        finally:
            self._idle.append(line)

    def _next_group(self) -> list[_Call]:
        size = min(len(self._waiting), LARGEST_GROUP)
        return [self._waiting.popleft() for _ in range(size)]

    async def _send_group(self, line: Any, group: list[_Call]) -> Any:
        """Exchange one group; return the line, or None if it broke."""
        is_fresh = line is None
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    line = line or self._connect()
                    await self._exchange(line, group)
                except _LOST:
                    if is_fresh:
                        raise
                    # The server was restarted, or a firewall forgot the connection.
                    await line.disconnect(nowait=True)
                    line = self._connect()
                    await self._exchange(line, [call for call in group if not call[1].done()])
        except BaseException as error:
            if line is not None:
                with suppress(Exception):
                    await line.disconnect(nowait=True)
            for _, future in group:
                if not future.done():
                    future.set_exception(_told(error))
            if not isinstance(error, Exception):
                raise
            return None
        return line

    async def _exchange(self, line: Any, group: list[_Call]) -> None:
        await line.send_packed_command([packed for packed, _ in group], check_health=False)
        for _, future in group:
            try:
                answer = await line.read_response()
            except exceptions.ResponseError as refused:
                if not future.done():
                    future.set_exception(refused)
            else:
                if not future.done():
                    future.set_result(answer)


def _told(error: BaseException) -> BaseException:
    """Return an error of its own for each caller: a traceback belongs to one."""
    if isinstance(error, TimeoutError):
        return exceptions.TimeoutError("no answer in time")
    if isinstance(error, exceptions.RedisError):
        told: BaseException = type(error)(*error.args)
    elif isinstance(error, Exception):
        told = exceptions.ConnectionError(str(error) or type(error).__name__)
    else:
        told = exceptions.ConnectionError("the store was closed")
    told.__cause__ = error
    return told
