"""A TCP proxy in front of a Redis server: counts replies, and loses them on command.

What crosses the network decides, not what a driver says: commands and replies are cut out of the
streams, and the n-th reply of a connection belongs to its n-th command.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from saga_testing.forwarding import CHUNK, ForwardingProxy, Session

__all__ = ["RedisProxy", "redis_proxy"]


Matches = Callable[[bytes], bool]
"""Gets a command as it was sent; True to pick it."""


class _Values:
    """Cuts a stream of the Redis protocol (RESP2) into whole values, nested ones in one piece."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the values that have arrived whole."""
        self._rest += data
        at = 0
        while (end := self._end(at)) is not None:
            yield self._rest[at:end]
            at = end
        self._rest = self._rest[at:]

    def _end(self, at: int) -> int | None:
        line = self._rest.find(b"\r\n", at)
        if line < 0:
            return None
        kind, end = self._rest[at : at + 1], line + 2
        if kind == b"$":
            size = int(self._rest[at + 1 : line])
            end += size + 2 if size >= 0 else 0
            return end if len(self._rest) >= end else None
        if kind == b"*":
            for _ in range(int(self._rest[at + 1 : line])):
                after = self._end(end)
                if after is None:
                    return None
                end = after
        return end


class RedisProxy(ForwardingProxy):
    """Forwards connections to one server. Made by `redis_proxy`."""

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(upstream, port=6379, tls=tls)
        self._picks: Matches | None = None
        self.replies = 0
        """Replies that have come back, since the last reset by the caller."""

    def drop_next_reply(self, matches: Matches) -> None:
        """Pass on the next command that matches, swallow its reply and cut the connection.

        The replies to the commands before it on the connection are passed on, those to the
        commands after it are lost with it.
        """
        self.dropped.clear()
        self._picks = matches

    def picks(self, command: bytes) -> bool:
        """Tell whether the reply to this command is the one to be lost."""
        if self._picks is None or not self._picks(command):
            return False
        self._picks = None
        return True

    def session(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Session:
        """Return what forwards for a client that has connected."""
        return _Session(self, client, server)


class _Session(Session):
    """One client's connection."""

    def __init__(
        self, proxy: RedisProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._picked: deque[bool] = deque()
        """For each command that has no reply yet: whether it is to be lost."""

    async def client_to_server(self, reader: asyncio.StreamReader) -> None:
        commands = _Values()
        while data := await reader.read(CHUNK):
            await self._proxy.pass_on()
            self._proxy.bytes_sent += len(data)
            self._picked.extend(map(self._proxy.picks, commands.feed(data)))
            self._server.write(data)
            await self._server.drain()

    async def server_to_client(self, reader: asyncio.StreamReader) -> None:
        replies = _Values()
        while data := await reader.read(CHUNK):
            await self._proxy.pass_on()
            for reply in replies.feed(data):
                # What is pushed to a subscriber answers no command.
                if self._picked and self._picked.popleft():
                    self._proxy.dropped.set()
                    return
                self._proxy.replies += 1
                self._client.write(reply)
            await self._client.drain()


@asynccontextmanager
async def redis_proxy(
    upstream: str, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RedisProxy]:
    """Yield a proxy in front of the server at `upstream`, which itself is without TLS.

    With `tls` the proxy's own clients must speak TLS.
    """
    async with RedisProxy(upstream, tls=tls) as proxy:
        yield proxy
