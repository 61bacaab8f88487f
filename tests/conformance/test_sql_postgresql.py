"""`SqlSagaStore` on PostgreSQL keeps the contract, in tables of a user's model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from saga_backends.sql import SqlSagaStore
from saga_core.store import SagaStore
from saga_testing.conformance import Business, StoreConformance, StoreHarness
from saga_testing.servers import PostgresqlServer
from tests.conformance.business import open_session_business
from tests.sql.engines import open_engine
from tests.sql.models import SagasOfOneNamespace, create_tables, sagas_of


class SqlPostgresqlHarness(StoreHarness):
    capabilities = SqlSagaStore.capabilities

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine_url = url.replace("postgresql://", "postgresql+asyncpg://", 1)
        # Tests share the tables; each has namespaces of its own.
        self._prefix = f"t{uuid4().hex[:12]}_"

    def _model(self, namespace: str) -> type[SagasOfOneNamespace]:
        # An id is there once per table, but the rules want it once per namespace.
        return sagas_of(namespace)

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        async with open_engine(self._engine_url, pool_size=5, max_overflow=0) as engine:
            model = self._model(namespace)
            await create_tables(engine, model)
            yield SqlSagaStore(
                model_class=model,
                session_maker=async_sessionmaker(engine),
                namespace=self._prefix + namespace,
            )

    def business(self) -> AbstractAsyncContextManager[Business]:
        return open_session_business(self._engine_url, self._prefix)

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        connection = await asyncpg.connect(self._url)
        table = self._model(namespace).__tablename__
        try:
            await connection.execute(
                f"UPDATE {table} SET deadline_at = deadline_at - $1::interval, "
                "created_at = created_at - $1::interval, updated_at = updated_at - $1::interval "
                "WHERE id = $2",
                by,
                saga_id,
            )
            for also in (f"{table}_history", f"{table}_inbox"):
                await connection.execute(
                    f"UPDATE {also} SET at = at - $1::interval WHERE saga_id = $2", by, saga_id
                )
        finally:
            await connection.close()


class TestSqlStoreOnPostgresql(StoreConformance):
    @pytest.fixture
    def harness(self, postgresql: PostgresqlServer) -> StoreHarness:
        return SqlPostgresqlHarness(postgresql.url)
