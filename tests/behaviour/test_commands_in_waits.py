"""Commands to a saga that waits for an event or a time: the wait is kept, or left for good."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from saga_core import AwaitEvent, EntryKind, SagaStatus, SagaStore, Sleep, StepContext
from saga_core.commands import Command
from saga_core.happening import Operator
from saga_core.records import Signal
from saga_core.status import SignalKind
from saga_testing import ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga


class Paid(BaseModel):
    amount: int


def awaits(**options: Any) -> Any:
    """Return a deed that waits once, and then puts out the amount that was paid."""

    def deed(inp: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            return AwaitEvent(Paid, **options)
        assert isinstance(ctx.event, Paid)
        return Number(n=ctx.event.amount)

    return deed


def sleeps(inp: Number, ctx: StepContext) -> Any:
    return None if ctx.woken else Sleep(2 * HOUR)


@pytest.mark.parametrize("comes", ["before", "in", "after"])
async def test_wait_takes_its_event_whenever_it_comes_in_a_pause(
    store: SagaStore, comes: str
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(awaits()))
    saga_id = await one.start()

    async def pay(moment: str) -> None:
        if moment == comes:
            await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))

    await pay("before")
    await one.admin.pause(saga_id)
    await pay("in")
    await one.orchestrator.run_due()
    paused = await one.see(saga_id)
    assert (paused.is_paused, paused.status) == (True, SagaStatus.SUSPENDED)
    assert (paused.worker, paused.deadline_at) == (None, None)
    await one.admin.resume(saga_id)
    await pay("after")
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.outputs["step_1"]) == (SagaStatus.COMPLETED, {"n": 7})
    assert story.log == ["do step_0", "do step_1", "do step_1"]


async def test_resume_goes_on_in_this_task_with_the_event_that_came(store: SagaStore) -> None:
    one = saga(store, Story().step(awaits()))
    saga_id = await one.start()
    await one.admin.pause(saga_id)
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.admin.resume(saga_id)
    after = await one.see(saga_id)
    assert (after.status, after.outputs["step_0"]) == (SagaStatus.COMPLETED, {"n": 7})


async def test_resume_goes_on_in_this_task_with_a_retry_that_fell_due(store: SagaStore) -> None:
    story = Story()
    delay = timedelta(milliseconds=20)
    one = saga(store, story.step(fails(times=1)), retry_policy=retry(2, delay))
    saga_id = await one.start()
    await one.admin.pause(saga_id)
    await asyncio.sleep(0.1)
    await one.admin.resume(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_resumed_wait_waits_on_for_what_it_has_waited_for(store: SagaStore) -> None:
    one = saga(store, Story().step(awaits(correlation_id="c", timeout=2 * HOUR)))
    saga_id = await one.start()
    waiting = await one.see(saga_id)
    await one.admin.pause(saga_id)
    await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    again = await one.see(saga_id)
    assert (again.status, again.waiting_for) == (waiting.status, waiting.waiting_for)
    assert again.deadline_at is not None
    assert waiting.deadline_at is not None
    assert abs(again.deadline_at - waiting.deadline_at) < timedelta(seconds=1)
    assert again.step_execution_token == waiting.step_execution_token


@pytest.mark.parametrize("kind", ["event", "sleep"])
async def test_pause_does_not_make_a_wait_longer(kind: str) -> None:
    """Its end is where it was, on the clock of the store, though nobody looked."""
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    deed = awaits(timeout=2 * HOUR, on_timeout=Number(n=-1)) if kind == "event" else sleeps
    steps = Story().step(deed)
    saga_id = await saga(store, steps).start()
    one = saga(store, steps)
    for hours, status in ((1, SagaStatus.SUSPENDED), (1, SagaStatus.COMPLETED)):
        await one.admin.pause(saga_id)
        clock.advance(hours * HOUR)
        assert await one.orchestrator.run_due() == 0
        await one.admin.resume(saga_id)
        assert await one.orchestrator.run_due() == 0
        assert (await one.see(saga_id)).status is status
    after = await one.see(saga_id)
    assert after.outputs == {"step_0": {"n": -1 if kind == "event" else 2}}


async def test_compensation_that_waits_can_be_paused(store: SagaStore) -> None:
    story = Story()

    def undo(inp: Number, ctx: StepContext) -> Any:
        return None if ctx.waits else AwaitEvent(Paid)

    one = saga(store, story.step(undo=undo), story.step(fails()))
    saga_id = await one.start()
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.waiting_for) == (SagaStatus.COMPENSATING, "event:Paid")
    await one.admin.pause(saga_id)
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).is_paused
    await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED


async def test_pause_that_the_waiting_step_itself_meets_keeps_the_wait(store: SagaStore) -> None:
    """The command is heard in the commit after the one that began the wait."""
    holder: list[saga] = []

    async def deed(inp: Number, ctx: StepContext) -> Any:
        if ctx.waits:
            return Number(n=ctx.event.amount)
        await holder[0].admin.pause(ctx.saga_id)
        return AwaitEvent(Paid, timeout=HOUR)

    one = saga(store, Story().step(deed))
    holder.append(one)
    saga_id = await one.start()
    assert (await one.see(saga_id)).is_paused
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).is_paused
    await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 7}}


@pytest.mark.parametrize("command", ["cancel", "abort"])
async def test_waiting_saga_can_be_ended_and_its_event_is_not_used(
    store: SagaStore, command: str
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(awaits()))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await getattr(one.admin, command)(saga_id)
    after = await one.see(saga_id)
    ends = {"cancel": SagaStatus.COMPENSATED, "abort": SagaStatus.FAILED}
    assert (after.status, after.waiting_for) == (ends[command], None)
    assert [signal.consumed for signal in await store.inbox(saga_id)] == [False]
    assert ("undo step_0 1->2" in story.log) is (command == "cancel")


async def test_edited_step_begins_its_wait_anew(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits(timeout=HOUR)))
    saga_id = await one.start()
    for paused in (False, True):
        if paused:
            await one.admin.pause(saga_id)
        await one.admin.edit_input(saga_id, {"n": 5 + paused})
        if paused:
            await one.admin.resume(saga_id)
        assert (await one.see(saga_id)).waiting_for == "event:Paid"
    assert [context.waits for context in story.contexts] == [0, 0, 0]
    assert [context.idempotency_key[-1] for context in story.contexts] == ["0", "1", "2"]
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 7}}


async def test_step_that_is_done_once_more_waits_for_another_event(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits()), story.step(fails()), retry_policy=retry(5))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    await one.admin.retry_from(saga_id, "step_0")
    waiting = await one.see(saga_id)
    assert (waiting.waiting_for, waiting.outputs) == ("event:Paid", {})
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=8))
    await one.orchestrator.run_due()
    await one.admin.cancel(saga_id)
    undone = [line for line in story.log if line.startswith("undo")]
    assert undone == ["undo step_0 1->8", "undo step_0 1->7"]


async def test_command_that_is_ignored_does_not_end_a_wait(store: SagaStore) -> None:
    holder: list[saga] = []

    async def deed(inp: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            await holder[0].admin.resume(ctx.saga_id, wait=False)
        return Sleep(HOUR) if not ctx.woken else None

    one = saga(store, Story().step(deed))
    holder.append(one)
    saga_id = await one.start()
    await asyncio.sleep(0)
    asleep = await one.see(saga_id)
    assert (asleep.status, asleep.waiting_for) == (SagaStatus.SUSPENDED, "sleep")
    assert asleep.step_history[-1].kind is EntryKind.COMMAND_IGNORED
    assert asleep.deadline_at is not None
    assert asleep.deadline_at - asleep.updated_at > timedelta(minutes=50)


async def test_history_says_truly_why_a_rest_goes_on(
    store: SagaStore, harness: StoreHarness
) -> None:
    """An event is said to be kept if one has come, and where a step may still use it."""
    holder: list[saga] = []

    async def deed(inp: Number, ctx: StepContext) -> Any:
        if ctx.waits:
            await holder[0].orchestrator.signal(saga_id=ctx.saga_id, event=Paid(amount=9))
            return None
        return Sleep(HOUR)

    one = saga(store, Story().step(deed))
    holder.append(one)
    saga_id = await one.start()

    async def told() -> str | None:
        await one.orchestrator.run_due()
        return (await one.see(saga_id)).step_history[-1].reason

    payload = Command(Operator("ann")).encode()
    await store.signal(saga_id, Signal(event_id="1", kind=SignalKind.RESUME, payload=payload))
    assert await told() == (
        "it was looked at, and no new event for a step was there; still waiting for sleep"
    )
    for _ in range(2):
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    assert await told() == (
        "2 events have come, kept for a step that may wait for them; still waiting for sleep"
    )
    await harness.age(saga_id, HOUR)
    assert await told() == "an event has come before the saga ended, and no step has used it"
