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
from saga_core.records import Query
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
    ME,
    accepted,
    claim,
    claim_one,
    commit_of,
    ended,
    entry,
    event,
    leased,
    new_saga,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.transitions import unchanged

__all__ = ["ExportRules"]


class ExportRules(Topic):
    async def test_export_tells_which_commit_wrote_what(self, store: SagaStore) -> None:
        record = (await store.create(leased(history=(entry(),)))).record
        first = commit_of(record, history=(entry(), entry()))
        committed = await store.commit(first)
        second = commit_of(replace(record, version=committed.version))
        await store.commit(second)
        export = await store.export(record.saga_id)
        ids = (None, first.commit_id, first.commit_id, second.commit_id)
        assert export.commit_ids == ids
        assert tuple(export.history) == tuple(await store.history(record.saga_id))

    async def test_export_has_the_saga_as_it_is_loaded(self, store: SagaStore) -> None:
        record = (await store.create(leased(history=(entry(),)))).record
        await store.signal(record.saga_id, event())
        export = await store.export(record.saga_id)
        loaded = await store.load(record.saga_id)
        assert replace(export.record, now=loaded.now) == loaded
        assert tuple(export.inbox) == tuple(await store.inbox(record.saga_id))

    async def test_long_saga_is_exported_whole(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.commit(commit_of(record, history=tuple(entry() for _ in range(250))))
        assert len((await store.export(record.saga_id)).history) == 250

    async def test_restored_lease_still_holds(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(record.saga_id))
            assert (await other.load(record.saga_id)).worker == ME
            assert not (await claim(other)).records

    async def test_restored_saga_knows_its_commits_and_signals_and_goes_on(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("e"))
        done = commit_of(record, seen=1)
        first = await store.commit(done)
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(record.saga_id))
            with accepted("a repeat of a commit of before"):
                again = await other.commit(done)
            assert (again.version, again.fence) == (first.version, first.fence)
            await other.signal(record.saga_id, event())
            assert [one.seq for one in await other.inbox(record.saga_id)] == [1, 2]
            await other.commit(ended(replace(record, version=first.version)))
            assert [one.seq for one in await other.history(record.saga_id)] == [1, 2]

    async def test_restored_saga_is_what_was_exported(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased(aggregation_id="a", tags=("t",)))).record
        await store.signal(record.saga_id, event("e"))
        await store.commit(commit_of(record, seen=1, consumed=("e",)))
        await harness.age(record.saga_id, HOUR)
        export = await store.export(record.saga_id)
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(export)
            assert await unchanged(other, record.saga_id, export)

    async def test_every_field_is_restored(self, store: SagaStore, harness: StoreHarness) -> None:
        full = state_of(
            SagaStatus.COMPENSATING,
            direction=Direction.ROLLBACK,
            step_id="step_7",
            step_index=7,
            generation=3,
            attempt=2,
            waiting_for="retry",
            last_error="ValueError: no",
            error_code="ValueError",
        )
        failed = entry(EntryKind.RETRYING, attempt=2, input="{}", error="no", error_code="E")
        spoken = entry(EntryKind.COMPLETED, actor="ann", reason="because")
        new = leased(aggregation_id="a", trace_id="trace", tags=("b", "a"))
        record = (await store.create(new)).record
        await store.signal(record.saga_id, event("e"))
        await store.commit(commit_of(record, state=full, history=(failed, spoken)))
        export = await store.export(record.saga_id)
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(export)
            assert await unchanged(other, record.saga_id, export)

    async def test_restored_saga_is_due_and_listed_as_before(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        new = new_saga(tags=("t",), state=state_of(error_code="KeyError"))
        await store.create(new)
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(new.saga_id))
            for query in (Query(tag="t"), Query(error_code="KeyError")):
                assert await other.count(query) == 1, query
            assert (await claim_one(other)).saga_id == new.saga_id

    async def test_lists_follow_what_commits_change_in_a_restored_saga(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased(tags=("t",), state=state_of(error_code="A")))).record
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(record.saga_id))
            await other.commit(commit_of(record, tags=("u",), state=state_of(error_code="B")))
            queries = [Query(error_code="A"), Query(tag="t"), Query(error_code="B"), Query(tag="u")]
            assert [await other.count(query) for query in queries] == [0, 0, 1, 1]

    async def test_restored_saga_holds_its_aggregate(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(record.saga_id))
            with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
                await other.create(new_saga(aggregation_id="a"))
            assert refused.value.saga_id == record.saga_id

    async def test_restored_end_is_purged_by_its_own_time(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await store.commit(ended(record))
        await harness.age(record.saga_id, 3 * HOUR)
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(record.saga_id))
            assert await other.purge(finished_for=2 * HOUR, limit=10) == 1

    async def test_existing_id_is_not_restored(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        export = await store.export(record.saga_id)
        await store.commit(commit_of(record))
        before = await store.export(record.saga_id)
        with pytest.raises(SagaStateError):
            await store.restore(export)
        assert await unchanged(store, record.saga_id, before)

    async def test_active_saga_of_a_taken_aggregate_is_not_restored(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        export = await store.export(record.saga_id)
        async with harness.open(namespace="elsewhere") as other:
            holder = new_saga(aggregation_id="a")
            with accepted("the same aggregate in another namespace"):
                await other.create(holder)
            with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
                await other.restore(export)
            assert refused.value.saga_id == holder.saga_id
            with pytest.raises(SagaNotFoundError):
                await other.load(record.saga_id)

    async def test_unknown_saga_cannot_be_exported(self, store: SagaStore) -> None:
        with pytest.raises(SagaNotFoundError):
            await store.export(uuid4())

    async def test_restored_saga_keeps_its_reclaims(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        await claim(store)
        async with harness.open(namespace="elsewhere") as other:
            await other.restore(await store.export(record.saga_id))
            assert (await other.load(record.saga_id)).reclaims == 1
