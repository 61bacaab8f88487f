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
from saga_core.records import DUE_NOW, Due, Lease, SagaExport
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
    ME,
    OTHER,
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

    async def test_tags_are_replaced_or_left(self, store: SagaStore) -> None:
        record = (await store.create(leased(tags=("a",)))).record
        first = await store.commit(commit_of(record))
        assert (await store.load(record.saga_id)).tags == ("a",)
        await store.commit(commit_of(replace(record, version=first.version), tags=("b", "c")))
        assert (await store.load(record.saga_id)).tags == ("b", "c")

    async def test_spawned_sagas_are_created_in_the_commit(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        children = (new_saga(), new_saga())
        await store.commit(commit_of(record, spawn=children))
        for child in children:
            assert (await store.load(child.saga_id)).version == 1

    async def test_commit_whose_spawn_is_refused_changes_nothing(self, store: SagaStore) -> None:
        await store.create(new_saga(aggregation_id="taken"))
        record = (await store.create(leased())).record
        before = await store.export(record.saga_id)
        with pytest.raises(ActiveSagaAlreadyExistsError):
            await store.commit(
                commit_of(record, spawn=(new_saga(), new_saga(aggregation_id="taken")))
            )
        assert await unchanged(store, record.saga_id, before)

    async def test_signals_that_a_commit_accepts_are_seen_and_marked(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased())).record
        used, kept = event("used"), event("kept")
        committed = await store.commit(parked(record, signals_in=(used, kept), consumed=("used",)))
        after = await store.load(record.saga_id)
        assert (committed.signals, after.signals, after.seen) == (2, 2, 2)
        assert after.due_at is not None
        assert after.due_at > after.now
        inbox = await store.inbox(record.saga_id)
        assert [(one.seq, one.event_id, one.consumed) for one in inbox] == [
            (1, "used", True),
            (2, "kept", False),
        ]

    async def test_consumed_marks_signals_that_came_before(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("early"))
        await store.commit(commit_of(record, seen=1, consumed=("early",)))
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
