"""Rules for `claim_due`: what is eligible, in which order, and that nobody gets it twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from saga_core.records import Due, Held, Lease, LeaseAction, Registered
from saga_core.status import Direction, SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    KIND,
    LEASE,
    ME,
    OTHER,
    claim,
    claim_one,
    commit_of,
    entry,
    leased,
    new_saga,
    parked,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic

__all__ = ["ClaimRules"]


async def due_in_lane(store: SagaStore, lane: Direction, count: int) -> set[UUID]:
    status = SagaStatus.COMPENSATING if lane is Direction.ROLLBACK else SagaStatus.RUNNING
    made = [new_saga(state=state_of(status, direction=lane)) for _ in range(count)]
    for new in made:
        await store.create(new)
    return {new.saga_id for new in made}


class ClaimRules(Topic):
    async def test_claim_makes_the_worker_holder_under_a_new_fence(self, store: SagaStore) -> None:
        await store.create(new_saga())
        record = await claim_one(store)
        assert (record.version, record.fence, record.worker) == (2, 1, ME)

    async def test_lease_of_a_claim_lasts_from_now(self, store: SagaStore) -> None:
        await store.create(new_saga())
        record = await claim_one(store, lease=LEASE)
        assert record.due_at is not None
        assert abs((record.due_at - record.now) - LEASE).total_seconds() < 5

    async def test_first_claim_reclaims_nothing(self, store: SagaStore) -> None:
        await store.create(new_saga())
        record = await claim_one(store)
        assert (record.reclaims, record.reclaimed) == (0, False)

    async def test_claimed_saga_is_as_it_is_loaded(self, store: SagaStore) -> None:
        new = new_saga(aggregation_id="a", trace_id="t", tags=("x",), history=(entry(),))
        await store.create(new)
        record = await claim_one(store)
        loaded = await store.load(new.saga_id)
        assert replace(record, now=loaded.now, reclaimed=False) == loaded

    async def test_claimed_saga_brings_its_outputs(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        first = await store.commit(commit_of(record))
        again = replace(record, version=first.version)
        await store.commit(parked(again, timedelta(0)))
        claimed = await claim_one(store)
        assert [(one.step_id, one.output) for one in claimed.outputs] == [
            ("step_0", entry().output)
        ]

    async def test_held_saga_is_not_claimed(self, store: SagaStore) -> None:
        await store.create(leased())
        assert not (await claim(store, OTHER)).records

    async def test_saga_that_is_not_due_is_not_claimed(self, store: SagaStore) -> None:
        await store.create(new_saga(due=Due(delay=HOUR)))
        assert not (await claim(store)).records

    async def test_saga_falls_due_when_its_time_comes(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        new = new_saga(due=Due(delay=HOUR))
        await store.create(new)
        await harness.age(new.saga_id, HOUR)
        assert [one.saga_id for one in (await claim(store)).records] == [new.saga_id]

    async def test_expired_lease_is_reclaimed_and_counted(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        first = await claim_one(store, OTHER)
        await harness.age(record.saga_id, LEASE)
        second = await claim_one(store, OTHER)
        assert (first.reclaims, first.reclaimed, first.fence) == (1, True, 2)
        assert (second.reclaims, second.reclaimed, second.fence) == (2, True, 3)

    async def test_commit_forgets_reclaims(self, store: SagaStore, harness: StoreHarness) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        claimed = await claim_one(store)
        await store.commit(commit_of(claimed))
        assert (await store.load(record.saga_id)).reclaims == 0

    async def test_release_keeps_reclaims_and_the_next_claim_adds_none(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        claimed = await claim_one(store)
        held = Held(claimed.saga_id, claimed.fence)
        await store.release(ME, [held], delay=timedelta(0))
        again = await claim_one(store)
        assert (again.reclaims, again.reclaimed) == (1, False)

    async def test_only_name_version_and_fingerprint_together_are_claimed(
        self, store: SagaStore
    ) -> None:
        await store.create(new_saga())
        for other in (
            Registered("another", KIND.definition_version, KIND.fingerprint),
            Registered(KIND.saga_name, "2", KIND.fingerprint),
            Registered(KIND.saga_name, KIND.definition_version, "changed"),
        ):
            assert not (await claim(store, only=(other,))).records
        assert not (await claim(store, only=())).records
        assert len((await claim(store, only=(KIND, other))).records) == 1

    async def test_unregistered_sagas_do_not_hide_the_others(self, store: SagaStore) -> None:
        for _ in range(5):
            await store.create(new_saga(saga_name="unknown"))
        mine = new_saga()
        await store.create(mine)
        assert [one.saga_id for one in (await claim(store, limit=1)).records] == [mine.saga_id]

    async def test_oldest_due_comes_first(self, store: SagaStore, harness: StoreHarness) -> None:
        made = [new_saga() for _ in range(4)]
        for hours, new in zip((2, 4, 1, 3), made, strict=True):
            await store.create(new)
            await harness.age(new.saga_id, hours * HOUR)
        order = [(await claim_one(store, limit=1)).saga_id for _ in made]
        assert order == [made[1].saga_id, made[3].saga_id, made[0].saga_id, made[2].saga_id]

    async def test_limit_is_kept(self, store: SagaStore) -> None:
        await due_in_lane(store, Direction.FORWARD, 5)
        assert len((await claim(store, limit=3)).records) == 3
        assert len((await claim(store, limit=3)).records) == 2

    async def test_each_lane_gets_half_and_the_favoured_one_the_odd(self, store: SagaStore) -> None:
        forward = await due_in_lane(store, Direction.FORWARD, 6)
        back = await due_in_lane(store, Direction.ROLLBACK, 6)
        first = (await claim(store, limit=5, favour=Direction.ROLLBACK)).records
        assert len(back & {one.saga_id for one in first}) == 3
        second = (await claim(store, limit=5, favour=Direction.FORWARD)).records
        assert len(forward & {one.saga_id for one in second}) == 3

    async def test_what_a_lane_leaves_goes_to_the_other(self, store: SagaStore) -> None:
        await due_in_lane(store, Direction.FORWARD, 6)
        back = await due_in_lane(store, Direction.ROLLBACK, 1)
        found = (await claim(store, limit=6, favour=Direction.ROLLBACK)).records
        assert len(found) == 6
        assert back <= {one.saga_id for one in found}
        await due_in_lane(store, Direction.ROLLBACK, 4)
        rest = (await claim(store, limit=6, favour=Direction.ROLLBACK)).records
        assert len(rest) == 5

    async def test_rollback_is_not_starved_by_an_older_backlog(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        for saga_id in await due_in_lane(store, Direction.FORWARD, 6):
            await harness.age(saga_id, HOUR)
        back = await due_in_lane(store, Direction.ROLLBACK, 1)
        first = await claim_one(store, limit=1, favour=Direction.FORWARD)
        second = await claim_one(store, limit=1, favour=Direction.ROLLBACK)
        assert first.saga_id not in back
        assert second.saga_id in back

    async def test_next_due_says_when_to_come_back(self, store: SagaStore) -> None:
        assert (await claim(store)).next_due is None
        await store.create(new_saga(due=Due(delay=2 * HOUR)))
        await store.create(leased())
        next_due = (await claim(store)).next_due
        assert next_due is not None
        assert timedelta(0) < next_due <= LEASE

    async def test_next_due_is_not_later_than_the_leases_just_taken(self, store: SagaStore) -> None:
        await store.create(new_saga())
        next_due = (await claim(store, lease=LEASE)).next_due
        assert next_due is not None
        assert next_due <= LEASE

    async def test_next_due_knows_sagas_of_both_lanes_and_all_names(self, store: SagaStore) -> None:
        back = state_of(SagaStatus.SUSPENDED, direction=Direction.ROLLBACK)
        await store.create(new_saga(due=Due(delay=3 * HOUR)))
        await store.create(new_saga(due=Due(delay=2 * HOUR), state=back))
        next_due = (await claim(store)).next_due
        assert next_due is not None
        assert next_due <= 2 * HOUR
        await store.create(new_saga(due=Due(delay=HOUR), saga_name="unregistered"))
        next_due = (await claim(store)).next_due
        assert next_due is not None
        assert next_due <= HOUR

    async def test_next_due_is_zero_while_work_is_left(self, store: SagaStore) -> None:
        await due_in_lane(store, Direction.FORWARD, 3)
        assert (await claim(store, limit=2)).next_due == timedelta(0)

    async def test_lane_is_the_direction_whatever_the_status(self, store: SagaStore) -> None:
        await due_in_lane(store, Direction.FORWARD, 4)
        waits = state_of(SagaStatus.SUSPENDED, direction=Direction.ROLLBACK)
        back = [new_saga(state=waits) for _ in range(2)]
        for new in back:
            await store.create(new)
        found = {one.saga_id for one in (await claim(store, limit=2)).records}
        assert len(found & {new.saga_id for new in back}) == 1

    async def test_only_the_answer_to_a_claim_tells_that_it_was_a_reclaim(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        assert (await claim_one(store)).reclaimed
        assert not (await store.load(record.saga_id)).reclaimed

    async def test_large_claim_takes_all_or_says_that_there_is_more(self, store: SagaStore) -> None:
        await due_in_lane(store, Direction.FORWARD, 40)
        claims = await claim(store, limit=50)
        assert len(claims.records) == 40 or claims.next_due == timedelta(0)

    @pytest.mark.parametrize("lease", [Lease(OTHER, LEASE), LeaseAction.RELEASE])
    async def test_every_commit_forgets_reclaims(
        self, store: SagaStore, harness: StoreHarness, lease: Lease | LeaseAction
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        claimed = await claim_one(store)
        await store.commit(commit_of(claimed, lease=lease, due=Due(delay=HOUR)))
        assert (await store.load(record.saga_id)).reclaims == 0

    async def test_answer_has_the_oldest_due_first(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        # Neither in the order in which they were made, nor in its reverse.
        made = [new_saga(due=Due(delay=hours * HOUR)) for hours in (2, 4, 1, 6, 3, 5)]
        for new in made:
            await store.create(new)
            await harness.age(new.saga_id, 7 * HOUR)
        order = [made[number].saga_id for number in (2, 0, 4, 1, 5, 3)]
        assert [one.saga_id for one in (await claim(store, limit=12)).records] == order

    async def test_claim_of_nothing_takes_nothing(self, store: SagaStore) -> None:
        new = new_saga()
        await store.create(new)
        assert not (await claim(store, limit=0)).records
        loaded = await store.load(new.saga_id)
        assert (loaded.version, loaded.worker) == (1, None)
