"""Rules for lost answers: a write that is sent again changes nothing and answers as before."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from saga_core.errors import StaleVersionError
from saga_core.records import Committed, Held, Transition
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    LEASE,
    ME,
    OTHER,
    accepted,
    claim,
    claim_one,
    commit_of,
    ended,
    entry,
    event,
    leased,
    new_saga,
    one_of,
    parked,
)
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.transitions import unchanged

__all__ = ["RepeatRules"]


async def repeat(store: SagaStore, transition: Transition) -> Committed:
    """Send a commit again, as a caller does who got no answer."""
    with accepted("the repeat of a commit"):
        return await store.commit(transition)


class RepeatRules(Topic):
    async def test_repeated_create_finds_its_own_saga(self, store: SagaStore) -> None:
        new = leased(aggregation_id="a")
        await store.create(new)
        before = await store.export(new.saga_id)
        again = await store.create(new)
        assert not again.created
        assert (again.record.version, again.record.worker) == (1, ME)
        assert await unchanged(store, new.saga_id, before)

    async def test_repeated_create_shows_that_somebody_else_has_claimed(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        new = leased()
        await store.create(new)
        await harness.age(new.saga_id, LEASE)
        await claim(store, OTHER)
        again = await store.create(new)
        assert not again.created
        assert (again.record.version, again.record.worker) == (2, OTHER)

    async def test_repeated_commit_is_applied_once(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        transition = commit_of(record, signals_in=(event(),), spawn=(new_saga(),))
        first = await store.commit(transition)
        before = await store.export(record.saga_id)
        assert await repeat(store, transition) == first
        assert await unchanged(store, record.saga_id, before)

    async def test_repeated_commit_after_a_claim_has_the_first_fence(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        transition = commit_of(record)
        first = await store.commit(transition)
        await harness.age(record.saga_id, LEASE)
        await claim(store, OTHER)
        before = await store.export(record.saga_id)
        assert (await repeat(store, transition)).fence == first.fence
        assert await unchanged(store, record.saga_id, before)

    async def test_repeated_commit_after_a_claim_is_not_held(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        transition = commit_of(record)
        await store.commit(transition)
        await harness.age(record.saga_id, LEASE)
        await claim(store, OTHER)
        assert not (await repeat(store, transition)).held

    async def test_repeated_commit_after_a_commit_has_the_first_version(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased())).record
        transition = commit_of(record)
        first = await store.commit(transition)
        await store.commit(commit_of(replace(record, version=first.version)))
        assert (await repeat(store, transition)).version == first.version

    async def test_repeated_commit_after_the_end_is_known(self, store: SagaStore) -> None:
        record = (await store.create(leased(aggregation_id="a"))).record
        transition = commit_of(record)
        first = await store.commit(transition)
        await store.commit(ended(replace(record, version=first.version)))
        await store.create(new_saga(aggregation_id="a"))
        again = await repeat(store, transition)
        assert (again.version, again.held) == (first.version, False)

    async def test_repeated_commit_tells_of_signals_that_came_since(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        transition = commit_of(record)
        await store.commit(transition)
        await store.signal(record.saga_id, event())
        again = await repeat(store, transition)
        assert (again.signals, again.held) == (1, True)

    async def test_commit_id_of_another_saga_is_not_known(self, store: SagaStore) -> None:
        one, two = [(await store.create(leased())).record for _ in range(2)]
        first = commit_of(one)
        await store.commit(first)
        with accepted("a commit with an id that another saga has"):
            await store.commit(commit_of(two, commit_id=first.commit_id))
        assert (await store.load(two.saga_id)).version == 2
        assert len(await store.history(two.saga_id)) == 1

    async def test_commit_that_never_arrived_is_stale_after_a_claim(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        # The row is at just the version this commit would have made: only its id can tell.
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        theirs = await claim_one(store, OTHER)
        assert theirs.version == record.version + 1
        before = await store.export(record.saga_id)
        late = commit_of(record)
        for _ in range(2):  # that it was refused is no answer to be found again as a success
            with pytest.raises(StaleVersionError):
                await store.commit(late)
        assert await unchanged(store, record.saga_id, before)

    async def test_repeated_claim_returns_the_same_sagas_and_takes_no_more(
        self, store: SagaStore
    ) -> None:
        for _ in range(5):
            await store.create(new_saga())
        claim_id = uuid4()
        first = await claim(store, limit=2, claim_id=claim_id)
        again = await claim(store, limit=2, claim_id=claim_id)
        assert {(one.saga_id, one.version, one.fence) for one in again.records} == {
            (one.saga_id, one.version, one.fence) for one in first.records
        }
        assert len((await claim(store, limit=10)).records) == 3

    async def test_repeated_claim_tells_again_what_was_reclaimed(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await harness.age(record.saga_id, LEASE)
        claim_id = uuid4()
        await claim(store, claim_id=claim_id)
        again = await claim_one(store, claim_id=claim_id)
        assert (again.reclaimed, again.reclaims) == (True, 1)

    async def test_repeated_claim_leaves_out_what_others_have_taken(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        one, two = new_saga(), new_saga()
        for new in (one, two):
            await store.create(new)
        claim_id = uuid4()
        await claim(store, claim_id=claim_id)
        await harness.age(one.saga_id, LEASE)
        await claim(store, OTHER)
        again = await claim(store, claim_id=claim_id)
        assert [record.saga_id for record in again.records] == [two.saga_id]

    async def test_repeated_claim_that_has_taken_a_saga_anew_returns_it_once(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        """No answer came twice, and the saga was another worker's in between."""
        new, claim_id = new_saga(), uuid4()
        await store.create(new)
        await claim(store, claim_id=claim_id)
        await harness.age(new.saga_id, LEASE)
        await claim(store, OTHER)
        await harness.age(new.saga_id, LEASE)
        anew = await claim_one(store, claim_id=claim_id)
        again = (await claim(store, claim_id=claim_id)).records
        assert [one.version for one in again] in ([anew.version], [])  # that it is found is a rule

    async def test_repeated_claim_is_known_while_its_lease_is_held(self, store: SagaStore) -> None:
        """Tasks of one process claim side by side, and any of them may lose its answer."""
        for _ in range(2):
            await store.create(new_saga())
        claim_id = uuid4()
        first = await claim(store, limit=1, claim_id=claim_id)
        await claim(store, limit=1)
        again = await claim(store, limit=1, claim_id=claim_id)
        assert one_of(again.records).saga_id == one_of(first.records).saga_id
        assert one_of(again.records).version == one_of(first.records).version
        committed = await store.commit(commit_of(one_of(again.records)))
        once_more = await claim(store, limit=1, claim_id=claim_id)
        assert [one.version for one in once_more.records] == [committed.version]

    async def test_claim_id_of_another_worker_is_not_ours(self, store: SagaStore) -> None:
        await store.create(new_saga())
        claim_id = uuid4()
        await claim(store, ME, claim_id=claim_id)
        assert not (await claim(store, OTHER, claim_id=claim_id)).records

    async def test_claim_is_forgotten_with_the_lease(self, store: SagaStore) -> None:
        await store.create(new_saga())
        claim_id = uuid4()
        record = await claim_one(store, claim_id=claim_id)
        await store.release(ME, [Held(record.saga_id, record.fence)], delay=timedelta(hours=1))
        assert not (await claim(store, claim_id=claim_id)).records

    async def test_repeated_signal_is_a_duplicate_after_the_saga_moved_on(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased())).record
        sent = event()
        await store.signal(record.saga_id, sent)
        await store.commit(commit_of(record, seen=1, consumed=(sent.event_id,)))
        assert (await store.signal(record.saga_id, sent)).duplicate
        assert len(await store.inbox(record.saga_id)) == 1

    async def test_repeated_signal_is_a_duplicate_after_the_saga_has_ended(
        self, store: SagaStore
    ) -> None:
        record = (await store.create(leased())).record
        sent = event()
        await store.signal(record.saga_id, sent)
        await store.commit(ended(record))
        receipt = await store.signal(record.saga_id, sent)
        assert (receipt.accepted, receipt.duplicate) == (True, True)

    async def test_signal_that_came_in_a_commit_is_a_duplicate(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        sent = event()
        await store.commit(commit_of(record, signals_in=(sent,)))
        assert (await store.signal(record.saga_id, sent)).duplicate
        assert len(await store.inbox(record.saga_id)) == 1

    async def test_repeated_commit_of_a_release_still_stands(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        transition = parked(record)
        await store.commit(transition)
        assert (await repeat(store, transition)).held

    async def test_repeated_create_brings_the_outputs(self, store: SagaStore) -> None:
        new = leased(history=(entry(),))
        await store.create(new)
        assert [one.output for one in (await store.create(new)).record.outputs] == [entry().output]

    async def test_commit_is_known_however_much_came_since(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        transition = commit_of(record)
        first = await store.commit(transition)
        many = tuple(entry() for _ in range(150))
        for version in (first.version, first.version + 1):
            await store.commit(commit_of(replace(record, version=version), history=many))
        assert (await repeat(store, transition)).version == first.version
