"""Rules for several callers at once, through two independent handles."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    StaleVersionError,
)
from saga_core.records import Held, Lease, Query, SagaRecord
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
    event,
    leased,
    new_saga,
    parked,
)
from saga_testing.conformance.topic import Topic

__all__ = ["ConcurrencyRules"]


class ConcurrencyRules(Topic):
    async def test_one_of_many_creators_of_an_aggregate_wins(self, harness: StoreHarness) -> None:
        async with AsyncExitStack() as stack:
            handles = [await stack.enter_async_context(harness.open()) for _ in range(4)]

            async def start(store: SagaStore) -> bool:
                try:
                    return (await store.create(new_saga(aggregation_id="a"))).created
                except ActiveSagaAlreadyExistsError:
                    return False

            won = await asyncio.gather(*(start(store) for store in handles * 2))
            assert sum(won) == 1
            assert await handles[0].count(Query()) == 1

    async def test_one_of_many_commits_of_a_version_wins(self, harness: StoreHarness) -> None:
        async with harness.open() as one, harness.open() as two:
            record = (await one.create(leased())).record

            async def commit(store: SagaStore) -> bool:
                try:
                    await store.commit(commit_of(record))
                except StaleVersionError:
                    return False
                return True

            won = await asyncio.gather(*(commit(store) for store in (one, two) * 4))
            assert sum(won) == 1
            assert len(await one.history(record.saga_id)) == 1

    async def test_one_commit_sent_many_times_is_applied_once(self, harness: StoreHarness) -> None:
        async with harness.open() as one, harness.open() as two:
            record = (await one.create(leased())).record
            transition = commit_of(record, signals_in=(event(),))
            with accepted("a commit sent many times"):
                answers = await asyncio.gather(*(s.commit(transition) for s in (one, two) * 3))
            assert {answer.version for answer in answers} == {2}
            assert len(await one.history(record.saga_id)) == 1

    async def test_no_saga_is_claimed_twice(self, harness: StoreHarness) -> None:
        async with harness.open() as one, harness.open() as two:
            made = set()
            for _ in range(60):
                new = new_saga()
                await one.create(new)
                made.add(new.saga_id)

            async def drain(store: SagaStore, worker: str) -> list[Any]:
                mine: list[Any] = []
                while len(mine) < len(made):
                    records = (await claim(store, worker, limit=7)).records
                    if not records and (await store.count(Query(overdue_by=timedelta(0)))) == 0:
                        break
                    mine += [record.saga_id for record in records]
                return mine

            taken = await asyncio.gather(drain(one, ME), drain(two, OTHER))
            everything = taken[0] + taken[1]
            assert len(everything) == len(set(everything)) == len(made)

    async def test_one_signal_sent_many_times_is_kept_once(self, harness: StoreHarness) -> None:
        async with harness.open() as one, harness.open() as two:
            record = (await one.create(leased())).record
            sent = event()
            await asyncio.gather(*(store.signal(record.saga_id, sent) for store in (one, two) * 3))
            assert [each.seq for each in await one.inbox(record.saga_id)] == [1]
            assert (await one.load(record.saga_id)).signals == 1

    async def test_claim_beside_a_renewal_leaves_one_holder(self, harness: StoreHarness) -> None:
        async with harness.open() as one, harness.open() as two:
            for _ in range(8):
                record = (await one.create(leased())).record
                await harness.age(record.saga_id, LEASE)
                renewed, claims = await asyncio.gather(
                    one.renew(ME, [Held(record.saga_id, 1)], LEASE), claim(two, OTHER)
                )
                # What the claim has locked is put off: None, and the next renewal tells.
                kept = renewed.get(record.saga_id) is not None
                assert kept + len(claims.records) == 1
                holder = (await one.load(record.saga_id)).worker
                assert holder == (ME if kept else OTHER)

    async def test_claim_beside_a_commit_leaves_one_holder(self, harness: StoreHarness) -> None:
        async with harness.open() as one, harness.open() as two:
            for _ in range(8):
                record = (await one.create(leased())).record
                await harness.age(record.saga_id, LEASE)

                async def commit(record: SagaRecord = record) -> bool:
                    try:
                        await one.commit(commit_of(record, lease=Lease(ME, LEASE)))
                    except StaleVersionError:
                        return False
                    return True

                committed, claims = await asyncio.gather(commit(), claim(two, OTHER))
                assert committed + len(claims.records) == 1
                after = await one.load(record.saga_id)
                assert (after.version, after.worker) == (2, ME if committed else OTHER)

    async def test_signals_of_many_senders_are_all_kept(self, harness: StoreHarness) -> None:
        async with harness.open() as one, harness.open() as two:
            record = (await one.create(leased())).record
            sent = [event() for _ in range(12)]
            await asyncio.gather(
                *((one, two)[n % 2].signal(record.saga_id, each) for n, each in enumerate(sent))
            )
            inbox = await one.inbox(record.saga_id)
            assert {each.event_id for each in inbox} == {each.event_id for each in sent}
            assert [each.seq for each in inbox] == list(range(1, 13))
            assert (await one.load(record.saga_id)).signals == 12

    async def test_signal_beside_a_parking_commit_is_never_lost(
        self, harness: StoreHarness
    ) -> None:
        async with harness.open() as one, harness.open() as two:
            for _ in range(15):
                record = (await one.create(leased())).record
                await asyncio.gather(
                    one.commit(parked(record)), two.signal(record.saga_id, event())
                )
                # Whichever came first, the saga is due.
                claimed = await claim_one(one)
                assert claimed.saga_id == record.saga_id
                await one.commit(commit_of(claimed, seen=1))
