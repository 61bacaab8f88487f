"""Rules for `find`, `count`, `purge`, `export` and `restore`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    PayloadError,
    SagaNotFoundError,
    SagaStateError,
)
from saga_core.records import Due, Query
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    ME,
    claim,
    commit_of,
    ended,
    event,
    leased,
    new_saga,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.transitions import unchanged

__all__ = ["CatalogRules", "ExportRules", "RetentionRules"]


async def found(store: SagaStore, query: Query) -> set[UUID]:
    page = await store.find(query)
    assert await store.count(query) == len(page.records)
    return {record.saga_id for record in page.records}


class CatalogRules(Topic):
    async def test_each_condition_narrows(self, store: SagaStore) -> None:
        failed = state_of(SagaStatus.STUCK, error_code="ValueError")
        one = new_saga(aggregation_id="a", tags=("red", "big"), state=failed, due=None)
        two = new_saga(saga_name="other", definition_version="2", tags=("red",))
        for new in (one, two):
            await store.create(new)
        both = {one.saga_id, two.saga_id}
        first, second = {one.saga_id}, {two.saga_id}
        assert await found(store, Query()) == both
        assert await found(store, Query(statuses=(SagaStatus.STUCK,))) == first
        assert await found(store, Query(statuses=(SagaStatus.STUCK, SagaStatus.RUNNING))) == both
        assert await found(store, Query(saga_name="other")) == second
        assert await found(store, Query(definition_version="2")) == second
        assert await found(store, Query(aggregation_id="a")) == first
        assert await found(store, Query(tag="red")) == both
        assert await found(store, Query(tag="big")) == first
        assert await found(store, Query(tag="re")) == set()
        assert await found(store, Query(error_code="ValueError")) == first
        assert await found(store, Query(error_code="ValueError", tag="none")) == set()

    async def test_times_narrow(self, store: SagaStore, harness: StoreHarness) -> None:
        old, young = new_saga(), new_saga(due=Due(delay=HOUR))
        for new in (old, young):
            await store.create(new)
        await harness.age(old.saga_id, 3 * HOUR)
        middle = (await store.load(old.saga_id)).now - HOUR
        assert await found(store, Query(created_before=middle)) == {old.saga_id}
        assert await found(store, Query(created_after=middle)) == {young.saga_id}
        assert await found(store, Query(overdue_by=2 * HOUR)) == {old.saga_id}
        assert await found(store, Query(overdue_by=4 * HOUR)) == set()

    async def test_pages_are_complete_and_stable_while_sagas_come(self, store: SagaStore) -> None:
        made = []
        for _ in range(7):
            new = new_saga()
            await store.create(new)
            made.append(new.saga_id)
        seen: list[UUID] = []
        cursor: str | None = None
        while True:
            page = await store.find(Query(limit=3, cursor=cursor))
            seen += [record.saga_id for record in page.records]
            cursor = page.cursor
            if cursor is None:
                break
            await store.create(new_saga(saga_name="late"))
            if len(seen) > 30:
                break
        assert [saga_id for saga_id in seen if saga_id in made] == sorted(
            made, key=lambda saga_id: seen.index(saga_id)
        )
        assert len(seen) == len(set(seen))
        assert set(made) <= set(seen)

    async def test_last_page_has_no_cursor(self, store: SagaStore) -> None:
        for _ in range(3):
            await store.create(new_saga())
        assert (await store.find(Query(limit=3))).cursor is None
        assert (await store.find(Query(limit=2))).cursor is not None

    async def test_foreign_cursor_is_refused(self, store: SagaStore) -> None:
        with pytest.raises(PayloadError):
            await store.find(Query(cursor="not-a-cursor"))


class RetentionRules(Topic):
    async def test_only_what_ended_long_ago_is_purged(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        old, young, live = [(await store.create(leased())).record for _ in range(3)]
        stuck = new_saga(state=state_of(SagaStatus.STUCK), due=None)
        await store.create(stuck)
        await store.signal(old.saga_id, event())
        for record in (old, young):
            await store.commit(ended(record))
        for saga_id in (old.saga_id, live.saga_id, stuck.saga_id):
            await harness.age(saga_id, 3 * HOUR)
        assert await store.purge(finished_for=2 * HOUR, limit=10) == 1
        with pytest.raises(SagaNotFoundError):
            await store.load(old.saga_id)
        assert not await store.history(old.saga_id)
        assert not await store.inbox(old.saga_id)
        for saga_id in (young.saga_id, live.saga_id, stuck.saga_id):
            assert (await store.load(saga_id)).saga_id == saga_id

    async def test_purge_is_bounded(self, store: SagaStore, harness: StoreHarness) -> None:
        for _ in range(5):
            record = (await store.create(leased())).record
            await store.commit(ended(record))
            await harness.age(record.saga_id, HOUR)
        taken = [await store.purge(finished_for=timedelta(0), limit=2) for _ in range(4)]
        assert taken == [2, 2, 1, 0]


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
