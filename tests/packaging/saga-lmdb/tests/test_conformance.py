"""The LMDB store keeps the contract."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from saga_lmdb import LmdbStore
from saga_lmdb.table import Table

from saga_core import open_store
from saga_core.hookspecs import Capability
from saga_core.store import SagaStore
from saga_testing.conformance import StoreConformance, StoreHarness


class LmdbHarness(StoreHarness):
    backend = "lmdb"
    capabilities = frozenset({Capability.MULTI_PROCESS, Capability.DURABLE})

    def __init__(self, path: Path) -> None:
        self._url = f"lmdb:///{path}"

    def open(self, *, namespace: str = "default") -> AbstractAsyncContextManager[SagaStore]:
        return open_store(self._url, namespace=namespace)

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        def move(table: Table) -> None:
            row = table.row(saga_id)
            record = row.record
            aged = replace(
                record,
                due_at=None if record.due_at is None else record.due_at - by,
                created_at=record.created_at - by,
                updated_at=record.updated_at - by,
            )
            table.put(replace(row, record=aged), row)

        async with self.open(namespace=namespace) as store:
            assert isinstance(store, LmdbStore)
            await store._write(move)


class TestLmdbStore(StoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return LmdbHarness(tmp_path / "sagas.lmdb")
