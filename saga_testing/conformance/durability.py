"""Rules for stores that declare `DURABLE`: what was acknowledged is there when all have left."""

from __future__ import annotations

import asyncio
from uuid import UUID

from saga_core.hookspecs import Capability
from saga_core.records import Query
from saga_core.store import SagaStore
from saga_testing.conformance.crew import Crew, Report
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import claim, commit_of, event, leased, new_saga
from saga_testing.conformance.topic import Topic, needs
from saga_testing.conformance.transitions import unchanged

__all__ = ["DurabilityRules"]


class DurabilityRules(Topic):
    async def test_store_that_everybody_closed_has_everything_when_it_is_reopened(
        self, harness: StoreHarness
    ) -> None:
        needs(harness, Capability.DURABLE)
        async with harness.open() as store:
            record = (await store.create(leased(aggregation_id="a", tags=("t",)))).record
            await store.signal(record.saga_id, event())
            transition = commit_of(record, seen=1, spawn=(new_saga(),))
            committed = await store.commit(transition)
            before = await store.export(record.saga_id)
        async with harness.open() as store:
            assert await unchanged(store, record.saga_id, before)
            assert await store.count(Query()) == 2
            assert await store.count(Query(tag="t")) == 1
            assert await store.commit(transition) == committed
            assert len((await claim(store)).records) == 1

    async def test_what_a_killed_process_was_told_is_written_stays_written(
        self, harness: StoreHarness
    ) -> None:
        needs(harness, Capability.DURABLE)
        async with Crew(harness, 1) as crew:
            told = crew.start(write_until_killed)
            made = [UUID(await anext(told)) for _ in range(12)]
            await crew.kill()
        async with harness.open() as store:
            for saga_id in made:
                assert len(await store.history(saga_id)) == 1
                assert (await store.load(saga_id)).signals == 1


async def write_until_killed(store: SagaStore, report: Report) -> None:
    """Report each saga once all that was written to it has been acknowledged."""
    while True:
        record = (await store.create(leased())).record
        await store.commit(commit_of(record))
        await store.signal(record.saga_id, event())
        report(str(record.saga_id))
        await asyncio.sleep(0)
