"""A TCP proxy in front of a PostgreSQL server: counts round trips, and loses answers on command.

What crosses the network decides, not what a driver says: a round trip is a `ReadyForQuery` message
from the server, counted once a connection has started up.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from saga_testing.forwarding import CHUNK, ForwardingProxy, Session

__all__ = ["PostgresqlProxy", "postgresql_proxy"]

READY_FOR_QUERY = ord("Z")
SYNC = b"S\x00\x00\x00\x04"
QUERY = b"Q"
"""Begins a request that is a text alone, COMMIT among them: no Sync comes after it."""

Matches = Callable[[bytes], bool]
"""Gets what the client has sent since the last answer; True to pick this request."""


class _Messages:
    """Cuts the server's stream into messages: a type byte, a length, a body."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> tuple[list[bytes], int]:
        """Return the whole messages that have arrived, and how many say ReadyForQuery."""
        self._rest += data
        messages, ready = [], 0
        while len(self._rest) >= 5:
            (length,) = struct.unpack("!I", self._rest[1:5])
            end = length + 1
            if len(self._rest) < end:
                break
            messages.append(self._rest[:end])
            ready += self._rest[0] == READY_FOR_QUERY
            self._rest = self._rest[end:]
        return messages, ready


class PostgresqlProxy(ForwardingProxy):
    """Forwards connections to one server. Made by `postgresql_proxy`.

    `bytes_sent` counts warm connections only.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, port=5432)
        self._drop: Matches | None = None
        self.round_trips = 0
        """Answers that have come back on warm connections, since the last reset by the caller."""

    def drop_next_reply(self, matches: Matches) -> None:
        """Pass on the next request that matches, swallow its answer and cut the connection.

        A statement that is yet to be prepared is prepared undisturbed; the answer to its
        execution is what gets lost.
        """
        self.dropped.clear()
        self._drop = matches

    def picks(self, request: bytes) -> bool:
        """Tell whether the answer to this request is the one to be lost."""
        if self._drop is None or not self._drop(request):
            return False
        self._drop = None
        return True

    def session(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Session:
        """Return what forwards for a client that has connected."""
        return _Session(self, client, server)


class _Session(Session):
    """One client's connection."""

    def __init__(
        self,
        proxy: PostgresqlProxy,
        client: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._request = b""
        self._warm = False
        self._framed = False
        self._messages = _Messages()
        self._picked = False
        self._dropping = False

    async def client_to_server(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            await self._proxy.pass_on()
            if self._warm:
                self._proxy.bytes_sent += len(data)
                self._request += data
                self._picked = self._picked or self._proxy.picks(self._request)
                whole = data.endswith(SYNC) or data.startswith(QUERY)
                self._dropping = self._picked and whole
            self._server.write(data)
            await self._server.drain()

    async def server_to_client(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            await self._proxy.pass_on()
            if not self._framed and data in (b"N", b"S"):
                # The answer to a request for TLS is a bare byte, not a message.
                self._client.write(data)
                continue
            self._framed = True
            _, ready = self._messages.feed(data)
            if self._warm:
                self._proxy.round_trips += ready
            if ready:
                self._warm = True
                self._request = b""
                if self._dropping:
                    self._proxy.dropped.set()
                    return
            if not self._dropping:
                self._client.write(data)
                await self._client.drain()


@asynccontextmanager
async def postgresql_proxy(upstream: str) -> AsyncIterator[PostgresqlProxy]:
    """Yield a proxy in front of the server at `upstream`, without TLS."""
    async with PostgresqlProxy(upstream) as proxy:
        yield proxy
