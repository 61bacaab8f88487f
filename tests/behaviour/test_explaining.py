"""`explain` says what is so, on every store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from saga_core import (
    ActiveSagaAlreadyExistsError,
    SagaAdmin,
    SagaNotFoundError,
    SagaOrchestrator,
    SagaStore,
)
from saga_testing import FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits


async def test_saga_is_explained_from_its_start_to_its_end(
    store: SagaStore, harness: StoreHarness
) -> None:
    go = asyncio.Event()

    async def hold(_: Number, ctx: Any) -> None:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        await go.wait()

    story = Story()
    one = saga(store, story.step(), story.step(hold), retry_policy=retry(3))
    saga_id = await one.start(wait=False)
    assert "for attempt 1 of step 'step_0'; it waits for a worker" in await one.admin.explain(
        saga_id
    )

    await one.orchestrator.run_due()
    said = await one.admin.explain(saga_id)
    assert "is SUSPENDED and waits until " in said
    assert said.endswith(
        "for attempt 2 of step 'step_1', because attempt 1 failed with 'ValueError: not yet'."
    )

    await harness.age(saga_id, HOUR)
    assert "and due since" in await one.admin.explain(saga_id)
    stranger = SagaAdmin(engine=SagaOrchestrator(store=store).engine)
    assert "is not registered here (no version is)" in await stranger.explain(saga_id)
    changed = saga(store, Story().step(), Story().step(), Story().step())
    assert "step 'step_2' was added after 'step_1'" in await changed.admin.explain(saga_id)

    drive = asyncio.create_task(one.orchestrator.run_due())
    await waits(lambda: len(story.log) == 3)
    said = await one.admin.explain(saga_id)
    assert f"worker {one.orchestrator.engine.worker} drives it, at attempt 2 of step" in said
    assert "and holds its lease until" in said

    go.set()
    await drive
    assert "ended as COMPLETED" in await one.admin.explain(saga_id)


async def test_lost_driver_a_stuck_rollback_and_an_abort_are_explained(
    store: SagaStore, harness: StoreHarness
) -> None:
    begun = asyncio.Event()

    async def hang(_: Number, ctx: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    lost = saga(store, Story().step(hang))
    task = asyncio.create_task(lost.start(saga_id=(lost_id := uuid4())))
    await begun.wait()
    await harness.age(lost_id, timedelta(hours=2))
    assert "and nobody has taken the saga over" in await lost.admin.explain(lost_id)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    one = saga(store, Story().step(undo=fails("cannot")), Story().step(fails("no")))
    saga_id = await one.start()
    said = await one.admin.explain(saga_id)
    assert "is STUCK at undoing step 'step_0', with the last error 'ValueError: cannot'" in said
    assert "retry_step, skip_compensation, compensate_step or abort ends that" in said
    await one.admin.abort(saga_id, reason="enough")
    said = await one.admin.explain(saga_id)
    assert "ended as FAILED" in said
    assert "aborted: enough" in said


async def test_unknown_saga_cannot_be_explained(store: SagaStore) -> None:
    with pytest.raises(SagaNotFoundError):
        await saga(store, Story().step()).admin.explain(uuid4())


async def test_attempt_that_the_deadline_forestalls_is_not_promised(store: SagaStore) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(5, 3 * HOUR))
    said = await one.admin.explain(await one.start(deadline=HOUR))
    assert "when its deadline comes before attempt 2 of step 'step_0'" in said
    said = await one.admin.explain(await one.start(deadline=9 * HOUR))
    assert "for attempt 2 of step 'step_0'" in said


async def test_beginning_after_the_deadline_is_told_as_what_it_is(store: SagaStore) -> None:
    one = saga(store, Story().step())
    begins, deadline = datetime(2150, 1, 2, tzinfo=UTC), datetime(2150, 1, 1, tzinfo=UTC)
    said = await one.admin.explain(await one.start(start_at=begins, deadline=deadline))
    assert "to begin at 2150-01-02 00:00:00" in said
    assert "its deadline is at 2150-01-01 00:00:00" in said


@pytest.mark.parametrize("wait", [True, False])
async def test_failed_saga_whose_aggregate_is_taken_offers_nothing_before_that_ends(
    store: SagaStore, wait: bool
) -> None:
    steps = Story().step(), Story().step(fails("no"), undo=fails("no"))
    one = saga(store, *steps, compensate_on_failure=False, retry_policy=retry(1))
    failed = await one.start(aggregation_id="a")
    alone = await one.start()
    offered = "; retry_step goes on with it, compensate_step rolls back what was done"
    assert offered in await one.admin.explain(failed)
    one.orchestrator.register("other", definition(Story().step(fails()), retry_policy=retry(2)))
    holder = await one.start(saga_name="other", aggregation_id="a", wait=wait)
    queued = await one.start(saga_name="other", aggregation_id="a", on_conflict="queue")
    said = await one.admin.explain(failed)
    assert offered not in said
    assert f"; once saga {holder} has ended, which holds aggregate 'a' now, retry_step goes" in said
    for command in ("retry_step", "compensate_step"):
        with pytest.raises(ActiveSagaAlreadyExistsError):
            await getattr(one.admin, command)(failed)
    for each in (queued, holder):
        await one.admin.abort(each)
    assert offered in await one.admin.explain(failed)
    assert offered in await one.admin.explain(alone)


async def test_only_a_saga_without_its_aggregate_is_explained_with_a_second_look(
    store: SagaStore,
) -> None:
    faulty = FaultyStore(store)
    steps = Story().step(), Story().step(fails("no"))
    one = saga(faulty, *steps, compensate_on_failure=False, retry_policy=retry(1))
    one.orchestrator.register("other", definition(Story().step(fails()), retry_policy=retry(2)))
    looks = []
    for saga_id in (
        await one.start(aggregation_id="a"),
        await one.start(),
        await one.start(saga_name="other", aggregation_id="b"),
    ):
        before = faulty.calls_of("find")
        await one.admin.explain(saga_id)
        looks.append(faulty.calls_of("find") - before)
    assert looks == [1, 0, 0]
