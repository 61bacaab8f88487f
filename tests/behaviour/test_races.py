"""What happens between a write and its answer, between a claim and its step, and to a step that
is being broken off: nobody drives beside another, and nothing is left behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from saga_core import Query, SagaStateError, SagaStatus, SagaStore, SagaWorker, Sleep
from saga_core.commands import Command
from saga_core.happening import Operator
from saga_core.records import Held, Signal
from saga_core.status import Direction, EntryKind, SignalKind
from saga_testing import Fault, FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits

LEASE = timedelta(milliseconds=600)


async def hang(_: Number, ctx: Any) -> None:
    await asyncio.Event().wait()


async def only(store: SagaStore) -> UUID:
    (record,) = (await store.find(Query())).records
    return record.saga_id


# --- a step that is broken off twice -------------------------------------------------------------


def stubborn(until: asyncio.Event) -> Any:
    """Return a deed that takes its time to clean up after a cancellation."""

    async def deed(_: Number, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await until.wait()

    return deed


async def test_abort_reaches_a_step_that_is_still_cleaning_up_after_its_timeout(
    store: SagaStore,
) -> None:
    story = Story()
    cleaned = asyncio.Event()
    one = saga(store, story.step(stubborn(cleaned)), timeout=timedelta(milliseconds=10))
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: bool(story.log))
    await asyncio.sleep(0.03)
    await one.admin.abort(chosen, reason="enough")
    await one.admin.abort(chosen, reason="enough, I said")
    cleaned.set()
    await task
    after = await one.see(chosen)
    assert (after.status, after.last_error) == (SagaStatus.FAILED, "aborted: enough")


async def test_renewal_goes_on_for_others_when_a_step_in_its_cleanup_loses_its_lease(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    cleaned, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Number, ctx: Any) -> None:
        await go.wait()

    async with harness.open() as second:
        faulty = FaultyStore(store)
        one = saga(
            faulty, story.step(stubborn(cleaned)), lease=LEASE, timeout=timedelta(milliseconds=10)
        )
        one.orchestrator.register("patient", definition(story.step(wait)))
        thief = saga(second, story.step())
        lost = asyncio.create_task(one.start(saga_id=(chosen := uuid4())))
        kept = asyncio.create_task(one.start(saga_name="patient"))
        await waits(lambda: len(story.log) == 2)
        await harness.age(chosen, LEASE)
        assert await thief.orchestrator.run_due() == 1
        renewed = faulty.calls_of("renew")
        await waits(lambda: faulty.calls_of("renew") >= renewed + 3, seconds=5)
        cleaned.set()
        go.set()
        await asyncio.gather(lost, kept)
        assert (await one.see(kept.result())).status is SagaStatus.COMPLETED
    assert (await one.see(chosen)).status is SagaStatus.COMPLETED


async def test_step_may_abort_its_own_saga(store: SagaStore) -> None:
    holder: list[saga] = []

    async def give_up(_: Number, ctx: Any) -> None:
        await holder[0].admin.abort(ctx.saga_id, actor="step", wait=True)

    holder.append(saga(store, Story().step(), Story().step(give_up)))
    after = await holder[0].run()
    assert after.status is SagaStatus.FAILED
    assert after.step_history[-1].actor == "step"


async def test_command_that_comes_while_another_is_ignored_is_heard_before_the_next_step(
    store: SagaStore,
) -> None:
    story = Story()
    faulty = FaultyStore(store)
    one = saga(faulty, story.step(fails(times=1)), retry_policy=retry(3, timedelta(0)))
    saga_id = uuid4()

    person = saga(store, story.step(), retry_policy=retry(3, timedelta(0))).admin

    # The first commit records a failed attempt, the second that there is nothing to undo yet.
    faulty.between("commit", 1, lambda: person.compensate_step(saga_id, wait=False))
    faulty.between("commit", 2, lambda: person.abort(saga_id))
    await one.start(saga_id=saga_id)
    after = await one.see(saga_id)
    assert after.status is SagaStatus.FAILED
    assert story.log == ["do step_0"]


async def test_abort_that_met_no_driver_any_more_is_not_obeyed_once_more(
    store: SagaStore,
) -> None:
    """It lies in the inbox, and whoever sent it has seen to it himself."""
    story = Story()
    faulty = FaultyStore(store)
    one = saga(store, story.step(), story.step())
    saga_id = await one.start(wait=False)
    engine = one.orchestrator.engine
    claims, _ = await engine.claim(claim_id=uuid4(), limit=1, favour=Direction.FORWARD)
    held = [Held(saga_id, claims.records[0].fence)]
    faulty.between("signal", 1, lambda: store.release(engine.worker, held, delay=timedelta(0)))
    await saga(faulty, story.step(), story.step()).admin.abort(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.FAILED
    await one.admin.retry_step(saga_id)
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    kinds = [each.kind for each in after.step_history]
    assert kinds.count(EntryKind.ABORTED) == 1
    assert all(signal.consumed for signal in await store.inbox(saga_id))


async def test_abort_that_nobody_has_heard_yet_is_obeyed_after_an_event(store: SagaStore) -> None:
    """The event comes behind it in the inbox, and must not make it count as heard."""
    story = Story()
    one = saga(store, story.step(fails(times=1)), story.step(), retry_policy=retry(5))
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    faulty = FaultyStore(store)
    command = Command(Operator(reason="told to stop")).encode()
    abort = Signal(event_id="stop", kind=SignalKind.ABORT, payload=command)
    faulty.between("commit", 1, lambda: store.signal(saga_id, abort))
    other = saga(faulty, story.step(), story.step(), retry_policy=retry(5))
    assert await other.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 1})
    after = await one.see(saga_id)
    assert after.status is SagaStatus.FAILED
    assert story.log == ["do step_0"]


# --- a lost answer, and somebody else in between -------------------------------------------------


async def test_notify_whose_answer_was_lost_is_true_although_a_worker_was_faster(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    faulty = FaultyStore(store)
    async with harness.open() as second:
        one = saga(faulty, story.step(fails(times=1)), retry_policy=retry(5))
        other = saga(second, story.step(), retry_policy=retry(5))
        saga_id = await one.start()
        token = (await one.see(saga_id)).step_execution_token
        assert token is not None
        sent = faulty.calls_of("commit")
        faulty.fail("commit", sent + 1, Fault.AFTER)
        faulty.between("commit", sent + 2, lambda: _driven_by(other))
        taken = await one.orchestrator.notify(
            saga_id=saga_id, token=token, event={"n": 1}, wait=False
        )
        after = await other.see(saga_id)
    assert taken
    assert (after.status, after.events) == (SagaStatus.COMPLETED, ({"n": 1},))


async def _driven_by(other: saga) -> None:
    assert await other.orchestrator.run_due() == 1


async def test_retry_whose_answer_was_lost_is_not_asked_for_twice(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    faulty = FaultyStore(store)
    async with harness.open() as second:
        one = saga(faulty, story.step(fails()), retry_policy=retry(5))
        other = saga(second, story.step(fails()), retry_policy=retry(5))
        saga_id = await one.start()
        sent = faulty.calls_of("commit")
        faulty.fail("commit", sent + 1, Fault.AFTER)
        faulty.between("commit", sent + 2, lambda: _driven_by(other))
        await one.admin.retry_step(saga_id, wait=False)
        after = await other.see(saga_id)
    kinds = [entry.kind for entry in after.step_history]
    assert kinds == ["retrying", "retry_requested", "retrying"]


async def test_lost_claim_is_trusted_no_longer_than_its_lease_lasts(store: SagaStore) -> None:
    story = Story()
    ended: list[float] = []
    claimed: list[float] = []
    loop = asyncio.get_running_loop()

    async def note(_: Number, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(loop.time())

    async def late() -> None:
        await asyncio.sleep(0.8)

    async def first() -> None:
        claimed.append(loop.time())

    faulty = FaultyStore(store)
    faulty.between("claim_due", 1, first)
    faulty.fail("claim_due", 1, Fault.AFTER)
    faulty.between("claim_due", 2, late)
    faulty.fail("claim_due", 2, Fault.BEFORE)
    faulty.fail_always("renew", Fault.BLACKHOLE)
    one = saga(faulty, story.step(note), lease=timedelta(seconds=2))
    await one.start(wait=False)
    assert await one.orchestrator.run_due(limit=1) == 1
    # Trusted for 1.6 s since the first claim; since the second it would be 2.4.
    assert 1 < ended[0] - claimed[0] < 2.3


async def test_first_claim_after_an_outage_longer_than_a_lease_is_trusted(
    store: SagaStore,
) -> None:
    """No lease was given while nobody could be reached, so none has run out."""
    story = Story()

    async def long(_: Number, ctx: Any) -> None:
        await asyncio.sleep(0.3)

    async def slow() -> None:
        await asyncio.sleep(0.02)

    faulty = FaultyStore(store)
    faulty.fail_always("claim_due", Fault.BEFORE)
    for ordinal in range(1, 10):
        faulty.between("renew", ordinal, slow)
    one = saga(faulty, story.step(long), lease=LEASE)
    saga_id = await one.start(wait=False)
    async with SagaWorker(one.orchestrator, poll_interval=timedelta(milliseconds=50)):
        await asyncio.sleep(LEASE.total_seconds() * 1.2)
        faulty.heal()
        await one.orchestrator.wait(saga_id, 10)
    assert story.log == ["do step_0"]
    assert (await store.load(saga_id)).fence == 1


# --- a command, and what it finds ----------------------------------------------------------------


async def test_rollback_asked_for_while_a_step_fails_is_driven_under_a_lease(
    store: SagaStore, harness: StoreHarness
) -> None:
    """The failed step's commit has given the saga back when the command is read."""
    story = Story()
    fail, undo = asyncio.Event(), asyncio.Event()

    async def failing(_: Number, ctx: Any) -> None:
        await fail.wait()
        raise ValueError("no")

    async def undoing(_: Number, ctx: Any) -> None:
        await undo.wait()

    def steps() -> Any:
        return story.step(undo=undoing), story.step(failing)

    async with harness.open() as second:
        one = saga(store, *steps(), retry_policy=retry(3))
        other = saga(second, *steps(), retry_policy=retry(3))
        chosen = uuid4()
        task = asyncio.create_task(one.start(saga_id=chosen))
        await waits(lambda: len(story.log) == 2)
        await other.admin.compensate_step(chosen, wait=False)
        fail.set()
        await waits(lambda: len(story.log) == 3)
        beside = asyncio.create_task(other.orchestrator.run_due())
        await asyncio.sleep(0.03)
        undo.set()
        assert await beside == 0
        await task
        after = await one.see(chosen)
    assert after.status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]


