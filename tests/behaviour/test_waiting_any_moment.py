"""A saga that waits, with a call lost or its driver cancelled at every moment there is."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from saga_core import AwaitEvent, SagaStatus, SagaStore, Sleep, StepContext
from saga_testing import Fault, FaultyStore, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, fails, saga
from tests.behaviour.test_any_moment import again

MOMENTS = 60


class Paid(BaseModel):
    amount: int


class Shipped(BaseModel):
    parcel: str


class Returned(BaseModel):
    parcel: str


def ask(inp: Number, ctx: StepContext) -> Any:
    """Wait for two events, one after the other, and sleep in between."""
    if ctx.waits == 3:
        paid, shipped = ctx.events
        assert (paid, shipped) == (Paid(amount=7), Shipped(parcel="p"))
        return Number(n=paid.amount)
    return (AwaitEvent(Paid), Sleep(HOUR), AwaitEvent(Shipped))[ctx.waits]


def undo(inp: Number, ctx: StepContext) -> Any:
    return None if ctx.event == Returned(parcel="p") else AwaitEvent(Returned)


def returning(store: SagaStore, story: Story) -> saga:
    return saga(store, story.step(undo=undo), story.step(ask), story.step(fails()))


async def whole_life(
    store: SagaStore, faulty: FaultyStore, harness: StoreHarness, story: Story
) -> None:
    one, saga_id = returning(faulty, story), uuid4()
    see = returning(store, Story()).see

    async def run_due() -> None:
        for _ in range(3):
            await harness.age(saga_id, HOUR)
            await again(lambda: one.orchestrator.run_due())

    async def send(event: BaseModel, event_id: str) -> None:
        await again(
            lambda: one.orchestrator.signal(saga_id=saga_id, event=event, event_id=event_id)
        )

    await again(lambda: one.start(saga_id=saga_id, wait=False))
    await send(Paid(amount=7), "early")
    await send(Paid(amount=8), "of no use")
    await run_due()
    assert (await see(saga_id)).waiting_for == "event:Shipped"
    await send(Shipped(parcel="p"), "shipped")
    await run_due()
    assert (await see(saga_id)).status is SagaStatus.COMPENSATING
    await send(Returned(parcel="p"), "returned")
    await run_due()
    after = await see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    assert after.outputs == {"step_0": {"n": 2}, "step_1": {"n": 7}}
    assert [(one.event_id, one.consumed) for one in await store.inbox(saga_id)] == [
        ("early", True),
        ("of no use", False),
        ("shipped", True),
        ("returned", True),
    ]


async def test_wait_goes_on_when_any_one_call_is_lost(
    store: SagaStore, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.writing.FIRST_PAUSE", 0.001)
    rehearsal = FaultyStore(store)
    await whole_life(store, rehearsal, harness, Story())
    calls = [(call.method, call.ordinal) for call in rehearsal.calls]
    if not isinstance(store, MemoryStore):
        # What is lost besides writes has been lost on the store that is fastest.
        calls = [call for call in calls if call[0] in ("commit", "signal")]
    for fault in (Fault.BEFORE, Fault.AFTER):
        for method, ordinal in calls:
            await store.purge(finished_for=timedelta(0), limit=10)
            faulty = FaultyStore(store)
            faulty.fail(method, ordinal, fault)
            story = Story()
            await whole_life(store, faulty, harness, story)
            where = f"{fault} {method} {ordinal}"
            assert story.log.count("do step_0") == 1, where
            assert story.log.count("undo step_1 2->7") == 1, where


async def test_cancelled_driver_of_a_waiting_saga_loses_no_event() -> None:
    """On one store, since it is about the engine's own turns of the event loop."""
    finished = 0
    for moment in range(MOMENTS):
        story = Story()
        store = MemoryStore()
        one = saga(store, story.step(_breathe), story.step())
        saga_id = await one.start()
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="e")
        task = asyncio.ensure_future(one.orchestrator.run_due())
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        finished += not task.cancelled()
        record = await store.load(saga_id)
        assert record.worker is None, f"held after a cancellation at moment {moment}"
        await one.orchestrator.run_due()
        after = await one.see(saga_id)
        assert after.status is SagaStatus.COMPLETED, moment
        assert after.outputs["step_0"] == {"n": 7}, moment
        assert [each.consumed for each in await store.inbox(saga_id)] == [True], moment
    assert finished, "the sweep must reach the end of the call"


async def _breathe(inp: Number, ctx: StepContext) -> Any:
    await asyncio.sleep(0)
    return AwaitEvent(Paid) if ctx.event is None else Number(n=ctx.event.amount)
