"""What the field's libraries get wrong, each as a rule that this one keeps."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from saga_core import (
    ActiveSagaAlreadyExistsError,
    AwaitEvent,
    Message,
    ObservedEvent,
    Publisher,
    PublishStep,
    Query,
    SagaBuilder,
    SagaDefinition,
    SagaStateError,
    SagaStatus,
    SagaStore,
    SagaWorker,
    StepContext,
    hookimpl,
)
from saga_testing import FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits
from tests.behaviour.hooked import Outbox, hooked

LEASE = timedelta(minutes=5)


async def test_worker_death_between_two_steps_is_recovered(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step())
    # The first holder commits its first step and is never heard of again.
    dying = saga(store, story.step(), story.step(_vanish))
    task = asyncio.create_task(dying.start(aggregation_id="a"))
    await waits(lambda: story.log.count("do step_1") == 1)
    (record,) = (await store.find(Query())).records
    await harness.age(record.saga_id, LEASE)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(record.saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1", "do step_1"]
    assert await one.start(aggregation_id="a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await one.see(record.saga_id)).status is SagaStatus.COMPLETED


async def _vanish(inp: Number, ctx: object) -> None:
    await asyncio.Event().wait()


async def test_one_of_eight_concurrent_starts_of_an_aggregate_is_accepted(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    async with harness.open() as second:
        sagas = [saga(each, story.step(fails()), retry_policy=retry(2)) for each in (store, second)]
        results = await asyncio.gather(
            *(sagas[n % 2].start(aggregation_id="a") for n in range(8)), return_exceptions=True
        )
    refused = [each for each in results if isinstance(each, ActiveSagaAlreadyExistsError)]
    (accepted,) = [each for each in results if not isinstance(each, BaseException)]
    assert len(refused) == 7
    assert {each.saga_id for each in refused} == {accepted}


async def test_step_without_compensate_does_not_stop_the_rollback(store: SagaStore) -> None:
    story = Story()
    after = await saga(store, story.step(), story.final(), story.step(), story.step(fails())).run()
    assert after.status is SagaStatus.COMPENSATED
    assert story.log[-2:] == ["undo step_2 3->4", "undo step_0 1->2"]


async def test_skipped_step_is_undone_with_its_mock_output(store: SagaStore) -> None:
    story = Story()
    one = saga(
        store,
        story.step(),
        story.step(fails(), undo=None),
        story.step(fails("late")),
        retry_policy=retry(2),
    )
    saga_id = await one.start()
    await one.admin.skip_step(saga_id, mock_output={"n": 40})
    await one.admin.compensate_step(saga_id)
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    assert story.log[-2:] == ["undo step_1 2->40", "undo step_0 1->2"]


async def test_raising_input_map_fails_its_saga_and_leaves_the_batch_alone(
    store: SagaStore,
) -> None:
    story = Story()
    builder = SagaBuilder()
    first = builder.add_step(step=story.step(), input_map=lambda ctx: Number(n=1))

    def broken(out: Number) -> Number:
        raise KeyError("secret-value")

    builder.add_step(step=story.step(), input_map=broken, depends_on=first)
    bad = saga(store, made=builder.build())
    bad.orchestrator.register("good", definition(story.step()))
    ids = [await bad.start(saga_name=name, wait=False) for name in ("good", "story", "good")]
    assert await bad.orchestrator.run_due() == 3
    stands = [await bad.see(each) for each in ids]
    assert [each.status for each in stands] == [
        SagaStatus.COMPLETED,
        SagaStatus.COMPENSATED,
        SagaStatus.COMPLETED,
    ]
    assert "input map of step 'step_1' raised KeyError" in (stands[1].last_error or "")
    assert set(stands[1].outputs) == {"step_0"}  # the step before is on record, and undone


async def is_renewed(store: SagaStore, saga_id: UUID, lease: timedelta) -> bool:
    record = await store.load(saga_id)
    assert record.due_at is not None
    return record.due_at - record.now > lease / 2


async def test_step_longer_than_its_lease_runs_once(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    over = asyncio.Event()

    async def long(inp: Number, ctx: StepContext) -> None:
        await over.wait()

    async with harness.open() as second:
        lease = timedelta(minutes=5)
        one = saga(store, story.step(long), lease=lease)
        other = saga(second, story.step(long), lease=lease)
        one.orchestrator.engine._keeper._third = 0.2  # of minutes that pass below by themselves
        task = asyncio.create_task(one.start())
        await waits(lambda: bool(story.log))
        saga_id = story.contexts[0].saga_id
        for _ in range(2):
            await harness.age(saga_id, lease * 0.9)
            async with asyncio.timeout(20):
                while not await is_renewed(store, saga_id, lease):
                    assert await other.orchestrator.run_due() == 0
                    await asyncio.sleep(0.02)
            assert await other.orchestrator.run_due() == 0
        over.set()
        assert (await one.see(await task)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0"]


async def test_leases_of_a_batch_do_not_age_in_a_queue(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(inp: Number, ctx: StepContext) -> None:
        await go.wait()

    async def held_while(drivers: int) -> int:
        """Wait until whatever is leased is being driven, and return how much that is."""
        async with asyncio.timeout(10):
            while True:
                sagas = (await store.find(Query(limit=100))).records
                held = {each.saga_id for each in sagas if each.is_held}
                running = {ctx.saga_id for ctx in story.contexts}
                workers = {each.worker for each in sagas if each.is_held}
                if held == running and len(workers) == drivers:
                    return len(held)
                await asyncio.sleep(0.002)

    async with harness.open() as second:
        one, other = (saga(each, story.step(hold)) for each in (store, second))
        for _ in range(30):
            await one.start(wait=False)
        tasks = [asyncio.create_task(one.orchestrator.run_due())]
        assert await held_while(1) < 15
        tasks.append(asyncio.create_task(other.orchestrator.run_due()))
        assert await held_while(2) < 30  # the rest of the batch is nobody's, and ages no lease
        go.set()
        assert sum(await asyncio.gather(*tasks)) == 30
    assert len(story.log) == 30


async def test_second_driver_of_a_live_saga_gets_nothing(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(inp: Number, ctx: object) -> None:
        await go.wait()

    async with harness.open() as second:
        one = saga(store, story.step(hold), story.step())
        other = saga(second, story.step(hold), story.step())
        task = asyncio.create_task(one.start())
        await waits(lambda: bool(story.log))
        assert await other.orchestrator.run_due() == 0
        (record,) = (await second.find(Query())).records
        token = record.state.token
        assert token is not None
        assert not await other.orchestrator.notify(saga_id=record.saga_id, token=token)
        for command in (other.admin.retry_step, other.admin.skip_step):
            with pytest.raises(SagaStateError, match="RUNNING"):
                await command(record.saga_id)
        go.set()
        await task
    assert story.log == ["do step_0", "do step_1"]


async def test_abort_leaves_a_completed_saga_alone(store: SagaStore) -> None:
    one = saga(store, Story().step())
    saga_id = await one.start()
    before = await store.export(saga_id)
    with pytest.raises(SagaStateError, match=r"COMPLETED.*needs"):
        await one.admin.abort(saga_id)
    assert (await store.export(saga_id)).history == before.history
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


class Approved(BaseModel):
    n: int


def _until_approved(**limit: Any) -> Any:
    def deed(_: Number, ctx: StepContext) -> Any:
        if not isinstance(ctx.event, Approved):
            return AwaitEvent(Approved, **limit)
        return Number(n=ctx.event.n)

    return deed


async def test_event_that_comes_before_its_wait_is_not_lost(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(_until_approved()))
    early = await one.start(wait=False, aggregation_id="a")
    sent = await one.orchestrator.signal(aggregation_id="a", event=Approved(n=40), event_id="e")
    assert (sent.saga_id, sent.accepted) == (early, True)
    # Whoever drives it now has never heard of the event.
    async with harness.open() as second:
        other = saga(second, story.step(), story.step(_until_approved()))
        assert await other.orchestrator.run_due() == 1
    after = await one.see(early)
    assert (after.status, after.outputs["step_1"]) == (SagaStatus.COMPLETED, {"n": 40})


async def test_event_that_comes_while_the_step_before_runs_is_not_lost(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(inp: Number, ctx: StepContext) -> None:
        await go.wait()

    one = saga(store, story.step(hold), story.step(_until_approved()))
    task = asyncio.create_task(one.start(aggregation_id="a"))
    await waits(lambda: bool(story.log))
    async with harness.open() as second:
        sender = saga(second, story.step())
        assert await sender.orchestrator.signal(aggregation_id="a", event=Approved(n=40))
    go.set()
    after = await one.see(await task)
    assert (after.status, after.outputs["step_1"]) == (SagaStatus.COMPLETED, {"n": 40})


async def test_message_of_a_hook_whose_sender_died_is_sent_by_the_next(
    store: SagaStore, harness: StoreHarness
) -> None:
    outbox = Outbox()
    reached, keys = asyncio.Event(), []

    class Dying:
        async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
            keys.append(idempotency_key)
            reached.set()
            await asyncio.Event().wait()
            return None

    def made(publisher: Publisher) -> SagaDefinition:
        builder = SagaBuilder()
        builder.add_step(step=Story().step(), input_map=lambda ctx: Number(n=1))
        builder.on_completed(
            step=PublishStep(publisher), input_map=lambda ctx: Message(topic="completed")
        )
        return builder.build()

    dying = saga(store, made=made(Dying()))
    task = asyncio.create_task(dying.start(aggregation_id="a"))
    await reached.wait()
    (record,) = (await store.find(Query())).records
    await harness.age(record.saga_id, LEASE)
    async with harness.open() as second:
        other = saga(second, made=made(outbox))
        assert await other.orchestrator.run_due() == 1
        assert (await other.see(record.saga_id)).status is SagaStatus.COMPLETED
    assert [key for key, _ in outbox.sent] == keys
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_hooks_run_when_a_skip_completes_the_saga_and_when_an_abort_ends_it(
    store: SagaStore,
) -> None:
    outbox = Outbox()
    made = hooked(Story().step(fails()), outbox=outbox, retry_policy=retry(2))
    one = saga(store, made=made)
    await one.admin.skip_step(await one.start(), mock_output={"n": 40})
    assert outbox.topics == ["RUNNING", "COMPLETED"]
    await one.admin.abort(await one.start())
    assert await one.orchestrator.run_due() == 1
    assert outbox.topics == ["RUNNING", "COMPLETED", "RUNNING", "FAILED"]


async def test_message_whose_sender_died_is_sent_by_the_next(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    sent: list[str] = []
    dying = saga(store, story.step(), story.final(_vanish))
    task = asyncio.create_task(dying.start())
    await waits(lambda: "do step_1" in story.log)
    (record,) = (await store.find(Query())).records
    await harness.age(record.saga_id, LEASE)

    def send(_: Number, ctx: StepContext) -> None:
        sent.append(ctx.idempotency_key)

    async with harness.open() as second:
        other = saga(second, story.step(), story.final(send))
        assert await other.orchestrator.run_due() == 1
        assert (await other.see(record.saga_id)).status is SagaStatus.COMPLETED
        # A receiver that knows the key has the message once, whatever the dead one still sent.
        assert sent == [story.contexts[1].idempotency_key]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_event_that_a_dead_driver_had_taken_reaches_the_next(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()

    async def asks(inp: Number, ctx: StepContext) -> None:
        if ctx.event is None:
            raise ValueError("nobody has approved")
        await _vanish(inp, ctx)

    dying = saga(store, story.step(asks), retry_policy=retry(5))
    saga_id = await dying.start()
    task = asyncio.create_task(
        dying.orchestrator.notify(saga_id=saga_id, token=story.contexts[-1].token, event={"n": 4})
    )
    await waits(lambda: len(story.log) == 2)
    await harness.age(saga_id, LEASE)
    async with harness.open() as second:
        other = saga(second, story.step(), retry_policy=retry(5))
        assert await other.orchestrator.run_due() == 1
        assert (await other.see(saga_id)).status is SagaStatus.COMPLETED
    assert [ctx.event for ctx in story.contexts] == [None, {"n": 4}, {"n": 4}]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class _Listener:
    def __init__(self) -> None:
        self.ends: list[SagaStatus] = []

    @hookimpl
    def saga_observe(self, event: ObservedEvent) -> None:
        if event.status.is_terminal:
            self.ends.append(event.status)


async def test_wait_that_times_out_is_undone_told_and_holds_its_aggregate_until_then(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    listener = _Listener()
    one = saga(store, story.step(), story.step(_until_approved(timeout=HOUR)), plugins=[listener])
    saga_id = await one.start(aggregation_id="a")
    await harness.age(saga_id, HOUR)
    with pytest.raises(ActiveSagaAlreadyExistsError):
        await one.start(aggregation_id="a")
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-1] == "undo step_0 1->2"
    assert listener.ends == [SagaStatus.COMPENSATED]
    assert await one.start(aggregation_id="a")


async def test_observers_hear_of_an_end_by_a_skip_and_by_an_abort(store: SagaStore) -> None:
    listener = _Listener()
    one = saga(store, Story().step(fails()), retry_policy=retry(2), plugins=[listener])
    await one.admin.skip_step(await one.start(), mock_output={"n": 40})
    assert listener.ends == [SagaStatus.COMPLETED]
    await one.admin.abort(await one.start())
    assert listener.ends == [SagaStatus.COMPLETED, SagaStatus.FAILED]


async def test_ten_steps_are_one_create_and_ten_commits(store: SagaStore) -> None:
    story = Story()
    faulty = FaultyStore(store)
    await saga(faulty, *(story.step() for _ in range(10))).start()
    assert [call.method for call in faulty.calls] == ["create"] + ["commit"] * 10


async def test_rollbacks_are_not_starved_by_a_backlog(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = saga(
        store,
        story.step(),
        story.step(fails()),
        compensation_retry_policy=retry(3),
    )
    other = saga(
        store,
        story.step(undo=fails(times=1)),
        story.step(fails()),
        compensation_retry_policy=retry(3),
    )
    rollback = await other.start()
    assert (await other.see(rollback)).status is SagaStatus.COMPENSATING
    for _ in range(12):
        await harness.age(await made.start(wait=False), 3 * HOUR)
    await harness.age(rollback, HOUR)
    before = len(story.contexts)
    async with SagaWorker(other.orchestrator, concurrency=1):
        await other.orchestrator.wait(rollback, 10)
    assert (await other.see(rollback)).status is SagaStatus.COMPENSATED
    driven = [ctx.saga_id for ctx in story.contexts[before:]]
    ahead = set(driven[: driven.index(rollback)])
    assert len(ahead) < 6  # it did not have to wait for the backlog
