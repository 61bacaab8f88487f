"""`SqlSagaStore` on SQLite keeps the contract, in tables of a user's model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from saga_backends.sql import SqlSagaStore
from saga_core.hookspecs import Capability
from saga_core.store import SagaStore
from saga_testing.conformance import StoreConformance, StoreHarness
from tests.sql.models import create_tables, sagas_of


class SqlSqliteHarness(StoreHarness):
    capabilities = frozenset({Capability.MULTI_PROCESS, Capability.DURABLE})

    def __init__(self, path: Path) -> None:
        self._path = path

    def _engine(self) -> AsyncEngine:
        return create_async_engine(
            f"sqlite+aiosqlite:///{self._path}",
            poolclass=AsyncAdaptedQueuePool,
            connect_args={"timeout": 10},
        )

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        engine = self._engine()
        try:
            # An id is there once per table, but the rules want it once per namespace.
            model = sagas_of(namespace)
            await create_tables(engine, model)
            yield SqlSagaStore(
                model_class=model, session_maker=async_sessionmaker(engine), namespace=namespace
            )
            assert engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
        finally:
            await engine.dispose()

    async def age(self, saga_id: UUID, by: timedelta) -> None:
        engine = self._engine()
        try:
            model = sagas_of("default")
            async with async_sessionmaker(engine).begin() as session:
                saga = await session.get_one(model, saga_id)
                times = {
                    name: None if value is None else value - by
                    for name in ("deadline_at", "created_at", "updated_at")
                    for value in (getattr(saga, name),)
                }
                key = {"id": saga_id.hex}
                shown = {n: v and v.strftime("%Y-%m-%d %H:%M:%S.%f") for n, v in times.items()}
                await session.execute(
                    text(
                        f"UPDATE {model.__tablename__} SET deadline_at = :deadline_at, "
                        "created_at = :created_at, updated_at = :updated_at WHERE id = :id"
                    ),
                    {**shown, **key},
                )
        finally:
            await engine.dispose()


class TestSqlStoreOnSqlite(StoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return SqlSqliteHarness(tmp_path / "sagas.db")
