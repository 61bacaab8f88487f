"""A TCP proxy in front of a Redis server: counts replies, and loses them on command.

What crosses the network decides, not what a driver says: commands and replies are cut out of the
streams, and the n-th reply of a connection belongs to its n-th command.
"""

from __future__ import annotations

import asyncio
import ssl
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["RedisProxy", "redis_proxy"]

CHUNK = 65536

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


class RedisProxy:
    """Forwards connections to one server. Made by `redis_proxy`."""

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(upstream)
        self._upstream = upstream
        self._tls = tls
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self._picks: Matches | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.replies = 0
        """Replies that have come back, since the last reset by the caller."""
        self.bytes_sent = 0
        """What clients have sent."""
        self.dropped = asyncio.Event()
        """Set when a reply was lost."""
        self.held = asyncio.Event()
        """Set when something is held back by `blackhole`."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        await self.cut()

    @property
    def url(self) -> str:
        """The server's URL with the proxy's address in it."""
        assert self._server is not None  # noqa: S101 - used inside the context manager
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self._upstream)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    def drop_next_reply(self, matches: Matches) -> None:
        """Pass on the next command that matches, swallow its reply and cut the connection.

        The replies to the commands before it on the connection are passed on, those to the
        commands after it are lost with it.
        """
        self.dropped.clear()
        self._picks = matches

    async def cut(self) -> None:
        """Break all connections."""
        sessions = list(self._sessions)
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)

    def blackhole(self) -> None:
        """Forward nothing more, in either direction, until `heal`."""
        self.held.clear()
        self._open.clear()

    def heal(self) -> None:
        """Forward again, what was held back included."""
        self._open.set()

    async def pass_on(self) -> None:
        """Wait until something may be forwarded."""
        if not self._open.is_set():
            self.held.set()
            await self._open.wait()

    def picks(self, command: bytes) -> bool:
        """Tell whether the reply to this command is the one to be lost."""
        if self._picks is None or not self._picks(command):
            return False
        self._picks = None
        return True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.current_task()
        assert session is not None  # noqa: S101 - start_server runs each session in a task
        self._sessions.add(session)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._sessions.discard(session)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        session = _Session(self, writer, upstream_writer)
        ways = {
            asyncio.ensure_future(session.client_to_server(reader)),
            asyncio.ensure_future(session.server_to_client(upstream_reader)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upstream_writer.close()  # first: what follows may be cancelled
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


class _Session:
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
