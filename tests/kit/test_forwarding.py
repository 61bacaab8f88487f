"""The proxy in front of a server closes what it opened, whatever ends a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from saga_testing.forwarding import CHUNK, ForwardingProxy, Session


class _Plain(Session):
    def __init__(self, proxy: _Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter):
        self._proxy = proxy
        self._client = client
        self._server = server

    async def client_to_server(self, reader: asyncio.StreamReader) -> None:
        await self._forward(reader, self._server)

    async def server_to_client(self, reader: asyncio.StreamReader) -> None:
        await self._forward(reader, self._client)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._proxy.pass_on()
            writer.write(data)
            await writer.drain()


class _Proxy(ForwardingProxy):
    def session(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Session:
        return _Plain(self, client, server)


class _Echo:
    """A server that sends back what it gets, and counts who is connected."""

    def __init__(self) -> None:
        self.connections = 0
        self.nobody = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while data := await reader.read(CHUNK):
            writer.write(data)
        writer.close()
        self.connections -= 1
        self.nobody.set()


@pytest.fixture
def echo() -> _Echo:
    return _Echo()


@pytest.fixture
async def proxy(echo: _Echo) -> AsyncIterator[_Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, _Proxy(f"echo://me:secret@127.0.0.1:{port}/0", port=1) as proxy:
        yield proxy


async def connect(proxy: _Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(proxy.url.partition("127.0.0.1:")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def test_url_is_the_servers_with_another_address(proxy: _Proxy) -> None:
    assert proxy.url.startswith("echo://me:secret@127.0.0.1:")
    assert proxy.url.endswith("/0")


@pytest.mark.parametrize("held", [False, True], ids=["flowing", "held back"])
async def test_cut_session_leaves_no_connection_open_on_either_side(
    proxy: _Proxy, echo: _Echo, held: bool
) -> None:
    reader, writer = await connect(proxy)
    assert (proxy.connections, echo.connections) == (1, 1)
    if held:
        proxy.blackhole()
        writer.write(b"lost")
        await proxy.held.wait()
    await proxy.cut()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
        await echo.nobody.wait()
    assert (proxy.connections, echo.connections) == (0, 0)
    writer.close()


async def test_client_that_leaves_takes_its_connection_to_the_server_along(
    proxy: _Proxy, echo: _Echo
) -> None:
    _, writer = await connect(proxy)
    writer.close()
    async with asyncio.timeout(10):
        await echo.nobody.wait()


async def test_what_was_held_back_arrives_once_it_may(proxy: _Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.blackhole()
    writer.write(b"later")
    await proxy.held.wait()
    proxy.heal()
    async with asyncio.timeout(10):
        assert await reader.readexactly(5) == b"later"
    writer.close()