# --- a cancellation between the claim and the step -----------------------------------------------


@pytest.mark.parametrize("call", ["claim_due", "inbox"])
@pytest.mark.parametrize("driver", ["worker", "run_due"])
async def test_cancelled_driver_gives_back_what_it_has_just_claimed(
    store: SagaStore, driver: str, call: str
) -> None:
    story = Story()
    faulty = FaultyStore(store)
    one = saga(faulty, story.step(fails(times=1)), retry_policy=retry(5))
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    # The event makes the driver read the inbox before it begins.
    assert await one.orchestrator.notify(saga_id=saga_id, token=token, wait=False)
    before = await store.load(saga_id)
    tasks: list[asyncio.Task[Any]] = []

    async def cancel() -> None:
        tasks[0].cancel()
        if call == "inbox":
            await asyncio.Event().wait()

    faulty.between(call, faulty.calls_of(call) + 1, cancel)
    run = SagaWorker(one.orchestrator).run() if driver == "worker" else one.orchestrator.run_due()
    tasks.append(asyncio.create_task(run))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    record = await store.load(saga_id)
    assert record.version == before.version + 1
    assert (record.worker, record.reclaims) == (None, 0)
    assert await one.orchestrator.run_due() == 1


@pytest.mark.parametrize("ordinal", [1, 2])
async def test_cancelled_intervention_gives_the_saga_back(store: SagaStore, ordinal: int) -> None:
    story = Story()
    faulty = FaultyStore(store)
    one = saga(faulty, story.step(fails(times=1)), retry_policy=retry(5))
    saga_id = await one.start()
    tasks: list[asyncio.Task[Any]] = []

    async def cancel() -> None:
        tasks[0].cancel()
        await asyncio.sleep(0)

    faulty.between("commit", faulty.calls_of("commit") + ordinal, cancel)
    tasks.append(asyncio.create_task(one.admin.retry_step(saga_id)))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    record = await store.load(saga_id)
    assert record.worker is None
    await one.orchestrator.run_due()
    assert "retry_requested" in [entry.kind for entry in (await one.see(saga_id)).step_history]


