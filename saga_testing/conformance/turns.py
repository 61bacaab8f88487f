"""Rules for what many callers at once, or in any order, make of an aggregate's queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from saga_core.errors import ActiveSagaAlreadyExistsError
from saga_core.records import DUE_NOW, Held, Lease, LeaseAction, SagaRecord
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    LEASE,
    ME,
    OTHER,
    claim,
    claim_one,
    commit_of,
    ended,
    leased,
)
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.waiters import back, gone, queued, taking

__all__ = ["TurnRules"]

PATIENCE = 60.0
"""Seconds until somebody in a queue counts as forgotten, on a machine that is busy."""

Place = tuple[datetime, UUID]


def place_of(record: SagaRecord) -> Place:
    return record.created_at, record.saga_id


class TurnRules(Topic):
    async def test_saga_queued_while_the_holder_ends_is_not_forgotten(
        self, harness: StoreHarness
    ) -> None:
        async with harness.open() as one, harness.open() as two:
            for number in range(20):
                key = f"key-{number}"
                holder = (await one.create(leased(aggregation_id=key))).record
                waiter = queued(key)
                await asyncio.gather(one.commit(ended(holder)), two.create(waiter))
                assert (await claim_one(two)).saga_id == waiter.saga_id

    async def test_first_that_leaves_while_the_holder_ends_is_followed(
        self, harness: StoreHarness
    ) -> None:
        async with harness.open() as one, harness.open() as two:
            for number in range(20):
                key = f"key-{number}"
                holder = (await one.create(leased(aggregation_id=key))).record
                first = (await one.create(queued(key))).record
                second = (await one.create(queued(key))).record
                await asyncio.gather(one.commit(ended(holder)), two.commit(gone(first)))
                assert (await claim_one(two)).saga_id == second.saga_id

    async def test_saga_put_back_while_the_holder_ends_is_not_forgotten(
        self, harness: StoreHarness
    ) -> None:
        async with harness.open() as one, harness.open() as two:
            for number in range(20):
                key = f"key-{number}"
                holder = (await one.create(leased(aggregation_id=key))).record
                waiter = (await two.create(queued(key, lease=Lease(OTHER, LEASE)))).record
                await asyncio.gather(one.commit(ended(holder)), two.commit(back(waiter)))
                assert (await claim_one(two)).saga_id == waiter.saga_id

    async def test_saga_queued_while_the_first_leaves_is_not_forgotten(
        self, harness: StoreHarness
    ) -> None:
        """Nobody has the aggregate, so nobody's end would find out."""
        async with harness.open() as one, harness.open() as two:
            for number in range(30):
                key = f"key-{number}"
                first = (await one.create(queued(key))).record
                second = queued(key)
                await asyncio.gather(one.commit(gone(first)), two.create(second))
                assert (await claim_one(two)).saga_id == second.saga_id

    async def test_one_of_many_queued_sagas_takes_the_aggregate(
        self, harness: StoreHarness
    ) -> None:
        async with AsyncExitStack() as stack:
            handles = [await stack.enter_async_context(harness.open()) for _ in range(4)]
            lease = Lease(OTHER, LEASE)
            made = [(await handles[0].create(queued(lease=lease))).record for _ in range(8)]

            async def take(number: int, record: SagaRecord) -> bool:
                try:
                    await handles[number % 4].commit(taking(record))
                except ActiveSagaAlreadyExistsError:
                    return False
                return True

            won = await asyncio.gather(*(take(*each) for each in enumerate(made)))
            assert won == [True] + [False] * 7

    async def test_many_drivers_at_once_take_turns_in_order_and_forget_nobody(
        self, harness: StoreHarness
    ) -> None:
        """Starters put their sagas into the queue or take the aggregate; drivers end them all."""
        turns: list[Place] = []
        left = {f"starter-{number}" for number in range(12)}

        async def drive(store: SagaStore, record: SagaRecord) -> None:
            try:
                taken = await store.commit(taking(record))
            except ActiveSagaAlreadyExistsError:
                await store.commit(back(record))
                return
            turns.append(place_of(record))
            await asyncio.sleep(0)
            await store.commit(replace(ended(record), expected_version=taken.version))
            left.pop()

        async def start(store: SagaStore, name: str) -> None:
            await drive(store, (await store.create(queued(lease=Lease(name, LEASE)))).record)

        async def work(store: SagaStore, name: str) -> None:
            while left:
                for record in (await claim(store, name, limit=2)).records:
                    await drive(store, record)
                await asyncio.sleep(0.001)

        async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
            handles = [await stack.enter_async_context(harness.open()) for _ in range(3)]
            await asyncio.gather(
                *(start(handles[n % 3], name) for n, name in enumerate(sorted(left))),
                *(work(handle, f"worker-{n}") for n, handle in enumerate(handles)),
            )
        assert turns == sorted(turns), "a younger saga took the aggregate before an older one"
        assert len(turns) == 12

    @pytest.mark.parametrize("seed", [1, 2, 3])
    async def test_queue_is_first_in_first_out_whatever_happens(
        self, store: SagaStore, seed: int
    ) -> None:
        play = _Play(store, Random(seed))  # noqa: S311 - replays the same run each time
        for _ in range(60):
            await play.step()
        await play.finish()


