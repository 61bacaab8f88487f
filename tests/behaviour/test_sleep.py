"""A step sleeps in the store: by its clock, through restarts, and no longer than it was told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from saga_core import AwaitEvent, SagaStatus, SagaStore, Sleep, StepContext
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, fails, saga


class Ping(BaseModel):
    n: int = 1


def sleeps(*lengths: timedelta, until: datetime | None = None) -> Any:
    """Return a deed that sleeps that often, and puts out how often it has slept."""

    def deed(inp: Number, ctx: StepContext) -> Any:
        if until is not None and not ctx.woken:
            return Sleep(until=until)
        if ctx.waits < len(lengths):
            return Sleep(lengths[ctx.waits])
        return Number(n=ctx.waits)

    return deed


async def test_sleep_ends_by_the_clock_of_the_store(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(sleeps(HOUR)), story.step())
    saga_id = await one.start()
    asleep = await one.see(saga_id)
    assert (asleep.status, asleep.waiting_for) == (SagaStatus.SUSPENDED, "sleep")
    assert asleep.worker is None
    assert await one.orchestrator.run_due() == 0
    await harness.age(saga_id, HOUR)
    other = saga(store, story.step(sleeps(HOUR)), story.step())  # another process
    assert await other.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.outputs["step_0"]) == (SagaStatus.COMPLETED, {"n": 1})
    first, second = story.contexts[:2]
    assert (first.woken, first.waits, second.woken, second.waits) == (False, 0, True, 1)
    assert (first.attempt, first.idempotency_key) == (second.attempt, second.idempotency_key)


async def test_step_may_sleep_again(store: SagaStore, harness: StoreHarness) -> None:
    story = Story()
    one = saga(store, story.step(sleeps(HOUR, 2 * HOUR, 3 * HOUR)))
    saga_id = await one.start()
    for length in (1, 2, 3):
        assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED
        await harness.age(saga_id, length * HOUR)
        assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 3}}


async def test_sleep_until_a_time(store: SagaStore) -> None:
    story = Story()
    moment = datetime.now(UTC) + timedelta(days=30)
    one = saga(store, story.step(sleeps(until=moment)))
    asleep = await one.run()
    assert asleep.deadline_at is not None
    assert abs(asleep.deadline_at - moment) < timedelta(milliseconds=1)


async def test_sleep_until_a_time_that_is_past_is_over_at_once(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(sleeps(until=datetime(2020, 1, 1, tzinfo=UTC))))
    saga_id = await one.start()
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_event_does_not_end_a_sleep_and_is_kept(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()

    def deed(inp: Number, ctx: StepContext) -> Any:
        if not ctx.waits:
            return Sleep(HOUR)
        return AwaitEvent(Ping) if ctx.woken else Number(n=ctx.event.n)

    one = saga(store, story.step(deed))
    saga_id = await one.start()
    due = (await one.see(saga_id)).deadline_at
    await one.orchestrator.signal(saga_id=saga_id, event=Ping(n=5))
    assert await one.orchestrator.run_due() == 1
    asleep = await one.see(saga_id)
    assert (asleep.status, len(story.log)) == (SagaStatus.SUSPENDED, 1)
    assert due is not None
    assert asleep.deadline_at is not None
    assert abs(asleep.deadline_at - due) < timedelta(seconds=1)
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 5}}


async def test_compensation_may_sleep(store: SagaStore, harness: StoreHarness) -> None:
    story = Story()
    one = saga(store, story.step(undo=sleeps(HOUR)), story.step(fails()))
    saga_id = await one.start()
    asleep = await one.see(saga_id)
    assert (asleep.status, asleep.waiting_for) == (SagaStatus.COMPENSATING, "sleep")
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED


@pytest.mark.parametrize(
    "asked",
    [lambda: Sleep(timedelta(0)), lambda: Sleep(until=datetime(2030, 1, 1))],  # noqa: DTZ001
)
async def test_wrong_sleep_fails_the_step_and_says_why(store: SagaStore, asked: Any) -> None:
    story = Story()
    after = await saga(store, story.step(lambda inp, ctx: asked())).run()
    assert after.status is SagaStatus.COMPENSATED
    assert after.error_code == "SagaDefinitionError"
    assert "Sleep's" in (after.last_error or "")


async def test_sleeping_saga_is_paused_and_resumed_with_its_old_end(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(sleeps(HOUR)))
    saga_id = await one.start()
    due = (await one.see(saga_id)).deadline_at
    await one.admin.pause(saga_id)
    await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    asleep = await one.see(saga_id)
    assert (asleep.status, asleep.waiting_for) == (SagaStatus.SUSPENDED, "sleep")
    assert due is not None
    assert asleep.deadline_at is not None
    assert abs(asleep.deadline_at - due) < timedelta(seconds=1)
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 1}}


@pytest.mark.parametrize("year", [1970, 2199])
async def test_sleep_until_the_first_and_the_last_time_there_is(
    store: SagaStore, year: int
) -> None:
    """The store holds them, so that the step is not done again and again."""
    until = datetime(year, 1, 1, tzinfo=UTC)
    one = saga(store, Story().step(lambda _, ctx: None if ctx.woken else Sleep(until=until)))
    saga_id = await one.start()
    await one.orchestrator.run_due()
    ends = SagaStatus.COMPLETED if year == 1970 else SagaStatus.SUSPENDED
    assert (await one.see(saga_id)).status is ends


async def test_sleep_until_a_time_that_no_store_holds_fails_the_step(store: SagaStore) -> None:
    never = datetime.max.replace(tzinfo=UTC)
    one = saga(store, Story().step(lambda *_: Sleep(until=never)))
    snapshot = await one.run()
    assert (snapshot.status, snapshot.error_code) == (SagaStatus.COMPENSATED, "SagaDefinitionError")
