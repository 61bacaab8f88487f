"""The PostgreSQL store keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from saga_backends.postgresql import PostgresqlStore
from saga_core import open_store
from saga_core.store import SagaStore
from saga_testing.conformance import Business, StoreConformance, StoreHarness
from saga_testing.servers import PostgresqlServer
from tests.conformance.business import open_asyncpg_business

SCHEMA = "conformance"

TIMES = {
    "saga": ("due_at", "created_at", "updated_at"),
    "saga_history": ("at",),
    "saga_inbox": ("at",),
}
"""What `age` moves."""


class PostgresqlHarness(StoreHarness):
    backend = "postgresql"
    capabilities = PostgresqlStore.capabilities

    def __init__(self, url: str) -> None:
        self._url = url
        # Tests share one schema; each has namespaces of its own.
        self._prefix = f"t{uuid4().hex[:12]}_"

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        async with open_store(
            self._url,
            create_schema=True,
            schema_name=SCHEMA,
            namespace=self._prefix + namespace,
            pool_max_size=5,
        ) as store:
            yield store

    def business(self) -> AbstractAsyncContextManager[Business]:
        return open_asyncpg_business(self._url, self._prefix)

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        connection = await asyncpg.connect(self._url)
        try:
            for table, times in TIMES.items():
                moved = ", ".join(f"{name} = {name} - $1::interval" for name in times)
                await connection.execute(
                    f"UPDATE {SCHEMA}.{table} SET {moved} WHERE saga_id = $2 AND namespace = $3",
                    by,
                    saga_id,
                    self._prefix + namespace,
                )
        finally:
            await connection.close()


class TestPostgresqlStore(StoreConformance):
    @pytest.fixture
    def harness(self, postgresql: PostgresqlServer) -> StoreHarness:
        return PostgresqlHarness(postgresql.url)
