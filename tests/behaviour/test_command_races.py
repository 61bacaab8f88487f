"""A command and the driver it is meant for: it takes effect once, or is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    SagaAdmin,
    SagaBuilder,
    SagaStateError,
    SagaStatus,
    SagaStore,
    Sleep,
    StepContext,
)
from saga_core.call import Interrupt
from saga_core.commands import Command
from saga_core.happening import Operator
from saga_core.records import Held, Signal
from saga_core.status import Direction, SignalKind
from saga_testing import FaultyStore
from tests.behaviour.cast import HOUR, Number, Story, retry, saga
from tests.behaviour.hooked import Outbox, hooked

Give = Callable[[SagaAdmin, UUID], Coroutine[Any, Any, None]]

COMMANDS: dict[str, tuple[Give, str]] = {
    "cancel": (lambda admin, each: admin.cancel(each, actor="ann"), "compensation_requested"),
    "pause": (lambda admin, each: admin.pause(each, actor="ann"), "paused"),
    "abort": (lambda admin, each: admin.abort(each, actor="ann"), "aborted"),
    "retry_from": (lambda admin, each: admin.retry_from(each, "step_0", actor="ann"), "went_back"),
    "edit_input": (
        lambda admin, each: admin.edit_input(each, {"n": 5}, actor="ann"),
        "input_edited",
    ),
}


async def held(store: SagaStore) -> tuple[saga, UUID, Held]:
    """Return a saga at its second step that somebody has just claimed."""
    story = Story()
    broken = [True]

    def deed(inp: Number, ctx: StepContext) -> None:
        if broken:
            raise ValueError(broken.pop())

    one = saga(store, story.step(), story.step(deed), retry_policy=retry(5))
    saga_id = await one.start()
    await one.admin.retry_step(saga_id, wait=False)
    engine = one.orchestrator.engine
    claims, _ = await engine.claim(claim_id=uuid4(), limit=1, favour=Direction.FORWARD)
    return one, saga_id, Held(saga_id, claims.records[0].fence)


@pytest.mark.parametrize("name", COMMANDS)
async def test_command_that_meets_no_driver_any_more_takes_effect_once(
    store: SagaStore, name: str
) -> None:
    """It lies in the inbox by then, and whoever sent it has seen to it himself."""
    give, kind = COMMANDS[name]
    one, saga_id, lease = await held(store)
    worker = one.orchestrator.engine.worker
    faulty = FaultyStore(store)
    faulty.between("signal", 1, lambda: store.release(worker, [lease], delay=timedelta(0)))
    story = Story()
    other = saga(faulty, story.step(), story.step(), retry_policy=retry(5))
    await give(other.admin, saga_id)
    while await one.orchestrator.run_due():
        pass
    after = await one.see(saga_id)
    told = [entry.kind.value for entry in after.step_history if entry.actor == "ann"]
    assert told == [kind]
    assert all(signal.consumed for signal in await store.inbox(saga_id))


@pytest.mark.parametrize("name", COMMANDS)
async def test_command_whose_saga_ends_before_it_arrives_is_refused(
    store: SagaStore, name: str
) -> None:
    give, _ = COMMANDS[name]
    one, saga_id, lease = await held(store)
    worker = one.orchestrator.engine.worker

    async def end() -> None:
        await store.release(worker, [lease], delay=timedelta(0))
        await one.orchestrator.run_due()

    faulty = FaultyStore(store)
    faulty.between("signal", 1, end)
    story = Story()
    other = saga(faulty, story.step(), story.step(), retry_policy=retry(5))
    with pytest.raises(SagaStateError, match="COMPLETED") as refused:
        await give(other.admin, saga_id)
    assert refused.value.saga_id == saga_id
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert not [entry for entry in after.step_history if entry.actor == "ann"]
    assert not await store.inbox(saga_id)


async def test_resume_that_meets_whoever_looks_at_a_paused_saga_is_obeyed_by_him(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(wait=False)
    await one.admin.pause(saga_id)
    faulty = FaultyStore(store)
    looker = saga(faulty, story.step())
    sent = faulty.calls_of("commit")
    # He has claimed it because of this, and is about to let it rest again.
    faulty.between("commit", sent + 1, lambda: one.admin.resume(saga_id, wait=False))
    await store.signal(saga_id, Signal(event_id="e", kind=SignalKind.EVENT, payload="1"))
    assert await looker.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert [entry.kind.value for entry in after.step_history].count("resumed") == 1
    assert story.log == ["do step_0"]


async def test_commands_that_an_abort_leaves_unheeded_are_told_in_the_history(
    store: SagaStore,
) -> None:
    story = Story()

    async def deed(inp: Number, ctx: StepContext) -> None:
        await send(store, ctx.saga_id, SignalKind.PAUSE, "ann", "stocktaking")
        await send(store, ctx.saga_id, SignalKind.CANCEL, "bob")
        await send(store, ctx.saga_id, SignalKind.ABORT, "eve", "enough")
        await send(store, ctx.saga_id, SignalKind.ABORT, "joe")

    after = await saga(store, story.step(deed), story.step()).run()
    assert after.status is SagaStatus.FAILED
    told = [(each.kind.value, each.actor, each.reason) for each in after.step_history if each.actor]
    assert told == [
        ("aborted", "eve", "enough"),
        (
            "command_ignored",
            "ann",
            "pause: the saga has been aborted (asked for because of: stocktaking)",
        ),
        ("command_ignored", "bob", "cancel: the saga has been aborted"),
        ("command_ignored", "joe", "abort: the saga has been aborted"),
    ]


async def test_abort_that_is_refused_leaves_the_other_commands_their_say(store: SagaStore) -> None:
    """A saga in the hook before its end cannot be aborted, but the hook can be paused."""
    outbox = Outbox()
    outbox.down()
    made = hooked(Story().step(), outbox=outbox, hooks=("on_completed",), hook_policy=retry(3))
    one = saga(store, made=made)
    saga_id = await one.start()
    await send(store, saga_id, SignalKind.PAUSE, "ann")
    await send(store, saga_id, SignalKind.ABORT, "eve")
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    told = [(each.kind.value, each.actor) for each in after.step_history if each.actor]
    assert told == [("command_ignored", "eve"), ("paused", "ann")]
    assert after.is_paused


async def send(
    store: SagaStore, saga_id: UUID, kind: SignalKind, actor: str, reason: str | None = None
) -> None:
    """Put a command into the inbox, as one does who finds the saga driven by somebody else."""
    payload = Command(Operator(actor, reason)).encode()
    await store.signal(saga_id, Signal(event_id=actor, kind=kind, payload=payload))


async def test_command_that_would_revive_a_saga_whose_aggregate_is_taken_is_told_as_ignored(
    store: SagaStore,
) -> None:
    """It came while the last step ran, and is read when another saga has begun with it."""
    first, story = uuid4(), Story()
    later: list[UUID] = []

    async def deed(inp: Number, ctx: StepContext) -> Sleep:
        if ctx.saga_id == first:
            await send(store, first, SignalKind.CANCEL, "ann")
            raise ValueError("no")
        return Sleep(HOUR)

    async def begins() -> None:
        later.append(await other.start(aggregation_id="a"))

    faulty = FaultyStore(store)
    faulty.between("inbox", 1, begins)
    steps = (story.step(), story.step(deed))
    one = saga(faulty, *steps, compensate_on_failure=False)
    other = saga(store, *steps, compensate_on_failure=False)
    await one.start(saga_id=first, aggregation_id="a")
    after = await one.see(first)
    assert after.status is SagaStatus.FAILED
    (told,) = [each for each in after.step_history if each.actor == "ann"]
    assert told.kind.value == "command_ignored"
    assert (told.reason or "").startswith("cancel: ")
    assert str(later[0]) in (told.reason or "")
    assert (await one.see(later[0])).status is SagaStatus.SUSPENDED


@pytest.mark.parametrize("parallel", [False, True])
async def test_step_that_was_broken_off_for_an_abort_which_is_not_there_any_more_runs_again(
    store: SagaStore, parallel: bool
) -> None:
    """Who breaks it off has read the inbox, and the driver may have obeyed or refused it since."""
    broken = False

    async def deed(_: Number, ctx: StepContext) -> None:
        nonlocal broken
        if not broken:
            broken = True
            live = one.orchestrator.engine._keeper.held(ctx.saga_id)
            assert live is not None
            live.call.break_off(Interrupt.ABORTED)
            await asyncio.Event().wait()

    story = Story()
    builder = SagaBuilder(parallel=parallel)
    builder.add_step(step=story.step(deed), input_map=lambda _: Number(n=1))
    one = saga(store, made=builder.build())
    async with asyncio.timeout(30):
        saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0"] * 2
