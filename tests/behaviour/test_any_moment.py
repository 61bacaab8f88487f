"""A cancellation or a lost call, at every moment there is: nothing is left behind or done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from saga_core import Query, SagaError, SagaStatus, SagaStore, SagaWorker
from saga_testing import Fault, FaultyStore, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga

MOMENTS = 60
"""Turns of the event loop after which a caller is cancelled; the longest of them takes fewer."""


async def breathe(_: Number, ctx: Any) -> None:
    await asyncio.sleep(0)


def two_steps(store: SagaStore, story: Story) -> saga:
    return saga(store, story.step(breathe), story.step(breathe), retry_policy=retry(5))


async def prepared(store: SagaStore, story: Story, caller: str) -> tuple[saga, Any]:
    """Return a saga, and a coroutine that moves it."""
    one = two_steps(store, story)
    if caller == "start":
        return one, one.start()
    if caller in ("run_due", "worker"):
        await one.start(wait=False)
        if caller == "run_due":
            return one, one.orchestrator.run_due()
        return one, SagaWorker(one.orchestrator).run()
    failing = saga(store, story.step(fails()), story.step(), retry_policy=retry(5))
    saga_id = await failing.start()
    story.log.clear()
    if caller == "notify":
        token = (await one.see(saga_id)).step_execution_token
        assert token is not None
        return one, one.orchestrator.notify(saga_id=saga_id, token=token)
    return one, getattr(one.admin, caller)(saga_id)


CALLERS = ("start", "run_due", "worker", "notify", "retry_step")


@pytest.mark.parametrize("caller", CALLERS)
async def test_cancelled_caller_leaves_no_lease_and_nothing_undone(caller: str) -> None:
    """On one store, since it is about the engine's own turns of the event loop."""
    finished = 0
    for moment in range(MOMENTS):
        story = Story()
        store = MemoryStore()
        one, moving = await prepared(store, story, caller)
        task = asyncio.ensure_future(moving)
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
            finished += 1
        for record in (await store.find(Query())).records:
            assert record.worker is None, f"held after a cancellation at moment {moment}"
        await one.orchestrator.run_due()
        after = await one.orchestrator.run_due()
        assert after == 0, moment
        stands = [each.state.status for each in (await store.find(Query())).records]
        assert set(stands) <= {SagaStatus.COMPLETED, SagaStatus.SUSPENDED}, (moment, stands)
        done = [line for line in story.log if line.startswith("do")]
        assert len(done) <= 3, (moment, done)  # at most the step that was cancelled runs again
    assert finished or caller == "worker", "the sweep must reach the end of the call"


async def whole_life(
    store: SagaStore, faulty: FaultyStore, harness: StoreHarness, story: Story
) -> None:
    """Let one saga live through what the engine can do; whoever loses an answer asks again."""
    one = saga(
        faulty,
        story.step(undo=fails("busy", times=1)),
        story.step(fails(times=1)),
        story.step(fails("lost")),
        retry_policy=retry(2),
        compensation_retry_policy=retry(3),
    )
    saga_id = uuid4()

    async def run_due() -> None:
        await harness.age(saga_id, HOUR)
        await again(lambda: one.orchestrator.run_due())

    await again(lambda: one.start(saga_id=saga_id, wait=False))
    await run_due()  # the second step fails and waits
    token = (await store.load(saga_id)).state.token
    assert token is not None
    await again(lambda: one.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 1}))
    for _ in range(8):
        if (await store.load(saga_id)).state.status.is_terminal:
            break
        await run_due()
    await again(lambda: one.orchestrator.get_snapshot(saga_id))
    after = await saga(store, *(story.step() for _ in range(3))).see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    completed = [each.step_id for each in after.step_history if each.kind == "completed"]
    assert completed == ["step_0", "step_1"]
    undone = [each.step_id for each in after.step_history if each.kind == "compensated"]
    assert undone == ["step_1", "step_0"]
    assert len(after.events) == 1


async def again(call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await call()
    except SagaError:
        await call()


async def test_life_goes_on_when_any_one_call_is_lost(
    store: SagaStore, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.writing.FIRST_PAUSE", 0.001)
    rehearsal = FaultyStore(store)
    await whole_life(store, rehearsal, harness, Story())
    calls = [(call.method, call.ordinal) for call in rehearsal.calls]
    assert len(calls) > 12
    for fault in (Fault.BEFORE, Fault.AFTER):
        for method, ordinal in calls:
            await store.purge(finished_for=timedelta(0), limit=10)
            faulty = FaultyStore(store)
            faulty.fail(method, ordinal, fault)
            story = Story()
            await whole_life(store, faulty, harness, story)
            where = f"{fault} {method} {ordinal}"
            assert [call.fault for call in faulty.calls].count(fault) == 1, where
            assert story.log.count("do step_0") == 1, where
            assert story.log.count("undo step_1 2->3") == 1, where
