"""Rules for independent handles on one store: as several processes have them, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import pytest

from saga_core.errors import SagaNotFoundError
from saga_core.hookspecs import Capability
from saga_core.records import Held, Query
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    ME,
    OTHER,
    accepted,
    claim,
    claim_one,
    commit_of,
    ended,
    event,
    leased,
    new_saga,
)
from saga_testing.conformance.topic import Topic, needs
from saga_testing.conformance.transitions import unchanged

__all__ = ["HandleRules"]

PATIENCE = 10.0
"""Seconds after which a call that should answer at once counts as hanging."""


class HandleRules(Topic):
    async def test_what_one_handle_writes_the_other_reads_at_once(
        self, harness: StoreHarness
    ) -> None:
        async with harness.open() as one, harness.open() as two:
            record = (await one.create(leased(aggregation_id="a"))).record
            saga_id = record.saga_id
            assert (await two.load(saga_id)).version == 1
            await one.commit(commit_of(record))
            assert (await two.load(saga_id)).version == 2
            assert len(await two.history(saga_id)) == 1
            await one.signal(saga_id, event("e"))
            assert [each.event_id for each in await two.inbox(saga_id)] == ["e"]
            held = [Held(saga_id, record.fence)]
            await one.renew(ME, held, HOUR)
            assert (await two.load(saga_id)).due_at == (await one.load(saga_id)).due_at
            await one.release(ME, held, delay=timedelta(0))
            assert (await two.load(saga_id)).worker is None
            claimed = await claim_one(one, OTHER)
            assert (await two.load(saga_id)).worker == OTHER
            await one.commit(ended(claimed))
            assert (await two.create(new_saga(aggregation_id="a"))).created
            export = await two.export(saga_id)
            await harness.age(saga_id, HOUR)
            assert await one.purge(finished_for=timedelta(0), limit=1) == 1
            assert await two.count(Query()) == len((await two.find(Query())).records) == 1
            with accepted("an ended saga of an aggregate that is taken"):
                await one.restore(export)
            assert await unchanged(two, saga_id, export)

    async def test_closing_one_handle_leaves_the_other(self, harness: StoreHarness) -> None:
        async with harness.open() as staying:
            async with harness.open() as leaving:
                record = (await leaving.create(leased())).record
                due = new_saga()
                await leaving.create(due)
            await staying.commit(commit_of(record))
            await staying.signal(record.saga_id, event())
            claimed = (await claim(staying)).records
            assert [each.saga_id for each in claimed] == [due.saga_id]
            assert await staying.count(Query()) == 2

    async def test_handle_opened_later_sees_everything(self, harness: StoreHarness) -> None:
        async with harness.open() as early:
            record = (await early.create(leased(aggregation_id="a", tags=("t",)))).record
            await early.signal(record.saga_id, event())
            await early.commit(commit_of(record, seen=1, spawn=(new_saga(),)))
            before = await early.export(record.saga_id)
            async with harness.open() as late:
                assert await unchanged(late, record.saga_id, before)
                assert await late.count(Query()) == 2
                assert await late.count(Query(tag="t")) == 1
                assert len((await claim(late)).records) == 1

    async def test_every_listening_handle_is_woken(self, harness: StoreHarness) -> None:
        needs(harness, Capability.WAKEUP)
        async with AsyncExitStack() as stack:
            writer = await stack.enter_async_context(harness.open())
            heard = [asyncio.Event() for _ in range(3)]
            for each in heard[1:]:
                handle = await stack.enter_async_context(harness.open())
                await stack.enter_async_context(_listening(handle, each))
            # A store may need a moment until it listens: poke it until all have heard.
            await stack.enter_async_context(_listening(writer, heard[0]))
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    while not all(each.is_set() for each in heard):
                        await writer.create(new_saga())
                        with suppress(TimeoutError):
                            async with asyncio.timeout(0.05):
                                await asyncio.gather(*(each.wait() for each in heard))
            assert all(each.is_set() for each in heard)

    async def test_every_call_stays_in_its_namespace(self, harness: StoreHarness) -> None:
        async with harness.open() as here, harness.open(namespace="elsewhere") as there:
            record = (await here.create(leased(aggregation_id="a", tags=("t",)))).record
            done = (await here.create(leased())).record
            await here.commit(ended(done))
            await harness.age(done.saga_id, 2 * HOUR)
            before = await here.export(record.saga_id)
            saga_id, held = record.saga_id, [Held(record.saga_id, record.fence)]
            with pytest.raises(SagaNotFoundError):
                await there.commit(commit_of(record))
            with pytest.raises(SagaNotFoundError):
                await there.signal(saga_id, event())
            with pytest.raises(SagaNotFoundError):
                await there.export(saga_id)
            assert await there.renew(ME, held, HOUR) == {}
            await there.release(ME, held, delay=timedelta(0))
            assert not await there.history(done.saga_id)
            assert not await there.inbox(saga_id)
            assert await there.count(Query()) == await there.count(Query(tag="t")) == 0
            assert not (await there.find(Query(aggregation_id="a"))).records
            assert await there.purge(finished_for=timedelta(0), limit=10) == 0
            assert (await claim(there)).next_due is None
            assert await unchanged(here, saga_id, before)
            assert (await here.load(done.saga_id)).version == 2

    async def test_exception_inside_the_block_is_raised_as_it_is(
        self, harness: StoreHarness
    ) -> None:
        failure = ValueError("of the caller")
        made = []

        async def fail() -> None:
            async with harness.open() as store:
                made.append((await store.create(leased())).record)
                raise failure

        with pytest.raises(ValueError, match="of the caller") as raised:
            await fail()
        assert raised.value is failure
        async with harness.open() as after:
            assert (await after.commit(commit_of(made[0]))).held


@asynccontextmanager
async def _listening(store: SagaStore, heard: asyncio.Event) -> AsyncIterator[None]:
    async def listen() -> None:
        async for wakeup in store.wakeups():
            assert wakeup.namespace == store.namespace
            heard.set()

    listener = asyncio.ensure_future(listen())
    try:
        yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
