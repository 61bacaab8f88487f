"""A step waits for an event: nothing is lost, nothing is used twice, and time has its say."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from pydantic import BaseModel, SecretStr

from saga_core import (
    AwaitEvent,
    Direction,
    EntryKind,
    NotifyReason,
    PayloadError,
    Query,
    SagaNotFoundError,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    SagaStore,
    SagaWorker,
    Sleep,
    StepContext,
    TypeValidationError,
)
from saga_testing import FaultyStore, ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import parallel
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits


class Paid(BaseModel):
    amount: int


class Declined(BaseModel):
    why: str = "no"


def awaits(*models: type[BaseModel], **options: Any) -> Any:
    """Return a deed that waits once, and then puts out the amount that was paid."""

    def deed(inp: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            return AwaitEvent(*(models or (Paid,)), **options)
        return Number(n=getattr(ctx.event, "amount", -1))

    return deed


def kinds(snapshot: Any) -> list[str]:
    return [item.kind.value for item in snapshot.step_history]


async def inbox_of(store: SagaStore, saga_id: Any) -> list[tuple[str, bool]]:
    return [(one.event_id, one.consumed) for one in await store.inbox(saga_id)]


async def test_step_is_entered_again_with_the_typed_event(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(awaits()), story.step())
    saga_id = await one.start()
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.waiting_for) == (SagaStatus.SUSPENDED, "event:Paid")
    assert waiting.deadline_at is None
    assert waiting.outputs == {"step_0": {"n": 2}}
    assert await one.orchestrator.run_due() == 0
    sent = await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="e")
    assert (sent.accepted, sent.reason, sent.event_id) == (True, NotifyReason.ACCEPTED, "e")
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert after.outputs == {"step_0": {"n": 2}, "step_1": {"n": 7}, "step_2": {"n": 8}}
    assert story.log == ["do step_0", "do step_1", "do step_1", "do step_2"]
    first, second = story.contexts[1:3]
    assert (first.event, first.waits) == (None, 0)
    assert (second.event, second.waits, second.events) == (Paid(amount=7), 1, (Paid(amount=7),))
    assert (first.attempt, first.idempotency_key) == (second.attempt, second.idempotency_key)
    assert await inbox_of(store, saga_id) == [("e", True)]


async def test_step_that_fails_after_its_event_waits_for_its_retry_alone(
    store: SagaStore,
) -> None:
    def deed(_: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            return AwaitEvent(Paid)
        raise ValueError("not enough")

    one = saga(store, Story().step(deed), retry_policy=retry(2))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.waiting_for) == (SagaStatus.SUSPENDED, None)
    assert waiting.deadline_at is not None


async def test_early_events_are_kept_in_order_once_each(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits()), story.step(awaits()), story.step(awaits()))
    saga_id = await one.start(wait=False)
    for event_id, amount in (("a", 1), ("b", 2), ("a", 9), ("c", 3)):
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=amount), event_id=event_id)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert [after.outputs[f"step_{n}"]["n"] for n in range(3)] == [1, 2, 3]
    assert await inbox_of(store, saga_id) == [("a", True), ("b", True), ("c", True)]


async def test_event_is_used_up_in_the_commit_that_ends_the_step(store: SagaStore) -> None:
    story = Story()
    recorded = FaultyStore(store)
    one = saga(recorded, story.step(awaits()), story.step())
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="e")
    before = len(recorded.calls)
    await one.orchestrator.run_due()
    methods = [call.method for call in recorded.calls[before:]]
    assert methods.count("commit") == 2  # one for each step, none for the waking
    history = (await one.see(saga_id)).step_history
    assert [item.kind for item in history] == [
        EntryKind.WAITING,
        EntryKind.COMPLETED,
        EntryKind.COMPLETED,
    ]


async def test_event_that_does_not_fit_is_kept_and_wakes_nothing_up(store: SagaStore) -> None:
    story = Story()
    one = saga(
        store,
        story.step(awaits(Paid, correlation_id="x", timeout=HOUR)),
        story.step(awaits(Declined)),
    )
    saga_id = await one.start()
    send = one.orchestrator.signal
    await send(saga_id=saga_id, event=Declined(), event_id="later")
    await send(saga_id=saga_id, event=Paid(amount=1), event_id="no id", correlation_id="y")
    assert await one.orchestrator.run_due() == 1
    resting = await one.see(saga_id)
    assert (resting.status, len(story.log)) == (SagaStatus.SUSPENDED, 1)
    assert resting.waiting_for == "event:Paid with correlation_id x"
    assert resting.deadline_at is not None
    since = resting.step_history[0].at
    assert abs(resting.deadline_at - since - HOUR) < timedelta(seconds=1)
    assert await one.orchestrator.run_due() == 0
    await send(saga_id=saga_id, event=Paid(amount=5), event_id="x", correlation_id="x")
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.outputs["step_0"]) == (SagaStatus.COMPLETED, {"n": 5})
    assert await inbox_of(store, saga_id) == [("later", True), ("no id", False), ("x", True)]


async def test_event_that_comes_while_the_step_runs_ends_its_wait(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())

    async def ask(inp: Number, ctx: StepContext) -> Any:
        if ctx.waits:
            return ctx.event and Number(n=40)
        await one.orchestrator.signal(saga_id=ctx.saga_id, event=Paid(amount=1))
        return AwaitEvent(Paid, timeout=HOUR)

    one = saga(store, story.step(ask), story.step())
    after = await one.run()
    assert (after.status, after.outputs["step_1"]) == (SagaStatus.COMPLETED, {"n": 41})


async def test_event_of_no_use_while_the_step_runs_does_not_cost_the_time_limit(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.step())

    async def ask(inp: Number, ctx: StepContext) -> Any:
        await one.orchestrator.signal(saga_id=ctx.saga_id, event=Declined())
        return AwaitEvent(Paid, timeout=HOUR)

    one = saga(store, story.step(ask))
    resting = await one.run()
    assert resting.status is SagaStatus.SUSPENDED
    assert resting.deadline_at is not None
    assert await one.orchestrator.run_due() == 0


async def test_several_models_are_told_apart(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits(Paid, Declined)))
    saga_id = await one.start()
    assert (await one.see(saga_id)).waiting_for == "event:Paid|Declined"
    await one.orchestrator.signal(saga_id=saga_id, event={"why": "broke"}, event_type="Declined")
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.contexts[-1].event == Declined(why="broke")


async def test_step_may_wait_for_one_event_after_another(store: SagaStore) -> None:
    story = Story()

    def deed(inp: Number, ctx: StepContext) -> Any:
        if ctx.waits < 2:
            return AwaitEvent(Declined if ctx.waits else Paid)
        return Number(n=len(ctx.events))

    one = saga(store, story.step(deed))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).waiting_for == "event:Declined"
    fresh = saga(store, story.step(deed))  # another process
    await fresh.orchestrator.signal(saga_id=saga_id, event=Declined())
    await fresh.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 2}}
    assert story.contexts[-1].events == (Paid(amount=7), Declined())


def out_of_sight() -> type[BaseModel]:
    """Return a model that no code mentions."""
    model: type[BaseModel] = globals()["Pa" + "id"]
    return model


def several_waits(inp: Number, ctx: StepContext) -> Any:
    """Wait for an event, sleep, wait for another and sleep once more."""
    if ctx.waits < 4:
        return Sleep(HOUR) if ctx.waits % 2 else AwaitEvent(out_of_sight(), timeout=3 * HOUR)
    return Number(n=sum(event.amount for event in ctx.events if event is not None))


@pytest.mark.parametrize("backwards", [False, True], ids=["execute", "compensate"])
@pytest.mark.parametrize("kind", ["one by one", "parallel"])
async def test_waits_that_are_over_do_not_begin_anew_where_no_model_is_found(
    store: SagaStore, harness: StoreHarness, kind: str, backwards: bool
) -> None:
    story = Story()

    def undo(inp: Number, ctx: StepContext) -> Any:
        return several_waits(inp, ctx) if ctx.waits < 4 else None

    steps = {"a": story.step(undo=undo), "b": story.final(fails())}
    if not backwards:
        steps = {"a": story.step(several_waits)}
    made = definition(*steps.values()) if kind == "one by one" else parallel(steps, {"b": ["a"]})
    one = saga(store, made=made)
    saga_id = await one.start()
    for amount in (7, 8):
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=amount))
        await one.orchestrator.run_due()
        assert (await one.see(saga_id)).waiting_for == "sleep"
        await harness.age(saga_id, 2 * HOUR)
        await saga(store, made=made).orchestrator.run_due()
    after = await one.see(saga_id)
    assert after.status is (SagaStatus.COMPENSATED if backwards else SagaStatus.COMPLETED)
    assert kinds(after).count("waiting") == 4
    assert story.contexts[-1].waits == 4
    assert story.contexts[-1].events == (Paid(amount=7), Paid(amount=8))


async def test_other_wait_than_the_one_that_is_over_begins_where_no_model_is_found(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    first: list[type[BaseModel]] = []

    def deed(inp: Number, ctx: StepContext) -> Any:
        if ctx.waits < 2:
            return Sleep(HOUR) if ctx.waits else AwaitEvent(first[0])
        return Number(n=ctx.waits)

    first.append(out_of_sight())
    one = saga(store, story.step(deed))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    first[0] = Declined  # by now the code asks for something else
    await harness.age(saga_id, 2 * HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).waiting_for == "event:Declined"


@pytest.mark.parametrize("kind", ["one by one", "parallel"])
async def test_event_that_a_model_refuses_which_is_found_late_is_passed_over(
    store: SagaStore, kind: str
) -> None:
    story = Story()

    def deed(inp: Number, ctx: StepContext) -> Any:
        return Number(n=ctx.event.amount) if ctx.waits else AwaitEvent(out_of_sight())

    made = definition(story.step(deed))
    if kind == "parallel":
        made = parallel({"step_0": story.step(deed)})
    one = saga(store, made=made)
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event={"amount": "x"}, event_type="Paid")
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).waiting_for == "event:Paid"
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 7}}


async def test_failed_attempt_gives_its_event_back_to_the_next(store: SagaStore) -> None:
    story = Story()

    def deed(inp: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            return AwaitEvent(Paid)
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return Number(n=ctx.event.amount)

    one = saga(store, story.step(deed), retry_policy=retry(2, timedelta(0)))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="e")
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.outputs) == (SagaStatus.COMPLETED, {"step_0": {"n": 7}})
    assert [context.attempt for context in story.contexts] == [1, 1, 2, 2]
    assert await inbox_of(store, saga_id) == [("e", True)]


# --- time ---------------------------------------------------------------------------------------


async def test_wait_that_times_out_fails_into_compensation(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(awaits(timeout=HOUR)), retry_policy=retry(3))
    saga_id = await one.start(aggregation_id="a")
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    assert after.error_code == "WaitTimedOutError"
    assert "waited 3600 s for event:Paid" in (after.last_error or "")
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]
    assert await one.start(aggregation_id="a")  # the aggregate is free, and only now


async def test_wait_that_times_out_is_retried_by_the_policy(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(awaits(timeout=HOUR, on_timeout="retry")),
        retry_policy=retry(2, timedelta(0)),
    )
    saga_id = await one.start()
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    again = await one.see(saga_id)
    assert (again.status, again.retry_counter) == (SagaStatus.SUSPENDED, 1)
    assert again.waiting_for == "event:Paid"
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "do step_0"]


async def test_wait_that_times_out_goes_on_with_its_default(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    deed = awaits(timeout=HOUR, on_timeout=Number(n=40))
    one = saga(store, story.step(deed), story.step())
    saga_id = await one.start()
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.outputs["step_1"]) == (SagaStatus.COMPLETED, {"n": 41})
    assert "default output" in (after.step_history[1].reason or "")


async def test_default_after_a_later_wait_uses_up_what_the_earlier_ones_were_given(
    store: SagaStore, harness: StoreHarness
) -> None:
    def ask(inp: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            return AwaitEvent(Paid)
        return AwaitEvent(Paid, timeout=HOUR, on_timeout=Number(n=40))

    story = Story()
    one = saga(store, story.step(ask), story.step(awaits()))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="first")
    await one.orchestrator.run_due()
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.outputs, after.waiting_for) == ({"step_0": {"n": 40}}, "event:Paid")
    assert await inbox_of(store, saga_id) == [("first", True)]


@pytest.mark.parametrize("paused", [False, True])
async def test_step_that_is_left_in_a_later_wait_uses_up_what_the_earlier_ones_were_given(
    store: SagaStore, paused: bool
) -> None:
    def ask(inp: Number, ctx: StepContext) -> Any:
        return AwaitEvent(Declined if ctx.waits else Paid)

    def undo(inp: Number, ctx: StepContext) -> Any:
        return None if ctx.waits else AwaitEvent(Paid)

    story = Story()
    one = saga(store, story.step(undo=undo), story.step(ask))
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="first")
    await one.orchestrator.run_due()
    assert await inbox_of(store, saga_id) == [("first", False)]
    if paused:
        await one.admin.pause(saga_id)
    await one.admin.cancel(saga_id)
    after = await one.see(saga_id)
    assert (after.status, after.waiting_for) == (SagaStatus.COMPENSATING, "event:Paid")
    assert await inbox_of(store, saga_id) == [("first", True)]


async def test_event_that_comes_after_the_time_limit_is_kept_and_not_used(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(awaits(timeout=HOUR)))
    saga_id = await one.start()
    await harness.age(saga_id, 2 * HOUR)
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="late")
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).error_code == "WaitTimedOutError"
    assert await inbox_of(store, saga_id) == [("late", False)]


async def test_real_time_limit_ends_a_wait(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits(timeout=timedelta(milliseconds=50))))
    saga_id = await one.start()
    while (await one.see(saga_id)).status is SagaStatus.SUSPENDED:
        await one.orchestrator.run_due()
    assert (await one.see(saga_id)).error_code == "WaitTimedOutError"


async def test_event_does_not_end_the_wait_for_a_retry(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(fails(times=1)), story.step(awaits()), retry_policy=retry(2))
    saga_id = await one.start()
    due = (await one.see(saga_id)).deadline_at
    for event_id in ("a", "b"):
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id=event_id)
        assert await one.orchestrator.run_due() == 1
        resting = await one.see(saga_id)
        assert (resting.status, resting.retry_counter) == (SagaStatus.SUSPENDED, 1)
        assert due is not None
        assert resting.deadline_at is not None
        assert abs(resting.deadline_at - due) < timedelta(seconds=1)
    assert story.log == ["do step_0"]
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_event_does_not_end_the_wait_for_the_retry_of_a_compensation(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(undo=fails(times=1)),
        story.step(fails()),
        compensation_retry_policy=retry(2),
    )
    saga_id = await one.start()
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    assert await one.orchestrator.run_due() == 1
    resting = await one.see(saga_id)
    assert (resting.status, resting.retry_counter) == (SagaStatus.COMPENSATING, 1)
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED


# --- the way back -------------------------------------------------------------------------------


async def test_compensation_waits_for_an_event(store: SagaStore) -> None:
    story = Story()

    def undo(inp: Number, ctx: StepContext) -> Any:
        return None if ctx.event else AwaitEvent(Declined)

    one = saga(store, story.step(undo=undo), story.step(fails()))
    saga_id = await one.start()
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.waiting_for) == (SagaStatus.COMPENSATING, "event:Declined")
    await one.orchestrator.signal(saga_id=saga_id, event=Declined())
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.contexts[-1].event == Declined()


@pytest.mark.parametrize(("word", "attempts"), [("fail", 1), ("retry", 2)])
async def test_compensation_whose_wait_times_out_is_a_failed_one(
    store: SagaStore, harness: StoreHarness, word: str, attempts: int
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(undo=awaits(timeout=HOUR, on_timeout=word)),
        story.step(fails()),
        compensation_retry_policy=retry(2, timedelta(0)),
    )
    saga_id = await one.start()
    for _ in range(attempts):
        assert (await one.see(saga_id)).status is SagaStatus.COMPENSATING
        await harness.age(saga_id, HOUR)
        await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.STUCK, "WaitTimedOutError")
    assert after.retry_counter == attempts


async def test_default_output_in_a_compensation_is_refused(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(undo=awaits(on_timeout=Number(n=1))), story.step(fails()))
    after = await one.run()
    assert after.status is SagaStatus.STUCK
    assert "must be 'fail' or 'retry' in a compensation" in (after.last_error or "")


# --- notify -------------------------------------------------------------------------------------


async def test_notify_with_the_token_gives_the_event_and_drives(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits()), story.step())
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    assert token == story.contexts[0].token
    tell = one.orchestrator.notify_detailed
    wrong = await tell(saga_id=saga_id, token=uuid4(), event=Paid(amount=7))
    assert (wrong.accepted, wrong.reason) == (False, NotifyReason.STALE_TOKEN)
    other = await tell(saga_id=saga_id, token=token, event=Declined())
    assert other.reason is NotifyReason.TYPE_MISMATCH
    bad = await tell(saga_id=saga_id, token=token, event={"amount": "many"})
    assert bad.reason is NotifyReason.TYPE_MISMATCH
    assert await inbox_of(store, saga_id) == []
    done = await tell(saga_id=saga_id, token=token, event={"amount": 7}, event_id="e")
    assert (done.accepted, done.status) == (True, SagaStatus.COMPLETED)
    after = await one.see(saga_id)
    assert after.outputs == {"step_0": {"n": 7}, "step_1": {"n": 8}}
    assert kinds(after) == ["waiting", "event", "completed", "completed"]
    again = await tell(saga_id=saga_id, token=token, event={"amount": 7}, event_id="e")
    assert (again.accepted, again.duplicate) == (False, True)
    late = await tell(saga_id=saga_id, token=token, event={"amount": 7})
    assert late.reason is NotifyReason.NOT_SUSPENDED


async def test_notify_is_held_against_correlation_and_time(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    wait = awaits(correlation_id="x", timeout=timedelta(milliseconds=30))
    one = saga(store, story.step(wait))
    saga_id = await one.start()
    token = story.contexts[0].token
    tell = one.orchestrator.notify_detailed
    other = await tell(saga_id=saga_id, token=token, event=Paid(amount=7), correlation_id="y")
    assert other.reason in (NotifyReason.CORRELATION_MISMATCH, NotifyReason.EXPIRED)
    await asyncio.sleep(0.04)
    late = await tell(saga_id=saga_id, token=token, event=Paid(amount=7), correlation_id="x")
    assert (late.accepted, late.reason) == (False, NotifyReason.EXPIRED)


async def test_notify_left_to_a_worker_is_not_lost(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits(timeout=HOUR)))
    saga_id = await one.start()
    taken = await one.orchestrator.notify(
        saga_id=saga_id, token=story.contexts[0].token, event=Paid(amount=7), wait=False
    )
    assert taken
    assert len(story.log) == 1
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 7}}


async def test_notify_reaches_a_waiting_compensation(store: SagaStore) -> None:
    story = Story()

    def undo(inp: Number, ctx: StepContext) -> Any:
        return None if ctx.event else AwaitEvent(Declined)

    one = saga(store, story.step(undo=undo), story.step(fails()))
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    assert await one.orchestrator.notify(saga_id=saga_id, token=token, event=Declined())
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED


# --- takeovers ----------------------------------------------------------------------------------


async def test_event_is_given_again_to_whoever_takes_over(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()

    async def deed(inp: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            return AwaitEvent(Paid, timeout=HOUR)
        if len(story.log) == 2:
            await asyncio.Event().wait()
        return Number(n=ctx.event.amount)

    dying = saga(store, story.step(deed))
    saga_id = await dying.start()
    await dying.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="e")
    await dying.orchestrator.signal(saga_id=saga_id, event=Paid(amount=8), event_id="f")
    task = asyncio.create_task(dying.orchestrator.run_due())
    await waits(lambda: len(story.log) == 2)
    await harness.age(saga_id, timedelta(minutes=5))
    other = saga(store, story.step(deed))
    assert await other.orchestrator.run_due() == 1
    after = await other.see(saga_id)
    assert (after.status, after.outputs) == (SagaStatus.COMPLETED, {"step_0": {"n": 7}})
    assert await inbox_of(store, saga_id) == [("e", True), ("f", False)]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_worker_takes_up_what_an_event_wakes(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits(timeout=HOUR)), story.step())
    async with SagaWorker(one.orchestrator, concurrency=2):
        saga_id = await one.start(wait=False)
        await waits(lambda: len(story.log) == 1)
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
        after = await one.orchestrator.wait(saga_id, 20)
    assert (after.status, after.outputs["step_1"]) == (SagaStatus.COMPLETED, {"n": 8})


async def test_event_for_a_stuck_saga_is_kept_until_a_person_has_mended_it(
    store: SagaStore,
) -> None:
    story = Story()
    broken = saga(store, story.step(awaits(on_timeout="no number")))
    saga_id = await broken.start()
    assert (await broken.see(saga_id)).status is SagaStatus.STUCK
    sent = await broken.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    assert (sent.accepted, sent.status) == (True, SagaStatus.STUCK)
    assert await broken.orchestrator.run_due() == 0
    mended = saga(store, story.step(awaits()))
    await mended.admin.retry_step(saga_id)
    assert (await mended.see(saga_id)).outputs == {"step_0": {"n": 7}}


# --- bad input ----------------------------------------------------------------------------------


async def test_signal_finds_the_active_saga_of_an_aggregate(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits()))
    send = one.orchestrator.signal
    with pytest.raises(SagaNotFoundError, match="'order-1'"):
        await send(aggregation_id="order-1", event=Paid(amount=7))
    saga_id = await one.start(aggregation_id="order-1")
    assert (await send(aggregation_id="order-1", event=Paid(amount=7))).saga_id == saga_id
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    with pytest.raises(SagaNotFoundError):
        await send(aggregation_id="order-1", event=Paid(amount=8))


async def test_event_for_an_ended_or_unknown_saga_is_an_error_and_not_kept(
    store: SagaStore,
) -> None:
    one = saga(store, Story().step())
    saga_id = await one.start()
    with pytest.raises(SagaStateError, match=f"{saga_id} has ended as COMPLETED") as refused:
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    assert refused.value.saga_id == saga_id
    assert await inbox_of(store, saga_id) == []
    with pytest.raises(SagaNotFoundError):
        await one.orchestrator.signal(saga_id=uuid4(), event=Paid(amount=7))


async def test_event_sent_twice_is_kept_once(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits()))
    saga_id = await one.start()
    send = one.orchestrator.signal
    await send(saga_id=saga_id, event=Paid(amount=7), event_id="e")
    again = await send(saga_id=saga_id, event=Paid(amount=8), event_id="e")
    assert (again.accepted, again.duplicate, again.reason) == (
        False,
        True,
        NotifyReason.DUPLICATE,
    )
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 7}}
    assert (await send(saga_id=saga_id, event=Paid(amount=8), event_id="e")).duplicate


async def test_event_without_a_type_is_refused_before_it_is_stored(store: SagaStore) -> None:
    one = saga(store, Story().step(awaits()))
    saga_id = await one.start()
    send = one.orchestrator.signal
    for event in (7, None, {"amount": 7}, Paid):
        with pytest.raises(TypeValidationError, match="event must be an instance"):
            await send(saga_id=saga_id, event=event)
    with pytest.raises(TypeValidationError, match="event_type says 'Declined'"):
        await send(saga_id=saga_id, event=Paid(amount=7), event_type="Declined")
    with pytest.raises(PayloadError, match=r"event\.amount is nan"):
        await send(saga_id=saga_id, event={"amount": float("nan")}, event_type="Paid")
    with pytest.raises(PayloadError, match="event_id"):
        await send(saga_id=saga_id, event=Paid(amount=7), event_id="")
    with pytest.raises(SagaStateError, match="one of them"):
        await send(event=Paid(amount=7))
    assert await inbox_of(store, saga_id) == []


async def test_event_that_is_no_valid_one_of_its_type_is_refused(store: SagaStore) -> None:
    one = saga(store, Story().step(), Story().step(awaits(timeout=HOUR)))
    early = await one.start(wait=False)
    waiting = await one.start()
    bad = {"event": {"amount": "many"}, "event_type": "Paid", "event_id": "e"}
    for saga_id in (early, waiting):
        with pytest.raises(PayloadError, match=r"not a valid Paid: amount: .*it was not stored"):
            await one.orchestrator.signal(saga_id=saga_id, **bad)
        assert await inbox_of(store, saga_id) == []
        again = await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="e")
        assert again.accepted
        await one.orchestrator.run_due()
        assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_event_that_is_no_valid_one_of_its_type_is_passed_over(store: SagaStore) -> None:
    """One that was sent by somebody who does not know the saga's definition."""
    story = Story()
    one = saga(store, story.step(awaits(timeout=HOUR)))
    saga_id = await one.start()
    send = SagaOrchestrator(store=store).signal
    await send(saga_id=saga_id, event={"amount": "many"}, event_type="Paid", event_id="bad")
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED
    assert await one.orchestrator.run_due() == 0
    await send(saga_id=saga_id, event=Paid(amount=7), event_id="good")
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 7}}
    assert await inbox_of(store, saga_id) == [("bad", False), ("good", True)]


