"""A start that is put off: nothing happens before its time, and then it happens once."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest

from saga_core import (
    Direction,
    EntryKind,
    Query,
    SagaBuilder,
    SagaDefinitionError,
    SagaStateError,
    SagaStatus,
    SagaStore,
    SagaWorker,
)
from saga_core.commands import Command
from saga_core.happening import Operator
from saga_core.records import Signal
from saga_core.status import SignalKind
from saga_testing import ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, NAME, Number, Story, fails, retry, saga

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001
DAY = timedelta(days=1)


async def store_time(store: SagaStore) -> datetime:
    """Return the store's time, by way of a saga that is done."""
    return (await store.load(await saga(store, Story().step()).start())).now


async def test_delayed_saga_is_begun_by_a_worker_once_its_time_has_come(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.step())
    saga_id = await one.start(delay=HOUR)
    before = await one.see(saga_id)
    assert (before.status, before.waiting_for) == (SagaStatus.SUSPENDED, "start")
    assert before.starts_at == before.created_at + HOUR
    assert before.deadline_at is not None
    assert abs(before.deadline_at - before.starts_at) < timedelta(seconds=1)
    assert [entry.kind for entry in before.step_history] == [EntryKind.SCHEDULED]
    assert before.outputs == {}
    assert await one.orchestrator.run_due() == 0
    assert "has not begun: it is to begin at" in await one.admin.explain(saga_id)
    assert story.log == []

    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.waiting_for) == (SagaStatus.COMPLETED, None)
    kinds = [entry.kind.value for entry in after.step_history]
    assert kinds == ["scheduled", "begun", "completed", "completed"]
    assert story.log == ["do step_0", "do step_1"]


async def test_start_at_is_kept_to_the_microsecond_whatever_its_zone(store: SagaStore) -> None:
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    at = (await store_time(store) + HOUR).astimezone(elsewhere).replace(microsecond=123_457)
    one = saga(store, Story().step())
    snapshot = await one.see(await one.start(start_at=at))
    assert (snapshot.starts_at, snapshot.deadline_at) == (at, at)
    assert await one.orchestrator.run_due() == 0


async def test_worker_does_not_begin_before_start_at(store: SagaStore) -> None:
    at = await store_time(store) + timedelta(milliseconds=80)
    one = saga(store, Story().step())
    saga_id = await one.start(start_at=at)
    async with SagaWorker(one.orchestrator, poll_interval=timedelta(milliseconds=20)):
        await one.orchestrator.wait(saga_id, timeout=30)
    begun = (await one.see(saga_id)).step_history[1]
    assert begun.kind is EntryKind.BEGUN
    assert begun.at >= at


async def test_start_at_in_the_past_is_due_at_once_for_a_worker(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(start_at=await store_time(store) - HOUR)
    assert story.log == []
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_delay_of_zero_is_no_delay(store: SagaStore) -> None:
    snapshot = await saga(store, Story().step()).run(delay=timedelta(0))
    assert (snapshot.status, snapshot.starts_at) == (SagaStatus.COMPLETED, None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start_at": NAIVE}, "start_at has no time zone"),
        ({"start_at": date(2030, 1, 1)}, "start_at must be an aware datetime, got date"),
        ({"start_at": HOUR}, "use delay for a timedelta"),
        ({"start_at": datetime(1960, 1, 1, tzinfo=UTC)}, "between 1970 and 2200"),
        ({"start_at": datetime.max.replace(tzinfo=UTC)}, "between 1970 and 2200"),
        ({"delay": -HOUR}, "delay must be a timedelta from zero"),
        ({"delay": 60}, "delay must be a timedelta from zero"),
        ({"delay": timedelta.max}, "delay must be a timedelta from zero"),
        ({"delay": HOUR, "start_at": datetime.now(UTC)}, "not both"),
        ({"deadline": NAIVE}, "deadline has no time zone"),
        ({"deadline": timedelta(0)}, "deadline must be a timedelta above zero"),
        ({"deadline": -HOUR}, "or an aware datetime, got"),
        ({"deadline": 3.5}, "deadline must be a timedelta above zero"),
        ({"deadline": timedelta.max}, "deadline must be a timedelta above zero"),
        ({"deadline": datetime.min.replace(tzinfo=UTC)}, "between 1970 and 2200"),
    ],
)
async def test_times_that_make_no_sense_are_refused_before_anything_is_written(
    store: SagaStore, wrong: dict[str, Any], said: str
) -> None:
    story = Story()
    with pytest.raises(SagaDefinitionError, match=said):
        await saga(store, story.step()).start(**wrong)
    assert (await store.count(Query()), story.log) == (0, [])


