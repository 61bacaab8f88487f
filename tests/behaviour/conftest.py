"""Every rule of behaviour runs on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from saga_core import SagaStore
from saga_testing.conformance import StoreHarness
from saga_testing.servers import PostgresqlServer, RedisServer
from tests.conformance.test_memory import MemoryHarness
from tests.conformance.test_postgresql import PostgresqlHarness
from tests.conformance.test_redis import RedisHarness
from tests.conformance.test_sql_postgresql import SqlPostgresqlHarness
from tests.conformance.test_sql_sqlite import SqlSqliteHarness
from tests.conformance.test_sqlite import SqliteHarness

STORES = ("memory", "sqlite", "postgresql", "redis", "sql-sqlite", "sql-postgresql")


@pytest.fixture(params=STORES)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> StoreHarness:
    if request.param == "memory":
        return MemoryHarness()
    if request.param == "sqlite":
        return SqliteHarness(tmp_path / "sagas.db")
    if request.param == "sql-sqlite":
        return SqlSqliteHarness(tmp_path / "sagas.db")
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        return RedisHarness(redis.url)
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    if request.param == "sql-postgresql":
        return SqlPostgresqlHarness(server.url)
    return PostgresqlHarness(server.url)


@pytest_asyncio.fixture
async def store(harness: StoreHarness) -> AsyncIterator[SagaStore]:
    async with harness.open() as store:
        yield store