async def test_wait_that_cannot_be_kept_stops_the_saga_for_a_person(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(awaits(on_timeout="no number")))
    after = await one.run()
    assert after.status is SagaStatus.STUCK
    assert "AwaitEvent's on_timeout is not a valid Number" in (after.last_error or "")
    assert (await store.find(Query())).records[0].state.waiting_for is None


class Nameless(BaseModel):
    saga_event_name: ClassVar[str] = "paid\x00"


@pytest.mark.parametrize("options", [{"correlation_id": ""}, {"on_timeout": 5}, {}])
async def test_wait_that_cannot_be_kept_is_never_rolled_back_over(
    store: SagaStore, options: dict[str, Any]
) -> None:
    """The step has asked for it, so it has run: a person has to look at it."""
    story = Story()
    one = saga(store, story.step(), story.step(lambda *_: AwaitEvent(Nameless, **options)))
    snapshot = await one.run()
    assert (snapshot.status, snapshot.direction) == (SagaStatus.STUCK, Direction.FORWARD)
    assert story.log == ["do step_0", "do step_1"]


@pytest.mark.parametrize("used", [0, 1])
async def test_saga_that_keeps_10_000_events_takes_the_next_once_one_is_used(
    store: SagaStore, used: int
) -> None:
    one = saga(store, Story().step(awaits()))
    saga_id, full = await one.start(), uuid4()
    await one.orchestrator.signal(saga_id=saga_id, event=Declined(), event_id="0")
    export = await store.export(saga_id)
    (sent,) = export.inbox
    inbox = tuple(
        replace(sent, seq=number, event_id=str(number), consumed=number <= used)
        for number in range(1, 10_001)
    )
    record = replace(export.record, saga_id=full, signals=len(inbox), seen=len(inbox))
    await store.restore(replace(export, record=record, inbox=inbox))
    if used:
        await one.orchestrator.signal(saga_id=full, event=Paid(amount=1))
        assert (await store.load(full)).signals == 10_001
        return
    with pytest.raises(SagaStateError, match="keeps 10000 events already") as refused:
        await one.orchestrator.signal(saga_id=full, event=Paid(amount=1))
    assert refused.value.saga_id == full
    assert len(await store.inbox(full, after=9_990)) == 10