async def test_backlog_is_due_again_at_once_after_a_cancelled_batch(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.step(hang))
    for _ in range(4):
        await one.start(wait=False)
    task = asyncio.create_task(one.orchestrator.run_due())
    await waits(lambda: len(story.log) == 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.count(Query(overdue_by=timedelta(0))) == 4


# --- what cannot be read -------------------------------------------------------------------------


async def unreadable(store: SagaStore, one: saga) -> UUID:
    """Return a saga whose data somebody has spoilt in the store."""
    from dataclasses import replace

    saga_id = await one.start(wait=False, aggregation_id="a")
    export = await store.export(saga_id)
    state = replace(export.record.state, active=True)
    await one.admin.abort(saga_id)
    spoilt = uuid4()
    record = replace(export.record, saga_id=spoilt, data='{"n": ', state=state)
    await store.restore(replace(export, record=record))
    return spoilt


async def test_saga_that_cannot_be_read_is_stuck_and_hurts_nobody_else(store: SagaStore) -> None:
    one = saga(store, Story().step())
    spoilt = await unreadable(store, one)
    good = await one.start(wait=False)
    await one.orchestrator.run_due()
    assert (await one.see(good)).status is SagaStatus.COMPLETED
    record = await store.load(spoilt)
    assert record.state.status is SagaStatus.STUCK
    assert "initial_data in the store is not JSON" in (record.state.last_error or "")


async def test_retry_of_a_saga_that_cannot_be_read_changes_nothing_and_abort_ends_it(
    store: SagaStore,
) -> None:
    one = saga(store, Story().step())
    spoilt = await unreadable(store, one)
    await one.orchestrator.run_due()
    before = await store.export(spoilt)
    with pytest.raises(SagaStateError, match=f"(?s){spoilt}.*initial_data in the store is not"):
        await one.admin.retry_step(spoilt)
    after = await store.export(spoilt)
    assert (after.history, after.record.version) == (before.history, before.record.version)
    await one.admin.abort(spoilt)
    assert (await store.load(spoilt)).state.status is SagaStatus.FAILED
    assert await one.start(aggregation_id="a")


async def test_refused_command_is_told_in_the_history(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(_: Number, ctx: Any) -> None:
        await go.wait()

    async with harness.open() as second:
        one, other = (saga(each, story.step(hold)) for each in (store, second))
        chosen = uuid4()
        task = asyncio.create_task(one.start(saga_id=chosen))
        await waits(lambda: bool(story.log))
        await other.admin.compensate_step(chosen, wait=False)
        go.set()
        await task
        after = await one.see(chosen)
    assert after.status is SagaStatus.COMPLETED
    last = after.step_history[-1]
    assert last.kind == "command_ignored"
    assert "COMPLETED" in (last.reason or "")


async def test_claim_that_is_sent_twice_at_once_takes_no_saga_twice(
    store: SagaStore, harness: StoreHarness
) -> None:
    """Whether the second sees what the first takes is a matter of the store; a third sees all."""
    one = saga(store, Story().step())
    for _ in range(6):
        await one.start(wait=False)
    claim_id = uuid4()

    async def claim(handle: SagaStore) -> list[UUID]:
        claims = await handle.claim_due(
            "me",
            claim_id=claim_id,
            limit=2,
            lease=HOUR,
            only=one.orchestrator.engine.registry.claimable,
            favour=Direction.FORWARD,
        )
        return [record.saga_id for record in claims.records]

    async with harness.open() as second:
        answers = await asyncio.gather(claim(store), claim(second))
        third = await claim(store)
    assert 2 <= len(third) <= 4
    assert set(third) == {saga_id for answer in answers for saga_id in answer}
    for saga_id in third:
        assert (await store.load(saga_id)).fence == 1


# --- a command that comes with an event ----------------------------------------------------------


class Paid(BaseModel):
    amount: int


async def test_command_that_was_read_with_the_events_goes_before_the_step(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    steps = story.step(), story.step(lambda _, ctx: None if ctx.woken else Sleep(HOUR))
    faulty = FaultyStore(store)
    one = saga(faulty, *steps)
    saga_id = (await one.run()).saga_id
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    assert await one.orchestrator.run_due() == 1  # it goes on sleeping, and has heard of the event

    async def cancels() -> None:
        await saga(store, *steps).admin.cancel(saga_id, wait=False)

    await harness.age(saga_id, HOUR)
    faulty.between("inbox", faulty.calls_of("inbox") + 1, cancels)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]
