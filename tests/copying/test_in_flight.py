"""A saga that is copied in the middle of its life ends in the other store, no step done twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import permutations
from uuid import UUID

import pytest

from saga_core import CopyReport, SagaStatus, SagaWorker, copy_sagas
from saga_core.step import StepContext
from saga_testing import ManualClock, MemoryStore
from saga_testing.conformance.sagas import LEASE, claim, leased

from ..behaviour.cast import HOUR, Number, Story, definition, retry, saga
from .conftest import KINDS, OpenEmpty

SOON = timedelta(milliseconds=5)


class Failing:
    """Fails for as long as `healed` is False."""

    healed = False

    def __call__(self, inp: Number, ctx: StepContext) -> None:
        if not self.healed:
            raise ValueError("not yet")


@pytest.mark.parametrize(("source", "target"), list(permutations(KINDS, 2)))
async def test_sagas_in_flight_end_at_the_target_and_no_step_is_done_twice(
    empty: OpenEmpty, source: str, target: str
) -> None:
    old, new = await empty(source), await empty(target)
    story, trouble = Story(), Failing()
    made = definition(story.step(), story.step(trouble), story.step(), retry_policy=retry(50, SOON))
    before = saga(old, made=made)
    fresh: UUID = await before.start(wait=False)
    waiting: UUID = await before.start(aggregation_id="order-1")
    assert (await before.see(waiting)).status is SagaStatus.SUSPENDED
    assert story.log == ["do step_0", "do step_1"]

    assert await copy_sagas(old, new) == CopyReport(copied=2)
    trouble.healed = True
    after = saga(new, made=made)
    await _end(after, fresh, waiting)

    for saga_id in (fresh, waiting):
        assert (await after.see(saga_id)).status is SagaStatus.COMPLETED
    done = story.log
    assert [done.count(f"do step_{n}") for n in range(3)] == [2, 3, 2]  # one retry of step_1
    assert await copy_sagas(old, new) == CopyReport(moved_on=2)


async def test_saga_takes_its_beginning_and_its_deadline_along(empty: OpenEmpty) -> None:
    old, new = await empty("memory"), await empty("sqlite")
    made = definition(Story().step())
    before = await saga(old, made=made).run(delay=HOUR, deadline=HOUR)
    await copy_sagas(old, new)
    after = await saga(new, made=made).see(before.saga_id)
    assert before.starts_at is not None
    assert (after.starts_at, after.deadline_at) == (before.starts_at, before.deadline_at)
    assert after.saga_deadline_at == before.starts_at + HOUR


async def _end(cast: saga, *ids: UUID) -> None:
    async with SagaWorker(cast.orchestrator, poll_interval=SOON):
        await asyncio.gather(*(cast.orchestrator.wait(one, timeout=20) for one in ids))


@pytest.mark.parametrize("target", KINDS)
async def test_rollback_goes_on_at_the_target(empty: OpenEmpty, target: str) -> None:
    old, new = await empty("memory"), await empty(target)
    story, trouble = Story(), Failing()

    def no(_: Number, __: StepContext) -> None:
        raise ValueError("no")

    made = definition(story.step(undo=trouble), story.step(), story.step(no))
    before = saga(old, made=made)
    saga_id: UUID = await before.start()
    assert (await before.see(saga_id)).status is SagaStatus.STUCK

    assert (await copy_sagas(old, new)).copied == 1
    trouble.healed = True
    after = saga(new, made=made)
    assert (await after.see(saga_id)).status is SagaStatus.STUCK
    await after.admin.retry_step(saga_id, actor="me", reason="mended")

    assert (await after.see(saga_id)).status is SagaStatus.COMPENSATED
    assert [line for line in story.log if line.startswith("undo step_1")] == ["undo step_1 2->3"]


async def test_lease_that_came_over_keeps_the_saga_until_it_ends() -> None:
    clock = ManualClock()
    old, new = MemoryStore(clock=clock), MemoryStore(clock=clock)
    await old.create(leased("worker-of-old"))
    await copy_sagas(old, new, allow_held=True)

    assert (await claim(new)).records == ()
    clock.advance(LEASE)
    (taken,) = (await claim(new)).records
    assert (taken.reclaimed, taken.fence) == (True, 2)