async def test_event_does_not_bring_back_the_time_of_an_earlier_retry() -> None:
    """What is on record of a wait for attempt 2 is of no concern once attempt 1 is made again."""
    clock, story = ManualClock(), Story()
    one = saga(MemoryStore(clock=clock), story.step(fails()), retry_policy=retry(3, 2 * HOUR))
    saga_id = await one.start()
    for number in (1, 2):
        await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=number))
        await one.orchestrator.run_due()
        clock.advance(HOUR)
        if number == 1:
            await one.admin.retry_step(saga_id)
    clock.advance(HOUR / 2)
    await one.orchestrator.run_due()
    assert len(story.log) == 2, "an hour and a half have passed of two"
    clock.advance(HOUR)
    await one.orchestrator.run_due()
    assert len(story.log) == 3


# --- secrets --------------------------------------------------------------------------------------


class Login(BaseModel):
    password: SecretStr


def tells_the_password(_: Number, ctx: StepContext) -> Any:
    if not isinstance(ctx.event, Login):
        return AwaitEvent(Login)
    return Number(n=len(ctx.event.password.get_secret_value()))


async def test_event_whose_secret_would_be_asterisks_is_refused_and_not_stored(
    store: SagaStore,
) -> None:
    one = saga(store, Story().step(tells_the_password))
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    for password in ("hunter2", ""):  # pydantic shows that one is empty
        event = Login(password=SecretStr(password))
        with pytest.raises(TypeValidationError, match=r"event Login: Login\.password is a secret"):
            await one.orchestrator.signal(saga_id=saga_id, event=event)
        with pytest.raises(TypeValidationError, match=r"event Login: Login\.password is a secret"):
            await one.orchestrator.notify(saga_id=saga_id, token=token, event=event)
    assert not await store.inbox(saga_id)
    with pytest.raises(PayloadError, match=r"initial_data\.login\.password is a secret"):
        await one.start(initial_data={"n": 1, "login": Login(password=SecretStr("hunter2"))})
    assert await one.admin.count() == 1


@pytest.mark.parametrize("way", ["signal", "notify"])
async def test_secret_in_an_event_that_is_sent_as_a_mapping_arrives(
    store: SagaStore, way: str
) -> None:
    one = saga(store, Story().step(tells_the_password))
    saga_id = await one.start()
    event = {"password": "hunter2"}
    if way == "signal":
        await one.orchestrator.signal(saga_id=saga_id, event=event, event_type="Login")
        await one.orchestrator.run_due()
    else:
        token = (await one.see(saga_id)).step_execution_token
        assert await one.orchestrator.notify(saga_id=saga_id, token=token, event=event)
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 7}}
