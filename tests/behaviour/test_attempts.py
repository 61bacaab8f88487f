"""Attempts: how long they are waited for, what ends them, and what they leave."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from saga_core import (
    ActiveSagaAlreadyExistsError,
    BaseStep,
    ExponentialRetry,
    SagaBuilder,
    SagaStatus,
    SagaStore,
    StepContext,
)
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits

LEASE = timedelta(milliseconds=600)


async def test_exponential_delays_grow_up_to_their_cap_in_the_store(
    store: SagaStore, harness: StoreHarness
) -> None:
    policy = ExponentialRetry(
        max_attempts=5, base_delay=timedelta(minutes=1), multiplier=3, max_delay=HOUR / 10
    )
    one = saga(store, Story().step(fails()), retry_policy=policy)
    saga_id = await one.start()
    for minutes in (1, 3, 6, 6):
        record = await store.load(saga_id)
        assert record.due_at is not None
        left = record.due_at - record.now
        assert timedelta(minutes=minutes - 0.5) < left <= timedelta(minutes=minutes)
        await harness.age(saga_id, HOUR)
        await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.deadline_at) == (SagaStatus.COMPENSATED, None)
    kinds = [entry.kind for entry in after.step_history]
    assert kinds == ["retrying"] * 4 + ["failed"]


async def test_failure_after_a_skip_undoes_the_skipped_step_with_its_mock_output(
    store: SagaStore,
) -> None:
    story = Story()
    skipped = [False]

    def first(_: Number, ctx: Any) -> None:
        if not skipped[0]:
            raise ValueError("no")

    def last(_: Number, ctx: Any) -> None:
        raise KeyError("late")

    builder = SagaBuilder()
    one_ref = builder.add_step(
        step=story.step(first), input_map=lambda ctx: Number(n=1), retry_policy=retry(2)
    )
    builder.add_step(step=story.step(last), input_map=lambda out: out, depends_on=one_ref)
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    await one.admin.skip_step(saga_id, {"n": 40})
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "KeyError")
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->40"]


class Rate(BaseModel):
    value: float


class Quote(BaseStep[Number, Rate]):
    async def execute(self, inp: Number) -> Rate:
        return Rate(value=math.nan)


async def test_output_that_is_not_a_number_is_stuck_and_says_so(store: SagaStore) -> None:
    builder = SagaBuilder()
    builder.add_step(step=Quote(), input_map=lambda ctx: Number(n=1))
    one = saga(store, made=builder.build())
    saga_id = await one.start(aggregation_id="a")
    stuck = await one.see(saga_id)
    assert stuck.status is SagaStatus.STUCK
    assert "output of step 'step_0'" in (stuck.last_error or "")
    await one.admin.skip_step(saga_id, {"value": 1.5})
    assert (await one.see(saga_id)).outputs == {"step_0": {"value": 1.5}}


@pytest.mark.parametrize("compensate", [True, False])
async def test_first_map_that_raises_ends_the_saga_and_frees_its_aggregate(
    store: SagaStore, compensate: bool
) -> None:
    builder = SagaBuilder(compensate_on_failure=compensate)
    story = Story()
    mended: list[bool] = []

    def broken(ctx: Any) -> Number:
        if not mended:
            raise LookupError("no such order")
        return Number(n=5)

    builder.add_step(step=story.step(), input_map=broken)
    one = saga(store, made=builder.build())
    saga_id = await one.start(aggregation_id="a")
    after = await one.see(saga_id)
    ended = SagaStatus.COMPENSATED if compensate else SagaStatus.FAILED
    assert (after.status, after.error_code) == (ended, "LookupError")
    assert story.log == []
    mended.append(True)
    if not compensate:
        await one.admin.retry_step(saga_id)
        assert (await one.see(saga_id)).outputs == {"step_0": {"n": 6}}
    assert await one.start(aggregation_id="a")


async def test_mapped_value_of_another_type_fails_the_step_before_it_runs(
    store: SagaStore,
) -> None:
    story = Story()
    builder = SagaBuilder()
    first = builder.add_step(step=story.step(), input_map=lambda ctx: Number(n=1))
    builder.add_step(step=story.step(), input_map=lambda out: {"n": "many"}, depends_on=first)
    after = await saga(store, made=builder.build()).run()
    assert after.status is SagaStatus.COMPENSATED
    assert "input of step 'step_1'" in (after.last_error or "")
    assert story.log == ["do step_0", "undo step_0 1->2"]


async def test_failure_without_compensation_frees_the_aggregate(store: SagaStore) -> None:
    one = saga(store, Story().step(fails()), compensate_on_failure=False)
    first = await one.start(aggregation_id="a")
    assert (await one.see(first)).status is SagaStatus.FAILED
    assert await one.start(aggregation_id="a") != first


async def test_stuck_saga_keeps_its_aggregate(store: SagaStore) -> None:
    one = saga(store, Story().step(undo=fails()), Story().step(fails()))
    saga_id = await one.start(aggregation_id="a")
    assert (await one.see(saga_id)).status is SagaStatus.STUCK
    with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
        await one.start(aggregation_id="a")
    assert refused.value.saga_id == saga_id


class Blocking(BaseStep[Number, Number]):
    """Plain functions, both of them."""

    def __init__(self, undone: list[str]) -> None:
        self._undone = undone

    def execute(self, inp: Number) -> Number:
        return Number(n=inp.n + 1)

    def compensate(self, inp: Number, out: Number, ctx: StepContext) -> None:
        self._undone.append(f"{ctx.step_id} {threading.current_thread().name}")


async def test_plain_compensation_runs_in_a_thread_too(store: SagaStore) -> None:
    undone: list[str] = []
    after = await saga(store, Blocking(undone), Story().step(fails())).run()
    assert after.status is SagaStatus.COMPENSATED
    assert undone == ["step_0 saga-step-step_0"]


async def test_thread_whose_lease_is_lost_is_told_and_its_output_is_not_recorded(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    told: list[bool] = []

    def wait(_: Number, ctx: Any) -> None:
        if not told:
            until = time.monotonic() + 10
            while not ctx.cancelled and time.monotonic() < until:
                time.sleep(0.005)
            told.append(ctx.lease_lost)

    async with harness.open() as second:
        one = saga(store, story.threaded(wait), lease=LEASE)
        other = saga(second, story.step())
        other.orchestrator.register("story2", definition(story.step()))
        chosen = uuid4()
        task = asyncio.create_task(one.start(saga_id=chosen))
        await waits(lambda: bool(story.log))
        await harness.age(chosen, LEASE)
        assert await other.orchestrator.run_due() == 1
        await task
        after = await one.see(chosen)
    assert told == [True]
    assert (after.status, len(after.step_history)) == (SagaStatus.COMPLETED, 1)


async def test_step_that_ignores_its_cancellation_is_recorded_before_the_abort(
    store: SagaStore,
) -> None:
    story = Story()

    async def deaf(_: Number, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            story.log.append("went on")

    one = saga(store, story.step(deaf), story.step())
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: bool(story.log))
    await one.admin.abort(chosen, reason="enough")
    await task
    after = await one.see(chosen)
    assert (after.status, after.outputs) == (SagaStatus.FAILED, {"step_0": {"n": 2}})
    assert story.log == ["do step_0", "went on"]


async def test_step_may_start_and_await_another_saga(store: SagaStore) -> None:
    holder: list[saga] = []

    async def parent(_: Number, ctx: Any) -> None:
        child = await holder[0].start(saga_name="child", saga_id=uuid4())
        status = (await holder[0].see(child)).status
        assert status is SagaStatus.COMPENSATED

    holder.append(saga(store, Story().step(parent)))
    holder[0].orchestrator.register("child", definition(Story().step(fails())))
    assert (await holder[0].run()).status is SagaStatus.COMPLETED


async def test_timeout_of_the_caller_is_a_cancellation_not_a_failed_step(
    store: SagaStore,
) -> None:
    story = Story()

    async def hang(_: Number, ctx: Any) -> None:
        await asyncio.Event().wait()

    one = saga(store, story.step(hang), timeout=HOUR)
    chosen = uuid4()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one.start(saga_id=chosen), 0.1)
    record = await store.load(chosen)
    assert (record.worker, record.state.attempt) == (None, 0)


async def test_timeout_that_a_step_raises_itself_is_a_failure_like_any_other(
    store: SagaStore,
) -> None:
    async def impatient(_: Number, ctx: Any) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    after = await saga(store, Story().step(impatient), timeout=HOUR).run()
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "TimeoutError")
