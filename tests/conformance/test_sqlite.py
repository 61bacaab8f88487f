"""The SQLite store keeps the contract."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from saga_core import open_store
from saga_core.hookspecs import Capability
from saga_core.store import SagaStore
from saga_testing.conformance import StoreConformance, StoreHarness


class SqliteHarness(StoreHarness):
    backend = "sqlite"
    capabilities = frozenset({Capability.MULTI_PROCESS, Capability.DURABLE})

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, *, namespace: str = "default") -> AbstractAsyncContextManager[SagaStore]:
        return open_store(f"sqlite:///{self._path}", namespace=namespace, synchronous="normal")

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        await asyncio.to_thread(self._age, namespace, saga_id, by // timedelta(microseconds=1))

    def _age(self, namespace: str, saga_id: UUID, micros: int) -> None:
        database = sqlite3.connect(self._path, timeout=10)
        with database:
            database.execute(
                "UPDATE saga SET due_at = due_at - ?, created_at = created_at - ?, "
                "updated_at = updated_at - ? WHERE namespace = ? AND saga_id = ?",
                (micros, micros, micros, namespace, str(saga_id)),
            )
            for table in ("saga_history", "saga_inbox"):
                database.execute(
                    f"UPDATE {table} SET at = at - ? WHERE namespace = ? AND saga_id = ?",
                    (micros, namespace, str(saga_id)),
                )
        database.close()


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return SqliteHarness(tmp_path / "sagas.db")
