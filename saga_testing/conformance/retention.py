"""Rules for `purge`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from saga_core.errors import (
    SagaNotFoundError,
)
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    ended,
    event,
    leased,
    new_saga,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic

__all__ = ["RetentionRules"]


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
