"""A TCP proxy in front of one server: what all of them have, whatever is spoken through them."""

from __future__ import annotations

import asyncio
import ssl
import types
from abc import ABC, abstractmethod
from typing import Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["CHUNK", "ForwardingProxy", "Session"]

CHUNK = 65536


class Session(ABC):
    """One client's connection, and the one to the server that was opened for it.

    When either way ends, both connections are closed.
    """

    @abstractmethod
    async def client_to_server(self, reader: asyncio.StreamReader) -> None:
        """Forward what the client sends until it has no more."""

    @abstractmethod
    async def server_to_client(self, reader: asyncio.StreamReader) -> None:
        """Forward what the server sends until it has no more."""


class ForwardingProxy(ABC):
    """Forwards connections to one server, and can cut them or hold back what they carry."""

    def __init__(self, upstream: str, *, port: int, tls: ssl.SSLContext | None = None) -> None:
        """`port` is that of a URL without one. With `tls` the proxy's clients must speak TLS."""
        parts = urlsplit(upstream)
        self._upstream = upstream
        self._tls = tls
        self._target = (parts.hostname or "127.0.0.1", parts.port or port)
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.bytes_sent = 0
        """What clients have sent."""
        self.dropped = asyncio.Event()
        """Set when an answer was lost."""
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

    @abstractmethod
    def session(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Session:
        """Return what forwards for a client that has connected."""

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
        session = self.session(writer, upstream_writer)
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
