"""Rules for `export` and `restore`."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateError,
)
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    ME,
    claim,
    commit_of,
    ended,
    event,
    leased,
    new_saga,
)
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.transitions import unchanged

__all__ = ["ExportRules"]


class ExportRules(Topic):
    async def test_restored_saga_is_what_was_exported(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased(aggregation_id="a", tags=("t",)))).record
        await store.signal(record.saga_id, event("e"))
        done = commit_of(record, seen=1, consumed=("e",))
        committed = await store.commit(done)
        export = await store.export(record.saga_id)
        assert export.commit_ids == (done.commit_id,)
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(export)
            assert await unchanged(other, record.saga_id, export)
            assert (await other.commit(done)).version == committed.version
            current = replace(record, version=committed.version)
            assert (await other.commit(ended(current))).fence == record.fence

    async def test_restored_lease_still_holds(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(record.saga_id))
            assert (await other.load(record.saga_id)).worker == ME
            assert not (await claim(other)).records

    async def test_existing_id_and_taken_aggregate_are_refused(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        export = await store.export(record.saga_id)
        with pytest.raises(SagaStateError):
            await store.restore(export)
        async with harness.open(namespace="elsewhere") as other:
            holder = new_saga(aggregation_id="a")
            await other.create(holder)
            with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
                await other.restore(export)
            assert refused.value.saga_id == holder.saga_id
            with pytest.raises(SagaNotFoundError):
                await other.load(record.saga_id)

    async def test_unknown_saga_cannot_be_exported(self, store: SagaStore) -> None:
        with pytest.raises(SagaNotFoundError):
            await store.export(uuid4())
