"""Rules for `purge`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from saga_core.errors import ActiveSagaAlreadyExistsError, QueryError, SagaNotFoundError
from saga_core.records import Lease, Query, SagaRecord
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
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

__all__ = ["RetentionRules"]


async def ended_long_ago(
    store: SagaStore, harness: StoreHarness, status: SagaStatus = SagaStatus.COMPLETED, **new: Any
) -> SagaRecord:
    """Leave a saga that ended three hours ago."""
    record = (await store.create(leased(**new))).record
    await store.commit(ended(record, status))
    await harness.age(record.saga_id, 3 * HOUR)
    return record


class RetentionRules(Topic):
    @pytest.mark.parametrize(
        "status", [SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED]
    )
    async def test_what_ended_long_ago_is_purged(
        self, store: SagaStore, harness: StoreHarness, status: SagaStatus
    ) -> None:
        old = await ended_long_ago(store, harness, status)
        assert await store.purge(finished_for=2 * HOUR, limit=10) == 1
        with pytest.raises(SagaNotFoundError):
            await store.load(old.saga_id)
        assert await store.count(Query()) == 0

    async def test_what_has_not_ended_is_not_purged(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        held = leased()
        due = new_saga()
        stuck = new_saga(state=state_of(SagaStatus.STUCK), due=None)
        for new in (held, due, stuck):
            await store.create(new)
            await harness.age(new.saga_id, 3 * HOUR)
        assert await store.purge(finished_for=2 * HOUR, limit=10) == 0
        assert await store.count(Query()) == 3

    async def test_what_ended_lately_is_not_purged(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(new_saga())).record
        await harness.age(record.saga_id, 3 * HOUR)
        await store.commit(ended(record))
        assert await store.purge(finished_for=2 * HOUR, limit=10) == 0
        assert (await store.load(record.saga_id)).state.status is SagaStatus.COMPLETED

    async def test_history_and_inbox_go_with_the_saga(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await store.commit(replace(ended(record), signals_in=(event(),)))
        await harness.age(record.saga_id, 3 * HOUR)
        await store.purge(finished_for=HOUR, limit=10)
        assert not await store.history(record.saga_id)
        assert not await store.inbox(record.saga_id)

    async def test_nothing_of_a_purged_saga_clings_to_its_id(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        new, sent = leased(tags=("a",)), event()
        for _ in range(2):
            created = await store.create(new)
            assert (created.created, created.record.signals) == (True, 0)
            assert not await store.history(new.saga_id)
            assert not (await store.signal(new.saga_id, sent)).duplicate
            await store.commit(replace(ended(created.record), tags=("b",)))
            await harness.age(new.saga_id, 3 * HOUR)
            assert await store.purge(finished_for=HOUR, limit=10) == 1

    async def test_purged_saga_leaves_the_aggregate_to_its_holder(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        await ended_long_ago(store, harness, aggregation_id="a")
        holder = new_saga(aggregation_id="a")
        await store.create(holder)
        assert await store.purge(finished_for=HOUR, limit=10) == 1
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await store.create(new_saga(aggregation_id="a"))
        assert refused.value.saga_id == holder.saga_id

    async def test_revived_saga_is_not_purged(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        old = await ended_long_ago(store, harness, SagaStatus.FAILED)
        revival = commit_of(await store.load(old.saga_id), lease=Lease(ME, LEASE))
        await store.commit(revival)
        await harness.age(old.saga_id, 3 * HOUR)
        assert await store.purge(finished_for=HOUR, limit=10) == 0

    async def test_purge_is_bounded(self, store: SagaStore, harness: StoreHarness) -> None:
        for _ in range(5):
            await ended_long_ago(store, harness)
        taken = [await store.purge(finished_for=timedelta(0), limit=2) for _ in range(4)]
        assert taken == [2, 2, 1, 0]

    async def test_purge_of_a_name_leaves_all_others(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        for name in ("other", "mine", "other", "mine"):
            await ended_long_ago(store, harness, saga_name=name)
        assert await store.purge(finished_for=2 * HOUR, limit=10, saga_name="nobody's") == 0
        assert await store.purge(finished_for=2 * HOUR, limit=10, saga_name="mine") == 2
        left = (await store.find(Query())).records
        assert [record.saga_name for record in left] == ["other", "other"]

    async def test_purge_of_a_name_takes_what_ended_long_ago_alone(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        """Old ones that have not ended, or lately, stand before it in every order."""
        due, lately = new_saga(), new_saga()
        records = [(await store.create(new)).record for new in (due, lately)]
        for record in records:
            await harness.age(record.saga_id, 9 * HOUR)
        await store.commit(ended(records[1]))
        old = [await ended_long_ago(store, harness) for _ in range(3)]
        name = old[0].saga_name
        taken = [
            await store.purge(finished_for=2 * HOUR, limit=2, saga_name=name) for _ in range(3)
        ]
        assert taken == [2, 1, 0]
        left = {record.saga_id for record in (await store.find(Query())).records}
        assert left == {due.saga_id, lately.saga_id}

    async def test_purged_saga_is_not_looked_at_again(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(leased())).record
        await store.commit(commit_of(record, state=state_of(SagaStatus.COMPLETED)))
        await harness.age(record.saga_id, HOUR)
        assert await store.purge(finished_for=timedelta(0), limit=10) == 1
        mine = new_saga()
        await store.create(mine)
        await harness.age(mine.saga_id, HOUR)
        claims = await claim(store)
        assert [one.saga_id for one in claims.records] == [mine.saga_id]

    async def test_other_namespaces_are_not_purged(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        await ended_long_ago(store, harness)
        async with harness.open(namespace="elsewhere") as other:
            assert await other.purge(finished_for=timedelta(0), limit=10) == 0
        assert await store.count(Query()) == 1

    async def test_purge_of_nothing_deletes_nothing(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        await ended_long_ago(store, harness)
        assert await store.purge(finished_for=timedelta(0), limit=0) == 0
        assert await store.count(Query()) == 1

    @pytest.mark.parametrize(
        "bad",
        [
            {"limit": -1},
            {"limit": True},
            {"limit": 1.5},
            {"limit": "1"},
            {"finished_for": -HOUR},
            {"finished_for": timedelta.min},
            {"finished_for": 1},
            {"finished_for": None},
            {"saga_name": 1},
            {"saga_name": "a\0"},
        ],
    )
    async def test_purge_of_what_makes_no_sense_is_refused(
        self, store: SagaStore, harness: StoreHarness, bad: dict[str, Any]
    ) -> None:
        await ended_long_ago(store, harness)
        asked: dict[str, Any] = {"finished_for": HOUR, "limit": 1, **bad}
        with pytest.raises(QueryError):
            await store.purge(**asked)
        assert await store.count(Query()) == 1

    async def test_purge_of_more_than_there_can_be_is_no_error(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        await ended_long_ago(store, harness)
        assert await store.purge(finished_for=timedelta.max, limit=1) == 0
        assert await store.purge(finished_for=HOUR, limit=10**30) == 1
