"""`MemoryStore` keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from saga_core.hookspecs import Capability
from saga_core.store import SagaStore
from saga_testing import MemoryStore
from saga_testing.conformance import StoreConformance, StoreHarness


class MemoryHarness(StoreHarness):
    backend = "memory"
    capabilities = frozenset({Capability.WAKEUP})
    store_class: type[MemoryStore] = MemoryStore

    def __init__(self) -> None:
        self._first = self.store_class()

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        yield self._handle(namespace)

    def _handle(self, namespace: str) -> MemoryStore:
        return self.store_class(namespace, clock=self._first.clock, data=self._first.data)

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        store = self._handle(namespace)
        row = store.data.rows[namespace, saga_id]
        record = row.record
        due_at = None if record.due_at is None else record.due_at - by
        row.history[:] = [replace(entry, at=entry.at - by) for entry in row.history]
        row.inbox[:] = [replace(signal, at=signal.at - by) for signal in row.inbox]
        store._store(
            row,
            replace(
                record,
                due_at=due_at,
                created_at=record.created_at - by,
                updated_at=record.updated_at - by,
            ),
        )


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        return MemoryHarness()
