"""Rules for several callers at once, cancelled callers, and wake-ups."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any

import pytest

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaNotFoundError,
    StaleVersionError,
)
from saga_core.hookspecs import Capability
from saga_core.records import Due, Held, Query
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
    ME,
    OTHER,
    claim,
    commit_of,
    event,
    leased,
    new_saga,
    parked,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic, needs

__all__ = ["CancellationRules", "ConcurrencyRules", "WakeupRules"]

CANCEL_POINTS = 12
SOON = 5.0
"""Seconds for something that happens at once, on a machine that is busy."""


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
                (claimed,) = (await claim(one)).records
                assert claimed.saga_id == record.saga_id
                await one.commit(commit_of(claimed, seen=1))


class CancellationRules(Topic):
    """Cancel a call after each of its first loop steps: it was applied whole, or not at all."""

    async def _cancel_everywhere(
        self, call: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Awaitable[None]]
    ) -> None:
        for steps in range(CANCEL_POINTS):
            task = asyncio.ensure_future(call())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError, StaleVersionError):
                await task
            await check()

    async def test_cancelled_create_is_whole_or_nothing(self, store: SagaStore) -> None:
        made: list[Any] = []

        async def create() -> None:
            made.append(leased(aggregation_id=f"a{len(made)}", history=()))
            await store.create(made[-1])

        async def check() -> None:
            if not made:
                return
            again = await store.create(made[-1])
            assert (again.record.version, again.record.worker) == (1, ME)

        await self._cancel_everywhere(create, check)

    async def test_cancelled_commit_is_whole_or_nothing(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        last: list[Any] = []

        async def commit() -> None:
            current = await store.load(record.saga_id)
            last[:] = [commit_of(current)]
            await store.commit(last[0])

        async def check() -> None:
            if last:
                await store.commit(last[0])  # settles it
            current = await store.load(record.saga_id)
            assert len(await store.history(record.saga_id)) == current.version - 1

        await self._cancel_everywhere(commit, check)

    async def test_cancelled_claim_is_found_again_by_its_id(self, store: SagaStore) -> None:
        from uuid import uuid4

        for _ in range(CANCEL_POINTS):
            await store.create(new_saga())
        claim_id = [uuid4()]
        seen: list[Any] = []

        async def take() -> None:
            await claim(store, limit=1, claim_id=claim_id[0])

        async def check() -> None:
            (record,) = (await claim(store, limit=1, claim_id=claim_id[0])).records
            seen.append(record.saga_id)
            claim_id[0] = uuid4()

        await self._cancel_everywhere(take, check)
        assert len(seen) == len(set(seen)) == CANCEL_POINTS

    async def test_cancelled_callers_leave_the_store_working(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        held = [Held(record.saga_id, 1)]

        async def renew() -> None:
            await store.renew(ME, held, LEASE)

        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: store.load(record.saga_id),
            lambda: store.signal(record.saga_id, event()),
            lambda: store.inbox(record.saga_id),
            lambda: store.history(record.saga_id),
            renew,
            lambda: store.find(Query()),
            lambda: store.count(Query()),
            lambda: store.purge(finished_for=HOUR, limit=1),
            lambda: store.export(record.saga_id),
        ]

        async def check() -> None:
            assert (await store.load(record.saga_id)).saga_id == record.saga_id

        for call in calls:
            await self._cancel_everywhere(call, check)
        after = await store.load(record.saga_id)
        assert after.signals == len(await store.inbox(record.saga_id))
        # Nothing is left locked or checked out: as many calls as any pool has connections.
        await asyncio.gather(*(store.load(record.saga_id) for _ in range(40)))


class WakeupRules(Topic):
    async def test_stores_that_push_wake_for_what_falls_due(self, harness: StoreHarness) -> None:
        needs(harness, Capability.WAKEUP)
        async with harness.open() as one, harness.open() as two:
            heard = asyncio.Event()

            async def listen() -> None:
                async for wakeup in two.wakeups():
                    assert wakeup.namespace == two.namespace
                    heard.set()

            listener = asyncio.ensure_future(listen())
            try:
                waiting = new_saga(due=Due(delay=HOUR), state=state_of(SagaStatus.SUSPENDED))
                await one.create(waiting)
                holder = (await one.create(leased())).record
                await _settled(one, heard)

                async def expect(deed: Awaitable[Any]) -> None:
                    heard.clear()
                    await deed
                    await asyncio.wait_for(heard.wait(), SOON)

                await expect(one.create(new_saga()))
                await expect(one.signal(waiting.saga_id, event()))
                await expect(one.commit(parked(holder, timedelta(0))))
            finally:
                listener.cancel()
                with suppress(asyncio.CancelledError):
                    await listener

    async def test_wakeups_end_at_once_or_are_declared(self, harness: StoreHarness) -> None:
        if Capability.WAKEUP in harness.capabilities:
            return
        async with harness.open() as store:
            async with asyncio.timeout(SOON):
                assert [one async for one in store.wakeups()] == []

    async def test_saga_of_a_cancelled_listener_stays_claimable(
        self, harness: StoreHarness
    ) -> None:
        async with harness.open() as store:

            async def listen() -> None:
                async for _ in store.wakeups():
                    pass

            listener = asyncio.ensure_future(listen())
            await asyncio.sleep(0)
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
            await store.create(new_saga())
            assert len((await claim(store)).records) == 1
            with pytest.raises(SagaNotFoundError):
                await store.load(new_saga().saga_id)


async def _settled(store: SagaStore, heard: asyncio.Event) -> None:
    """Wait until the listener listens: poke it until it hears."""
    async with asyncio.timeout(SOON):
        while not heard.is_set():
            await store.create(new_saga())
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await heard.wait()