async def _refuser(call: Awaitable[Any]) -> UUID | None:
    """Return which saga a call was refused for, or None if it was not."""
    try:
        await call
    except ActiveSagaAlreadyExistsError as refused:
        return refused.saga_id
    return None


class _Play:
    """Random calls about one aggregate, and who is queued for it by what they have done."""

    def __init__(self, store: SagaStore, random: Random) -> None:
        self._store = store
        self._random = random
        self._queue: dict[UUID, Place] = {}
        self._holder: UUID | None = None
        self._failed: list[UUID] = []

    async def step(self) -> None:
        steps = (
            *(self._join, self._join, self._join, self._turn, self._turn, self._turn),
            *(self._end, self._end, self._leave, self._start, self._revive, self._return),
        )
        await self._random.choice(steps)()

    async def finish(self) -> None:
        """Let everybody come whose turn it is, until nobody is left."""
        for _ in range(3 * len(self._queue) + 3):
            await self._end()
            await self._return()
            await self._turn()
        assert not self._queue, f"forgotten in the queue: {self._queue}"

    async def _join(self) -> None:
        lease = self._random.choice((None, Lease(OTHER, LEASE)))
        record = (await self._store.create(queued(lease=lease))).record
        self._queue[record.saga_id] = place_of(record)

    async def _turn(self) -> None:
        for record in (await claim(self._store, limit=self._random.randint(1, 3))).records:
            if not record.state.is_queued:
                continue
            await self._try(record)

    async def _return(self) -> None:
        """Let those try who are held since they were created, or give them up."""
        for saga_id in list(self._queue):
            record = await self._store.load(saga_id)
            if record.worker == OTHER and self._random.random() < 0.5:
                await self._try(record)
            elif record.worker == OTHER:
                held = [Held(saga_id, record.fence)]
                await self._store.release(OTHER, held, delay=timedelta(0))

    async def _try(self, record: SagaRecord) -> None:
        first = min(self._queue, key=self._queue.__getitem__)
        refuser = self._holder or (None if first == record.saga_id else first)
        assert await _refuser(self._store.commit(taking(record))) == refuser
        if refuser is not None:
            await self._store.commit(back(record))
            return
        del self._queue[record.saga_id]
        self._holder = record.saga_id

    async def _end(self) -> None:
        if self._holder is None:
            return
        status = self._random.choice((SagaStatus.COMPLETED, SagaStatus.FAILED))
        await self._store.commit(ended(await self._store.load(self._holder), status))
        if status is SagaStatus.FAILED:
            self._failed.append(self._holder)
        self._holder = None

    async def _leave(self) -> None:
        if self._queue:
            saga_id = self._random.choice(list(self._queue))
            await self._store.commit(gone(await self._store.load(saga_id)))
            del self._queue[saga_id]

    async def _start(self) -> None:
        new = leased(ME, aggregation_id="a")
        assert await _refuser(self._store.create(new)) == self._holder
        self._holder = self._holder or new.saga_id

    async def _revive(self) -> None:
        if not self._failed:
            return
        saga_id = self._random.choice(self._failed)
        again = commit_of(await self._store.load(saga_id), lease=LeaseAction.RELEASE, due=DUE_NOW)
        assert await _refuser(self._store.commit(again)) == self._holder
        if self._holder is not None:
            return
        self._failed.remove(saga_id)
        self._holder = saga_id