async def test_saga_that_has_not_begun_can_be_aborted(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR, aggregation_id="a")
    with pytest.raises(SagaStateError, match="use abort"):
        await one.admin.compensate_step(saga_id)
    await one.admin.abort(saga_id, reason="not needed")
    after = await one.see(saga_id)
    assert (after.status, after.error_code, after.deadline_at) == (
        SagaStatus.FAILED,
        "Aborted",
        None,
    )
    assert story.log == []
    assert await one.start(aggregation_id="a") != saga_id


async def test_saga_that_has_not_begun_can_be_cancelled(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR, aggregation_id="a")
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log == []
    assert await one.start(aggregation_id="a") != saga_id


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_first_step_of_a_saga_that_has_not_begun_has_surely_not_been_done(
    store: SagaStore, how: str
) -> None:
    story = Story()
    one = saga(store, story.uncertain())
    if how == "cancel":
        saga_id = await one.start(delay=HOUR)
        await one.admin.cancel(saga_id)
    else:
        saga_id = await one.start(delay=HOUR, deadline=datetime.now(UTC) - HOUR)
        await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log == []


async def test_saga_that_was_aborted_before_it_began_has_nothing_to_undo(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.uncertain())
    saga_id = await one.start(delay=HOUR)
    await one.admin.abort(saga_id)
    with pytest.raises(SagaStateError, match="nothing to undo"):
        await one.admin.compensate_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.FAILED
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0"]


async def test_step_that_was_cut_off_after_the_saga_had_begun_may_have_been_done(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    reached = asyncio.Event()

    async def hang(_: Number, ctx: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    one = saga(store, story.uncertain(hang))
    saga_id = await one.start(delay=HOUR)
    await harness.age(saga_id, HOUR)
    driving = asyncio.create_task(one.orchestrator.run_due())
    await reached.wait()
    driving.cancel()
    await asyncio.gather(driving, return_exceptions=True)
    await one.admin.cancel(saga_id)
    assert story.log == ["do step_0", "undo step_0 1->None"]


async def test_person_may_begin_a_saga_before_its_time(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.step())
    begun = await one.start(delay=HOUR)
    await one.admin.retry_step(begun)
    assert (await one.see(begun)).status is SagaStatus.COMPLETED
    skipped = await one.start(delay=HOUR)
    await one.admin.skip_step(skipped, {"n": 5})
    assert (await one.see(skipped)).outputs == {"step_0": {"n": 5}, "step_1": {"n": 6}}
    assert story.log == ["do step_0", "do step_1", "do step_1"]


@pytest.mark.parametrize("how", ["fails", "cannot be mapped", "left to a worker"])
async def test_step_that_was_skipped_before_the_saga_had_begun_is_never_undone(
    store: SagaStore, how: str
) -> None:
    """It has not run: its compensation would undo what a person made up."""
    story = Story()
    builder = SagaBuilder()
    first = builder.add_step(step=story.step(), input_map=lambda ctx: Number(n=1))

    def given(out: Number) -> Number:
        if how == "cannot be mapped":
            raise ValueError("no")
        return out

    builder.add_step(step=story.step(fails()), input_map=given, depends_on=first)
    one = saga(store, made=builder.build())
    saga_id = await one.start(delay=HOUR)
    await one.admin.skip_step(saga_id, {"n": 5}, wait=how != "left to a worker")
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log == ([] if how == "cannot be mapped" else ["do step_1"])


async def test_first_step_that_fails_waits_for_its_retry_and_not_for_its_start(
    store: SagaStore, harness: StoreHarness
) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(2))
    saga_id = await one.start(delay=HOUR)
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.waiting_for) == (SagaStatus.SUSPENDED, None)
    assert waiting.retry_counter == 1


