"""Rules for several processes on one store, where `MULTI_PROCESS` is declared."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import chain
from uuid import UUID

from saga_core.errors import ActiveSagaAlreadyExistsError, StaleVersionError
from saga_core.hookspecs import Capability
from saga_core.records import Query, SagaExport, SagaRecord
from saga_core.store import SagaStore
from saga_testing.conformance.crew import Crew, Report
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    LEASE,
    OTHER,
    claim,
    commit_of,
    event,
    leased,
    new_saga,
)
from saga_testing.conformance.topic import Topic, needs

__all__ = ["ProcessRules"]

PATIENCE = 10.0
"""Seconds after which something that should happen at once counts as missing."""
CREW = 3
"""Processes. More find no more, and each costs a start of Python."""


class ProcessRules(Topic):
    """What `concurrency` asks of handles, asked of processes; few rules, for each starts some."""

    async def test_one_of_many_processes_wins_each_race(self, harness: StoreHarness) -> None:
        needs(harness, Capability.MULTI_PROCESS)
        async with Crew(harness, CREW) as crew, harness.open() as store:
            aggregates = [f"a{number}" for number in range(10)]
            created = await crew.do(create_each, aggregates)
            assert sorted(chain.from_iterable(created)) == aggregates
            assert await store.count(Query()) == len(aggregates)

            records = [(await store.create(leased())).record for _ in range(10)]
            sagas = [record.saga_id for record in records]
            committed = await crew.do(commit_each, records)
            assert sorted(chain.from_iterable(committed)) == sorted(sagas)
            for saga_id in sagas:
                assert (await store.load(saga_id)).version == 2
                assert len(await store.history(saga_id)) == 1

    async def test_processes_drain_the_queue_without_a_double(self, harness: StoreHarness) -> None:
        needs(harness, Capability.MULTI_PROCESS)
        async with Crew(harness, CREW) as crew, harness.open() as store:
            made = [(await store.create(new_saga())).record.saga_id for _ in range(40)]
            taken = list(chain.from_iterable(await crew.do(drain)))
            assert len(taken) == len(set(taken))
            assert set(taken) == set(made)
            assert await store.count(Query(overdue_by=timedelta(0))) == 0

    async def test_process_killed_while_it_writes_leaves_the_store_whole(
        self, harness: StoreHarness
    ) -> None:
        needs(harness, Capability.MULTI_PROCESS)
        async with Crew(harness, CREW) as crew, harness.open() as store:
            victims = [crew.start(write_on, f"child-{n}", member=n) for n in range(CREW)]
            for number, victim in enumerate(victims):
                record = await anext(victim)
                told = [await anext(victim) for _ in range(3)]
                # The moment the next commit can be seen: what it should have brought is there too.
                before = (await store.load(record)).version
                async with asyncio.timeout(PATIENCE):
                    while (await store.load(record)).version == before:
                        pass
                await crew.kill(number)

                whole, children = await _at_one_moment(store, record, f"child-{number}")
                commits = whole.record.version - 1
                assert commits >= len(told)  # what was acknowledged is there
                assert [each.seq for each in whole.history] == list(range(1, commits + 1))
                assert whole.record.signals == len(whole.inbox) == commits
                assert children == commits

                assert not (await claim(store, OTHER)).records  # its lease still holds
                await harness.age(record, LEASE)
                (claimed,) = (await claim(store, OTHER)).records
                assert (claimed.saga_id, claimed.reclaimed) == (record, True)
                await store.commit(commit_of(claimed, seen=commits))

    async def test_process_is_woken_by_another(self, harness: StoreHarness) -> None:
        needs(harness, Capability.MULTI_PROCESS)
        needs(harness, Capability.WAKEUP)
        async with Crew(harness, 1) as crew, harness.open() as store:
            told = crew.start(wait_for_wakeup)
            heard = asyncio.ensure_future(anext(told))
            # The other may need a moment until it listens: poke it until it hears.
            while not heard.done():
                await store.create(new_saga())
                await asyncio.wait([heard], timeout=0.05)
            assert heard.result() == store.namespace


async def create_each(store: SagaStore, report: Report, aggregates: list[str]) -> None:
    """Create a saga for each aggregate; report those that were won."""
    for aggregate in aggregates:
        try:
            await store.create(new_saga(aggregation_id=aggregate))
        except ActiveSagaAlreadyExistsError:
            continue
        report(aggregate)


async def commit_each(store: SagaStore, report: Report, records: list[SagaRecord]) -> None:
    """Commit to each saga as it was read by all; report those that were won."""
    for record in records:
        try:
            await store.commit(commit_of(record))
        except StaleVersionError:
            continue
        report(record.saga_id)


async def drain(store: SagaStore, report: Report) -> None:
    """Claim until nothing is due; report what was claimed."""
    while await store.count(Query(overdue_by=timedelta(0))):
        for record in (await claim(store, limit=5)).records:
            report(record.saga_id)


async def write_on(store: SagaStore, report: Report, child: str) -> None:
    """Report a saga, then commit to it for ever; report each commit that was acknowledged."""
    record = (await store.create(leased())).record
    report(record.saga_id)
    while True:
        spawned = new_saga(saga_name=child)
        sent = commit_of(record, signals_in=(event(),), spawn=(spawned,))
        await store.commit(sent)
        report(sent.commit_id)
        record = await store.load(record.saga_id)


async def wait_for_wakeup(store: SagaStore, report: Report) -> None:
    """Report the namespace of the first wake-up."""
    async for wakeup in store.wakeups():
        report(wakeup.namespace)
        return


async def _at_one_moment(store: SagaStore, saga_id: UUID, name: str) -> tuple[SagaExport, int]:
    """Return a saga, and how many there are of a name, with no commit in between.

    A server may still carry out what a process had sent before it was killed.
    """
    while True:
        whole = await store.export(saga_id)
        count = await store.count(Query(saga_name=name))
        if (await store.load(saga_id)).version == whole.record.version:
            return whole, count
