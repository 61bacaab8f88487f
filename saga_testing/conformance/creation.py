"""Rules for `create` and `load`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from uuid import uuid4

import pytest

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaError,
    SagaNotFoundError,
)
from saga_core.records import Due, Query
from saga_core.status import EntryKind, SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.declared import VERSIONS
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    ALIKE,
    HOUR,
    LEASE,
    ME,
    accepted,
    claim,
    ended,
    entry,
    leased,
    new_saga,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic

__all__ = ["CreationRules"]


class CreationRules(Topic):
    async def test_store_is_a_saga_store_of_this_contract(self, store: SagaStore) -> None:
        assert isinstance(store, SagaStore)
        assert store.contract_version in VERSIONS

    async def test_created_saga_is_returned_as_it_is_loaded(self, store: SagaStore) -> None:
        new = new_saga(aggregation_id="order-1", trace_id="trace-1", tags=("a", "b"))
        created = await store.create(new)
        loaded = await store.load(new.saga_id)
        assert created.created
        assert replace(created.record, now=loaded.now) == loaded
        assert loaded.state == new.state
        assert (loaded.data, loaded.aggregation_id) == (new.data, "order-1")
        assert (loaded.trace_id, loaded.tags) == ("trace-1", ("a", "b"))
        assert (loaded.version, loaded.signals, loaded.seen, loaded.reclaims) == (1, 0, 0, 0)

    async def test_times_are_aware_and_utc(self, store: SagaStore) -> None:
        record = (await store.create(new_saga())).record
        assert record.due_at is not None
        for moment in (record.created_at, record.updated_at, record.due_at, record.now):
            assert moment.utcoffset() == UTC.utcoffset(None)

    async def test_without_lease_fence_is_zero_and_nobody_holds(self, store: SagaStore) -> None:
        record = (await store.create(new_saga())).record
        assert (record.fence, record.worker, record.is_held) == (0, None, False)

    async def test_first_lease_makes_creator_the_holder(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        assert (record.fence, record.worker, record.is_held) == (1, ME, True)
        assert record.due_at is not None
        assert abs((record.due_at - record.created_at) - LEASE).total_seconds() < 5
        assert not (await claim(store)).records

    async def test_due_takes_the_earlier_of_delay_and_time(self, store: SagaStore) -> None:
        now = (await store.create(new_saga())).record.now
        due = Due(delay=HOUR, at=now + 3 * HOUR)
        sooner = (await store.create(new_saga(due=due))).record
        later = (await store.create(new_saga(due=Due(delay=3 * HOUR, at=now + HOUR)))).record
        for record in (sooner, later):
            assert record.due_at is not None
            assert abs((record.due_at - now) - HOUR).total_seconds() < 60

    async def test_due_at_a_time_is_kept_to_the_microsecond(self, store: SagaStore) -> None:
        now = (await store.create(new_saga())).record.now
        at = (now + HOUR).replace(microsecond=123_457)
        new = new_saga(due=Due(at=at))
        assert (await store.create(new)).record.due_at == at
        assert (await store.load(new.saga_id)).due_at == at
        assert new.saga_id not in {one.saga_id for one in (await claim(store)).records}

    async def test_due_at_a_time_that_has_passed_is_due_at_once(self, store: SagaStore) -> None:
        now = (await store.create(new_saga())).record.now
        new = new_saga(due=Due(at=now - HOUR))
        await store.create(new)
        assert new.saga_id in {one.saga_id for one in (await claim(store)).records}

    async def test_saga_may_be_born_ended(self, store: SagaStore) -> None:
        failed = entry(EntryKind.FAILED, error="KeyError: 'x'", error_code="KeyError")
        state = state_of(SagaStatus.COMPENSATED)
        new = new_saga(state=state, due=None, aggregation_id="a", history=(failed,))
        record = (await store.create(new)).record
        assert record.due_at is None
        assert [one.kind for one in await store.history(new.saga_id)] == [EntryKind.FAILED]

    async def test_saga_born_ended_neither_takes_nor_needs_an_aggregate(
        self, store: SagaStore
    ) -> None:
        born = [
            new_saga(state=state_of(SagaStatus.COMPENSATED), due=None, aggregation_id="a")
            for _ in range(2)
        ]
        with accepted("a saga that is born ended"):
            await store.create(born[0])
            await store.create(new_saga(aggregation_id="a"))
            await store.create(born[1])

    async def test_second_active_saga_of_an_aggregate_is_refused(self, store: SagaStore) -> None:
        first = new_saga(aggregation_id="order-1")
        await store.create(first)
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.create(new_saga(aggregation_id="order-1", saga_name="another"))
        assert refused.value.saga_id == first.saga_id

    async def test_aggregates_are_compared_to_the_letter(self, store: SagaStore) -> None:
        for name in ALIKE:
            with accepted(f"the aggregate {name!r} beside those that are spelled otherwise"):
                assert (await store.create(new_saga(aggregation_id=name))).created

    async def test_ended_saga_frees_its_aggregate(self, store: SagaStore) -> None:
        first = (await store.create(leased(aggregation_id="order-1"))).record
        await store.commit(ended(first))
        with accepted("the next saga of the aggregate"):
            await store.create(new_saga(aggregation_id="order-1"))

    async def test_sagas_without_aggregate_never_conflict(self, store: SagaStore) -> None:
        assert (await store.create(new_saga())).created
        assert (await store.create(new_saga())).created

    async def test_known_id_wins_over_the_aggregate(self, store: SagaStore) -> None:
        new = leased(aggregation_id="order-1")
        record = (await store.create(new)).record
        await store.commit(ended(record))
        await store.create(new_saga(aggregation_id="order-1"))
        with accepted("a repeat of the first creation"):
            assert not (await store.create(new)).created

    async def test_known_id_changes_nothing(self, store: SagaStore) -> None:
        new = new_saga(aggregation_id="order-1")
        await store.create(new)
        before = await store.export(new.saga_id)
        again = await store.create(replace(new, data='{"other":1}'))
        after = await store.export(new.saga_id)
        assert not again.created
        assert again.record.data == new.data
        assert replace(after.record, now=before.record.now) == before.record

    async def test_stranded_saga_is_refused(self, store: SagaStore) -> None:
        new = new_saga(due=None)
        with pytest.raises(SagaError):
            await store.create(new)
        with pytest.raises(SagaNotFoundError):
            await store.load(new.saga_id)

    async def test_saga_that_waits_for_a_named_thing_needs_no_time(self, store: SagaStore) -> None:
        waiting = state_of(SagaStatus.SUSPENDED, waiting_for="event:paid")
        record = (await store.create(new_saga(state=waiting, due=None))).record
        assert record.due_at is None
        assert not (await claim(store)).records

    async def test_unknown_saga_is_not_found(self, store: SagaStore) -> None:
        missing = uuid4()
        with pytest.raises(SagaNotFoundError, match=str(missing)):
            await store.load(missing)

    async def test_namespaces_do_not_see_each_other(self, harness: StoreHarness) -> None:
        async with harness.open() as here, harness.open(namespace="elsewhere") as there:
            new = new_saga(aggregation_id="order-1")
            await here.create(new)
            with pytest.raises(SagaNotFoundError):
                await there.load(new.saga_id)
            assert (await there.create(replace(new, data="{}"))).created
            assert (await here.load(new.saga_id)).data == new.data

    async def test_aggregates_of_two_namespaces_do_not_conflict(
        self, harness: StoreHarness
    ) -> None:
        async with harness.open() as here, harness.open(namespace="elsewhere") as there:
            await here.create(new_saga(aggregation_id="order-1"))
            with accepted("the same aggregate in another namespace"):
                await there.create(new_saga(aggregation_id="order-1"))

    @pytest.mark.parametrize("harness_no", [1, 2])
    async def test_store_of_each_harness_begins_empty(
        self, store: SagaStore, harness_no: int
    ) -> None:
        left = (await store.find(Query())).records
        await store.create(new_saga())
        assert not left, (
            f"harness {harness_no} has a saga of an earlier one: give each a file, a schema, a "
            "prefix or a namespace of its own"
        )

    async def test_empty_aggregate_is_an_aggregate(self, store: SagaStore) -> None:
        new = new_saga(aggregation_id="", trace_id="")
        await store.create(new)
        loaded = await store.load(new.saga_id)
        assert (loaded.aggregation_id, loaded.trace_id) == ("", "")
        with pytest.raises(ActiveSagaAlreadyExistsError):
            await store.create(new_saga(aggregation_id=""))
        assert await store.count(Query(aggregation_id="")) == 1