async def test_notify_does_not_begin_a_saga(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR)
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    assert not await one.orchestrator.notify(saga_id=saga_id, token=token, event=1)
    assert story.log == []


@pytest.mark.parametrize("kind", [SignalKind.EVENT, SignalKind.COMPENSATE])
async def test_what_is_sent_to_a_saga_does_not_begin_it_early(
    store: SagaStore, harness: StoreHarness, kind: SignalKind
) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR)
    starts_at = (await one.see(saga_id)).starts_at
    sent = Signal(event_id="1", kind=kind, payload=Command(Operator("ann")).encode())
    await store.signal(saga_id, sent)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.waiting_for) == (SagaStatus.SUSPENDED, "start")
    assert after.deadline_at == starts_at
    assert await one.orchestrator.run_due() == 0
    assert story.log == []
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    assert story.log == ["do step_0"]


async def test_abort_in_the_inbox_ends_a_saga_that_has_not_begun(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR)
    command = Command(Operator("ann", "not needed")).encode()
    await store.signal(saga_id, Signal(event_id="1", kind=SignalKind.ABORT, payload=command))
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).last_error == "aborted: not needed"
    assert story.log == []


async def test_pause_and_resume_leave_a_saga_its_beginning(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR)
    starts_at = (await one.see(saga_id)).starts_at
    await one.admin.pause(saga_id)
    await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    resumed = await one.see(saga_id)
    assert (resumed.waiting_for, resumed.deadline_at) == ("start", starts_at)
    assert story.log == []

    await one.admin.pause(saga_id)
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 0
    await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_repeated_delayed_start_is_the_same_saga(store: SagaStore) -> None:
    one = saga(store, Story().step())
    chosen = uuid4()
    assert await one.start(saga_id=chosen, delay=HOUR) == chosen
    assert await one.start(saga_id=chosen, delay=HOUR) == chosen
    assert await store.count(Query()) == 1


