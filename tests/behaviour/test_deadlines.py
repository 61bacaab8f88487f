"""The deadline of a saga stops its forward work, wherever that is, and nothing else."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from saga_core import (
    AwaitEvent,
    Direction,
    EntryKind,
    SagaDefinitionError,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    Sleep,
)
from saga_testing import ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, NAME, Number, Story, definition, fails, retry, saga

SOON = timedelta(milliseconds=100)
DAY = timedelta(days=1)
CODE = "SagaDeadlineError"


class Stopwatch:
    """Instead of the time that passes for a driver outside its steps."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """Let each step begin with all its time left, however long the machine took to come to it."""
    watch = Stopwatch()
    monkeypatch.setattr("saga_core.live.time", watch)
    return watch


async def hang(_: Number, ctx: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.usefixtures("stopwatch")
async def test_step_that_runs_at_the_deadline_is_cancelled_and_the_saga_rolled_back(
    store: SagaStore,
) -> None:
    story = Story()

    async def told(_: Number, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            story.log.append("cancelled")

    one = saga(store, story.step(), story.step(told), retry_policy=retry(5))
    after = await one.run(deadline=SOON)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert after.last_error is not None
    assert "passed while step 'step_1'" in after.last_error
    assert after.saga_deadline_at == after.created_at + SOON
    assert story.log == ["do step_0", "do step_1", "cancelled", "undo step_0 1->2"]
    failed = [entry for entry in after.step_history if entry.kind is EntryKind.FAILED]
    assert [(entry.step_id, entry.attempt) for entry in failed] == [("step_1", 1)]
    found = await one.admin.find(error_code=CODE)
    assert [each.saga_id for each in found.sagas] == [after.saga_id]


async def test_step_in_a_thread_is_told_at_the_deadline(
    store: SagaStore, stopwatch: Stopwatch
) -> None:
    story = Story()

    def wait(_: Number, ctx: Any) -> None:
        until = time.monotonic() + 20
        while not ctx.cancelled and time.monotonic() < until:
            time.sleep(0.002)
        story.log.append(f"cancelled={ctx.cancelled}")
        stopwatch.seconds = SOON.total_seconds()

    one = saga(store, story.threaded(wait), story.step(), retry_policy=retry(5))
    after = await one.run(deadline=SOON)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert story.log == ["do step_0", "cancelled=True"]


async def test_step_that_is_done_all_the_same_is_recorded_and_undone(
    store: SagaStore, stopwatch: Stopwatch
) -> None:
    story = Story()

    async def deaf(_: Number, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopwatch.seconds = SOON.total_seconds()

    after = await saga(store, story.step(deaf), story.step()).run(deadline=SOON)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert story.log == ["do step_0", "undo step_0 1->2"]


async def test_saga_that_is_done_in_time_has_only_been_watched(store: SagaStore) -> None:
    after = await saga(store, Story().step(), timeout=HOUR).run(deadline=2 * HOUR)
    assert after.status is SagaStatus.COMPLETED
    assert after.saga_deadline_at == after.created_at + 2 * HOUR


async def test_timeout_of_a_step_that_is_shorter_than_the_deadline_is_retried_as_ever(
    store: SagaStore,
) -> None:
    one = saga(store, Story().step(hang), retry_policy=retry(2), timeout=timedelta(milliseconds=10))
    after = await one.run(deadline=HOUR * 5)
    assert (after.status, after.error_code) == (SagaStatus.SUSPENDED, "StepTimeoutError")


async def test_backoff_ends_at_the_deadline_and_no_attempt_follows(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(fails("down")), retry_policy=retry(3, 5 * HOUR))
    saga_id = await one.start(deadline=HOUR)
    waiting = await one.see(saga_id)
    assert waiting.deadline_at == waiting.saga_deadline_at == waiting.created_at + HOUR
    assert await one.orchestrator.run_due() == 0
    assert "; its deadline is at" in await one.admin.explain(saga_id)

    await harness.age(saga_id, HOUR)
    assert "so no more forward work is done" in await one.admin.explain(saga_id)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert "did not run" in (after.last_error or "")
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]


async def test_retry_before_the_deadline_is_made(store: SagaStore, harness: StoreHarness) -> None:
    one = saga(store, Story().step(fails(times=1)), retry_policy=retry(3, HOUR))
    saga_id = await one.start(deadline=5 * HOUR)
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_event_after_the_deadline_does_not_bring_the_saga_on(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(fails()), retry_policy=retry(2))
    saga_id = await one.start(deadline=HOUR)
    await harness.age(saga_id, HOUR)
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    await one.orchestrator.notify(saga_id=saga_id, token=token, event=1)
    assert (await one.see(saga_id)).error_code == CODE
    assert story.log == ["do step_0"]


class Paid(BaseModel):
    amount: int


WISHES = {
    "event": lambda: AwaitEvent(Paid),
    "event in time": lambda: AwaitEvent(Paid, timeout=5 * HOUR),
    "sleep": lambda: Sleep(5 * HOUR),
}


@pytest.mark.parametrize("wish", WISHES)
async def test_wait_of_a_step_ends_at_the_deadline(
    store: SagaStore, harness: StoreHarness, wish: str
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(lambda _, ctx: WISHES[wish]()))
    saga_id = await one.start(deadline=HOUR)
    waiting = await one.see(saga_id)
    assert waiting.status is SagaStatus.SUSPENDED
    assert waiting.deadline_at == waiting.saga_deadline_at == waiting.created_at + HOUR
    assert await one.orchestrator.run_due() == 0
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]


async def test_event_before_the_deadline_is_waited_for_and_one_after_it_changes_nothing(
    store: SagaStore, harness: StoreHarness
) -> None:
    def deed(_: Number, ctx: Any) -> Any:
        return None if ctx.waits else AwaitEvent(Paid)

    one = saga(store, Story().step(deed))
    in_time, late = [await one.start(deadline=HOUR) for _ in range(2)]
    await one.orchestrator.signal(saga_id=in_time, event=Paid(amount=1))
    await harness.age(late, HOUR)
    await one.orchestrator.signal(saga_id=late, event=Paid(amount=1))
    await one.orchestrator.run_due()
    assert (await one.see(in_time)).status is SagaStatus.COMPLETED
    assert (await one.see(late)).error_code == CODE


async def test_without_compensation_the_saga_fails_and_a_retry_makes_the_deadline_void(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(),
        story.step(fails(times=1)),
        retry_policy=retry(2),
        compensate_on_failure=False,
    )
    saga_id = await one.start(deadline=HOUR)
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    failed = await one.see(saga_id)
    assert (failed.status, failed.error_code) == (SagaStatus.FAILED, CODE)

    attempts = iter([ValueError("not yet"), None])

    def deed(_: Number, ctx: Any) -> None:
        error = next(attempts)
        if error is not None:
            raise error

    again = saga(
        store,
        story.step(),
        story.step(deed),
        retry_policy=retry(2, 5 * HOUR),
        compensate_on_failure=False,
    )
    await again.admin.retry_step(saga_id, actor="ann", reason="it matters")
    waiting = await again.see(saga_id)
    assert (waiting.status, waiting.saga_deadline_at) == (SagaStatus.SUSPENDED, None)
    void = [e for e in waiting.step_history if e.kind is EntryKind.DEADLINE][-1]
    assert (void.output, void.actor, void.reason) == (None, "ann", "it matters")
    assert "deadline" not in await again.admin.explain(saga_id)
    await harness.age(saga_id, 5 * HOUR)
    await again.orchestrator.run_due()
    assert (await again.see(saga_id)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("command", ["retry_step", "skip_step"])
async def test_stuck_saga_is_left_alone_and_its_deadline_is_void_once_a_person_goes_on(
    store: SagaStore, harness: StoreHarness, command: str
) -> None:
    outputs = [float("nan")]

    def deed(_: Number, ctx: Any) -> Any:
        return outputs.pop() if outputs else None

    story = Story()
    one = saga(store, story.step(deed), story.step())
    saga_id = await one.start(deadline=HOUR)
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 0
    stuck = await one.see(saga_id)
    assert stuck.status is SagaStatus.STUCK
    assert "which retry_step and skip_step make void" in await one.admin.explain(saga_id)
    if command == "retry_step":
        await one.admin.retry_step(saga_id)
    else:
        await one.admin.skip_step(saga_id, {"n": 2})
    after = await one.see(saga_id)
    assert (after.status, after.saga_deadline_at) == (SagaStatus.COMPLETED, None)


async def test_retry_by_a_person_in_time_leaves_the_deadline_as_it_is(store: SagaStore) -> None:
    one = saga(store, Story().step(fails(times=1)), retry_policy=retry(2))
    saga_id = await one.start(deadline=HOUR)
    await one.admin.retry_step(saga_id, wait=False)
    snapshot = await one.see(saga_id)
    assert snapshot.saga_deadline_at == snapshot.created_at + HOUR


async def test_paused_saga_is_left_alone_and_its_deadline_stops_it_once_it_is_resumed(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(fails()), retry_policy=retry(3))
    saga_id = await one.start(deadline=2 * HOUR)
    await one.admin.pause(saga_id)
    await harness.age(saga_id, 2 * HOUR)
    assert await one.orchestrator.run_due() == 0
    assert "and stops it once it goes on" in await one.admin.explain(saga_id)
    await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]


async def test_rollback_has_no_deadline(store: SagaStore, harness: StoreHarness) -> None:
    story = Story()
    one = saga(
        store,
        story.step(undo=fails(times=1)),
        story.step(fails("no")),
        compensation_retry_policy=retry(2, 5 * HOUR),
    )
    saga_id = await one.start(deadline=HOUR)
    waiting = await one.see(saga_id)
    assert waiting.status is SagaStatus.COMPENSATING
    assert waiting.deadline_at is not None
    assert waiting.deadline_at > waiting.created_at + 4 * HOUR
    assert "deadline" not in await one.admin.explain(saga_id)
    await harness.age(saga_id, 5 * HOUR)
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "ValueError")


async def test_compensation_outlasts_the_deadline(store: SagaStore) -> None:
    story = Story()

    async def slowly(_: Number, ctx: Any) -> None:
        await asyncio.sleep(2 * SOON.total_seconds())

    one = saga(store, story.step(undo=slowly), story.step(fails("no")))
    after = await one.run(deadline=SOON)
    assert after.status is SagaStatus.COMPENSATED


async def test_deadline_survives_the_death_of_its_driver(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step())
    saga_id = await one.start(deadline=HOUR, wait=False)
    await store.claim_due(
        "dies",
        claim_id=uuid4(),
        limit=1,
        lease=timedelta(minutes=1),
        only=one.orchestrator.engine.registry.claimable,
        favour=Direction.FORWARD,
    )
    await harness.age(saga_id, HOUR)
    async with harness.open() as second:
        two = saga(second, story.step(), story.step())
        assert await two.orchestrator.run_due() == 1
        after = await two.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert story.log == []


async def test_deadline_of_a_delayed_saga_counts_from_its_beginning(
    store: SagaStore, harness: StoreHarness
) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(2, 9 * HOUR))
    saga_id = await one.start(delay=2 * HOUR, deadline=HOUR)
    snapshot = await one.see(saga_id)
    assert snapshot.saga_deadline_at == snapshot.created_at + 3 * HOUR
    await harness.age(saga_id, 2 * HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).error_code == CODE


async def test_deadline_before_the_beginning_ends_a_saga_that_never_began(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.step())
    at = datetime.now(UTC) - HOUR
    saga_id = await one.start(delay=HOUR, deadline=at)
    assert (await one.see(saga_id)).deadline_at == at
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert story.log == []


async def test_deadline_at_a_time_that_has_passed_ends_the_saga_before_its_first_step(
    store: SagaStore,
) -> None:
    story = Story()
    after = await saga(store, story.step()).run(deadline=datetime.now(UTC) - DAY)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, CODE)
    assert story.log == []


async def test_registered_deadline_is_for_sagas_that_are_started_without_one(
    store: SagaStore,
) -> None:
    made = definition(Story().step())
    one = saga(store, made=made)
    before = await one.run()
    one.orchestrator.register(NAME, made, deadline=HOUR)
    default, own = await one.run(), await one.run(deadline=2 * HOUR)
    assert before.saga_deadline_at is None
    assert default.saga_deadline_at == default.created_at + HOUR
    assert own.saga_deadline_at == own.created_at + 2 * HOUR
    assert (await one.see(before.saga_id)).saga_deadline_at is None


@pytest.mark.parametrize("wrong", [timedelta(0), -HOUR, 5, datetime(2030, 1, 1, tzinfo=UTC)])
def test_registered_deadline_is_a_length_of_time(wrong: Any) -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    with pytest.raises(SagaDefinitionError, match="deadline must be a timedelta above zero"):
        orchestrator.register(NAME, definition(Story().step()), deadline=wrong)
    with pytest.raises(SagaDefinitionError, match="is not registered"):
        orchestrator.engine.registry.latest(NAME)


@pytest.mark.parametrize("off", [-DAY, DAY])
async def test_the_clock_of_the_store_decides_when_the_deadline_has_passed(off: timedelta) -> None:
    clock = ManualClock(datetime.now(UTC) + off)
    store = MemoryStore(clock=clock)
    one = saga(store, Story().step(fails()), retry_policy=retry(9, HOUR))
    ids = [await one.start(deadline=2 * HOUR), await one.start(deadline=clock.now() + 2 * HOUR)]
    minute = timedelta(minutes=1)
    clock.advance(2 * HOUR - minute)
    assert await one.orchestrator.run_due() == 2
    assert [(await one.see(each)).retry_counter for each in ids] == [2, 2]
    assert await one.orchestrator.run_due() == 0
    clock.advance(minute)
    assert await one.orchestrator.run_due() == 2
    assert [(await one.see(each)).error_code for each in ids] == [CODE, CODE]
