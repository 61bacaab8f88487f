"""Sagas that Hypothesis makes, on every store: whatever befalls them, each ends as it should."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_core import Capability, open_store
from saga_core.store import SagaStore
from saga_testing.conformance import StoreHarness
from saga_testing.servers import PostgresqlServer, RedisServer
from tests.campaign.campaign import Campaign, tallied
from tests.conformance.test_memory import MemoryHarness
from tests.conformance.test_postgresql import PostgresqlHarness
from tests.conformance.test_redis import RedisHarness
from tests.conformance.test_sql_postgresql import SqlPostgresqlHarness
from tests.conformance.test_sql_sqlite import SqlSqliteHarness
from tests.conformance.test_sqlite import SqliteHarness
from tests.sql.engines import open_engine
from tests.sql.models import sagas_of

STORES = ("memory", "sqlite", "postgresql", "redis", "sql-sqlite", "sql-postgresql")

MET = (
    "takeovers",
    "crashed",
    "lost",
    "lost replies",
    "fenced commits",
    "executions cut short",
    "renewals",
    "refused renewals",
    "suspected",
    "retrying",
    "failed",
    "compensated",
    "compensation_retrying",
    "compensation_failed",
    "notify granted",
    "notify refused",
    "retry_step granted",
    "skip_step granted",
    "compensate_step granted",
    "skip_compensation granted",
    "maybe_done",
    "branch",
    "steps side by side",
    "ending",
    "hook_done",
    "probe begun",
    "probed",
    "scheduled",
    "deadline",
    "SagaDeadlineError",
    "waiting",
    "early events",
    "WaitTimedOutError",
    "signal accepted",
    "signal duplicate",
    "abort granted",
    "cancel granted",
    "pause granted",
    "resume granted",
    "edit_input granted",
    "retry_from granted",
    "command_ignored",
    "revived",
    "COMPLETED",
    "COMPENSATED",
    "FAILED",
    "STUCK",
)
"""What a campaign must have met, or it has proved little."""


class QuickSqlSqliteHarness(SqlSqliteHarness):
    """One connection, since several wait for each other's locks, and ages by plain SQL."""

    def _engine(self) -> AbstractAsyncContextManager[AsyncEngine]:
        url = f"sqlite+aiosqlite:///{self._path}"
        patience = {"timeout": 300.0}  # as with Redis below
        return open_engine(url, pool_size=1, max_overflow=0, connect_args=patience)

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        await asyncio.to_thread(self._age, saga_id, by, sagas_of(namespace).__tablename__)

    def _age(self, saga_id: UUID, by: timedelta, table: str) -> None:
        database = sqlite3.connect(self._path, timeout=300)
        with database:
            for name, key, times in (
                (table, "id", ("deadline_at", "created_at", "updated_at")),
                (f"{table}_history", "saga_id", ("at",)),
                (f"{table}_inbox", "saga_id", ("at",)),
            ):
                moved = ", ".join(f"{time} = {_moved(time, by)}" for time in times)
                database.execute(f"UPDATE {name} SET {moved} WHERE {key} = ?", [saga_id.hex])
        database.close()


class _QuickRedisHarness(RedisHarness):
    """Looks at no key but the saga's own when it ages one of thousands, all by a few connections.

    A machine that is busy with other things loses no call: only the plan does.
    """

    aged = "queues"
    _client: Redis

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        place = self._prefix + namespace
        pool = BlockingConnectionPool.from_url(
            self._url,
            max_connections=8,
            timeout=None,
            socket_timeout=300.0,
            socket_connect_timeout=300.0,
        )
        async with (
            Redis.from_pool(pool) as self._client,
            open_store(self._url, namespace=place, command_timeout=300.0) as store,
        ):
            yield store

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        await self._age(self._client, saga_id, by, namespace)


def _moved(time: str, by: timedelta) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f000', {time}, '-{by.total_seconds():f} seconds')"


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def harness(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> StoreHarness:
    if backend == "memory":
        return MemoryHarness()
    if backend == "sqlite":
        return SqliteHarness(tmp_path / "sagas.db")
    if backend == "sql-sqlite":
        return QuickSqlSqliteHarness(tmp_path / "sagas.db")
    if backend == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        return _QuickRedisHarness(redis.url)
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    if backend == "sql-postgresql":
        return SqlPostgresqlHarness(server.url)
    return PostgresqlHarness(server.url)


@pytest.mark.timeout(3600)
async def test_every_saga_ends_as_it_should(backend: str, harness: StoreHarness) -> None:
    campaign = Campaign.wanted()
    async with harness.open() as store:
        verdicts = await campaign.run(store, harness)
    report = campaign.report(backend, verdicts)
    assert not report, report
    met = tallied(verdicts)
    print(f"{len(verdicts)} sagas on {backend}, seed {campaign.seed}: {dict(met)}")
    if campaign.only is None:
        assert not [name for name in MET if not met[name]], met
        lends = Capability.TRANSACTION in harness.capabilities
        assert (met["rows in transactions"] > 0) is lends
        assert (met["lost transactions"] > 0) is lends
