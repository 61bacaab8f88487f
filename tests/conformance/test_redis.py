"""The Redis store keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from saga_core import open_store
from saga_core.hookspecs import Capability
from saga_core.store import SagaStore
from saga_testing.conformance import StoreConformance, StoreHarness
from saga_testing.servers import RedisServer

AGE = """
local prefix, id, by = KEYS[1], ARGV[1], tonumber(ARGV[2])
local saga = prefix .. 'saga:' .. id
local function text(number) return string.format('%.0f', number) end
for _, field in ipairs({ 'due', 'created', 'updated' }) do
  local value = redis.call('HGET', saga, field)
  if value then redis.call('HSET', saga, field, text(value - by)) end
end
-- All keys, for the indexes by creation; a campaign of thousands cannot look at them each time.
local row = redis.call('HMGET', saga, 'lane', 'kind')
local queues = { prefix .. 'due', prefix .. 'due:' .. (row[1] or '') .. ':' .. (row[2] or '') }
local keys = ARGV[3] == 'queues' and queues or redis.call('KEYS', prefix .. '*')
for list, pattern in pairs({ history = '^(%S+ )(%S+)(.*)$', inbox = '^()(%S+)(.*)$' }) do
  local key = prefix .. list .. ':' .. id
  for place, one in ipairs(redis.call('LRANGE', key, 0, -1)) do
    local head, at, rest = string.match(one, pattern)
    if type(head) == 'number' then head = '' end
    redis.call('LSET', key, place - 1, head .. text(at - by) .. rest)
  end
end
for _, key in ipairs(keys) do
  if redis.call('TYPE', key).ok == 'zset' then
    local score = redis.call('ZSCORE', key, id)
    if score then redis.call('ZADD', key, text(score - by), id) end
  end
end
"""


class RedisHarness(StoreHarness):
    backend = "redis"
    capabilities = frozenset({Capability.WAKEUP, Capability.MULTI_PROCESS, Capability.DURABLE})

    aged = "all"
    """Or `queues`: then a saga's place in lists by creation stays as it is."""

    def __init__(self, url: str, *, admin: str | None = None) -> None:
        """`admin` is a URL for `age`, which looks through all keys."""
        self._url = url
        self._admin = admin or url
        # Tests share one server; each has namespaces of its own.
        self._prefix = f"t{uuid4().hex[:12]}_"

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        async with open_store(self._url, namespace=self._prefix + namespace) as store:
            yield store

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        async with Redis.from_url(self._admin) as client:
            await self._age(client, saga_id, by, namespace)

    async def _age(self, client: Redis, saga_id: UUID, by: timedelta, namespace: str) -> None:
        prefix = f"saga:{{{self._prefix}{namespace}}}:"
        micros = by // timedelta(microseconds=1)
        await client.eval(AGE, 1, prefix, str(saga_id), micros, self.aged)


class TestRedisStore(StoreConformance):
    @pytest.fixture
    def harness(self, redis: RedisServer) -> StoreHarness:
        return RedisHarness(redis.url)
