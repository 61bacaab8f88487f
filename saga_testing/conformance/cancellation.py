"""Rules for callers that are cancelled: a call is applied whole, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any
from uuid import uuid4

from saga_core.errors import (
    StaleVersionError,
)
from saga_core.records import Held, Query, Signal
from saga_core.store import SagaStore
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
    ME,
    claim,
    claim_one,
    commit_of,
    event,
    leased,
    new_saga,
)
from saga_testing.conformance.topic import Topic

__all__ = ["CancellationRules"]

CANCEL_POINTS = 12


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

    async def test_cancelled_commit_brings_all_that_it_spawns(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        last: list[Any] = []

        async def commit() -> None:
            current = await store.load(record.saga_id)
            last[:] = [commit_of(current, spawn=(new_saga(), new_saga()))]
            await store.commit(last[0])

        async def check() -> None:
            if last:
                await store.commit(last[0])  # settles it: what was cancelled may land later
            current = await store.load(record.saga_id)
            assert await store.count(Query()) == 1 + 2 * (current.version - 1)

        await self._cancel_everywhere(commit, check)

    async def test_cancelled_claim_is_found_again_by_its_id(self, store: SagaStore) -> None:
        for _ in range(CANCEL_POINTS):
            await store.create(new_saga())
        claim_id = [uuid4()]
        seen: list[Any] = []

        async def take() -> None:
            await claim(store, limit=1, claim_id=claim_id[0])

        async def check() -> None:
            record = await claim_one(store, limit=1, claim_id=claim_id[0])
            seen.append(record.saga_id)
            claim_id[0] = uuid4()

        await self._cancel_everywhere(take, check)
        assert len(seen) == len(set(seen)) == CANCEL_POINTS

    async def test_cancelled_callers_leave_the_store_working(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        held = [Held(record.saga_id, 1)]
        sent: list[Signal] = []

        async def signal() -> None:
            sent.append(event())
            await store.signal(record.saga_id, sent[-1])

        async def renew() -> None:
            await store.renew(ME, held, LEASE)

        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: store.load(record.saga_id),
            signal,
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
        for each in sent:
            await store.signal(record.saga_id, each)  # settles it
        after = await store.load(record.saga_id)
        assert after.signals == len(await store.inbox(record.saga_id))
        # Nothing is left locked or checked out: as many calls as any pool has connections.
        await asyncio.gather(*(store.load(record.saga_id) for _ in range(40)))
