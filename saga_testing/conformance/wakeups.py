"""Rules for `wakeups`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from saga_core.errors import (
    SagaNotFoundError,
)
from saga_core.hookspecs import Capability
from saga_core.records import Due, Held
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    claim,
    commit_of,
    ended,
    event,
    leased,
    new_saga,
    parked,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic, needs
from saga_testing.conformance.waiters import queued

__all__ = ["WakeupRules"]

NOW = timedelta(0)
SOON = 5.0
"""Seconds for something that happens at once, on a machine that is busy."""


class WakeupRules(Topic):
    async def test_created_saga_wakes(self, harness: StoreHarness) -> None:
        async with _listening(harness) as (store, heard):
            assert await _woken(heard, store.create(new_saga()))

    async def test_signal_to_a_waiting_saga_wakes(self, harness: StoreHarness) -> None:
        async with _listening(harness) as (store, heard):
            waiting = new_saga(due=Due(delay=HOUR), state=state_of(SagaStatus.SUSPENDED))
            await store.create(waiting)
            assert await _woken(heard, store.signal(waiting.saga_id, event()))

    async def test_commit_that_makes_its_saga_due_wakes(self, harness: StoreHarness) -> None:
        async with _listening(harness) as (store, heard):
            holder = (await store.create(leased())).record
            assert await _woken(heard, store.commit(parked(holder, timedelta(0))))

    async def test_commit_that_leaves_a_signal_unseen_wakes(self, harness: StoreHarness) -> None:
        async with _listening(harness) as (store, heard):
            holder = (await store.create(leased())).record
            await store.signal(holder.saga_id, event())
            assert await _woken(heard, store.commit(parked(holder, HOUR)))

    async def test_spawned_saga_wakes(self, harness: StoreHarness) -> None:
        async with _listening(harness) as (store, heard):
            holder = (await store.create(leased())).record
            assert await _woken(heard, store.commit(commit_of(holder, spawn=(new_saga(),))))

    async def test_released_saga_wakes(self, harness: StoreHarness) -> None:
        async with _listening(harness) as (store, heard):
            holder = (await store.create(leased())).record
            held = [Held(holder.saga_id, holder.fence)]
            assert await _woken(heard, store.release(holder.worker or "", held, delay=NOW))

    async def test_first_in_the_queue_wakes(self, harness: StoreHarness) -> None:
        async with _listening(harness) as (store, heard):
            holder = (await store.create(leased(aggregation_id="a"))).record
            await store.create(queued())
            assert await _woken(heard, store.commit(ended(holder)))

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


@asynccontextmanager
async def _listening(harness: StoreHarness) -> AsyncIterator[tuple[SagaStore, asyncio.Event]]:
    """Give a handle, and what is set when another handle that listens has been woken."""
    needs(harness, Capability.WAKEUP)
    async with harness.open() as one, harness.open() as two:
        heard = asyncio.Event()

        async def listen() -> None:
            async for wakeup in two.wakeups():
                assert wakeup.namespace == two.namespace
                heard.set()

        listener = asyncio.ensure_future(listen())
        try:
            await _settle(one, heard)
            yield one, heard
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener


async def _woken(heard: asyncio.Event, deed: Awaitable[Any]) -> bool:
    """Do it, and tell whether the listener heard of it."""
    heard.clear()
    await deed
    with suppress(TimeoutError):
        await asyncio.wait_for(heard.wait(), SOON)
    return heard.is_set()


async def _settle(store: SagaStore, heard: asyncio.Event) -> None:
    """Wait until the listener listens: poke it, in two ways, until it hears and all is said."""
    waiting = new_saga(due=Due(delay=HOUR))
    await store.create(waiting)
    with suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            while not heard.is_set():
                await store.create(new_saga())
                await store.signal(waiting.saga_id, event())
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await heard.wait()
    assert heard.is_set()
