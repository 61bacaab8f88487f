"""Empty stores of every kind, as many as a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from saga_core import SagaStore, open_store
from saga_testing import MemoryStore
from saga_testing.servers import PostgresqlServer, RedisServer

KINDS = ("memory", "sqlite", "postgresql", "redis")

OpenEmpty = Callable[[str], Awaitable[SagaStore]]


@pytest_asyncio.fixture
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenEmpty]:
    """Open a new store of a kind; servers are started only for those who ask."""
    async with AsyncExitStack() as stack:

        async def open_empty(kind: str) -> SagaStore:
            name = f"c{uuid4().hex[:12]}"
            if kind == "memory":
                return MemoryStore(name)
            if kind == "sqlite":
                url = f"sqlite:///{tmp_path / name}.db"
                opening = open_store(url, namespace=name, synchronous="normal")
            elif kind == "postgresql":
                server: PostgresqlServer = request.getfixturevalue("postgresql")
                opening = open_store(
                    server.url, create_schema=True, schema_name="copying", namespace=name
                )
            else:
                other: RedisServer = request.getfixturevalue("redis")
                opening = open_store(other.url, namespace=name)
            return await stack.enter_async_context(opening)

        yield open_empty
