"""Rules for `renew` and `release`: who holds a saga, and until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from saga_core.errors import StaleVersionError
from saga_core.records import Held, Query
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
    ME,
    OTHER,
    accepted,
    claim,
    claim_one,
    commit_of,
    event,
    leased,
)
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.transitions import unchanged

__all__ = ["LeaseRules"]


async def many_held(store: SagaStore) -> list[Held]:
    """Return more sagas than a batch of most engines takes, held by `ME`."""
    parent = (await store.create(leased())).record
    held = tuple(leased() for _ in range(150))
    await store.commit(commit_of(parent, spawn=held))
    return [Held(one.saga_id, 1) for one in held]


class LeaseRules(Topic):
    async def test_renewal_moves_the_end_and_nothing_else(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        assert set(await store.renew(ME, [Held(record.saga_id, 1)], HOUR)) == {record.saga_id}
        after = await store.load(record.saga_id)
        assert after.due_at is not None
        assert abs((after.due_at - after.now) - HOUR).total_seconds() < 60
        assert replace(after, due_at=record.due_at, now=record.now) == record

    async def test_renewal_tells_how_many_signals_there_are(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        assert await store.renew(ME, [Held(record.saga_id, 1)], LEASE) == {record.saga_id: 1}

    async def test_many_leases_are_renewed_in_one_call(self, store: SagaStore) -> None:
        held = [Held((await store.create(leased())).record.saga_id, 1) for _ in range(3)]
        assert set(await store.renew(ME, held, HOUR)) == {one.saga_id for one in held}
        assert await store.renew(ME, [], HOUR) == {}

    async def test_renewal_of_all_that_a_worker_drives_leaves_none_out(
        self, store: SagaStore
    ) -> None:
        held = await many_held(store)
        assert set(await store.renew(ME, held, HOUR)) == {one.saga_id for one in held}

    async def test_expired_lease_that_nobody_took_is_renewed(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, 2 * LEASE)
        assert await store.renew(ME, [Held(record.saga_id, 1)], LEASE)
        assert not (await claim(store, OTHER)).records

    async def test_what_is_lost_is_left_out_of_a_renewal(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        lost, kept = [(await store.create(leased())).record for _ in range(2)]
        await harness.age(lost.saga_id, LEASE)
        await claim(store, OTHER)
        held = [Held(lost.saga_id, 1), Held(kept.saga_id, 1)]
        assert set(await store.renew(ME, held, HOUR)) == {kept.saga_id}

    async def test_released_saga_is_not_renewed(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.release(ME, [Held(record.saga_id, 1)], delay=HOUR)
        before = await store.export(record.saga_id)
        assert await store.renew(ME, [Held(record.saga_id, 1)], LEASE) == {}
        assert await unchanged(store, record.saga_id, before)

    async def test_renewal_after_takeover_returns_and_changes_nothing(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        await claim(store, OTHER)
        before = await store.export(record.saga_id)
        assert await store.renew(ME, [Held(record.saga_id, 1)], HOUR) == {}
        assert await unchanged(store, record.saga_id, before)

    async def test_renewal_under_an_old_fence_of_ones_own_is_refused(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        await claim(store, ME)
        before = await store.export(record.saga_id)
        assert await store.renew(ME, [Held(record.saga_id, 1)], HOUR) == {}
        assert await unchanged(store, record.saga_id, before)

    async def test_unknown_saga_is_not_renewed(self, store: SagaStore) -> None:
        assert await store.renew(ME, [Held(uuid4(), 1)], LEASE) == {}

    async def test_expired_lease_that_nobody_took_still_commits(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, 2 * LEASE)
        with accepted("the commit of an expired lease that nobody took"):
            assert (await store.commit(commit_of(record))).held

    async def test_old_holder_cannot_commit_after_a_claim(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        await claim(store, OTHER)
        before = await store.export(record.saga_id)
        with pytest.raises(StaleVersionError):
            await store.commit(commit_of(record))
        assert await unchanged(store, record.saga_id, before)

    async def test_release_with_a_delay_is_due_later(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.release(ME, [Held(record.saga_id, 1)], delay=HOUR)
        assert not (await claim(store, OTHER)).records
        after = await store.load(record.saga_id)
        assert after.due_at is not None
        assert abs((after.due_at - after.now) - HOUR).total_seconds() < 60

    async def test_expired_lease_that_nobody_took_is_released(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, 2 * LEASE)
        await store.release(ME, [Held(record.saga_id, 1)], delay=HOUR)
        assert not (await claim(store, OTHER)).records

    async def test_fence_is_constant_while_one_holds_and_rises_after(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        fences = []
        for _ in range(3):
            committed = await store.commit(commit_of(record))
            fences.append(committed.fence)
            await store.renew(ME, [Held(record.saga_id, record.fence)], LEASE)
            await store.signal(record.saga_id, event())
            record = await store.load(record.saga_id)
        await harness.age(record.saga_id, LEASE)
        claimed = await claim_one(store, OTHER)
        assert (fences, claimed.fence) == ([1, 1, 1], 2)

    async def test_released_saga_is_due_for_others(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.release(ME, [Held(record.saga_id, 1)], delay=timedelta(0))
        after = await store.load(record.saga_id)
        assert (after.worker, after.version, after.fence) == (None, 1, 1)
        assert after.updated_at == record.updated_at
        assert (await claim_one(store, OTHER)).saga_id == record.saga_id

    async def test_many_sagas_are_released_in_one_call(self, store: SagaStore) -> None:
        held = [Held((await store.create(leased())).record.saga_id, 1) for _ in range(3)]
        await store.release(ME, held, delay=timedelta(0))
        assert len((await claim(store, OTHER)).records) == 3
        await store.release(ME, [], delay=timedelta(0))

    async def test_release_of_all_that_a_worker_drives_leaves_none_out(
        self, store: SagaStore
    ) -> None:
        held = await many_held(store)
        await store.release(ME, held, delay=HOUR)
        listed = (await store.find(Query(limit=200))).records
        free = {record.saga_id for record in listed if record.worker is None}
        assert free == {one.saga_id for one in held}

    async def test_repeated_release_does_not_touch_the_next_holder(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        held = [Held(record.saga_id, 1)]
        await store.release(ME, held, delay=timedelta(0))
        await claim(store, OTHER)
        before = await store.export(record.saga_id)
        await store.release(ME, held, delay=timedelta(0))
        assert await unchanged(store, record.saga_id, before)

    async def test_release_by_somebody_else_changes_nothing(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        before = await store.export(record.saga_id)
        await store.release(OTHER, [Held(record.saga_id, 1)], delay=timedelta(0))
        assert await unchanged(store, record.saga_id, before)

    async def test_release_under_an_old_fence_of_ones_own_changes_nothing(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        await claim(store, ME)
        before = await store.export(record.saga_id)
        held = [Held(record.saga_id, 1), Held(uuid4(), 1)]
        await store.release(ME, held, delay=timedelta(0))
        assert await unchanged(store, record.saga_id, before)

    async def test_renewal_may_bring_the_end_nearer(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.renew(ME, [Held(record.saga_id, 1)], LEASE / 5)
        after = await store.load(record.saga_id)
        assert after.due_at is not None
        assert after.due_at - after.now <= LEASE / 5
