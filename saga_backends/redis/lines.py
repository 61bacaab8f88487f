"""A few connections that all calls share: what waits while their groups are in flight goes next.

A connection per call spends most of its time on handing connections around. Here a call that
finds a free line is sent at once; the others are sent together when a line comes free. Each is
still one script with one answer of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from hiredis import pack_command
from redis import exceptions

from saga_core.errors import SagaStateError

__all__ = ["CLOSED", "Lines", "end"]

LARGEST_GROUP = 64
CLOSED = "the store was closed"
_LOST = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, EOFError)

_Call = tuple[bytes, asyncio.Future[Any], float]
"""What is sent, who waits for the answer, and the loop's time since when."""


class Lines:
    """Sends commands over `size` connections that `connect` makes, from one event loop.

    A call that is cancelled is sent all the same unless it was still waiting. A group whose
    connection breaks is sent once more over a new one, so every call must bear being repeated.
    An answer belongs to the call at its place in the group; after anything but an answer the
    connection is not used again, so that no call gets an answer meant for another.
    """

    def __init__(self, connect: Callable[[], Any], *, size: int, timeout: float) -> None:
        """`timeout` is how long a group may take, connecting included, in seconds.

        A call that has waited that long for a line is not sent any more.
        """
        self._connect = connect
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Call] = deque()
        self._idle: list[Any] = [None] * size
        """Lines that carry nothing now: a connection, or None for one that is yet to be made."""
        self._busy: set[asyncio.Task[None]] = set()
        self._closed = False
        self._size = size
        self._in_flight = 0

    async def execute_command(self, *command: Any) -> Any:
        """Return the answer. Raises what redis-py raises."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise SagaStateError("a store belongs to the event loop in which it was opened")
        if self._closed:
            raise exceptions.ConnectionError(CLOSED)
        future = loop.create_future()
        self._waiting.append((pack_command(command), future, loop.time()))
        if self._idle:
            task = loop.create_task(self._carry(self._idle.pop()))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        return await future

    async def aclose(self) -> None:
        """Close all connections; what waits or is in flight gets no answer but an error."""
        self._closed = True
        await asyncio.sleep(0)  # a task that is cancelled before it begins gives no line back
        await end(self._busy)
        _fail(self._waiting, exceptions.ConnectionError(CLOSED))
        self._waiting.clear()
        lines, self._idle = self._idle, []
        for line in lines:
            if line is not None:
                with suppress(Exception):
                    await line.disconnect()

    async def _carry(self, line: Any) -> None:
        """Send groups until nothing waits."""
        try:
            while self._waiting:
                group = self._next_group()
                if group:
                    self._in_flight += len(group)
                    try:
                        line = await self._send_group(line, group)
                    finally:
                        self._in_flight -= len(group)
                    await asyncio.sleep(0)  # whoever was answered may call again: groups grow
        except BaseException:
            await _drop(line)
            line = None
            raise
        finally:
            self._idle.append(line)

    def _next_group(self) -> list[_Call]:
        """Take a line's share of the calls that are under way.

        If it took all that waits, the server would rest while all the answers are worked on, and
        this process while the server works. What nobody waits for any more, or has waited too
        long, is left out.
        """
        oldest = self._loop.time() - self._timeout
        group: list[_Call] = []
        share = -(-(len(self._waiting) + self._in_flight) // self._size)
        while self._waiting and len(group) < min(share, LARGEST_GROUP):
            call = self._waiting.popleft()
            if call[1].cancelled():
                continue
            if call[2] < oldest:
                call[1].set_exception(exceptions.TimeoutError("no line came free in time"))
                continue
            group.append(call)
        return group

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
                    await _drop(line)
                    line = self._connect()
                    await self._exchange(line, [call for call in group if not call[1].done()])
        except BaseException as error:
            _fail(group, error)
            await _drop(line)
            if not isinstance(error, Exception):
                raise
            return None
        return line

    async def _exchange(self, line: Any, group: list[_Call]) -> None:
        if not line.is_connected:
            await line.connect()  # which asks the sentinels, if need be; sending does not
        await line.send_packed_command([call[0] for call in group], check_health=False)
        for _, future, _ in group:
            try:
                answer = await line.read_response()
            except exceptions.ResponseError as refused:
                if not future.done():
                    future.set_exception(refused)
            else:
                if not future.done():
                    future.set_result(answer)


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: while it sends, the driver may swallow a cancellation."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)


async def _drop(line: Any) -> None:
    if line is not None:
        with suppress(Exception):
            await line.disconnect(nowait=True)


def _fail(calls: list[_Call] | deque[_Call], error: BaseException) -> None:
    for _, future, _ in calls:
        if not future.done():
            future.set_exception(_told(error))


def _told(error: BaseException) -> BaseException:
    """Return an error of its own for each caller: a traceback belongs to one."""
    if isinstance(error, TimeoutError):
        told: BaseException = exceptions.TimeoutError("no answer in time")
    elif isinstance(error, asyncio.CancelledError):
        told = exceptions.ConnectionError(CLOSED)
    else:
        kind = type(error) if isinstance(error, exceptions.RedisError) else None
        try:
            told = (kind or exceptions.ConnectionError)(str(error) or type(error).__name__)
        except Exception:  # an exception that wants other arguments
            told = exceptions.ConnectionError(str(error))
    told.__cause__ = error
    return told
