"""A person's commands, with each of his calls of the store lost once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from saga_core import SagaStatus, SagaStore, StepContext
from saga_testing import Fault, FaultyStore, MemoryStore
from tests.behaviour.cast import Number, Story, fails, retry, saga, waits
from tests.behaviour.test_any_moment import again


async def whole_life(store: SagaStore, faulty: FaultyStore, story: Story) -> None:
    """Pause while it is driven, edit, resume, go back, cancel while it is driven."""
    doors = [asyncio.Event(), asyncio.Event()]
    saga_id = uuid4()

    async def hold(inp: Number, ctx: StepContext) -> None:
        await doors[ctx.idempotency_key.endswith(":0") is False].wait()

    steps: list[Any] = [story.step(), story.step(hold), story.step(fails())]
    driver = saga(store, *steps, retry_policy=retry(9))
    person = saga(faulty, *steps, retry_policy=retry(9)).admin
    await driver.start(saga_id=saga_id, wait=False)

    async def driven(until: int) -> asyncio.Task[int]:
        task = asyncio.create_task(driver.orchestrator.run_due())
        await waits(lambda: len(story.log) == until)
        return task

    driving = await driven(2)
    await again(lambda: person.pause(saga_id, wait=False))
    doors[0].set()
    await driving
    assert (await driver.see(saga_id)).is_paused
    await again(lambda: person.edit_input(saga_id, {"n": 50}, wait=False))
    await again(lambda: person.resume(saga_id, wait=False))
    await driver.orchestrator.run_due()
    await again(lambda: person.retry_from(saga_id, "step_1", wait=False))
    driving = await driven(4)
    await again(lambda: person.cancel(saga_id, wait=False))
    doors[1].set()
    await driving
    assert (await driver.see(saga_id)).status is SagaStatus.COMPENSATED
    assert len(await store.inbox(saga_id)) == 2, "each command to the driver is one signal"


async def test_each_command_takes_effect_once_when_any_one_call_is_lost(
    store: SagaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.writing.FIRST_PAUSE", 0.001)
    rehearsal = FaultyStore(store)
    await whole_life(store, rehearsal, Story())
    calls = [(call.method, call.ordinal) for call in rehearsal.calls]
    if not isinstance(store, MemoryStore):
        # What is lost besides writes has been lost on the store that is fastest.
        calls = [call for call in calls if call[0] in ("commit", "signal")]
    assert len(calls) > 4
    for fault in (Fault.BEFORE, Fault.AFTER):
        for method, ordinal in calls:
            await store.purge(finished_for=timedelta(0), limit=10)
            faulty = FaultyStore(store)
            faulty.fail(method, ordinal, fault)
            story = Story()
            await whole_life(store, faulty, story)
            assert story.log == [
                "do step_0",
                "do step_1",
                "do step_2",
                "do step_1",
                "undo step_1 2->3",
                "undo step_1 2->3",
                "undo step_0 1->2",
            ], f"{fault} {method} {ordinal}"
