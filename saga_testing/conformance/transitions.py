"""Rules for `commit`."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaError,
    SagaNotFoundError,
    SagaStateError,
    StaleVersionError,
)
from saga_core.records import DUE_NOW, Due, Lease, Query, SagaExport
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
    ME,
    OTHER,
    accepted,
    claim,
    commit_of,
    ended,
    entry,
    event,
    leased,
    new_saga,
    parked,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic

__all__ = ["TransitionRules", "unchanged"]


async def unchanged(store: SagaStore, saga_id: UUID, before: SagaExport) -> bool:
    """Tell whether a saga is to the letter what it was."""
    after = await store.export(saga_id)
    same_time = replace(after.record, now=before.record.now)
    return replace(after, record=same_time) == before


class TransitionRules(Topic):
    async def test_commit_rewrites_every_field_of_the_state(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        state = state_of(
            SagaStatus.COMPENSATING,
            direction=Direction.ROLLBACK,
            step_id="step_7",
            step_index=7,
            step_input=None,
            token=uuid4(),
            generation=3,
            attempt=2,
            waiting_for="retry",
            last_error="ValueError: no",
            error_code="ValueError",
        )
        await store.commit(commit_of(record, state=state))
        assert (await store.load(record.saga_id)).state == state

    async def test_commit_clears_every_field_of_the_state_that_may_be_none(
        self, store: SagaStore
    ) -> None:
        full = state_of(waiting_for="retry", last_error="ValueError: no", error_code="ValueError")
        record = (await store.create(leased(state=full))).record
        bare = state_of(step_id=None, step_input=None, token=None)
        await store.commit(commit_of(record, state=bare))
        assert (await store.load(record.saga_id)).state == bare

    async def test_commit_raises_version_by_one_and_not_the_fence(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        first = await store.commit(commit_of(record))
        second = await store.commit(commit_of(replace(record, version=first.version)))
        assert (first.version, second.version) == (2, 3)
        assert (first.fence, second.fence) == (1, 1)
        assert first.held
        assert second.held

    async def test_keep_leaves_holder_and_lease(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.commit(commit_of(record, due=DUE_NOW))
        after = await store.load(record.saga_id)
        assert (after.worker, after.due_at, after.fence) == (ME, record.due_at, 1)

    async def test_release_clears_holder_and_sets_due(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.commit(parked(record, HOUR))
        after = await store.load(record.saga_id)
        assert after.worker is None
        assert after.due_at is not None
        assert abs((after.due_at - after.updated_at) - HOUR).total_seconds() < 60

    async def test_commit_that_gives_the_saga_back_stands(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        assert (await store.commit(parked(record))).held

    async def test_release_takes_the_earlier_due(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        due = Due(delay=3 * HOUR, at=record.now + HOUR)
        await store.commit(parked(record, due=due))
        after = await store.load(record.saga_id)
        assert after.due_at is not None
        assert abs(after.due_at - (record.now + HOUR)).total_seconds() < 1

    async def test_lease_of_another_worker_takes_over(self, store: SagaStore) -> None:
        record = (await store.create(new_saga())).record
        mine = await store.commit(commit_of(record, lease=Lease(ME, LEASE)))
        again = replace(record, version=mine.version)
        still = await store.commit(commit_of(again, lease=Lease(ME, LEASE)))
        other = replace(record, version=still.version)
        theirs = await store.commit(commit_of(other, lease=Lease(OTHER, LEASE)))
        assert (mine.fence, still.fence, theirs.fence) == (1, 1, 2)
        assert (await store.load(record.saga_id)).worker == OTHER

    async def test_lease_of_a_commit_lasts_from_now(self, store: SagaStore) -> None:
        record = (await store.create(new_saga(due=Due(delay=3 * HOUR)))).record
        await store.commit(commit_of(record, lease=Lease(ME, HOUR)))
        after = await store.load(record.saga_id)
        assert after.due_at is not None
        assert abs((after.due_at - after.updated_at) - HOUR).total_seconds() < 60

    async def test_commit_stamps_the_update_and_leaves_the_creation(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(new_saga())).record
        await harness.age(record.saga_id, HOUR)
        before = await store.load(record.saga_id)
        await store.commit(commit_of(record))
        after = await store.load(record.saga_id)
        assert after.created_at == before.created_at
        assert before.now <= after.updated_at <= after.now

    async def test_stale_commit_changes_nothing(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.commit(commit_of(record))
        before = await store.export(record.saga_id)
        stale = commit_of(record, signals_in=(event(),), tags=("x",), spawn=(new_saga(),))
        with pytest.raises(StaleVersionError):
            await store.commit(stale)
        assert await unchanged(store, record.saga_id, before)
        with pytest.raises(SagaNotFoundError):
            await store.load(stale.spawn[0].saga_id)

    async def test_commit_from_the_future_is_stale_too(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        with pytest.raises(StaleVersionError):
            await store.commit(commit_of(replace(record, version=2)))

    async def test_unknown_saga_cannot_commit(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        with pytest.raises(SagaNotFoundError):
            await store.commit(commit_of(replace(record, saga_id=uuid4())))

    async def test_transition_that_strands_the_saga_is_refused(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        before = await store.export(record.saga_id)
        with pytest.raises(SagaError):
            await store.commit(parked(record, due=None))
        assert await unchanged(store, record.saga_id, before)

    async def test_stuck_saga_rests_without_due_and_keeps_its_aggregate(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        await store.commit(parked(record, state=state_of(SagaStatus.STUCK), due=None))
        assert (await store.load(record.saga_id)).due_at is None
        assert not (await claim(store)).records
        with pytest.raises(ActiveSagaAlreadyExistsError):
            await store.create(new_saga(aggregation_id="a"))

    async def test_revived_saga_takes_its_aggregate_again(self, store: SagaStore) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        done = await store.commit(ended(record, SagaStatus.FAILED))
        await store.commit(commit_of(replace(record, version=done.version), lease=Lease(ME, LEASE)))
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.create(new_saga(aggregation_id="a"))
        assert refused.value.saga_id == record.saga_id

    async def test_revival_is_refused_while_another_holds_the_aggregate(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        done = await store.commit(ended(record, SagaStatus.FAILED))
        second = new_saga(aggregation_id="a")
        await store.create(second)
        before = await store.export(record.saga_id)
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.commit(
                commit_of(replace(record, version=done.version), lease=Lease(ME, LEASE))
            )
        assert refused.value.saga_id == second.saga_id
        assert await unchanged(store, record.saga_id, before)

    async def test_tags_stay_unless_a_commit_brings_others(self, store: SagaStore) -> None:
        record = (await store.create(leased(tags=("a",)))).record
        await store.commit(commit_of(record))
        assert (await store.load(record.saga_id)).tags == ("a",)

    async def test_tags_of_a_commit_replace_all_that_were_there(self, store: SagaStore) -> None:
        record = (await store.create(leased(tags=("a", "b")))).record
        first = await store.commit(commit_of(record, tags=("b", "c")))
        assert (await store.load(record.saga_id)).tags == ("b", "c")
        await store.commit(commit_of(replace(record, version=first.version), tags=()))
        assert (await store.load(record.saga_id)).tags == ()

    async def test_tags_come_back_in_their_order(self, store: SagaStore) -> None:
        record = (await store.create(leased(tags=("b", "c", "a")))).record
        assert (await store.load(record.saga_id)).tags == ("b", "c", "a")
        await store.commit(commit_of(record, tags=("d", "b", "a")))
        assert (await store.load(record.saga_id)).tags == ("d", "b", "a")

    async def test_spawned_sagas_are_created_in_the_commit(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        children = tuple(new_saga(history=(entry(),)) for _ in range(2))
        await store.commit(commit_of(record, spawn=children))
        for child in children:
            assert (await store.create(child)).created is False
            assert (await store.load(child.saga_id)).version == 1
            assert len(await store.history(child.saga_id)) == 1

    async def test_spawned_saga_that_exists_stays_as_it_is(self, store: SagaStore) -> None:
        record, child = [(await store.create(leased())).record for _ in range(2)]
        await store.commit(commit_of(child))
        before = await store.export(child.saga_id)
        await store.commit(commit_of(record, spawn=(new_saga(saga_id=child.saga_id),)))
        assert await unchanged(store, child.saga_id, before)

    async def test_spawned_saga_takes_the_aggregate_that_its_parent_gives_up(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        child = new_saga(aggregation_id="a")
        with accepted("the successor in an aggregate"):
            await store.commit(replace(ended(record), spawn=(child,)))
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.create(new_saga(aggregation_id="a"))
        assert refused.value.saga_id == child.saga_id

    async def test_commit_whose_spawn_is_refused_changes_nothing(self, store: SagaStore) -> None:
        await store.create(new_saga(aggregation_id="taken"))
        record = (await store.create(leased())).record
        before = await store.export(record.saga_id)
        with pytest.raises(ActiveSagaAlreadyExistsError):
            await store.commit(
                commit_of(record, spawn=(new_saga(), new_saga(aggregation_id="taken")))
            )
        assert await unchanged(store, record.saga_id, before)

    async def test_spawned_sagas_of_one_aggregate_refuse_the_commit(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        before = await store.export(record.saga_id)
        children = (new_saga(aggregation_id="a"), new_saga(aggregation_id="a"))
        with pytest.raises(ActiveSagaAlreadyExistsError):
            await store.commit(commit_of(record, spawn=children))
        assert await unchanged(store, record.saga_id, before)
        assert await store.count(Query()) == 1

    async def test_signals_that_a_commit_accepts_are_appended(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("before"))
        sent = (event("a", '{"n":1}'), event("b", '{"n":2}'))
        committed = await store.commit(commit_of(record, seen=1, signals_in=sent))
        assert committed.signals == (await store.load(record.saga_id)).signals == 3
        inbox = (await store.inbox(record.saga_id))[1:]
        assert [(one.seq, one.event_id, one.payload) for one in inbox] == [
            (2, "a", '{"n":1}'),
            (3, "b", '{"n":2}'),
        ]

    async def test_signals_that_a_commit_accepts_count_as_seen(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.commit(parked(record, signals_in=(event(), event())))
        after = await store.load(record.saga_id)
        assert after.seen == 2
        assert after.due_at is not None
        assert after.due_at > after.now

    async def test_signals_that_a_commit_accepts_may_be_used_up_by_it(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased())).record
        sent = (event("used"), event("kept"))
        await store.commit(commit_of(record, signals_in=sent, consumed=("used",)))
        inbox = await store.inbox(record.saga_id)
        assert [one.consumed for one in inbox] == [True, False]

    async def test_one_event_id_twice_in_a_commit_refuses_it(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        before = await store.export(record.saga_id)
        with pytest.raises(SagaStateError):
            await store.commit(commit_of(record, signals_in=(event("twice"), event("twice"))))
        assert await unchanged(store, record.saga_id, before)

    async def test_consumed_marks_signals_that_came_before(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("early"))
        await store.signal(record.saga_id, event("other"))
        await store.commit(commit_of(record, seen=2, consumed=("early",)))
        assert [one.consumed for one in await store.inbox(record.saga_id)] == [True, False]

    async def test_what_was_consumed_stays_consumed(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("early"))
        first = await store.commit(commit_of(record, seen=1, consumed=("early",)))
        await store.commit(commit_of(replace(record, version=first.version), seen=1))
        assert [one.consumed for one in await store.inbox(record.saga_id)] == [True]

    async def test_known_event_id_refuses_the_whole_commit(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("twice"))
        before = await store.export(record.saga_id)
        with pytest.raises(SagaStateError):
            await store.commit(commit_of(record, seen=1, signals_in=(event("twice"),)))
        assert await unchanged(store, record.saga_id, before)

    async def test_history_of_a_commit_is_appended_in_order(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        first = await store.commit(commit_of(record))
        two = (entry(EntryKind.FAILED, error="E: no", error_code="E"), entry(EntryKind.ABORTED))
        await store.commit(commit_of(replace(record, version=first.version), history=two))
        history = await store.history(record.saga_id)
        assert [(one.seq, one.version, one.kind) for one in history] == [
            (1, 2, EntryKind.COMPLETED),
            (2, 3, EntryKind.FAILED),
            (3, 3, EntryKind.ABORTED),
        ]

    async def test_lease_action_is_data_not_a_rule(self, store: SagaStore) -> None:
        # A store that decides by status, not by the record, would drop this lease.
        record = (await store.create(leased())).record
        await store.commit(commit_of(record, state=state_of(SagaStatus.STUCK)))
        assert (await store.load(record.saga_id)).worker == ME

    async def test_spawned_saga_may_have_a_holder(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        child = leased(OTHER)
        await store.commit(commit_of(record, spawn=(child,)))
        spawned = await store.load(child.saga_id)
        assert (spawned.worker, spawned.fence) == (OTHER, 1)
        assert not (await claim(store)).records

    async def test_commit_that_spawns_is_refused_in_the_same_words(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("twice"))
        spawn = (new_saga(),)
        with pytest.raises(SagaStateError):
            await store.commit(commit_of(record, signals_in=(event("twice"),), spawn=spawn))
        assert await store.count(Query()) == 1

    async def test_seen_is_what_the_commit_says_even_if_it_is_less(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        for _ in range(2):
            await store.signal(record.saga_id, event())
        first = await store.commit(commit_of(record, seen=2))
        await store.commit(commit_of(replace(record, version=first.version), seen=1))
        assert (await store.load(record.saga_id)).seen == 1
