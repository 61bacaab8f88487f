"""A TCP proxy in front of a PostgreSQL server: counts round trips, and loses answers on command.

What crosses the network decides, not what a driver says: a round trip is a `ReadyForQuery` message
from the server, counted once a connection has started up.
"""

from __future__ import annotations

import asyncio
import struct
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["PostgresqlProxy", "postgresql_proxy"]

READY_FOR_QUERY = ord("Z")
SYNC = b"S\x00\x00\x00\x04"
CHUNK = 65536

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


class PostgresqlProxy:
    """Forwards connections to one server. Made by `postgresql_proxy`."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = upstream
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self._drop: Matches | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.round_trips = 0
        """Answers that have come back on warm connections, since the last reset by the caller."""
        self.bytes_sent = 0
        """What clients have sent on warm connections."""
        self.dropped = asyncio.Event()
        """Set when an answer was lost."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    @property
    def url(self) -> str:
        """The server's URL with the proxy's address in it."""
        assert self._server is not None  # noqa: S101 - used inside the context manager
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self._upstream)
        user = f"{parts.username}@" if parts.username else ""
        return urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))

    def drop_next_reply(self, matches: Matches) -> None:
        """Pass on the next request that matches, swallow its answer and cut the connection.

        A statement that is yet to be prepared is prepared undisturbed; the answer to its
        execution is what gets lost.
        """
        self.dropped.clear()
        self._drop = matches

    def blackhole(self) -> None:
        """Forward nothing more, in either direction, until `heal`."""
        self._open.clear()

    def heal(self) -> None:
        """Forward again, what was held back included."""
        self._open.set()

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
        try:
            done, pending = await asyncio.wait(
                {
                    asyncio.ensure_future(session.client_to_server(reader)),
                    asyncio.ensure_future(session.server_to_client(upstream_reader)),
                },
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        finally:
            upstream_writer.close()


class _Session:
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
            await self._proxy._open.wait()
            if self._warm:
                self._proxy.bytes_sent += len(data)
                self._request += data
                drop = self._proxy._drop
                if drop is not None and drop(self._request):
                    self._proxy._drop = None
                    self._picked = True
                self._dropping = self._picked and data.endswith(SYNC)
            self._server.write(data)
            await self._server.drain()

    async def server_to_client(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            await self._proxy._open.wait()
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
