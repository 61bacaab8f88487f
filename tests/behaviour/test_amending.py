"""`edit_input` and `retry_from`: what a person changes, and what was done before is undone."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    InputContext,
    PayloadError,
    SagaBuilder,
    SagaDefinitionError,
    SagaStateError,
    SagaStatus,
    SagaStore,
    StepContext,
    Upcaster,
)
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits
from tests.behaviour.versions import Release, old_definition, second, to_second


def too_big(inp: Number, ctx: StepContext) -> None:
    if inp.n > 10:
        raise ValueError("too big")


def garbles(inp: Number, ctx: StepContext) -> Any:
    return "not a number" if inp.n > 10 else None


def keys(story: Story) -> list[str]:
    return [context.idempotency_key.split(":", 1)[1] for context in story.contexts]


async def unchanged(store: SagaStore, saga_id: UUID, call: Any, match: str) -> None:
    before = await store.export(saga_id)
    with pytest.raises((SagaStateError, PayloadError), match=match):
        await call
    after = await store.export(saga_id)
    assert (after.history, after.record.version) == (before.history, before.record.version)
    assert after.inbox == before.inbox


# --- edit_input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["SUSPENDED", "STUCK"])
async def test_step_is_tried_anew_with_another_input_and_another_key(
    store: SagaStore, status: str
) -> None:
    story = Story()
    deed = too_big if status == "SUSPENDED" else garbles
    one = saga(store, story.step(deed), story.step(), retry_policy=retry(3))
    saga_id = await one.start(initial_data={"n": 11})
    assert (await one.see(saga_id)).status == status
    await one.admin.edit_input(saga_id, {"n": 5}, actor="ann", reason="a typing error")
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert after.outputs == {"step_0": {"n": 6}, "step_1": {"n": 7}}
    assert keys(story)[:2] == ["step_0:do:0", "step_0:do:1"]
    assert [context.attempt for context in story.contexts] == [1, 1, 1]
    edit = next(entry for entry in after.step_history if entry.kind == "input_edited")
    assert (edit.actor, edit.reason, edit.input) == ("ann", "a typing error", {"n": 5})


async def test_rollback_undoes_the_step_with_the_input_that_it_was_given(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(too_big), story.step(fails()), retry_policy=retry(3))
    saga_id = await one.start(initial_data={"n": 11})
    await one.admin.edit_input(saga_id, Number(n=5))
    await one.admin.cancel(saga_id)
    assert story.log[-1] == "undo step_0 5->6"


async def test_same_input_keeps_the_key(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(fails()), retry_policy=retry(3))
    saga_id = await one.start()
    await one.admin.edit_input(saga_id, {"n": 1})
    assert keys(story) == ["step_0:do:0", "step_0:do:0"]
    assert (await one.see(saga_id)).retry_counter == 1


async def test_new_input_of_the_wrong_type_is_refused_before_anything_is_written(
    store: SagaStore,
) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(3))
    saga_id = await one.start()
    edit = one.admin.edit_input
    await unchanged(store, saga_id, edit(saga_id, {"n": "x"}), "new_input for step 'step_0'")
    await unchanged(store, saga_id, edit(saga_id, None), "new_input for step 'step_0'")


@pytest.mark.parametrize("status", ["COMPLETED", "COMPENSATED", "FAILED", "COMPENSATING"])
async def test_edit_is_refused_where_no_step_is_to_be_done(store: SagaStore, status: str) -> None:
    one, saga_id = await ended(store, status)
    call = one.admin.edit_input(saga_id, {"n": 1})
    await unchanged(store, saga_id, call, f"edit_input: the saga is {status}; it needs")


async def ended(store: SagaStore, status: str) -> tuple[saga, UUID]:
    story = Story()
    undo = fails() if status == "COMPENSATING" else None
    one = saga(
        store,
        story.step(undo=undo),
        story.step(None if status == "COMPLETED" else fails()),
        compensate_on_failure=status != "FAILED",
        compensation_retry_policy=retry(5),
    )
    saga_id = await one.start()
    assert (await one.see(saga_id)).status == status
    return one, saga_id


async def test_paused_saga_takes_an_input_and_rests_on(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(too_big), retry_policy=retry(3))
    saga_id = await one.start(initial_data={"n": 11})
    await one.admin.pause(saga_id)
    await one.admin.edit_input(saga_id, {"n": 5})
    assert (await one.see(saga_id)).is_paused
    assert await one.orchestrator.run_due() == 0
    await one.admin.resume(saga_id)
    after = await one.see(saga_id)
    assert (after.status, after.outputs) == (SagaStatus.COMPLETED, {"step_0": {"n": 6}})
    assert keys(story) == ["step_0:do:0", "step_0:do:1"]


async def test_saga_that_has_not_begun_takes_an_input_and_begins_at_its_time(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR, wait=False)
    await one.admin.edit_input(saga_id, {"n": 5})
    assert await one.orchestrator.run_due() == 0
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 6}}


@pytest.mark.parametrize(("succeeds", "attempts"), [(True, 3), (False, 3), (False, 1)])
async def test_input_for_a_step_in_flight_is_taken_unless_the_step_is_done_or_has_failed_for_good(
    store: SagaStore, harness: StoreHarness, succeeds: bool, attempts: int
) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(inp: Number, ctx: StepContext) -> None:
        await go.wait()
        if inp.n == 1 and not succeeds:
            raise ValueError("no")

    def steps() -> Any:
        return story.step(hold), story.step()

    async with harness.open() as second:
        one = saga(store, *steps(), retry_policy=retry(attempts))
        other = saga(second, *steps(), retry_policy=retry(attempts))
        task = asyncio.create_task(one.start(saga_id=(chosen := uuid4())))
        await waits(lambda: bool(story.log))
        await other.admin.edit_input(chosen, {"n": 5}, actor="ann", reason="a slip", wait=False)
        go.set()
        await task
        after = await one.see(chosen)
    told = next(entry for entry in after.step_history if entry.actor == "ann")
    assert (told.reason or "").endswith("a slip" if told.kind == "input_edited" else "a slip)")
    if attempts == 1:
        assert (after.status, told.kind) == (SagaStatus.COMPENSATED, "command_ignored")
        assert "before compensation has begun" in (told.reason or "")
        return
    assert after.status is SagaStatus.COMPLETED
    assert after.outputs["step_0"] == {"n": 2 if succeeds else 6}
    assert told.kind == ("command_ignored" if succeeds else "input_edited")
    if succeeds:
        assert "has come to step 'step_1'" in (told.reason or "")


async def test_attempt_with_the_old_input_that_may_have_been_done_is_undone_too(
    store: SagaStore,
) -> None:
    story = Story()
    made = definition(
        story.step(), story.uncertain(too_big), story.step(fails()), retry_policy=retry(2)
    )
    one = saga(store, made=made)
    saga_id = await one.start(initial_data={"n": 20})
    await one.admin.edit_input(saga_id, {"n": 5})
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    undone = [line for line in story.log if line.startswith("undo")]
    assert undone == ["undo step_1 5->6", "undo step_1 21->None", "undo step_0 20->21"]
    assert keys(story)[-3:] == ["step_1:undo:1", "step_1:undo:0", "step_0:undo:0"]


# --- retry_from ----------------------------------------------------------------------------------


def three(story: Story, last: Any = None) -> list[Any]:
    return [story.step(), story.step(), story.step(last or fails())]


async def test_steps_from_an_earlier_one_on_are_done_once_more_with_new_keys(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, *three(story, fails(times=2)), retry_policy=retry(9))
    saga_id = await one.start()
    await one.admin.retry_from(saga_id, "step_1", actor="ann", reason="wrong rate")
    after = await one.see(saga_id)
    assert (after.status, set(after.outputs)) == (SagaStatus.SUSPENDED, {"step_0", "step_1"})
    assert keys(story) == [
        "step_0:do:0",
        "step_1:do:0",
        "step_2:do:0",
        "step_1:do:1",
        "step_2:do:1",
    ]
    told = [entry for entry in after.step_history if entry.kind in ("went_back", "voided")]
    assert [(entry.kind.value, entry.step_id) for entry in told] == [
        ("went_back", "step_1"),
        ("voided", "step_1"),
    ]
    assert (told[0].actor, told[0].reason) == ("ann", "wrong rate")


async def test_what_counts_no_more_is_seen_by_no_map_and_in_no_snapshot(store: SagaStore) -> None:
    story = Story()
    seen: list[list[str]] = []
    stop = [True]

    def look(ctx: InputContext) -> Number:
        seen.append(sorted(ctx.step_outputs))
        return Number(n=1)

    def deed(inp: Number, ctx: StepContext) -> None:
        if stop and ctx.idempotency_key.endswith(":1"):
            raise ValueError("no")

    def last(inp: Number, ctx: StepContext) -> None:
        if ctx.idempotency_key.endswith(":0"):
            raise ValueError("no")

    builder = SagaBuilder()
    for step in (story.step(deed), story.step(), story.step(last)):
        builder.add_step(step=step, input_map=look, retry_policy=retry(5))
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    await one.admin.retry_from(saga_id, "step_0")
    assert (await one.orchestrator.get_snapshot(saga_id)).outputs == {}
    stop.clear()
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert seen == [[], ["step_0"], ["step_0", "step_1"], [], ["step_0"], ["step_0", "step_1"]]


@pytest.mark.parametrize("taken_over", [False, True])
async def test_rollback_undoes_each_thing_that_was_done_newest_first(
    store: SagaStore, harness: StoreHarness, taken_over: bool
) -> None:
    """Each with its own input and output, and with a key of its own."""
    story = Story()
    amount = [10]

    def deed(inp: Number, ctx: StepContext) -> Number:
        amount[0] += 1
        return Number(n=amount[0])

    undo = fails(times=1) if taken_over else None
    steps = [story.step(), story.step(deed, undo), story.step(None, undo), story.step(fails())]
    one = saga(store, *steps, retry_policy=retry(9), compensation_retry_policy=retry(9))
    saga_id = await one.start()
    await one.admin.retry_from(saga_id, "step_1")
    await one.admin.retry_from(saga_id, "step_2")
    await one.admin.cancel(saga_id)
    while (await one.see(saga_id)).status is not SagaStatus.COMPENSATED:
        assert taken_over
        await harness.age(saga_id, HOUR)
        async with harness.open() as second:
            options: Any = {"retry_policy": retry(9), "compensation_retry_policy": retry(9)}
            await saga(second, *steps, **options).orchestrator.run_due()
    undone = [line for line in story.log if line.startswith("undo")]
    assert list(dict.fromkeys(undone)) == [
        "undo step_2 12->13",  # twice
        "undo step_1 2->12",
        "undo step_2 11->12",
        "undo step_1 2->11",
        "undo step_0 1->2",
    ]
    undo_keys = [key for key in keys(story) if ":undo:" in key]
    assert list(dict.fromkeys(undo_keys)) == [
        "step_2:undo:2",
        "step_2:undo:1",
        "step_1:undo:1",
        "step_2:undo:0",
        "step_1:undo:0",
        "step_0:undo:0",
    ]


async def test_what_was_done_before_is_undone_though_nothing_was_done_again(
    store: SagaStore,
) -> None:
    story = Story()
    broken = [False]

    def deed(inp: Number, ctx: StepContext) -> None:
        if broken[0]:
            raise ValueError("no")

    one = saga(store, story.step(deed), story.step(fails()), retry_policy=retry(5))
    saga_id = await one.start()
    broken[0] = True
    await one.admin.retry_from(saga_id, "step_0")
    assert (await one.see(saga_id)).outputs == {}
    await one.admin.compensate_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-1] == "undo step_0 1->2"


async def test_failed_saga_goes_back_and_takes_its_aggregate_again(store: SagaStore) -> None:
    story = Story()
    one = saga(store, *three(story, fails(times=1)), compensate_on_failure=False)
    saga_id = await one.start(aggregation_id="a")
    other = await one.start(aggregation_id="a", wait=False)
    with pytest.raises(Exception, match=str(other)):
        await one.admin.retry_from(saga_id, "step_0")
    await one.admin.abort(other)
    await one.admin.retry_from(saga_id, "step_0")
    kinds = [entry.kind.value for entry in (await one.see(saga_id)).step_history]
    assert "revived" in kinds


@pytest.mark.parametrize("status", ["COMPLETED", "COMPENSATED", "COMPENSATING"])
async def test_way_back_is_refused_after_the_end_and_in_a_rollback(
    store: SagaStore, status: str
) -> None:
    one, saga_id = await ended(store, status)
    call = one.admin.retry_from(saga_id, "step_0")
    await unchanged(store, saga_id, call, f"retry_from: the saga is {status}; it needs")


async def test_way_back_needs_a_step_that_is_done(store: SagaStore) -> None:
    one = saga(store, *three(Story()), retry_policy=retry(5))
    saga_id = await one.start()
    for step_id in ("step_2", "nowhere"):
        call = one.admin.retry_from(saga_id, step_id)
        await unchanged(store, saga_id, call, "is not done; done so far: step_0, step_1")
    await one.admin.pause(saga_id)
    await unchanged(store, saga_id, one.admin.retry_from(saga_id, "step_0"), "paused")


async def test_there_is_no_way_back_before_a_pivot_that_is_done(store: SagaStore) -> None:
    story = Story()
    builder = SagaBuilder()
    for number, step in enumerate([*three(story), story.step(fails())]):
        builder.add_step(
            step=step if number != 2 else story.step(),
            input_map=lambda ctx: Number(n=1),
            pivot=number == 1,
            retry_policy=retry(5),
        )
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    for step_id in ("step_0", "step_1"):
        call = one.admin.retry_from(saga_id, step_id)
        await unchanged(store, saga_id, call, "its pivot, step 'step_1', is done")
    await one.admin.retry_from(saga_id, "step_2")
    assert story.log[-2:] == ["do step_2", "do step_3"]


async def test_driven_saga_goes_back_once_the_step_in_flight_is_recorded(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(inp: Number, ctx: StepContext) -> None:
        await go.wait()

    def steps() -> Any:
        return story.step(), story.step(hold), story.step(fails())

    async with harness.open() as second:
        one = saga(store, *steps(), retry_policy=retry(5))
        other = saga(second, *steps(), retry_policy=retry(5))
        task = asyncio.create_task(one.start(saga_id=(chosen := uuid4())))
        await waits(lambda: len(story.log) == 2)
        await other.admin.retry_from(chosen, "step_0", wait=False)
        await other.admin.retry_from(chosen, "nowhere", actor="bob", wait=False)
        go.set()
        await task
        assert story.log == [f"do step_{n}" for n in (0, 1, 0, 1, 2)]
        ignored = [e for e in (await one.see(chosen)).step_history if e.kind == "command_ignored"]
        assert [entry.actor for entry in ignored] == ["bob"]
        await other.admin.cancel(chosen)
    undone = [line[:11] for line in story.log if line.startswith("undo")]
    assert undone == ["undo step_1", "undo step_0", "undo step_1", "undo step_0"]


# --- and another version -------------------------------------------------------------------------


async def test_saga_that_was_moved_to_another_version_does_not_go_back(store: SagaStore) -> None:
    story = Story()
    old = old_definition(story, None, fails(), retry_policy=retry(5))
    saga_id = await Release(store).register(old, "1").start()
    new = Release(store).register(old, "1").register(second(story), "2", {"1": to_second})
    await unchanged(store, saga_id, new.admin.retry_from(saga_id, "step_0"), "another version")


async def test_saga_that_went_back_is_left_to_the_version_that_has_done_it(
    store: SagaStore,
) -> None:
    story = Story()
    made = old_definition(story, None, fails(), retry_policy=retry(5))
    old = Release(store).register(made, "1")
    saga_id = await old.start()
    await old.admin.retry_from(saga_id, "step_0")
    bare = Upcaster(to_second, fingerprints=(made.fingerprint,))
    without = Release(store).register(second(story), "2", {"1": bare})
    with pytest.raises(SagaDefinitionError, match="it went back to an earlier step"):
        await without.admin.cancel(saga_id)
    new = Release(store).register(made, "1").register(second(story), "2", {"1": to_second})
    assert "moves it to version" not in await new.admin.explain(saga_id)
    await new.admin.cancel(saga_id)
    assert story.log[-2:] == ["undo step_0 1->2", "undo step_0 1->2"]


@pytest.mark.parametrize("is_parallel", [False, True])
async def test_event_that_changes_an_input_leaves_what_may_have_been_done_to_be_undone(
    store: SagaStore, is_parallel: bool
) -> None:
    """What was tried with the old input and key may stand outside, as after `edit_input`."""
    story = Story()
    builder = SagaBuilder(parallel=is_parallel)
    builder.add_step(
        step=story.uncertain(fails()),
        input_map=lambda ctx: Number(**(ctx.latest_event or ctx.initial_data)),
        step_id="charge",
        compensate_when="maybe_done",
        retry_policy=retry(3),
    )
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    snapshot = await one.see(saga_id)
    token = snapshot.branches[0].token if is_parallel else snapshot.step_execution_token
    assert token is not None
    notified = one.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 5})
    if is_parallel:
        with pytest.raises(SagaStateError, match="step 'charge' may have been done"):
            await notified
    else:
        assert await notified
    await one.admin.cancel(saga_id)
    ended = await one.see(saga_id)
    assert ended.status is SagaStatus.COMPENSATED
    undone = [line for line in story.log if line.startswith("undo")]
    changed = [] if is_parallel else ["undo charge 5->None"]
    assert undone == [*changed, "undo charge 1->None"]
