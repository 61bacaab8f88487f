"""What becomes of a parallel saga when one of its steps fails for good, or a person steps in."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from saga_core import (
    AwaitEvent,
    BaseStep,
    NonRetryableError,
    SagaBuilder,
    SagaDefinitionError,
    SagaStateError,
    SagaStatus,
    SagaStore,
    StepContext,
    StepRef,
)
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import Gate, joined, order_of, parallel
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga

DIAMOND = {"left": ["root"], "right": ["root"], "join": ["left", "right"]}


class Paid(BaseModel):
    amount: int


def awaits_payment(_: Number, ctx: StepContext) -> Any:
    return None if isinstance(ctx.event, Paid) else AwaitEvent(Paid)


def together(gate: Gate, then: Any = None) -> Any:
    """Return a deed that runs once all others at the gate have begun."""

    async def deed(inp: Number, ctx: StepContext) -> Any:
        await gate()
        if then is not None:
            then(inp, ctx)

    return deed


# --- siblings of a failure ------------------------------------------------------------------------


async def test_running_siblings_of_a_failure_finish_and_are_undone(store: SagaStore) -> None:
    story, failed = Story(), asyncio.Event()

    async def breaks(_: Number, __: StepContext) -> None:
        failed.set()
        raise ValueError("no")

    async def goes_on(_: Number, __: StepContext) -> None:
        await failed.wait()
        await asyncio.sleep(0.02)  # until the failure is on record, or nearly

    made = parallel(
        {"bad": story.step(breaks), "sibling": story.step(goes_on), "next": story.step()},
        {"next": ["sibling"]},
    )
    ended = await saga(store, made=made).run()
    assert ended.status is SagaStatus.COMPENSATED
    assert "undo sibling 1->2" in story.log
    assert "do next" not in story.log


async def test_cancelled_siblings_of_a_failure_count_as_maybe_done(store: SagaStore) -> None:
    story, gate = Story(), Gate(4)

    async def hangs(_: Number, __: StepContext) -> None:
        await gate()
        await asyncio.Event().wait()

    made = parallel(
        {
            "bad": story.step(together(gate, fails("no"))),
            "sure": story.step(hangs),
            "unsure": story.uncertain(hangs),
            "asked": story.uncertain(hangs, probe=lambda *_: Number(n=9)),
            "done": story.step(),
        },
        on_branch_failure="cancel",
    )
    async with asyncio.timeout(20):
        ended = await saga(store, made=made).run()
    assert (ended.status, ended.last_error) == (SagaStatus.COMPENSATED, "ValueError: no")
    undone = sorted(line for line in story.log if line.startswith(("undo", "probe")))
    assert undone == ["probe asked 1", "undo asked 1->9", "undo done 1->2", "undo unsure 1->None"]


@pytest.mark.parametrize("sibling", ["cancelled", "in a thread", "waits"])
async def test_failure_is_the_end_where_the_sibling_is_left_and_nothing_is_to_be_undone(
    store: SagaStore, sibling: str
) -> None:
    story, gate, entered, failed = Story(), Gate(2), threading.Event(), asyncio.Event()

    async def hangs(_: Number, __: StepContext) -> None:
        await gate()
        await asyncio.Event().wait()

    def in_thread(_: Number, ctx: StepContext) -> None:
        entered.set()
        while not ctx.cancelled:
            time.sleep(0.001)

    async def asks_to_wait(_: Number, __: StepContext) -> AwaitEvent:
        await failed.wait()
        await asyncio.sleep(0.02)  # until the failure is on record, or nearly
        return AwaitEvent(Paid)

    async def breaks(_: Number, __: StepContext) -> None:
        if sibling == "cancelled":
            await gate()
        elif sibling == "in a thread":
            await asyncio.to_thread(entered.wait)
        failed.set()
        raise ValueError("no")

    left = {
        "cancelled": story.step(hangs),
        "in a thread": story.threaded(in_thread),
        "waits": story.step(asks_to_wait),
    }
    policy = "finish" if sibling == "waits" else "cancel"
    made = parallel({"bad": story.step(breaks), "left": left[sibling]}, on_branch_failure=policy)
    async with asyncio.timeout(20):
        ended = await saga(store, made=made).run()
    assert (ended.status, ended.last_error) == (SagaStatus.COMPENSATED, "ValueError: no")
    assert not any(line.startswith("undo") for line in story.log)


async def test_takeover_while_siblings_finish_runs_them_again(
    store: SagaStore, harness: StoreHarness
) -> None:
    story, begun = Story(), asyncio.Event()

    async def hangs_once(_: Number, ctx: StepContext) -> None:
        if story.log.count(f"do {ctx.step_id}") == 1:
            begun.set()
            await asyncio.Event().wait()

    made = parallel({"bad": story.step(fails("no")), "slow": story.step(hangs_once)})
    first = saga(store, made=made)
    saga_id = uuid4()
    driver = asyncio.ensure_future(first.start(saga_id=saga_id))
    await begun.wait()
    while not any(each.status == "FAILED" for each in (await first.see(saga_id)).branches):  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    await harness.age(saga_id, HOUR)
    second = saga(store, made=made)
    assert await second.orchestrator.run_due() == 1
    ended = await second.see(saga_id)
    assert (ended.status, ended.last_error) == (SagaStatus.COMPENSATED, "ValueError: no")
    assert story.log.count("do bad") == 1
    assert story.log[-1] == "undo slow 1->2"
    driver.cancel()
    await asyncio.wait({driver})


async def test_without_compensation_it_is_failed_and_retry_step_goes_on(store: SagaStore) -> None:
    story, good = Story(), asyncio.Event()

    def breaks(_: Number, __: StepContext) -> None:
        if not good.is_set():
            raise ValueError("no")

    made = parallel(
        {"bad": story.step(breaks), "other": story.step(), "join": story.step()},
        {"join": ["bad", "other"]},
        compensate_on_failure=False,
    )
    one = saga(store, made=made)
    failed = await one.run(aggregation_id="a")
    assert (failed.status, set(failed.outputs)) == (SagaStatus.FAILED, {"other"})
    good.set()
    await one.admin.retry_step(failed.saga_id)
    ended = await one.see(failed.saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert story.log.count("do other") == 1


# --- the pivot ------------------------------------------------------------------------------------


async def test_failure_past_the_pivot_is_stuck_once_the_others_are_done(store: SagaStore) -> None:
    story, good = Story(), asyncio.Event()

    def breaks(_: Number, __: StepContext) -> None:
        if not good.is_set():
            raise ValueError("no")

    made = parallel(
        {name: story.step(breaks if name == "left" else None) for name in ("root", *DIAMOND)},
        DIAMOND,
        options={"root": {"pivot": True}},
    )
    one = saga(store, made=made)
    stuck = await one.run()
    assert (stuck.status, stuck.current_step_id) == (SagaStatus.STUCK, "left")
    assert set(stuck.outputs) == {"root", "right"}
    with pytest.raises(SagaStateError, match="no way back"):
        await one.admin.cancel(stuck.saga_id)
    good.set()
    await one.admin.retry_step(stuck.saga_id)
    assert (await one.see(stuck.saga_id)).status is SagaStatus.COMPLETED


async def test_pivot_that_is_done_beside_a_failure_leaves_no_way_back(store: SagaStore) -> None:
    story, gate, failed = Story(), Gate(2), asyncio.Event()

    def breaks(_: Number, __: StepContext) -> None:
        failed.set()
        raise ValueError("no")

    async def decides(_: Number, __: StepContext) -> None:
        await gate()
        await failed.wait()
        await asyncio.sleep(0.05)

    made = parallel(
        {"pivot": story.step(decides), "bad": story.step(together(gate, breaks))},
        options={"pivot": {"pivot": True}},
        on_branch_failure="cancel",
    )
    one = saga(store, made=made)
    stuck = await one.run()
    assert (stuck.status, stuck.last_error) == (SagaStatus.STUCK, "ValueError: no")
    assert set(stuck.outputs) == {"pivot"}
    await one.admin.skip_step(stuck.saga_id, {"n": 5})
    ended = await one.see(stuck.saga_id)
    assert (ended.status, ended.outputs["bad"]) == (SagaStatus.COMPLETED, {"n": 5})


# --- rollback that gets stuck ---------------------------------------------------------------------


async def test_stuck_compensation_lets_independent_ones_end_and_is_retried(
    store: SagaStore,
) -> None:
    story, good = Story(), asyncio.Event()

    def breaks(_: Number, __: StepContext) -> None:
        if not good.is_set():
            raise ValueError("undo no")

    steps = {
        "root": story.step(),
        "left": story.step(undo=breaks),
        "right": story.step(),
        "join": story.final(fails("no")),
    }
    one = saga(store, made=parallel(steps, DIAMOND))
    stuck = await one.run()
    assert (stuck.status, stuck.last_error) == (SagaStatus.STUCK, "ValueError: undo no")
    assert [each.step_id for each in stuck.branches] == ["left"]
    assert "is stuck with 'ValueError: undo no'" in await one.admin.explain(stuck.saga_id)
    assert any(line.startswith("undo right") for line in story.log)
    assert not any(line.startswith("undo root") for line in story.log)
    good.set()
    await one.admin.retry_step(stuck.saga_id)
    ended = await one.see(stuck.saga_id)
    assert ended.status is SagaStatus.COMPENSATED
    assert story.log[-1].startswith("undo root")


async def test_skip_compensation_takes_a_step_id(store: SagaStore) -> None:
    story = Story()
    steps = {
        "root": story.step(),
        "left": story.step(undo=fails("left")),
        "right": story.step(undo=fails("right")),
        "join": story.final(fails("no")),
    }
    one = saga(store, made=parallel(steps, DIAMOND))
    stuck = await one.run()
    assert stuck.status is SagaStatus.STUCK
    with pytest.raises(SagaStateError, match=r"by step_id: (left, right|right, left)"):
        await one.admin.skip_compensation(stuck.saga_id, reason="it is gone")
    await one.admin.skip_compensation(stuck.saga_id, reason="it is gone", step_id="left")
    half = await one.see(stuck.saga_id)
    assert [each.step_id for each in half.branches] == ["right"]
    await one.admin.skip_compensation(stuck.saga_id, reason="it is gone")
    assert (await one.see(stuck.saga_id)).status is SagaStatus.COMPENSATED


# --- commands -------------------------------------------------------------------------------------


async def test_cancel_rolls_back_while_branches_wait(store: SagaStore) -> None:
    story = Story()
    made = parallel({"done": story.step(), "waiting": story.step(awaits_payment)})
    one = saga(store, made=made)
    rests = await one.run()
    await one.admin.cancel(rests.saga_id, actor="ann", reason="enough")
    ended = await one.see(rests.saga_id)
    assert ended.status is SagaStatus.COMPENSATED
    assert story.log[-1] == "undo done 1->2"
    assert any(item.kind == "compensation_requested" for item in ended.step_history)


async def test_cancel_of_a_driven_saga_lets_the_running_steps_end(store: SagaStore) -> None:
    story, begun, release = Story(), asyncio.Event(), asyncio.Event()

    async def held(_: Number, __: StepContext) -> None:
        begun.set()
        await release.wait()

    made = parallel(
        {"slow": story.step(held), "quick": story.step(), "next": story.step()},
        {"next": ["slow"]},
    )
    one = saga(store, made=made)
    saga_id = uuid4()
    driver = asyncio.ensure_future(one.start(saga_id=saga_id))
    async with asyncio.timeout(20):
        await begun.wait()
        await one.admin.cancel(saga_id, wait=False)
        release.set()
        await driver
    ended = await one.see(saga_id)
    assert ended.status is SagaStatus.COMPENSATED
    assert "do next" not in story.log
    assert sorted(story.log[-2:]) == ["undo quick 1->2", "undo slow 1->2"]


async def test_abort_cancels_all_running_steps(store: SagaStore) -> None:
    story, gate = Story(), Gate(3)

    async def hangs(_: Number, __: StepContext) -> None:
        await gate()
        await asyncio.Event().wait()

    one = saga(store, made=parallel({"a": story.step(hangs), "b": story.step(hangs)}))
    saga_id = uuid4()
    driver = asyncio.ensure_future(one.start(saga_id=saga_id))
    async with asyncio.timeout(20):
        await gate()
        await one.admin.abort(saga_id, wait=True)
        await driver
    ended = await one.see(saga_id)
    assert (ended.status, ended.error_code) == (SagaStatus.FAILED, "Aborted")


async def test_paused_saga_rests_and_goes_on_with_all_branches(store: SagaStore) -> None:
    story = Story()
    made = parallel({"done": story.step(), "waiting": story.step(awaits_payment)})
    one = saga(store, made=made)
    rests = await one.run()
    await one.admin.pause(rests.saga_id)
    await one.orchestrator.signal(saga_id=rests.saga_id, event=Paid(amount=1))
    await one.orchestrator.run_due()
    paused = await one.see(rests.saga_id)
    assert paused.is_paused
    assert "paused" in await one.admin.explain(rests.saga_id)
    await one.admin.resume(rests.saga_id)
    assert (await one.see(rests.saga_id)).status is SagaStatus.COMPLETED


async def test_resumed_saga_without_anything_to_do_rests_again(store: SagaStore) -> None:
    story = Story()
    one = saga(store, made=parallel({"waiting": story.step(awaits_payment)}))
    rests = await one.run()
    await one.admin.pause(rests.saga_id)
    await one.admin.resume(rests.saga_id)
    again = await one.see(rests.saga_id)
    assert (again.status, again.waiting_for) == (SagaStatus.SUSPENDED, "event:Paid")


async def test_commands_for_one_step_need_to_know_which(store: SagaStore) -> None:
    story = Story()
    one = saga(store, made=parallel({name: story.step(awaits_payment) for name in ("a", "b")}))
    rests = await one.run()
    admin = one.admin
    with pytest.raises(SagaStateError, match="say which one by step_id: a, b"):
        await admin.skip_step(rests.saga_id, {"n": 1})
    with pytest.raises(SagaStateError, match="say which one by step_id: a, b"):
        await admin.edit_input(rests.saga_id, {"n": 1})
    with pytest.raises(SagaStateError, match="'c' is none that it can be given to"):
        await admin.skip_step(rests.saga_id, {"n": 1}, step_id="c")
    with pytest.raises(SagaStateError, match="step 'c' neither waits nor failed"):
        await admin.retry_step(rests.saga_id, step_id="c")
    with pytest.raises(SagaStateError, match=r"retry_from: .* parallel"):
        await admin.retry_from(rests.saga_id, "a")
    assert (await one.see(rests.saga_id)).step_history == rests.step_history
    await admin.skip_step(rests.saga_id, {"n": 1}, step_id="a")
    await admin.edit_input(rests.saga_id, {"n": 6}, step_id="b")
    await one.orchestrator.signal(saga_id=rests.saga_id, event=Paid(amount=1))
    await one.orchestrator.run_due()
    ended = await one.see(rests.saga_id)
    assert (ended.status, ended.outputs) == (SagaStatus.COMPLETED, {"a": {"n": 1}, "b": {"n": 7}})
    keys = {ctx.idempotency_key for ctx in story.contexts if ctx.step_id == "b"}
    assert len(keys) == 2


async def test_map_that_fails_fails_its_step_and_is_computed_anew_by_retry(
    store: SagaStore,
) -> None:
    story, good = Story(), asyncio.Event()

    def mapped(left: Number, right: Number) -> Number:
        if not good.is_set():
            raise ValueError("unmappable")
        return joined(left, right)

    builder = SagaBuilder(parallel=True, compensate_on_failure=False)
    refs = [
        builder.add_step(step=story.step(), input_map=lambda _: Number(n=1), step_id=name)
        for name in "ab"
    ]
    builder.add_step(step=story.step(), input_map=mapped, depends_on=refs, step_id="join")
    one = saga(store, made=builder.build())
    failed = await one.run()
    assert failed.status is SagaStatus.FAILED
    assert "input map of step 'join' raised ValueError: unmappable" in str(failed.last_error)
    with pytest.raises(SagaStateError, match="unmappable"):
        await one.admin.retry_step(failed.saga_id)
    good.set()
    await one.admin.retry_step(failed.saga_id)
    assert (await one.see(failed.saga_id)).outputs["join"] == {"n": 5}


# --- bad input ------------------------------------------------------------------------------------


class Liar(BaseStep[Number, Number]):
    async def execute(self, inp: Number) -> Number:
        return "no number"  # type: ignore[return-value]


async def test_branch_that_returns_the_wrong_type_leaves_the_saga_to_a_person(
    store: SagaStore,
) -> None:
    story = Story()
    made = parallel({"liar": Liar(), "good": story.step()})
    one = saga(store, made=made)
    stuck = await one.run()
    assert (stuck.status, stuck.current_step_id) == (SagaStatus.STUCK, "liar")
    assert "output of step 'liar'" in str(stuck.last_error)
    assert set(stuck.outputs) == {"good"}
    await one.admin.cancel(stuck.saga_id)
    assert (await one.see(stuck.saga_id)).status is SagaStatus.COMPENSATED
    assert story.log == ["do good", "undo good 1->2"]


def test_map_with_the_wrong_number_of_arguments_is_refused_at_build() -> None:
    story = Story()
    builder = SagaBuilder(parallel=True)
    left = builder.add_step(step=story.step(), input_map=lambda _: Number(n=1))
    with pytest.raises(SagaDefinitionError, match=r"called with 2 argument\(s\) \(Number, Number"):
        builder.add_step(step=story.step(), input_map=lambda out: out, depends_on=[left, left])
    ahead = SagaBuilder(parallel=True)
    ahead.add_step(step=story.step(), input_map=lambda out: out, depends_on=["b", "c"], step_id="a")
    ahead.add_step(step=story.step(), input_map=lambda _: Number(n=1), step_id="b")
    ahead.add_step(step=story.step(), input_map=lambda _: Number(n=1), step_id="c")
    with pytest.raises(SagaDefinitionError, match=r"step 'a' .*called with 2 argument\(s\)"):
        ahead.build()


def test_cycle_is_refused_and_spelled_out() -> None:
    story = Story()
    builder = SagaBuilder(parallel=True)
    needs: dict[str, Any] = {
        "a": "b",
        "b": ["start", StepRef("c", Number)],
        "c": ["a"],
        "start": None,
        "after": "a",
    }
    for step_id, wanted in needs.items():
        builder.add_step(
            step=story.step(), input_map=joined, depends_on=wanted, step_id=step_id
        ) if wanted else builder.add_step(
            step=story.step(), input_map=lambda _: Number(n=1), step_id=step_id
        )
    with pytest.raises(SagaDefinitionError, match="in a circle: a -> b -> c -> a "):
        builder.build()


def test_reference_to_no_step_is_refused() -> None:
    story = Story()
    builder = SagaBuilder(parallel=True)
    builder.add_step(step=story.step(), input_map=joined, depends_on="nobody", step_id="a")
    with pytest.raises(SagaDefinitionError, match="'a' depends on step 'nobody', which"):
        builder.build()
    other = SagaBuilder(parallel=True)
    ref = other.add_step(step=story.step(), input_map=lambda _: Number(n=1))
    with pytest.raises(SagaDefinitionError, match="of another builder"):
        builder.add_step(step=story.step(), input_map=joined, depends_on=ref, step_id="b")
    wrong: Any = [5]
    with pytest.raises(SagaDefinitionError, match="ids of steps, got 5"):
        builder.add_step(step=story.step(), input_map=joined, depends_on=wrong, step_id="c")


# --- size and speed -------------------------------------------------------------------------------


async def test_five_hundred_parallel_steps_are_done_and_undone(store: SagaStore) -> None:
    story, number = Story(), 500
    names = [f"s{n}" for n in range(number)]
    steps = {name: story.step() for name in names}
    made = parallel({**steps, "join": story.final(fails("no"))}, {"join": names})
    ended = await saga(store, made=made).run()
    assert ended.status is SagaStatus.COMPENSATED
    assert len([line for line in story.log if line.startswith("do s")]) == number
    assert len([line for line in story.log if line.startswith("undo s")]) == number


async def test_non_retryable_error_and_unrecordable_retry_policy(store: SagaStore) -> None:
    story = Story()

    def breaks(_: Number, __: StepContext) -> None:
        raise NonRetryableError("final")

    made = parallel({"a": story.step(breaks)}, retry_policy=retry(5, timedelta(0)))
    ended = await saga(store, made=made).run()
    assert (ended.status, story.log.count("do a")) == (SagaStatus.COMPENSATED, 1)
    assert order_of(story.log, "do a")
