"""`pause` and `resume`: a saga rests where it is, whatever falls due, and goes on as it was."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from saga_core import AwaitEvent, SagaAdmin, SagaStateError, SagaStatus, SagaStore, Sleep
from saga_core.commands import Command
from saga_core.happening import Operator
from saga_core.records import Signal
from saga_core.status import Direction, SignalKind
from saga_testing import ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga, waits


class Early(BaseModel):
    n: int


def command(kind: SignalKind) -> Signal:
    return Signal(event_id=str(uuid4()), kind=kind, payload=Command(Operator("ann")).encode())


async def kinds(one: saga, saga_id: UUID) -> list[str]:
    return [entry.kind.value for entry in (await one.see(saga_id)).step_history]


# --- where it rests, and how it goes on ----------------------------------------------------------


async def test_paused_saga_that_was_to_run_runs_only_once_resumed(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.step())
    saga_id = await one.start(wait=False)
    await one.admin.pause(saga_id, actor="ann", reason="the bank is closed")
    assert await one.orchestrator.run_due() == 0
    paused = await one.see(saga_id)
    assert (paused.status, paused.waiting_for) == (SagaStatus.SUSPENDED, "resume")
    assert (paused.is_paused, paused.deadline_at) == (True, None)
    assert (paused.step_history[-1].actor, paused.step_history[-1].reason) == (
        "ann",
        "the bank is closed",
    )
    await one.admin.resume(saga_id, actor="bob", reason="it is open")
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1"]
    resumed = next(entry for entry in after.step_history if entry.kind == "resumed")
    assert (resumed.actor, resumed.reason) == ("bob", "it is open")


async def test_retry_that_was_paused_comes_at_its_old_time(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(fails(times=1)), retry_policy=retry(3))
    saga_id = await one.start()
    due = (await one.see(saga_id)).deadline_at
    await one.admin.pause(saga_id)
    assert await one.orchestrator.run_due() == 0
    await one.admin.resume(saga_id)
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.waiting_for) == (SagaStatus.SUSPENDED, None)
    assert (waiting.deadline_at, waiting.retry_counter) == (due, 1)
    assert story.log == ["do step_0"]
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_event_after_a_pause_does_not_put_a_retry_off(
    store: SagaStore, harness: StoreHarness
) -> None:
    one = saga(store, Story().step(fails(times=1)), retry_policy=retry(3))
    saga_id = await one.start()
    await harness.age(saga_id, HOUR / 2)
    due = (await one.see(saga_id)).deadline_at
    await one.admin.pause(saga_id)
    await one.admin.resume(saga_id)
    await one.orchestrator.signal(saga_id=saga_id, event=Early(n=1))
    assert await one.orchestrator.run_due() == 1
    waiting = await one.see(saga_id)
    assert waiting.status is SagaStatus.SUSPENDED
    assert due is not None
    assert waiting.deadline_at is not None
    assert abs(waiting.deadline_at - due) < timedelta(seconds=1)
    await harness.age(saga_id, HOUR / 2)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_rollback_rests_and_goes_on_too(store: SagaStore) -> None:
    story = Story()
    broken = [True]

    def undo(_: Number, ctx: Any) -> None:
        if broken:
            raise ValueError(broken.pop())

    one = saga(
        store,
        story.step(),
        story.step(undo=undo),
        story.step(fails()),
        compensation_retry_policy=retry(3, HOUR),
    )
    saga_id = await one.start()
    due = (await one.see(saga_id)).deadline_at
    await one.admin.pause(saga_id)
    paused = await one.see(saga_id)
    assert (paused.status, paused.direction) == (SagaStatus.COMPENSATING, Direction.ROLLBACK)
    assert await one.orchestrator.run_due() == 0
    await one.admin.resume(saga_id)
    assert (await one.see(saga_id)).deadline_at == due
    await one.admin.pause(saga_id)
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert [line[:11] for line in story.log if line.startswith("undo")] == [
        "undo step_1",
        "undo step_1",
        "undo step_0",
    ]


@pytest.mark.parametrize("end", ["cancel", "abort"])
async def test_paused_saga_can_be_ended(store: SagaStore, end: str) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(fails()), retry_policy=retry(3))
    saga_id = await one.start()
    await one.admin.pause(saga_id)
    await getattr(one.admin, end)(saga_id)
    after = await one.see(saga_id)
    assert after.status is (SagaStatus.COMPENSATED if end == "cancel" else SagaStatus.FAILED)
    assert after.waiting_for is None
    assert ("undo step_0 1->2" in story.log) is (end == "cancel")


async def test_paused_saga_keeps_its_aggregate_and_refuses_what_else_is_asked(
    store: SagaStore,
) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(3))
    saga_id = await one.start(aggregation_id="a")
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    await one.admin.pause(saga_id)
    before = await store.export(saga_id)
    for refused in (
        one.admin.pause(saga_id),
        one.admin.retry_step(saga_id),
        one.admin.skip_step(saga_id, {"n": 1}),
    ):
        with pytest.raises(SagaStateError, match="paused"):
            await refused
    assert not await one.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 1})
    after = await store.export(saga_id)
    assert (after.history, after.record.version) == (before.history, before.record.version)
    assert after.record.state.active


async def test_only_a_paused_saga_can_be_resumed(store: SagaStore) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(3))
    saga_id = await one.start()
    for _ in range(2):
        with pytest.raises(SagaStateError, match=r"resume: .* needs to be paused"):
            await one.admin.resume(saga_id)
        await one.admin.pause(saga_id)
        await one.admin.resume(saga_id)


# --- while somebody drives it --------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "another"])
async def test_pause_of_a_driven_saga_lets_the_step_finish_and_begins_no_other(
    store: SagaStore, harness: StoreHarness, elsewhere: bool
) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(_: Number, ctx: Any) -> None:
        await go.wait()

    async with harness.open() as second:
        one = saga(store, story.step(hold), story.step())
        other = saga(second, story.step(hold), story.step())
        chosen = uuid4()
        task = asyncio.create_task(one.start(saga_id=chosen))
        await waits(lambda: len(story.log) == 1)
        admin: SagaAdmin = other.admin if elsewhere else one.admin
        pausing = asyncio.create_task(admin.pause(chosen, actor="ann", wait=True))
        await asyncio.sleep(0)
        assert not pausing.done()
        await waits(lambda: one.orchestrator.engine._keeper.held(chosen) is not None)
        await _until_sent(store, chosen)
        go.set()
        await asyncio.gather(task, pausing)
        after = await one.see(chosen)
        assert (after.status, after.current_step_id) == (SagaStatus.SUSPENDED, "step_1")
        assert set(after.outputs) == {"step_0"}
        assert (after.worker, after.is_paused) == (None, True)
        assert after.step_history[-1].actor == "ann"
        await admin.resume(chosen)
        assert (await one.see(chosen)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1"]


async def _until_sent(store: SagaStore, saga_id: UUID) -> None:
    async with asyncio.timeout(10):
        while not await store.inbox(saga_id):  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_pause_that_meets_the_end_is_told_in_the_history(store: SagaStore) -> None:
    holder: list[saga] = []

    async def ask(_: Number, ctx: Any) -> None:
        await holder[0].admin.pause(ctx.saga_id, actor="ann", reason="too late")

    holder.append(saga(store, Story().step(ask)))
    after = await holder[0].run()
    assert after.status is SagaStatus.COMPLETED
    last = after.step_history[-1]
    assert (last.kind, last.actor) == ("command_ignored", "ann")
    assert "pause: the saga is COMPLETED" in (last.reason or "")


async def test_retry_that_a_driver_has_just_planned_is_paused_with_its_time(
    store: SagaStore, harness: StoreHarness
) -> None:
    holder: list[saga] = []

    async def ask(_: Number, ctx: Any) -> None:
        if ctx.attempt == 1:
            await holder[0].admin.pause(ctx.saga_id)
            raise ValueError("no")

    one = saga(store, Story().step(ask), retry_policy=retry(3))
    holder.append(one)
    saga_id = await one.start()
    assert (await one.see(saga_id)).is_paused
    await one.admin.resume(saga_id)
    planned = await one.see(saga_id)
    assert planned.deadline_at is not None
    assert timedelta(minutes=50) < planned.deadline_at - planned.updated_at <= HOUR
    assert await one.orchestrator.run_due() == 0
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_commands_are_heard_in_their_order(store: SagaStore) -> None:
    story = Story()

    async def ask(_: Number, ctx: Any) -> None:
        for kind in (SignalKind.PAUSE, SignalKind.PAUSE, SignalKind.RESUME):
            await store.signal(ctx.saga_id, command(kind))

    one = saga(store, story.step(ask), story.step())
    saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert await kinds(one, saga_id) == [
        "completed",
        "paused",
        "command_ignored",
        "resumed",
        "completed",
    ]
    assert all(signal.consumed for signal in await store.inbox(saga_id))


async def test_abort_goes_before_a_pause(store: SagaStore) -> None:
    async def ask(_: Number, ctx: Any) -> None:
        for kind in (SignalKind.PAUSE, SignalKind.ABORT):
            await store.signal(ctx.saga_id, command(kind))

    one = saga(store, Story().step(ask), Story().step())
    saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.FAILED
    assert await kinds(one, saga_id) == ["completed", "aborted", "command_ignored"]


# --- what wakes it -------------------------------------------------------------------------------


async def test_event_for_a_paused_saga_is_kept_and_the_saga_goes_on_resting(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(wait=False)
    await one.admin.pause(saga_id)
    await store.signal(saga_id, Signal(event_id="e", kind=SignalKind.EVENT, payload='{"n":1}'))
    assert await one.orchestrator.run_due() == 1
    rested = await one.see(saga_id)
    assert (rested.is_paused, rested.worker, rested.deadline_at) == (True, None, None)
    assert await one.orchestrator.run_due() == 0
    assert story.log == []
    assert [signal.consumed for signal in await store.inbox(saga_id)] == [False]
    await one.admin.resume(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_command_that_wakes_a_paused_saga_is_obeyed_by_a_worker(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.step())
    saga_id = await one.start(wait=False)
    await one.admin.pause(saga_id)
    await store.signal(saga_id, command(SignalKind.RESUME))
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1"]


async def test_paused_saga_is_not_run_though_workers_died_while_they_looked_at_it(
    store: SagaStore, harness: StoreHarness
) -> None:
    """Looking at it is no trial: it is neither run nor stuck because of them."""
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(wait=False)
    await one.admin.pause(saga_id)
    await store.signal(saga_id, Signal(event_id="e", kind=SignalKind.EVENT, payload="1"))
    for _ in range(5):
        claims, _ = await one.orchestrator.engine.claim(
            claim_id=uuid4(), limit=1, favour=Direction.FORWARD
        )
        assert len(claims.records) == 1
        await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.is_paused, after.deadline_at, story.log) == (True, None, [])
    await one.admin.resume(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_ignored_command_does_not_end_the_wait_for_a_retry(store: SagaStore) -> None:
    holder: list[saga] = []

    async def ask(_: Number, ctx: Any) -> None:
        await holder[0].admin.resume(ctx.saga_id, wait=False)
        raise ValueError("no")

    one = saga(store, Story().step(ask), retry_policy=retry(3))
    holder.append(one)
    saga_id = await one.start()
    after = await one.see(saga_id)
    assert after.step_history[-1].kind == "command_ignored"
    assert after.deadline_at is not None
    assert after.deadline_at - after.updated_at > timedelta(minutes=50)


@pytest.mark.parametrize("rest", [Sleep(HOUR), AwaitEvent(Number, timeout=HOUR)])
async def test_clock_that_is_set_back_during_a_pause_ends_no_rest_early(
    rest: Sleep | AwaitEvent,
) -> None:
    clock, day = ManualClock(), timedelta(days=1)
    step = Story().step(lambda _, ctx: None if ctx.waits else rest)
    one = saga(MemoryStore(clock=clock), step)
    saga_id = await one.start()
    clock.advance(timedelta(minutes=1))
    clock.jump(-day)
    await one.admin.pause(saga_id)
    clock.jump(day)
    await one.admin.resume(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED
    clock.advance(HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is not SagaStatus.SUSPENDED
