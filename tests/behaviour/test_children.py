"""A step starts another saga and waits for its end: its failure is the step's, its undoing too."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from saga_core import (
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
)
from saga_core.child import child_id_of
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry


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
        **options: Any,
    ) -> None:
        self.store = store
        self.story = Story()
        story = self.story
        inner = inner or (story.step(), story.step())
        self.orchestrator = SagaOrchestrator(store=store)
        self.orchestrator.register("child", child or definition(*inner))
        builder = SagaBuilder()
        builder.add_step(
            step=first or story.step(), step_id="first", input_map=lambda ctx: Number(n=1)
        )
        self.ref = builder.add_child(
            saga_name="child",
            step_id="child",
            input_map=lambda ctx: {"n": 10},
            **options,
        )
        builder.add_step(
            step=last or story.step(), step_id="last", input_map=lambda ctx: Number(n=100)
        )
        self.orchestrator.register("parent", builder.build())
        self.admin = SagaAdmin(engine=self.orchestrator.engine)

    async def start(self, **more: Any) -> UUID:
        return await self.orchestrator.start(saga_name="parent", initial_data={}, **more)

    async def settle(self, harness: StoreHarness, saga_id: UUID) -> Any:
        """Drive all there is to drive, and return how the parent stands."""
        for _ in range(10):
            for one in (saga_id, child_id_of(saga_id, "child", 0)):
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