async def test_saga_outlives_its_starter_and_the_one_that_dies_beginning_it(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id = await saga(store, story.step()).start(delay=HOUR)
    async with harness.open() as later:
        two = saga(later, story.step())
        await harness.age(saga_id, HOUR)
        claims = await later.claim_due(
            "dies",
            claim_id=uuid4(),
            limit=1,
            lease=HOUR,
            only=two.orchestrator.engine.registry.claimable,
            favour=Direction.FORWARD,
        )
        assert [record.saga_id for record in claims.records] == [saga_id]
        assert await two.orchestrator.run_due() == 0
        await harness.age(saga_id, HOUR)
        assert await two.orchestrator.run_due() == 1
        assert (await two.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0"]


async def test_saga_in_hands_that_were_lost_early_is_not_begun_by_the_next(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=24 * HOUR)
    await store.signal(saga_id, Signal(event_id="1", kind=SignalKind.EVENT, payload="1"))
    await store.claim_due(
        "dies",
        claim_id=uuid4(),
        limit=1,
        lease=HOUR,
        only=one.orchestrator.engine.registry.claimable,
        favour=Direction.FORWARD,
    )
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).waiting_for == "start"
    assert story.log == []


@pytest.mark.parametrize("off", [-DAY, DAY])
async def test_the_clock_of_the_store_decides_when_a_saga_begins(off: timedelta) -> None:
    clock = ManualClock(datetime.now(UTC) + off)
    store = MemoryStore(clock=clock)
    story = Story()
    one = saga(store, story.step())
    by_delay = await one.start(delay=HOUR)
    by_time = await one.start(start_at=clock.now() + HOUR)
    clock.advance(HOUR - timedelta(microseconds=1))
    assert await one.orchestrator.run_due() == 0
    clock.advance(timedelta(microseconds=1))
    assert await one.orchestrator.run_due() == 2
    for saga_id in (by_delay, by_time):
        assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert len(story.log) == 2
    assert {context.saga_name for context in story.contexts} == {NAME}


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("first", ["cancel", "abort"])
async def test_step_of_a_saga_that_has_not_begun_is_never_taken_for_maybe_done(
    store: SagaStore, first: str, paused: bool
) -> None:
    """Nothing of it has run, whatever ends it, and whatever is asked of it afterwards."""
    story = Story()
    one = saga(store, story.uncertain())
    saga_id = await one.start(delay=HOUR)
    if paused:
        await one.admin.pause(saga_id)
    await getattr(one.admin, first)(saga_id)
    ended = await one.see(saga_id)
    assert ended.status is (SagaStatus.COMPENSATED if first == "cancel" else SagaStatus.FAILED)
    if first == "abort":
        assert "compensate_step" not in await one.admin.explain(saga_id)
        with pytest.raises(SagaStateError, match="nothing to undo"):
            await one.admin.cancel(saga_id)
        assert story.log == []
        await one.admin.retry_step(saga_id)
        assert story.log == ["do step_0"]
    else:
        assert story.log == []


@pytest.mark.parametrize("paused", [False, True])
async def test_saga_whose_deadline_came_before_its_beginning_has_nothing_to_undo(
    paused: bool,
) -> None:
    clock = ManualClock()
    story = Story()
    one = saga(MemoryStore(clock=clock), story.uncertain(), compensate_on_failure=False)
    saga_id = await one.start(delay=2 * HOUR, deadline=clock.now() + HOUR)
    if paused:
        await one.admin.pause(saga_id)
    clock.advance(HOUR)
    if paused:
        await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.FAILED
    with pytest.raises(SagaStateError, match="nothing to undo"):
        await one.admin.cancel(saga_id)
    assert story.log == []


async def test_new_input_for_a_paused_saga_does_not_begin_it_early(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.uncertain(), story.step(fails()))
    saga_id = await one.start(delay=HOUR)
    await one.admin.pause(saga_id, actor="ann", reason="stocktaking")
    await one.admin.edit_input(saga_id, {"n": 5}, actor="bob", reason="a slip")
    said = await one.admin.explain(saga_id)
    assert "by 'ann' because of 'stocktaking'" in said
    await one.admin.resume(saga_id)
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.waiting_for) == (SagaStatus.SUSPENDED, "start")
    assert "has not begun" in await one.admin.explain(saga_id)
    await one.orchestrator.run_due()
    assert "has not begun" in await one.admin.explain(saga_id)
    assert story.log == []
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert story.log == ["do step_0", "do step_1", "undo step_0 5->6"]


async def test_new_input_outlives_an_abort_before_the_beginning(store: SagaStore) -> None:
    one = saga(store, Story().step())
    saga_id = await one.start(delay=HOUR)
    await one.admin.edit_input(saga_id, {"n": 5})
    await one.admin.abort(saga_id)
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).outputs["step_0"] == {"n": 6}


@pytest.mark.parametrize("paused", [False, True])
async def test_new_input_for_a_saga_whose_beginner_died_does_not_strand_it(
    store: SagaStore, harness: StoreHarness, paused: bool
) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(delay=HOUR)
    await harness.age(saga_id, HOUR)
    claims = await store.claim_due(
        "dies",
        claim_id=uuid4(),
        limit=1,
        lease=HOUR,
        only=one.orchestrator.engine.registry.claimable,
        favour=Direction.FORWARD,
    )
    assert claims.records
    await harness.age(saga_id, 2 * HOUR)
    if paused:
        await one.admin.pause(saga_id)
    await one.admin.edit_input(saga_id, {"n": 5})
    if paused:
        await one.admin.resume(saga_id)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs == {"step_0": {"n": 6}}
