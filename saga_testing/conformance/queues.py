"""Rules for sagas that wait for an aggregate which another one holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from saga_core.errors import ActiveSagaAlreadyExistsError, StaleVersionError
from saga_core.records import (
    DUE_NOW,
    Held,
    Lease,
    LeaseAction,
    Query,
    SagaExport,
)
from saga_core.status import SagaStatus
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
    ended,
    event,
    leased,
    new_saga,
    parked,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.waiters import back, gone, queued, taking

__all__ = ["QueueRules"]

NOW = timedelta(0)


def _renamed(export: SagaExport) -> SagaExport:
    """Return an export under another id: some stores keep the ids of all namespaces apart."""
    return replace(export, record=replace(export.record, saga_id=uuid4()))


class QueueRules(Topic):
    async def test_queued_saga_takes_no_aggregate_and_is_not_due(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        waiter = (await store.create(queued())).record
        assert (waiter.due_at, waiter.worker, waiter.state.is_queued) == (None, None, True)
        assert (await store.load(waiter.saga_id)).state == waiter.state
        assert not (await claim(store)).records
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.create(new_saga(aggregation_id="a"))
        assert refused.value.saga_id == holder.saga_id

    @pytest.mark.parametrize(
        "status", [SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED]
    )
    async def test_end_of_the_holder_makes_the_first_in_the_queue_due(
        self, store: SagaStore, harness: StoreHarness, status: SagaStatus
    ) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        younger = (await store.create(queued())).record
        first = (await store.create(queued())).record
        await harness.age(first.saga_id, HOUR)
        await store.commit(ended(holder, status))
        assert (await claim_one(store)).saga_id == first.saga_id
        assert (await store.load(younger.saga_id)).due_at is None

    async def test_commit_that_keeps_the_aggregate_makes_nobody_due(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        waiter = (await store.create(queued())).record
        await store.commit(parked(holder, HOUR))
        assert (await store.load(waiter.saga_id)).due_at is None

    async def test_saga_queued_for_a_free_aggregate_is_due_at_once(self, store: SagaStore) -> None:
        waiter = (await store.create(queued())).record
        assert waiter.due_at is not None
        assert waiter.due_at <= (await store.load(waiter.saga_id)).now
        assert (await claim_one(store)).saga_id == waiter.saga_id

    async def test_of_those_queued_for_a_free_aggregate_the_first_is_due(
        self, store: SagaStore
    ) -> None:
        first = (await store.create(queued())).record
        assert (await store.create(queued())).record.due_at is None
        assert (await claim_one(store)).saga_id == first.saga_id

    async def test_queued_saga_may_be_created_with_a_lease(self, store: SagaStore) -> None:
        waiter = (await store.create(queued(lease=Lease(ME, LEASE)))).record
        assert (waiter.worker, waiter.is_held) == (ME, True)
        with accepted("the first in the queue for a free aggregate"):
            await store.commit(taking(waiter))

    async def test_first_in_the_queue_takes_the_aggregate(self, store: SagaStore) -> None:
        await store.create(queued())
        waiter = await claim_one(store)
        await store.commit(taking(waiter))
        assert (await store.load(waiter.saga_id)).state.active
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.create(new_saga(aggregation_id="a"))
        assert refused.value.saga_id == waiter.saga_id

    async def test_taken_aggregate_is_not_taken_twice(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        waiter = (await store.create(queued(lease=Lease(OTHER, LEASE)))).record
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.commit(taking(waiter))
        assert refused.value.saga_id == holder.saga_id
        kept = await store.load(waiter.saga_id)
        assert (kept.version, kept.state, kept.worker) == (waiter.version, waiter.state, OTHER)

    async def test_nobody_takes_the_aggregate_before_the_first_in_the_queue(
        self, store: SagaStore
    ) -> None:
        first = (await store.create(queued())).record
        second = (await store.create(queued(lease=Lease(OTHER, LEASE)))).record
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.commit(taking(second))
        assert refused.value.saga_id == first.saga_id
        assert (await store.load(second.saga_id)).version == second.version

    async def test_saga_that_has_taken_the_aggregate_hands_it_on(self, store: SagaStore) -> None:
        await store.create(queued())
        first = await claim_one(store)
        second = (await store.create(queued())).record
        third = (await store.create(queued())).record
        await store.commit(taking(first))
        assert not (await claim(store, OTHER)).records
        await store.commit(ended(await store.load(first.saga_id)))
        assert (await claim_one(store, OTHER)).saga_id == second.saga_id
        await store.commit(taking(await store.load(second.saga_id)))
        await store.commit(ended(await store.load(second.saga_id)))
        assert (await claim_one(store, OTHER)).saga_id == third.saga_id

    async def test_saga_put_back_waits_in_its_old_place(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        first = (await store.create(queued(lease=Lease(OTHER, LEASE)))).record
        await store.create(queued())
        await store.commit(back(first))
        kept = await store.load(first.saga_id)
        assert (kept.due_at, kept.worker) == (None, None)
        await store.commit(ended(holder))
        assert (await claim_one(store)).saga_id == first.saga_id

    async def test_saga_put_back_once_the_aggregate_is_free_is_due(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        first = (await store.create(queued(lease=Lease(OTHER, LEASE)))).record
        second = (await store.create(queued())).record
        await store.commit(ended(holder))
        kept = await store.load(first.saga_id)
        assert (kept.worker, kept.due_at) == (OTHER, first.due_at)
        assert (await store.load(second.saga_id)).due_at is None
        await store.commit(back(first))
        assert (await claim_one(store)).saga_id == first.saga_id

    async def test_saga_that_leaves_the_queue_lets_the_next_come(self, store: SagaStore) -> None:
        first = (await store.create(queued())).record
        second = (await store.create(queued())).record
        await store.commit(gone(first))
        assert (await claim_one(store)).saga_id == second.saga_id

    async def test_saga_that_leaves_the_queue_leaves_the_holder_alone(
        self, store: SagaStore
    ) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        first = (await store.create(queued())).record
        second = (await store.create(queued())).record
        await store.commit(gone(first))
        assert not (await claim(store)).records
        await store.commit(ended(holder))
        assert (await claim_one(store)).saga_id == second.saga_id

    async def test_holder_of_before_the_queue_and_its_saga_put_back_lets_it_come(
        self, store: SagaStore
    ) -> None:
        await store.create(queued())
        first = await claim_one(store)
        second = (await store.create(queued())).record
        quicker = (await store.create(leased(OTHER, aggregation_id="a"))).record
        await store.commit(back(first))
        assert not (await claim(store)).records
        await store.commit(ended(quicker))
        assert (await claim_one(store)).saga_id == first.saga_id
        assert (await store.load(second.saga_id)).due_at is None

    async def test_revived_holder_keeps_the_queue_waiting(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        await store.create(queued())
        await store.commit(ended(holder, SagaStatus.FAILED))
        first = await claim_one(store, OTHER)
        failed = await store.load(holder.saga_id)
        await store.commit(commit_of(failed, lease=Lease(ME, LEASE)))
        with pytest.raises(ActiveSagaAlreadyExistsError):
            await store.commit(taking(first))
        await store.commit(back(first))
        assert not (await claim(store)).records
        await store.commit(ended(await store.load(holder.saga_id)))
        assert (await claim_one(store)).saga_id == first.saga_id

    async def test_commit_of_what_has_ended_leaves_the_next_holder_alone(
        self, store: SagaStore
    ) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        await store.create(queued())
        await store.commit(ended(holder, SagaStatus.FAILED))
        await store.commit(taking(await claim_one(store, OTHER)))
        second = (await store.create(queued())).record
        await store.commit(ended(await store.load(holder.saga_id), SagaStatus.FAILED))
        assert (await store.load(second.saga_id)).due_at is None

    async def test_saga_that_leaves_the_queue_for_its_last_step_hears_what_is_sent(
        self, store: SagaStore
    ) -> None:
        await store.create(leased(aggregation_id="a"))
        waiter = (await store.create(queued())).record
        last = state_of(active=False)
        await store.commit(commit_of(waiter, state=last, lease=Lease(OTHER, LEASE)))
        assert (await store.signal(waiter.saga_id, event())).accepted
        late = parked(await store.load(waiter.saga_id), HOUR, state=last, seen=0)
        await store.commit(late)
        assert (await claim_one(store)).saga_id == waiter.saga_id

    async def test_lease_of_a_queued_saga_ends_like_others(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        first = (await store.create(queued(lease=Lease(OTHER, LEASE)))).record
        await harness.age(first.saga_id, HOUR)
        taken = await claim_one(store)
        assert (taken.saga_id, taken.reclaimed) == (first.saga_id, True)

    async def test_released_first_in_the_queue_is_due(self, store: SagaStore) -> None:
        first = (await store.create(queued(lease=Lease(OTHER, LEASE)))).record
        await store.release(OTHER, [Held(first.saga_id, first.fence)], delay=NOW)
        assert (await claim_one(store)).saga_id == first.saga_id

    async def test_time_at_which_a_queued_saga_is_due_anyway_is_kept(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        late = (await store.create(queued(due=replace(DUE_NOW, delay=HOUR)))).record
        assert not (await claim(store)).records
        await harness.age(late.saga_id, HOUR)
        assert (await claim_one(store)).saga_id == late.saga_id
        await store.commit(gone(await store.load(late.saga_id)))
        await store.commit(ended(holder))

    async def test_first_in_the_queue_is_due_before_the_time_at_which_it_is_due_anyway(
        self, store: SagaStore
    ) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        waiter = (await store.create(queued(due=replace(DUE_NOW, delay=HOUR)))).record
        await store.commit(ended(holder))
        assert (await claim_one(store)).saga_id == waiter.saga_id

    async def test_queued_saga_is_not_purged(self, store: SagaStore, harness: StoreHarness) -> None:
        await store.create(leased(aggregation_id="a"))
        waiter = (await store.create(queued())).record
        await harness.age(waiter.saga_id, 3 * HOUR)
        assert await store.purge(finished_for=HOUR, limit=10) == 0
        await store.commit(gone(waiter))
        await harness.age(waiter.saga_id, 3 * HOUR)
        assert await store.purge(finished_for=HOUR, limit=10) == 1

    async def test_saga_stuck_before_its_turn_leaves_the_queue_and_is_not_purged(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        first = (await store.create(queued())).record
        second = (await store.create(queued())).record
        stuck = state_of(SagaStatus.STUCK, active=False)
        await store.commit(commit_of(first, state=stuck, lease=LeaseAction.RELEASE))
        assert (await claim_one(store)).saga_id == second.saga_id
        await harness.age(first.saga_id, 3 * HOUR)
        assert await store.purge(finished_for=HOUR, limit=10) == 0
        assert (await store.signal(first.saga_id, event())).accepted

    async def test_queued_saga_is_listed_and_counted(self, store: SagaStore) -> None:
        await store.create(leased(aggregation_id="a"))
        waiter = (await store.create(queued())).record
        query = Query(statuses=(SagaStatus.SUSPENDED,), aggregation_id="a")
        assert await store.count(query) == 1
        page = await store.find(query)
        assert [one.saga_id for one in page.records] == [waiter.saga_id]
        assert page.records[0].state.is_queued

    async def test_signal_to_a_queued_saga_is_kept_and_wakes_nobody(self, store: SagaStore) -> None:
        await store.create(leased(aggregation_id="a"))
        waiter = (await store.create(queued())).record
        receipt = await store.signal(waiter.saga_id, event())
        assert (receipt.accepted, receipt.held) == (True, False)
        kept = await store.load(waiter.saga_id)
        assert (kept.signals, kept.due_at) == (1, None)
        await store.commit(gone(kept))
        assert not (await store.signal(waiter.saga_id, event())).accepted

    async def test_signal_to_a_queued_saga_that_is_held_is_not_overheard(
        self, store: SagaStore
    ) -> None:
        await store.create(leased(aggregation_id="a"))
        waiter = (await store.create(queued(lease=Lease(OTHER, LEASE)))).record
        assert (await store.signal(waiter.saga_id, event())).held
        await store.commit(back(waiter))
        assert (await claim_one(store)).saga_id == waiter.saga_id

    async def test_spawned_saga_may_be_queued(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        parent = (await store.create(leased())).record
        child, free = queued(), queued("b")
        await store.commit(commit_of(parent, spawn=(child, free)))
        assert (await store.load(child.saga_id)).due_at is None
        assert (await claim_one(store)).saga_id == free.saga_id
        await store.commit(ended(holder))
        assert (await claim_one(store)).saga_id == child.saga_id

    async def test_queues_of_other_aggregates_are_left_alone(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        await store.create(leased(aggregation_id="A"))
        other = (await store.create(queued("A"))).record
        await store.commit(ended(holder))
        assert (await store.load(other.saga_id)).due_at is None

    async def test_queues_of_other_namespaces_are_left_alone(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        async with harness.open(namespace="elsewhere") as other:
            theirs = (await other.create(leased(aggregation_id="a"))).record
            waiter = (await store.create(queued())).record
            assert waiter.due_at is not None
            ours = (await other.create(queued())).record
            assert ours.due_at is None
            await other.commit(ended(theirs))
            assert (await other.load(ours.saga_id)).due_at is not None

    async def test_repeated_commit_calls_the_queue_once(self, store: SagaStore) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        await store.create(queued())
        second = (await store.create(queued())).record
        end = ended(holder)
        answer = await store.commit(end)
        first = await claim_one(store)
        assert await store.commit(end) == answer
        assert (await store.load(second.saga_id)).due_at is None
        take = taking(first)
        assert await store.commit(take) == await store.commit(take)

    async def test_commit_of_a_queued_saga_under_an_old_version_is_refused(
        self, store: SagaStore
    ) -> None:
        first = (await store.create(queued())).record
        await claim_one(store)
        for late in (taking(first), back(first), gone(first)):
            with pytest.raises(StaleVersionError):
                await store.commit(late)
        assert (await store.load(first.saga_id)).state.is_queued

    async def test_exported_queued_saga_comes_back_to_the_queue(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        holder = (await store.create(leased(aggregation_id="a"))).record
        waiter = (await store.create(queued())).record
        exports = [_renamed(await store.export(one.saga_id)) for one in (holder, waiter)]
        ids = [export.record.saga_id for export in exports]
        async with harness.open(namespace="elsewhere") as other:
            for export in exports:
                await other.restore(export)
            assert (await other.load(ids[1])).due_at is None
            await other.commit(ended(await other.load(ids[0])))
            assert (await claim_one(other)).saga_id == ids[1]

    async def test_queued_saga_restored_alone_is_due(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        await store.create(leased(aggregation_id="a"))
        waiter = (await store.create(queued())).record
        async with harness.open(namespace="elsewhere") as other:
            export = _renamed(await store.export(waiter.saga_id))
            await other.restore(export)
            assert (await claim_one(other)).saga_id == export.record.saga_id

    async def test_ended_saga_in_the_queue_can_be_revived(self, store: SagaStore) -> None:
        first = (await store.create(queued())).record
        await store.commit(ended(first, SagaStatus.FAILED))
        failed = await store.load(first.saga_id)
        again = commit_of(failed, lease=LeaseAction.RELEASE, due=DUE_NOW)
        await store.commit(again)
        assert (await claim_one(store)).saga_id == first.saga_id
