"""Steps, retries, timeouts and rollbacks."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from saga_core import (
    FixedRetry,
    NonRetryableError,
    PayloadLimits,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    StepContext,
)
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga

MOMENT = timedelta(milliseconds=50)


async def test_saga_passes_each_output_on_and_completes(store: SagaStore) -> None:
    story = Story()
    after = await saga(store, story.step(), story.step(), story.step()).run(trace_id="t")
    assert after.status is SagaStatus.COMPLETED
    assert after.outputs == {"step_0": {"n": 2}, "step_1": {"n": 3}, "step_2": {"n": 4}}
    assert (after.current_step_index, after.deadline_at, after.trace_id) == (3, None, "t")
    assert [(one.kind, one.step_id, one.attempt) for one in after.step_history] == [
        ("completed", f"step_{n}", 1) for n in range(3)
    ]
    assert after.step_history[0].input == {"n": 1}


async def test_failure_undoes_newest_first_with_its_own_input_and_output(store: SagaStore) -> None:
    story = Story()
    after = await saga(store, story.step(), story.step(), story.step(fails("lost"))).run()
    assert after.status is SagaStatus.COMPENSATED
    assert story.log[3:] == ["undo step_1 2->3", "undo step_0 1->2"]
    assert (after.last_error, after.error_code) == ("ValueError: lost", "ValueError")


async def test_first_step_failing_leaves_nothing_to_undo(store: SagaStore) -> None:
    after = await saga(store, Story().step(fails()), Story().step()).run()
    assert (after.status, after.last_error) == (SagaStatus.COMPENSATED, "ValueError: no")


async def test_without_compensation_a_failure_is_final(store: SagaStore) -> None:
    story = Story()
    after = await saga(store, story.step(), story.step(fails()), compensate_on_failure=False).run(
        aggregation_id="a"
    )
    assert after.status is SagaStatus.FAILED
    assert not any(line.startswith("undo") for line in story.log)


async def test_retry_waits_in_the_store_and_counts_attempts(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(fails(times=2)), retry_policy=retry(3))
    saga_id = await one.start()
    for failed in (1, 2):
        waiting = await one.see(saga_id)
        assert (waiting.status, waiting.retry_counter) == (SagaStatus.SUSPENDED, failed)
        assert waiting.deadline_at is not None
        assert await one.orchestrator.run_due() == 0
        await harness.age(saga_id, HOUR)
        assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.retry_counter, after.last_error) == (SagaStatus.COMPLETED, 0, None)
    assert [one.kind for one in after.step_history] == ["retrying", "retrying", "completed"]


async def test_retry_without_delay_goes_on_at_once(store: SagaStore) -> None:
    story = Story()
    after = await saga(store, story.step(fails(times=2)), retry_policy=retry(3, timedelta(0))).run()
    assert (after.status, len(story.log)) == (SagaStatus.COMPLETED, 3)


@pytest.mark.parametrize("error", [NonRetryableError("stop"), KeyError("stop")])
async def test_error_that_is_not_retryable_fails_at_once(
    store: SagaStore, error: Exception
) -> None:
    def deed(_: Number, ctx: Any) -> None:
        raise error

    policy = FixedRetry(max_attempts=5, delay=HOUR, non_retryable=(LookupError,))
    after = await saga(store, Story().step(deed), retry_policy=policy).run()
    assert after.status is SagaStatus.COMPENSATED


async def test_step_over_its_timeout_is_cancelled_and_fails(store: SagaStore) -> None:
    story = Story()
    ended: list[str] = []

    async def endless(_: Number, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    after = await saga(store, story.step(), story.step(endless), timeout=MOMENT).run()
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "StepTimeoutError")
    assert "0.05 s" in (after.last_error or "")
    assert ended == ["cancelled"]


async def test_thread_over_its_timeout_is_asked_and_the_next_attempt_waits_for_it(
    store: SagaStore,
) -> None:
    story = Story()
    running: list[int] = []
    overlaps: list[int] = []

    def blocking(_: Number, ctx: Any) -> None:
        if running:
            overlaps.append(ctx.attempt)
        running.append(ctx.attempt)
        while ctx.attempt == 1 and not ctx.cancelled:
            time.sleep(0.005)
        time.sleep(0.05)
        running.remove(ctx.attempt)
        if ctx.cancelled:
            raise InterruptedError

    after = await saga(
        store,
        story.threaded(blocking),
        timeout=timedelta(milliseconds=200),
        retry_policy=retry(2, timedelta(0)),
    ).run()
    assert (after.status, overlaps, len(story.log)) == (SagaStatus.COMPLETED, [], 2)


@pytest.mark.parametrize("kind", ["timeout", "deadline"])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_output_of_a_step_that_was_cancelled_in_vain_counts(
    store: SagaStore, kind: str, in_thread: bool
) -> None:
    """What is known to be done is on record, and undone with the rest."""
    story = Story()

    def stubborn(_: Number, ctx: StepContext) -> Number:
        while not ctx.cancelled:
            time.sleep(0.005)
        return Number(n=7)

    async def swallows(_: Number, ctx: StepContext) -> Number:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return Number(n=7)

    limit = timedelta(milliseconds=100)
    first = story.threaded(stubborn) if in_thread else story.step(swallows)
    one = saga(store, first, story.step(fails()), timeout=limit if kind == "timeout" else None)
    after = await one.run(deadline=limit if kind == "deadline" else None)
    assert after.status is SagaStatus.COMPENSATED
    assert after.error_code == ("ValueError" if kind == "timeout" else "SagaDeadlineError")
    assert "step_0" in [item.step_id for item in after.step_history if item.kind == "completed"]
    assert in_thread or story.log[-1] == "undo step_0 1->7"


async def test_step_that_aborts_its_own_saga_is_broken_off_there(store: SagaStore) -> None:
    """Also if it awaits nothing any more: the cancellation must not reach whoever drives it."""
    story = Story()

    async def aborts(_: Number, ctx: StepContext) -> None:
        await one.admin.abort(ctx.saga_id, actor="guard", reason="stolen card")

    one = saga(store, story.step(), story.step(aborts))
    after = await one.run()
    assert (after.status, len(story.log)) == (SagaStatus.FAILED, 2)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    saga_id = await one.start(wait=False)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.FAILED


async def test_threaded_step_sees_the_context_variables_of_its_starter(store: SagaStore) -> None:
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []
    request.set("req-1")
    await saga(store, Story().threaded(lambda _, ctx: seen.append(request.get()))).run()
    assert seen == ["req-1"]


async def test_step_that_cancels_itself_has_failed(store: SagaStore) -> None:
    def deed(_: Number, ctx: Any) -> None:
        raise asyncio.CancelledError

    after = await saga(store, Story().step(), Story().step(deed)).run()
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "StepCancelledError")


async def test_compensation_is_retried_by_its_own_policy(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(undo=fails("busy", times=1)),
        story.step(fails("lost")),
        compensation_retry_policy=retry(2),
    )
    saga_id = await one.start()
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.last_error) == (SagaStatus.COMPENSATING, "ValueError: lost")
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED


async def test_compensation_that_fails_for_good_is_stuck_until_it_is_retried(
    store: SagaStore,
) -> None:
    story = Story()
    broken = [True]

    def undo(_: Number, ctx: Any) -> None:
        if broken:
            raise ConnectionError("bank closed")

    one = saga(store, story.step(), story.step(undo=undo), story.step(fails()))
    saga_id = await one.start(aggregation_id="a")
    stuck = await one.see(saga_id)
    assert (stuck.status, stuck.last_error) == (SagaStatus.STUCK, "ConnectionError: bank closed")
    assert stuck.deadline_at is None
    broken.clear()
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-2:] == ["undo step_1 2->3", "undo step_0 1->2"]


async def test_compensation_over_its_timeout_is_stuck(store: SagaStore) -> None:
    async def endless(_: Number, ctx: Any) -> None:
        await asyncio.Event().wait()

    after = await saga(
        store, Story().step(undo=endless), Story().step(fails()), compensation_timeout=MOMENT
    ).run()
    assert (after.status, after.error_code) == (SagaStatus.STUCK, "StepTimeoutError")


def mutated() -> Number:
    number = Number(n=1)
    number.n = "not a number"  # type: ignore[assignment]
    return number


BAD_OUTPUTS = {
    "of another type": lambda: "text",
    "never validated": lambda: Number.model_construct(n="x"),  # type: ignore[arg-type]
    "changed afterwards": mutated,
    "too large": lambda: Number(n=10**200_000),
}


@pytest.mark.parametrize("make", BAD_OUTPUTS.values(), ids=BAD_OUTPUTS.keys())
async def test_output_that_cannot_be_stored_is_stuck_and_never_rolled_back_past(
    store: SagaStore, make: Any
) -> None:
    story = Story()
    limits = PayloadLimits(max_bytes=100_000, warn_bytes=50_000)
    orchestrator = SagaOrchestrator(store=store, limits=limits)
    orchestrator.register(
        "story", definition(story.step(), story.step(lambda _, ctx: make()), story.step())
    )
    one = saga(store, made=orchestrator.engine.registry.latest("story").definition)
    saga_id = await orchestrator.start(saga_name="story", initial_data={"n": 1})
    stuck = await one.see(saga_id)
    assert stuck.status is SagaStatus.STUCK
    assert "output of step 'step_1'" in (stuck.last_error or "")
    assert story.log == ["do step_0", "do step_1"]
    await one.admin.skip_step(saga_id, mock_output={"n": 7})
    assert (await one.see(saga_id)).outputs["step_2"] == {"n": 8}


async def test_context_is_stable_over_attempts_and_takeovers(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(fails(times=1)), story.step(fails()), retry_policy=retry(2))
    saga_id = await one.start()
    await harness.age(saga_id, HOUR)
    await saga(
        store, made=one.orchestrator.engine.registry.latest("story").definition
    ).orchestrator.run_due()
    first, second = story.contexts[:2]
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.idempotency_key == second.idempotency_key
    assert first.token == second.token
    assert second.fence > first.fence
    keys = {context.idempotency_key for context in story.contexts}
    assert len(keys) == len({(c.step_id, "undo" in c.idempotency_key) for c in story.contexts})


async def test_changed_definition_is_not_driven_and_the_error_lists_the_differences(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    old = saga(store, story.step(fails()), retry_policy=retry(2))
    saga_id = await old.start()
    before = await store.export(saga_id)
    await harness.age(saga_id, HOUR)
    new = saga(store, story.step(), story.step(), retry_policy=retry(2))
    assert await new.orchestrator.run_due() == 0
    with pytest.raises(Exception, match="step 'step_1' was added after 'step_0'"):
        await new.admin.retry_step(saga_id)
    after = await store.export(saga_id)
    assert replace(after.record, now=before.record.now, due_at=None).state == before.record.state
    assert await old.orchestrator.run_due() == 1
