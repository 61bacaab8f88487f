"""Rules for `signal` and `inbox`: nothing that was sent is lost, and no holder is disturbed."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from saga_core.errors import SagaNotFoundError
from saga_core.records import DUE_NOW, Due, LeaseAction
from saga_core.status import SagaStatus, SignalKind
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    ALIKE,
    HOUR,
    LEASE,
    OTHER,
    claim,
    claim_one,
    commit_of,
    ended,
    event,
    leased,
    new_saga,
    one_of,
)
from saga_testing.conformance.sagas import parked as parked_commit
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic

__all__ = ["SignalRules"]


class SignalRules(Topic):
    async def test_signals_are_kept_in_order(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        sent = [event(payload=f'{{"n":{n}}}') for n in range(3)]
        for one in sent:
            await store.signal(record.saga_id, one)
        inbox = await store.inbox(record.saga_id)
        assert [(one.seq, one.event_id, one.payload, one.consumed) for one in inbox] == [
            (n, one.event_id, one.payload, False) for n, one in enumerate(sent, start=1)
        ]

    async def test_inbox_is_read_on_from_a_number(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        for _ in range(3):
            await store.signal(record.saga_id, event())
        assert [one.seq for one in await store.inbox(record.saga_id, after=2)] == [3]
        assert not await store.inbox(record.saga_id, after=3)

    async def test_inbox_keeps_what_was_consumed(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        for name in ("a", "b"):
            await store.signal(record.saga_id, event(name))
        await store.commit(commit_of(record, seen=2, consumed=("a",)))
        assert [one.event_id for one in await store.inbox(record.saga_id)] == ["a", "b"]

    async def test_receipt_tells_whether_somebody_holds_the_saga(self, store: SagaStore) -> None:
        for new, is_held in ((leased(), True), (new_saga(), False)):
            await store.create(new)
            receipt = await store.signal(new.saga_id, event())
            assert (receipt.accepted, receipt.duplicate, receipt.held) == (True, False, is_held)

    async def test_signal_does_not_disturb_the_holder(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        after = await store.load(record.saga_id)
        assert replace(after, signals=0, now=record.now) == record
        assert after.signals == 1

    async def test_signal_wakes_a_waiting_saga(self, store: SagaStore) -> None:
        waiting = new_saga(due=Due(delay=HOUR), state=state_of(SagaStatus.SUSPENDED))
        await store.create(waiting)
        await store.signal(waiting.saga_id, event())
        woken = await store.load(waiting.saga_id)
        assert (woken.version, woken.fence) == (1, 0)
        assert woken.due_at is not None
        assert woken.due_at <= woken.now

    async def test_signal_wakes_a_saga_that_waits_for_a_named_thing(self, store: SagaStore) -> None:
        state = state_of(SagaStatus.SUSPENDED, waiting_for="event:paid")
        waiting = new_saga(due=None, state=state)
        await store.create(waiting)
        await store.signal(waiting.saga_id, event())
        assert (await claim_one(store)).saga_id == waiting.saga_id

    async def test_signal_is_kept_for_a_stuck_saga_and_does_not_wake_it(
        self, store: SagaStore
    ) -> None:
        stuck = new_saga(due=None, state=state_of(SagaStatus.STUCK))
        await store.create(stuck)
        assert (await store.signal(stuck.saga_id, event())).accepted
        assert not (await claim(store)).records

    async def test_known_event_id_changes_nothing(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event("once", '{"n":1}'))
        receipt = await store.signal(record.saga_id, event("once", '{"n":2}'))
        assert (receipt.accepted, receipt.duplicate) == (True, True)
        assert [one.payload for one in await store.inbox(record.saga_id)] == ['{"n":1}']
        assert (await store.load(record.saga_id)).signals == 1

    async def test_event_ids_are_unique_within_a_saga_only(self, store: SagaStore) -> None:
        for _ in range(2):
            record = (await store.create(leased())).record
            assert not (await store.signal(record.saga_id, event("same"))).duplicate

    async def test_ended_saga_accepts_nothing(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.commit(ended(record))
        receipt = await store.signal(record.saga_id, event())
        assert not receipt.accepted
        assert not await store.inbox(record.saga_id)
        assert not (await claim(store)).records

    async def test_unknown_saga_is_an_error(self, store: SagaStore) -> None:
        with pytest.raises(SagaNotFoundError):
            await store.signal(uuid4(), event())
        assert not await store.inbox(uuid4())

    @pytest.mark.parametrize("status", [SagaStatus.SUSPENDED, SagaStatus.STUCK])
    async def test_signal_before_a_release_makes_it_due_now(
        self, store: SagaStore, status: SagaStatus
    ) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        due = Due(delay=HOUR) if status is SagaStatus.SUSPENDED else None
        committed = await store.commit(parked_commit(record, state=state_of(status), due=due))
        assert committed.signals == 1
        assert (await claim_one(store)).saga_id == record.saga_id

    async def test_signal_before_a_wait_without_a_time_makes_it_due_now(
        self, store: SagaStore
    ) -> None:
        # An event that came while its wait was being written: nothing else would ever wake it.
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        waiting = state_of(SagaStatus.SUSPENDED, waiting_for="event:Paid")
        await store.commit(parked_commit(record, state=waiting, due=None))
        assert (await claim_one(store)).state.waiting_for == "event:Paid"

    async def test_wait_without_a_time_rests_until_something_new_is_sent(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        waiting = state_of(SagaStatus.SUSPENDED, waiting_for="event:Paid")
        await store.commit(parked_commit(record, state=waiting, due=None, seen=1))
        await harness.age(record.saga_id, HOUR)
        assert not (await claim(store)).records
        assert (await store.load(record.saga_id)).due_at is None
        await store.signal(record.saga_id, event())
        assert (await claim_one(store)).saga_id == record.saga_id

    async def test_event_that_was_seen_before_is_consumed_by_a_later_holder(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased())).record
        for name in ("first", "second"):
            await store.signal(record.saga_id, event(name))
        waiting = state_of(SagaStatus.SUSPENDED, waiting_for="event:Paid")
        await store.commit(parked_commit(record, state=waiting, due=DUE_NOW, seen=2))
        taken = await claim_one(store, OTHER)
        await store.commit(commit_of(taken, consumed=("first",)))
        assert [(one.event_id, one.consumed) for one in await store.inbox(record.saga_id)] == [
            ("first", True),
            ("second", False),
        ]

    async def test_signal_that_was_seen_does_not_wake_again(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        await store.commit(parked_commit(record, seen=1))
        assert (await store.load(record.saga_id)).seen == 1
        assert not (await claim(store)).records

    async def test_signal_does_not_make_an_ended_saga_due(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        await store.commit(ended(record))
        assert (await store.load(record.saga_id)).due_at is None

    async def test_keep_tells_of_signals_and_leaves_the_lease(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, event())
        committed = await store.commit(commit_of(record, lease=LeaseAction.KEEP))
        after = await store.load(record.saga_id)
        assert committed.signals == 1
        assert after.due_at == record.due_at

    @pytest.mark.parametrize("kind", list(SignalKind))
    async def test_kind_of_a_signal_is_kept(self, store: SagaStore, kind: SignalKind) -> None:
        record = (await store.create(leased())).record
        await store.signal(record.saga_id, replace(event(), kind=kind))
        arrived = replace(event(), kind=kind)
        await store.commit(commit_of(record, seen=1, signals_in=(arrived,)))
        assert [one.kind for one in await store.inbox(record.saga_id)] == [kind, kind]

    async def test_signal_leaves_an_expired_lease_to_its_holder(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        # A claim, not the clock, ends a holder: until then it is his next commit that tells.
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, 2 * LEASE)
        before = await store.load(record.saga_id)
        assert (await store.signal(record.saga_id, event())).held
        assert (await store.load(record.saga_id)).due_at == before.due_at

    async def test_event_ids_are_compared_to_the_letter(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        for name in ALIKE:
            assert not (await store.signal(record.saga_id, event(name))).duplicate, name
        assert [one.event_id for one in await store.inbox(record.saga_id)] == list(ALIKE)

    async def test_signal_has_the_time_at_which_it_came(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        # The engine reckons with it: an event that came after the end of a wait is too late.
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, HOUR)
        await store.signal(record.saga_id, event())
        one = one_of(await store.inbox(record.saga_id))
        now = (await store.load(record.saga_id)).now
        assert abs((now - one.at).total_seconds()) < 60

    async def test_inbox_is_brought_whole_however_long(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        arrived = tuple(event(str(n)) for n in range(300))
        await store.commit(commit_of(record, signals_in=arrived))
        inbox = await store.inbox(record.saga_id)
        assert [one.event_id for one in inbox] == [one.event_id for one in arrived]
