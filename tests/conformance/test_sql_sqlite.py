"""`SqlSagaStore` on SQLite keeps the contract, in tables of a user's model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import inspect, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from saga_backends.sql import SqlSagaStore
from saga_backends.sql.tables import HISTORY, INBOX
from saga_core.store import SagaStore
from saga_testing.conformance import Business, StoreConformance, StoreHarness
from tests.conformance.business import open_session_business
from tests.sql.engines import open_engine
from tests.sql.models import create_tables, sagas_of


class SqlSqliteHarness(StoreHarness):
    capabilities = SqlSagaStore.capabilities

    def __init__(self, path: Path) -> None:
        self._path = path

    def _engine(self) -> AbstractAsyncContextManager[AsyncEngine]:
        return open_engine(f"sqlite+aiosqlite:///{self._path}", connect_args={"timeout": 10})

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        async with self._engine() as engine:
            # An id is there once per table, but the rules want it once per namespace.
            model = sagas_of(namespace)
            await create_tables(engine, model)
            yield SqlSagaStore(
                model_class=model, session_maker=async_sessionmaker(engine), namespace=namespace
            )

    def business(self) -> AbstractAsyncContextManager[Business]:
        return open_session_business(
            f"sqlite+aiosqlite:///{self._path}", "sql-sqlite", connect_args={"timeout": 10}
        )

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        times = ("deadline_at", "created_at", "updated_at")
        async with self._engine() as engine, async_sessionmaker(engine).begin() as session:
            saga = await session.get_one(sagas_of(namespace), saga_id)
            for name in times:
                value = getattr(saga, name)
                if value is not None:
                    setattr(saga, name, value - by)
            for kept in (HISTORY, INBOX):
                # Past the mapper, which lets nobody rewrite what has happened.
                table = inspect(sagas_of(namespace)).relationships[kept].mapper.local_table
                rows = await session.execute(
                    select(table.c.seq, table.c.at).where(table.c.saga_id == saga_id)
                )
                for seq, at in rows.all():
                    which = (table.c.saga_id == saga_id) & (table.c.seq == seq)
                    await session.execute(update(table).where(which).values(at=at - by))


class TestSqlStoreOnSqlite(StoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return SqlSqliteHarness(tmp_path / "sagas.db")
