"""Rules for `wakeups`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from saga_core.errors import (
    SagaNotFoundError,
)
from saga_core.hookspecs import Capability
from saga_core.records import Due
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    claim,
    event,
    leased,
    new_saga,
    parked,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic, needs

__all__ = ["WakeupRules"]

SOON = 5.0
"""Seconds for something that happens at once, on a machine that is busy."""


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
