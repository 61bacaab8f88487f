"""A namespace of its own on the shared server, and a look at its keys past the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from saga_core import SagaStore, open_store
from saga_testing.redis_proxy import RedisProxy, redis_proxy
from saga_testing.servers import RedisServer, redis_server
from tests.redis.keys import Keys


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """Start a server that is ours to reconfigure, to look through and to empty."""
    with redis_server("--loglevel", "warning", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return f"r{uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def store(redis: RedisServer, namespace: str) -> AsyncIterator[SagaStore]:
    async with open_store(redis.url, namespace=namespace) as store:
        yield store


@pytest_asyncio.fixture
async def keys(redis: RedisServer, namespace: str) -> AsyncIterator[Keys]:
    async with Redis.from_url(redis.url, decode_responses=True) as client:
        yield Keys(client, namespace)
        await client.flushall()


@pytest_asyncio.fixture
async def proxy(redis: RedisServer) -> AsyncIterator[RedisProxy]:
    async with redis_proxy(redis.url) as proxy:
        yield proxy
