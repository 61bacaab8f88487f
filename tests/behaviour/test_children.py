"""A step starts another saga and waits for its end: its failure is the step's, its undoing too."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    ChildResult,
    ChildStart,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    SagaStore,
    Sleep,
    StepContext,
)
from saga_core.child import DEEPEST, child_id_of
from saga_core.errors import SagaError
from saga_core.records import SagaRecord
from saga_testing import FaultyStore, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry
from tests.behaviour.hooked import Outbox, hooked


class Family:
    """A parent of three steps, of which the second is a child saga of two."""

    def __init__(
        self,
        store: SagaStore,
        *,
        first: Any = None,
        inner: tuple[Any, ...] | None = None,
        last: Any = None,
        child: SagaDefinition | None = None,
        story: Story | None = None,
        parallel: bool = False,
        start: Any = None,
        **options: Any,
    ) -> None:
        self.store = store
        self.story = story = story or Story()
        inner = inner or (story.step(), story.step())
        self.orchestrator = SagaOrchestrator(store=store)
        self.orchestrator.register("child", child or definition(*inner))
        builder = SagaBuilder(parallel=parallel)
        before = builder.add_step(
            step=first or story.step(), step_id="first", input_map=lambda ctx: Number(n=1)
        )
        self.ref = builder.add_child(
            saga_name="child",
            step_id="child",
            depends_on=before,
            input_map=lambda out: start or {"n": 10},
            **options,
        )
        builder.add_step(
            step=last or story.step(),
            step_id="last",
            depends_on=self.ref,
            input_map=lambda out: Number(n=100),
        )
        self.orchestrator.register("parent", builder.build())
        self.admin = SagaAdmin(engine=self.orchestrator.engine)

    async def start(self, **more: Any) -> UUID:
        return await self.orchestrator.start(saga_name="parent", initial_data={}, **more)

    async def settle(self, harness: StoreHarness, saga_id: UUID) -> Any:
        """Drive all there is to drive, and return how the parent stands."""
        for _ in range(10):
            parent = await self.admin.get_saga(saga_id)
            for one in (saga_id, *(child.saga_id for child in parent.children)):
                await harness.age(one, HOUR)
            if not await self.orchestrator.run_due():
                break
        return await self.admin.get_saga(saga_id)


async def test_parent_goes_on_with_what_its_child_has_put_out(
    store: SagaStore, harness: StoreHarness
) -> None:
    family = Family(store)
    saga_id = await family.start()
    waiting = await family.admin.get_saga(saga_id)
    assert (waiting.status, waiting.current_step_id) == (SagaStatus.SUSPENDED, "child")
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPLETED
    result = after.output_of(family.ref)
    assert result.saga_id == child_id_of(saga_id, "child", 0)
    assert result.outputs == {"step_0": {"n": 11}, "step_1": {"n": 12}}
    assert family.story.log == ["do first", "do step_0", "do step_1", "do last"]


async def test_failure_of_the_child_is_the_failure_of_the_step(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    family = Family(store, inner=(story.step(), story.step(fails("broken"))))
    saga_id = await family.start()
    after = await family.settle(harness, saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "ChildFailedError")
    assert "broken" in (after.last_error or "")
    assert story.log == ["do step_0", "do step_1", "undo step_0 10->11"]
    assert family.story.log == ["do first", "undo first 1->2"]


async def test_parent_that_fails_later_rolls_the_completed_child_back(
    store: SagaStore, harness: StoreHarness
) -> None:
    family = Family(store, last=Story().step(fails("late")))
    saga_id = await family.start()
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPENSATED, await family.admin.explain(saga_id)
    assert family.story.log == [
        "do first",
        "do step_0",
        "do step_1",
        "undo step_1 11->12",
        "undo step_0 10->11",
        "undo first 1->2",
    ]
    child = await family.admin.get_saga(child_id_of(saga_id, "child", 0))
    assert child.status is SagaStatus.COMPENSATED


async def test_cancel_of_the_parent_cancels_the_running_child(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    inner = story.step(), story.step(fails("busy"))
    family = Family(store, child=definition(*inner, retry_policy=retry(5)))
    saga_id = await family.start()
    await family.orchestrator.run_due()
    child_id = child_id_of(saga_id, "child", 0)
    assert (await family.admin.get_saga(child_id)).status is SagaStatus.SUSPENDED
    await family.admin.cancel(saga_id)
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPENSATED, await family.admin.explain(saga_id)
    assert (await family.admin.get_saga(child_id)).status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "do step_1", "undo step_0 10->11"]
    assert family.story.log == ["do first", "undo first 1->2"]


async def test_each_attempt_of_a_child_is_another_saga(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    tries: list[int] = []

    def at_second(_: Number, ctx: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not yet")

    family = Family(store, inner=(story.step(at_second),), retry_policy=retry(2, HOUR))
    saga_id = await family.start()
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(saga_id)
    first, second = (child_id_of(saga_id, "child", number) for number in (0, 1))
    assert (await family.admin.get_saga(first)).status is SagaStatus.COMPENSATED
    assert after.output_of(family.ref).saga_id == second


@pytest.mark.parametrize("way", ["retry_step", "skip_compensation"])
async def test_rollback_that_the_child_is_stuck_in_is_stuck_with_its_id(
    store: SagaStore, harness: StoreHarness, way: str
) -> None:
    story = Story()
    trouble = [True]

    def busy(_: Number, ctx: Any) -> None:
        if trouble:
            raise ValueError("busy")

    family = Family(store, inner=(story.step(undo=busy),), last=Story().step(fails("late")))
    saga_id = await family.start()
    child_id = child_id_of(saga_id, "child", 0)
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.STUCK, await family.admin.explain(saga_id)
    assert str(child_id) in (after.last_error or "")
    assert (await family.admin.get_saga(child_id)).status is SagaStatus.STUCK
    trouble.clear()
    if way == "skip_compensation":
        await family.admin.skip_compensation(saga_id, reason="by hand")
        after = await family.admin.get_saga(saga_id)
    else:
        await family.admin.retry_step(saga_id)  # which has the child try again, too
        after = await family.settle(harness, saga_id)
        assert (await family.admin.get_saga(child_id)).status is SagaStatus.COMPENSATED
    assert after.status is SagaStatus.COMPENSATED


# --- what an operator sees and does -------------------------------------------------------------


async def test_both_sides_name_each_other(store: SagaStore, harness: StoreHarness) -> None:
    family = Family(store, child=definition(Story().step(fails()), retry_policy=retry(3)))
    saga_id = await family.start(trace_id="trace")
    await family.orchestrator.run_due()
    child_id = child_id_of(saga_id, "child", 0)
    parent, child = [await family.admin.get_saga(each) for each in (saga_id, child_id)]
    (link,) = parent.children
    assert (link.saga_id, link.saga_name, link.step_id) == (child_id, "child", "child")
    assert parent.parent is None
    assert child.parent is not None
    assert (child.parent.saga_id, child.parent.saga_name) == (saga_id, "parent")
    assert (child.children, child.trace_id, child.aggregation_id) == ((), "trace", None)
    assert f"waits for the end of its child saga {child_id}" in await family.admin.explain(saga_id)
    said = await family.admin.explain(child_id)
    assert f"step 'child' of saga {saga_id} has started it as a child" in said


@pytest.mark.parametrize("command", ["retry_step", "cancel", "compensate_step"])
async def test_failed_child_whose_parent_has_moved_on_is_not_revived(
    store: SagaStore, harness: StoreHarness, command: str
) -> None:
    story = Story()
    inner = definition(story.step(), story.step(fails()), compensate_on_failure=False)
    family = Family(store, child=inner)
    saga_id = await family.start()
    after = await family.settle(harness, saga_id)
    child_id = child_id_of(saga_id, "child", 0)
    assert after.status is SagaStatus.COMPENSATED
    assert (await family.admin.get_saga(child_id)).status is SagaStatus.FAILED
    before = (await store.export(child_id)).history
    with pytest.raises(SagaStateError, match=f"child of saga {saga_id}.*has moved on"):
        await getattr(family.admin, command)(child_id)
    assert (await store.export(child_id)).history == before
    report = await family.admin.bulk("retry_step", status=SagaStatus.FAILED, name="child")
    (item,) = [each for each in report.items if each.saga_id == child_id]
    assert "moved on" in (item.why or "")


async def test_aborted_child_is_revived_while_its_parent_is_paused_and_waits_for_it(
    store: SagaStore, harness: StoreHarness
) -> None:
    trouble = [True]

    def busy(_: Number, ctx: StepContext) -> None:
        if trouble:
            raise ValueError("busy")

    child = definition(Story().step(busy), retry_policy=retry(9, 99 * HOUR))
    family = Family(store, child=child)
    saga_id = await family.start()
    await family.orchestrator.run_due()
    await family.admin.pause(saga_id)
    child_id = child_id_of(saga_id, "child", 0)
    await family.admin.abort(child_id, wait=True)
    trouble.clear()
    await family.admin.retry_step(child_id)
    assert (await family.admin.get_saga(child_id)).status is SagaStatus.COMPLETED
    await family.admin.resume(saga_id)
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(saga_id)
    assert after.output_of(family.ref).saga_id == child_id


async def test_stuck_child_lets_its_parent_wait_until_a_person_has_helped(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    family = Family(store, child=definition(story.step(), story.step(fails()), pivot=0))
    saga_id = await family.start()
    after = await family.settle(harness, saga_id)
    child_id = child_id_of(saga_id, "child", 0)
    assert (after.status, after.current_step_id) == (SagaStatus.SUSPENDED, "child")
    assert (await family.admin.get_saga(child_id)).status is SagaStatus.STUCK
    await family.admin.skip_step(child_id, mock_output={"n": 40})
    assert (await family.settle(harness, saga_id)).status is SagaStatus.COMPLETED


async def test_child_past_its_pivot_cannot_be_rolled_back_and_the_parent_says_so(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    family = Family(
        store, child=definition(story.step(), pivot=0), last=Story().step(fails("late"))
    )
    saga_id = await family.start()
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.STUCK
    assert str(child_id_of(saga_id, "child", 0)) in (after.last_error or "")
    assert "pivot" in (after.last_error or "")


async def test_child_that_takes_too_long_is_cancelled(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    busy = definition(story.step(), story.step(fails()), retry_policy=retry(9, 9 * HOUR))
    family = Family(store, child=busy, timeout=HOUR)
    saga_id = await family.start()
    await family.orchestrator.run_due()
    await harness.age(saga_id, HOUR)
    assert await family.orchestrator.run_due() >= 1
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPENSATED, await family.admin.explain(saga_id)
    assert after.error_code == "WaitTimedOutError"
    child = await family.admin.get_saga(child_id_of(saga_id, "child", 0))
    assert child.status is SagaStatus.COMPENSATED


async def test_hooks_of_a_child_run_before_its_parent_hears_of_its_end(
    store: SagaStore, harness: StoreHarness
) -> None:
    outbox, story = Outbox(), Story()
    outbox.down("COMPLETED")
    family = Family(
        store, story=story, child=hooked(story.step(), outbox=outbox, hooks=("on_completed",))
    )
    saga_id = await family.start()
    after = await family.settle(harness, saga_id)
    child_id = child_id_of(saga_id, "child", 0)
    assert (after.status, story.log[-1]) == (SagaStatus.SUSPENDED, "do step_0")
    assert (await family.admin.get_saga(child_id)).current_step_id == "on_completed"
    outbox.up()
    await family.admin.retry_step(child_id)
    assert (await family.settle(harness, saga_id)).status is SagaStatus.COMPLETED
    assert outbox.topics == ["COMPLETED"]


async def test_each_end_of_a_child_is_told_whatever_its_hooks_went_through_before(
    store: SagaStore, harness: StoreHarness
) -> None:
    outbox, story = Outbox(), Story()
    outbox.down("COMPLETED")
    child = hooked(story.step(), outbox=outbox, hooks=("on_completed", "on_stuck"))
    family = Family(store, story=story, child=child, last=story.step(fails("late")))
    saga_id = await family.start()
    await family.settle(harness, saga_id)
    outbox.up()
    await family.admin.retry_step(child_id_of(saga_id, "child", 0))  # it had told of being STUCK
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPENSATED, await family.admin.explain(saga_id)


async def test_child_that_turns_back_by_itself_while_it_is_recalled_is_rolled_back(
    store: SagaStore,
) -> None:
    """It is COMPENSATED when the command reaches it, and was not when its parent looked."""
    looks = 0

    class Watched(FaultyStore):
        async def load(self, saga_id: UUID) -> SagaRecord:
            nonlocal looks
            looks += saga_id == child_id
            if saga_id == child_id and looks == 2:
                await other.admin.cancel(child_id)
            return await super().load(saga_id)

    story = Story()
    inner = (story.step(), story.step(sleeps))
    other = Family(store, story=story, inner=inner)
    saga_id = await other.start()
    child_id = child_id_of(saga_id, "child", 0)
    await other.orchestrator.run_due()
    family = Family(Watched(store), story=story, inner=inner)
    await family.admin.cancel(saga_id)
    assert looks >= 2
    after = await family.admin.get_saga(saga_id)
    assert after.status is SagaStatus.COMPENSATED, await family.admin.explain(saga_id)
    assert (await family.admin.get_saga(child_id)).status is SagaStatus.COMPENSATED


# --- a child that was purged --------------------------------------------------------------------


async def purged(store: SagaStore, harness: StoreHarness, child_id: UUID) -> None:
    await harness.age(child_id, 2 * HOUR)
    assert await store.purge(finished_for=HOUR, limit=10, saga_name="child") == 1


@pytest.mark.parametrize("parallel", [False, True])
async def test_child_that_was_purged_before_its_parent_looked_is_not_run_again(
    store: SagaStore, harness: StoreHarness, parallel: bool
) -> None:
    """Nobody can say any more how it ended."""
    family = Family(store, parallel=parallel)
    saga_id = await family.start()
    child_id = child_id_of(saga_id, "child", 0)
    alone = SagaOrchestrator(store=store)
    alone.register("child", family.orchestrator.engine.registry.latest("child").definition)
    assert await alone.run_due() == 1
    done = list(family.story.log)
    await purged(store, harness, child_id)
    assert await family.orchestrator.run_due() == 1
    after = await family.admin.get_saga(saga_id)
    assert after.status is SagaStatus.STUCK
    assert f"child saga {child_id} is not in the store any more" in (after.last_error or "")
    assert family.story.log == done
    await family.admin.retry_step(saga_id)
    assert (await family.admin.get_saga(saga_id)).status is SagaStatus.STUCK
    output = {"saga_id": str(child_id), "saga_name": "child", "outputs": {}}
    await family.admin.skip_step(saga_id, step_id="child", mock_output=output)
    assert (await family.admin.get_saga(saga_id)).status is SagaStatus.COMPLETED


async def test_rollback_over_a_child_that_was_purged_is_stuck_and_says_so(
    store: SagaStore, harness: StoreHarness
) -> None:
    family = Family(store, last=Story().step(sleeps))
    saga_id = await family.start()
    await family.orchestrator.run_due()
    assert (await family.admin.get_saga(saga_id)).waiting_for == "sleep"
    child_id = child_id_of(saga_id, "child", 0)
    await purged(store, harness, child_id)
    await family.admin.cancel(saga_id)
    after = await family.admin.get_saga(saga_id)
    assert after.status is SagaStatus.STUCK
    assert f"child saga {child_id} is not in the store any more" in (after.last_error or "")
    await family.admin.skip_compensation(saga_id, reason="undone by hand", actor="ann")
    assert (await family.admin.get_saga(saga_id)).status is SagaStatus.COMPENSATED


async def test_rollback_over_a_child_that_a_person_named_and_that_is_not_there_is_stuck(
    store: SagaStore,
) -> None:
    """What he gave for the step is no child that the saga has started."""
    family = Family(store, inner=(Story().step(sleeps),), last=Story().step(sleeps))
    saga_id = await family.start()
    unknown = uuid4()
    output = {"saga_id": str(unknown), "saga_name": "child", "outputs": {}}
    await family.admin.skip_step(saga_id, step_id="child", mock_output=output)
    await family.admin.cancel(saga_id)
    after = await family.admin.get_saga(saga_id)
    assert after.status is SagaStatus.STUCK
    assert f"child saga {unknown} is not in the store any more" in (after.last_error or "")


async def test_rollback_over_a_saga_that_is_no_child_of_it_is_stuck_and_leaves_that_alone(
    store: SagaStore,
) -> None:
    """Nobody had it when the step was skipped; by now another saga goes by the id."""
    family = Family(store, inner=(Story().step(sleeps),), last=Story().step(sleeps))
    family.orchestrator.register("order", definition(family.story.step()))
    saga_id, other = await family.start(), uuid4()
    output = {"saga_id": str(other), "saga_name": "child", "outputs": {}}
    await family.admin.skip_step(saga_id, step_id="child", mock_output=output)
    await family.orchestrator.start(saga_name="order", initial_data={"n": 1}, saga_id=other)
    before = (await store.export(other)).history
    await family.admin.cancel(saga_id)
    after = await family.admin.get_saga(saga_id)
    assert after.status is SagaStatus.STUCK
    assert f"saga {other} is no child of this saga" in (after.last_error or "")
    assert (await store.export(other)).history == before
    await family.admin.skip_compensation(saga_id, reason="undone by hand", actor="ann")
    assert (await family.admin.get_saga(saga_id)).status is SagaStatus.COMPENSATED


@pytest.mark.parametrize("whose", ["another", "its own", "a sibling step's"])
async def test_step_is_not_skipped_with_a_saga_that_is_no_child_of_it(
    store: SagaStore, whose: str
) -> None:
    family = Family(store, inner=(Story().step(sleeps),))
    builder = SagaBuilder(parallel=True)
    for step_id in ("left", "right"):
        builder.add_child(saga_name="child", step_id=step_id, input_map=lambda ctx: {"n": 1})
    family.orchestrator.register("twins", builder.build())
    saga_id = await family.orchestrator.start(saga_name="twins", initial_data={})
    named = {
        "another": await family.orchestrator.start(saga_name="child", initial_data={"n": 1}),
        "its own": saga_id,
        "a sibling step's": child_id_of(saga_id, "right", 0),
    }[whose]
    before = (await store.export(saga_id)).history
    output = ChildResult(saga_id=named, saga_name="child")
    with pytest.raises(SagaStateError, match=f"saga {named} is no child of step 'left'") as refused:
        await family.admin.skip_step(saga_id, output, step_id="left")
    assert refused.value.saga_id == saga_id
    assert (await store.export(saga_id)).history == before
    output = ChildResult(saga_id=child_id_of(saga_id, "left", 0), saga_name="child")
    await family.admin.skip_step(saga_id, output, step_id="left")


def sleeps(_: Number, ctx: StepContext) -> Any:
    return Sleep(HOUR)


# --- aggregates ---------------------------------------------------------------------------------


async def test_child_holds_the_aggregate_that_it_is_given(
    store: SagaStore, harness: StoreHarness
) -> None:
    aggregate = f"room-{uuid4()}"
    start = ChildStart(initial_data={"n": 10}, aggregation_id=aggregate, tags=("inner",))
    family = Family(store, start=start, retry_policy=retry(2, HOUR))
    holding = await family.orchestrator.start(
        saga_name="child", initial_data={"n": 1}, aggregation_id=aggregate, delay=99 * HOUR
    )
    saga_id = await family.start()
    after = await family.admin.get_saga(saga_id)
    assert (after.status, after.error_code) == (
        SagaStatus.SUSPENDED,
        "ActiveSagaAlreadyExistsError",
    )
    assert after.children == ()
    await family.admin.cancel(holding)
    after = await family.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(saga_id)
    child = await family.admin.get_saga(after.output_of(family.ref).saga_id)
    assert (child.aggregation_id, child.tags) == (aggregate, ("inner",))


# --- parallel parents ---------------------------------------------------------------------------


async def test_parallel_parent_waits_for_its_child_and_rolls_it_back(
    store: SagaStore, harness: StoreHarness
) -> None:
    family = Family(store, parallel=True)
    after = await family.settle(harness, await family.start())
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(after.saga_id)
    failing = Family(store, parallel=True, last=Story().step(fails("late")))
    saga_id = await failing.start()
    after = await failing.settle(harness, saga_id)
    assert after.status is SagaStatus.COMPENSATED, await failing.admin.explain(saga_id)
    child = await failing.admin.get_saga(child_id_of(saga_id, "child", 0))
    assert child.status is SagaStatus.COMPENSATED


# --- bad input ----------------------------------------------------------------------------------


def parent_of(*names: str) -> SagaDefinition:
    builder = SagaBuilder()
    for name in names:
        builder.add_child(saga_name=name, input_map=lambda ctx: {"n": 1})
    return builder.build()


async def test_child_that_is_not_registered_is_refused_at_the_start(store: SagaStore) -> None:
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("outer", parent_of("inner"))
    saga_id = uuid4()
    with pytest.raises(SagaDefinitionError, match="saga 'inner', a child of saga 'outer', is not"):
        await orchestrator.start(saga_name="outer", initial_data={}, saga_id=saga_id)
    with pytest.raises(SagaError):
        await store.load(saga_id)


async def test_worker_that_has_not_the_child_leaves_the_parent_to_others(
    store: SagaStore, harness: StoreHarness
) -> None:
    family = Family(store)
    saga_id = await family.start(wait=False)
    poor = SagaOrchestrator(store=store)
    poor.register("parent", family.orchestrator.engine.registry.latest("parent").definition)
    before = (await store.export(saga_id)).history
    await poor.run_due(limit=1)
    assert (await store.export(saga_id)).history == before
    said = await SagaAdmin(engine=poor.engine).explain(saga_id)
    assert "saga 'child', a child of saga 'parent', is not registered here" in said
    assert (await family.settle(harness, saga_id)).status is SagaStatus.COMPLETED


def test_saga_that_would_start_itself_without_end_is_refused() -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    with pytest.raises(SagaDefinitionError, match="itself without end: 'a' -> 'a'"):
        orchestrator.register("a", parent_of("a"))
    orchestrator.register("a", parent_of("b"))
    orchestrator.register("b", parent_of("c"))
    with pytest.raises(SagaDefinitionError, match="without end: 'c' -> 'a' -> 'b' -> 'c'"):
        orchestrator.register("c", parent_of("a"))


def test_chain_of_children_has_a_bound() -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    orchestrator.register("level0", definition(Story().step()))
    for level in range(1, DEEPEST + 1):
        orchestrator.register(f"level{level}", parent_of(f"level{level - 1}"))
    with pytest.raises(SagaDefinitionError, match="more than 10 levels deep"):
        orchestrator.register("top", parent_of(f"level{DEEPEST}"))


def test_sagas_that_start_each_other_by_many_ways_are_looked_at_once_a_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    registry, wide = orchestrator.engine.registry, 3
    levels = [[f"{level}-{at}" for at in range(wide)] for level in range(DEEPEST + 1)]
    for name in levels[0]:
        orchestrator.register(name, definition(Story().step()))
    for below, level in pairwise(levels):
        for name in level:
            orchestrator.register(name, parent_of(*below))
    looks = 0
    children = vars(SagaDefinition)["children"].func

    def counted(one: SagaDefinition) -> Any:
        nonlocal looks
        looks += 1
        return children(one)

    monkeypatch.setattr(SagaDefinition, "children", property(counted))
    orchestrator.register("other", parent_of(*levels[-2]))
    assert 0 < looks <= (wide * DEEPEST + 1) * DEEPEST
    looks = 0
    registry.starting("other", None)
    assert 0 < looks <= wide * DEEPEST + 3


async def test_children_as_deep_as_is_allowed_complete(
    store: SagaStore, harness: StoreHarness
) -> None:
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("level0", definition(Story().step()))
    for level in range(1, DEEPEST + 1):
        orchestrator.register(f"level{level}", parent_of(f"level{level - 1}"))
    saga_id = await orchestrator.start(saga_name=f"level{DEEPEST}", initial_data={})
    for _ in range(3 * DEEPEST):
        await orchestrator.run_due()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED


# --- workers that die ---------------------------------------------------------------------------


class Died(BaseException):
    """The process of a driver is gone."""


@pytest.mark.parametrize("road", ["completed", "child fails", "parent fails", "cancelled"])
async def test_family_comes_to_its_end_when_a_worker_dies_at_any_store_call(
    store: SagaStore, harness: StoreHarness, road: str
) -> None:
    def family(on: SagaStore, story: Story) -> Family:
        fault = story.step(fails()) if road == "child fails" else story.step()
        last = story.step(fails("late")) if road == "parent fails" else story.step()
        return Family(on, story=story, inner=(story.step(), fault), last=last)

    async def live(one: Family, saga_id: UUID) -> None:
        await one.start(saga_id=saga_id)
        if road == "cancelled":
            await one.admin.cancel(saga_id)
        for _ in range(4):
            await one.orchestrator.run_due()

    rehearsal = FaultyStore(store)
    await live(family(rehearsal, Story()), uuid4())
    moments = [
        (call.method, call.ordinal, when)
        for call in rehearsal.calls
        if call.method in ("create", "commit", "signal", "release")
        for when in ("before", "after")
    ]
    assert len(moments) > 16
    for moment in moments:
        story, dead = Story(), False

        def probe(method: str, ordinal: int, when: str, at: Any = moment) -> None:
            nonlocal dead
            if (method, ordinal, when) == at or dead:
                dead = True
                raise Died

        saga_id = uuid4()
        mortal = family(FaultyStore(store, probe=probe), story)
        with contextlib.suppress(Died, SagaError):
            await live(mortal, saga_id)
        other = family(store, story)
        await other.start(saga_id=saga_id, wait=False)
        after = await other.settle(harness, saga_id)
        if road == "cancelled" and after.status is SagaStatus.COMPLETED:
            continue  # whoever had asked for it was dead before it was on record
        good = road in ("completed",)
        wanted = SagaStatus.COMPLETED if good else SagaStatus.COMPENSATED
        assert after.status is wanted, (moment, await other.admin.explain(saga_id))
        children = [await other.admin.get_saga(each.saga_id) for each in after.children]
        assert all(each.status is wanted for each in children), moment
        if not good:
            done = {line.split()[1] for line in story.log if line.startswith("do")}
            undone = {line.split()[1] for line in story.log if line.startswith("undo")}
            failed = {"child fails": {"step_1"}, "parent fails": {"last"}}.get(road, set())
            assert done - undone <= failed, (moment, story.log)


async def test_deploy_without_a_child_is_told_what_is_missing(store: SagaStore) -> None:
    family = Family(store)
    saga_id = await family.start()
    assert (await family.orchestrator.check_definitions()).ok
    poor = SagaOrchestrator(store=store)
    poor.register("parent", family.orchestrator.engine.registry.latest("parent").definition)
    report = await poor.check_definitions()
    (needed,) = [each for each in report.definitions if each.example == saga_id]
    assert "'child', a child of saga 'parent', is not registered" in str(needed.differences)
