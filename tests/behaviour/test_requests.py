"""What is asked of a saga: what is granted, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field

from saga_core import (
    BaseStep,
    PayloadError,
    Query,
    SagaBuilder,
    SagaDefinitionError,
    SagaError,
    SagaStateError,
    SagaStatus,
    SagaStore,
)
from saga_core.records import SagaExport
from saga_testing import FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits
from tests.behaviour.test_operations import approval, stage

SECRET = "s3cret-card-4711"


async def unchanged(store: SagaStore, saga_id: UUID) -> SagaExport:
    """Return all of a saga but the time at which it was read."""
    export = await store.export(saga_id)
    return replace(export, record=replace(export.record, now=datetime(2026, 1, 1, tzinfo=UTC)))


# --- a saga that nobody has begun, and one that is being driven ----------------------------------


@pytest.mark.parametrize(
    ("operation", "needed"),
    [
        ("retry_step", "SUSPENDED, STUCK or FAILED"),
        ("skip_step", "SUSPENDED or STUCK"),
        ("compensate_step", "at least one completed step"),
    ],
)
async def test_saga_that_waits_for_a_worker_refuses(
    store: SagaStore, operation: str, needed: str
) -> None:
    one = saga(store, Story().step())
    saga_id = await one.start(wait=False)
    before = await unchanged(store, saga_id)
    with pytest.raises(SagaStateError, match=f"RUNNING.*{needed}") as refused:
        await getattr(one.admin, operation)(saga_id)
    assert refused.value.saga_id == saga_id
    assert await unchanged(store, saga_id) == before


async def test_saga_that_waits_for_a_worker_can_be_aborted(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(wait=False, aggregation_id="a")
    await one.admin.abort(saga_id)
    assert await one.orchestrator.run_due() == 0
    assert (await one.see(saga_id)).status is SagaStatus.FAILED
    assert await one.start(aggregation_id="a")


async def test_rollback_asked_for_in_the_same_process_is_waited_for(store: SagaStore) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(_: Number, ctx: Any) -> None:
        await go.wait()

    faulty = FaultyStore(store)
    one = saga(faulty, story.step(), story.step(hold), story.step())
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: len(story.log) == 2)
    asked = asyncio.create_task(one.admin.compensate_step(chosen, actor="ann", reason="recall"))
    loads = faulty.calls_of("load")
    await waits(lambda: faulty.calls_of("load") >= loads + 2)  # the command is stored, it waits
    go.set()
    await asyncio.gather(task, asked)
    after = await one.see(chosen)
    assert after.status is SagaStatus.COMPENSATED
    assert set(after.outputs) == {"step_0", "step_1"}  # the step in flight is on record
    assert story.log[2:] == ["undo step_1 2->3", "undo step_0 1->2"]
    (asked_for,) = [e for e in after.step_history if e.kind == "compensation_requested"]
    assert (asked_for.actor, asked_for.reason) == ("ann", "recall")


async def test_abort_in_the_middle_of_a_rollback_cancels_the_compensation(
    store: SagaStore,
) -> None:
    story = Story()

    async def hang(_: Number, ctx: Any) -> None:
        await asyncio.Event().wait()

    one = saga(store, story.step(undo=hang), story.step(fails()))
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: len(story.log) == 3)
    await one.admin.abort(chosen, wait=True)
    await task
    after = await one.see(chosen)
    assert (after.status, after.direction.name) == (SagaStatus.FAILED, "ROLLBACK")
    with pytest.raises(SagaStateError, match=r"FAILED.*before compensation has begun"):
        await one.admin.retry_step(chosen)


async def test_stuck_rollback_refuses_a_skip_and_goes_on_by_request(store: SagaStore) -> None:
    story = Story()
    broken = [True]

    def undo(_: Number, ctx: Any) -> None:
        if broken:
            raise ConnectionError

    one = saga(store, story.step(), story.step(undo=undo), story.step(fails()))
    saga_id = await one.start()
    before = await unchanged(store, saga_id)
    with pytest.raises(SagaStateError, match=r"STUCK.*before compensation has begun"):
        await one.admin.skip_step(saga_id, mock_output={"n": 1})
    assert await unchanged(store, saga_id) == before
    broken.clear()
    await one.admin.compensate_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-2:] == ["undo step_1 2->3", "undo step_0 1->2"]


async def test_history_has_one_shape_whatever_happened(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(fails("lost")), retry_policy=retry(2))
    saga_id = await one.start()
    await one.admin.skip_step(saga_id, {"n": 9}, actor="ann", reason="done by hand")
    after = await one.see(saga_id)
    done, retrying, skipped = after.step_history
    assert [entry.seq for entry in after.step_history] == [1, 2, 3]
    assert (done.kind, done.step_id, done.attempt) == ("completed", "step_0", 1)
    assert (done.input, done.output, done.error) == ({"n": 1}, {"n": 2}, None)
    assert (retrying.kind, retrying.attempt, retrying.output) == ("retrying", 1, None)
    assert (retrying.error, retrying.error_code) == ("ValueError: lost", "ValueError")
    assert (skipped.kind, skipped.input, skipped.output) == ("skipped", {"n": 2}, {"n": 9})
    assert (skipped.actor, skipped.reason) == ("ann", "done by hand")
    assert done.at <= retrying.at <= skipped.at
    assert done.at.tzinfo is not None
    assert after.context == {
        "initial_data": {"n": 1},
        "step_outputs": {"step_0": {"n": 2}, "step_1": {"n": 9}},
        "events": [],
    }


# --- notify --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["STUCK", "FAILED", "COMPENSATING", "COMPLETED", "COMPENSATED"])
async def test_event_for_a_saga_that_is_not_suspended_is_not_taken(
    store: SagaStore, status: str
) -> None:
    one, saga_id = await stage(store, status)
    token = (await store.load(saga_id)).state.token or uuid4()
    before = await unchanged(store, saga_id)
    assert not await one.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 1})
    assert await unchanged(store, saga_id) == before


async def test_refused_event_changes_nothing_at_all(store: SagaStore) -> None:
    one = saga(store, made=approval(Story()))
    saga_id = await one.start()
    before = await unchanged(store, saga_id)
    assert not await one.orchestrator.notify(saga_id=saga_id, token=uuid4(), event={"n": 9})
    for event in (float("nan"), {"x": "a\x00b"}, object(), "x" * 3_000_000):
        with pytest.raises(PayloadError, match="event"):
            await one.orchestrator.notify(
                saga_id=saga_id, token=before.record.state.token or uuid4(), event=event
            )
    assert await unchanged(store, saga_id) == before


async def test_event_whose_map_raises_is_taken_and_fails_the_step(store: SagaStore) -> None:
    builder = SagaBuilder()
    builder.add_step(step=Story().step(), input_map=lambda ctx: Number(n=1))
    builder.add_step(
        step=Story().step(fails()),
        input_map=lambda ctx: Number(n=1 // len(ctx.events or "x") if not ctx.events else 1 // 0),
        retry_policy=retry(5),
    )
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    assert await one.orchestrator.notify(saga_id=saga_id, token=token, event={})
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    assert "input map of step 'step_1' raised ZeroDivisionError" in (after.last_error or "")


async def test_new_input_gets_a_new_idempotency_key_and_the_same_input_keeps_it(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    builder = SagaBuilder()
    builder.add_step(
        step=story.step(fails()),
        input_map=lambda ctx: Number(n=(ctx.latest_event or {}).get("n", 1)),
        retry_policy=retry(9),
    )
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    for event in ({"n": 1}, {"n": 2}):
        token = (await one.see(saga_id)).step_execution_token
        assert token is not None
        assert await one.orchestrator.notify(saga_id=saga_id, token=token, event=event)
    keys = [context.idempotency_key for context in story.contexts]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert [context.event for context in story.contexts] == [None, None, {"n": 1}, {"n": 2}]


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["actor", "reason"])
@pytest.mark.parametrize("value", ["", "a\x00b", "x" * 256, 7])
async def test_bad_actor_or_reason_is_refused(store: SagaStore, word: str, value: Any) -> None:
    one, saga_id = await stage(store, "SUSPENDED")
    before = await unchanged(store, saga_id)
    for command in (one.admin.retry_step, one.admin.abort, one.admin.compensate_step):
        with pytest.raises(PayloadError, match=word):
            await command(saga_id, **{word: value})
    assert await unchanged(store, saga_id) == before


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
async def test_bad_limit_is_refused_and_claims_nothing(store: SagaStore, limit: Any) -> None:
    one = saga(store, Story().step())
    await one.start(wait=False)
    with pytest.raises(SagaDefinitionError, match="limit must be"):
        await one.orchestrator.run_due(limit)
    assert await one.orchestrator.run_due(1) == 1


@pytest.mark.parametrize("bad", ["not-a-uuid", 7, b"x"])
async def test_id_that_is_no_uuid_is_an_error_of_ours(store: SagaStore, bad: Any) -> None:
    one = saga(store, Story().step())
    with pytest.raises(SagaError, match=r"saga_id must be a uuid\.UUID"):
        await one.start(saga_id=bad)
    assert await store.count(Query()) == 0


@pytest.mark.parametrize("bad", ["not-a-uuid", "", 7, None])
async def test_request_for_an_id_that_is_no_uuid_is_an_error_of_ours(
    store: SagaStore, bad: Any
) -> None:
    one = saga(store, Story().step())
    requests: list[Callable[[], Awaitable[Any]]] = [
        lambda: one.orchestrator.get_snapshot(bad),
        lambda: one.orchestrator.notify(saga_id=bad, token=uuid4()),
        lambda: one.orchestrator.wait(bad, 1),
        lambda: one.admin.get_saga(bad),
        lambda: one.admin.abort(bad),
        lambda: one.admin.compensate_step(bad),
        lambda: one.admin.skip_step(bad, {"n": 1}),
        lambda: one.admin.retry_step(bad),
        lambda: one.orchestrator.notify_detailed(saga_id=bad, token=uuid4()),
        lambda: one.admin.explain(bad),
        lambda: one.admin.cancel(bad),
        lambda: one.admin.pause(bad),
        lambda: one.admin.resume(bad),
        lambda: one.admin.skip_compensation(bad, reason="none"),
        lambda: one.admin.retry_from(bad, "step_0"),
        lambda: one.admin.edit_input(bad, {"n": 1}),
    ]
    for ask in requests:
        with pytest.raises(SagaStateError, match=r"saga_id must be a uuid\.UUID"):
            await ask()


async def test_changed_definition_refuses_every_request_and_names_the_change(
    store: SagaStore,
) -> None:
    old = saga(store, Story().step(), Story().step(fails()), retry_policy=retry(5))
    saga_id = await old.start()
    token = (await old.see(saga_id)).step_execution_token
    assert token is not None
    new = saga(store, Story().step())
    before = await unchanged(store, saga_id)
    requests: list[Callable[[], Awaitable[Any]]] = [
        lambda: new.admin.retry_step(saga_id),
        lambda: new.admin.skip_step(saga_id, {"n": 1}),
        lambda: new.admin.compensate_step(saga_id),
        lambda: new.orchestrator.notify(saga_id=saga_id, token=token),
    ]
    for request in requests:
        with pytest.raises(SagaDefinitionError, match="step 'step_1' is gone") as refused:
            await request()
        assert refused.value.saga_id == saga_id
    assert await unchanged(store, saga_id) == before
    assert (await new.see(saga_id)).status is SagaStatus.SUSPENDED  # and it can be looked at


async def test_new_version_beside_the_old_one_drives_both(
    store: SagaStore, harness: StoreHarness
) -> None:
    old = saga(store, Story().step(fails(times=1)), retry_policy=retry(5))
    saga_id = await old.start()
    made = old.orchestrator.engine.registry.latest("story").definition
    new = saga(store, made=made)
    new.orchestrator.register("story", definition(Story().step(), Story().step()), version="2")
    later = await new.start()
    assert (await new.see(later)).version_name == "2"
    await harness.age(saga_id, HOUR)
    assert await new.orchestrator.run_due() == 1
    assert (await new.see(saga_id)).status is SagaStatus.COMPLETED


# --- payload values stay in payload columns ------------------------------------------------------


class Card(BaseModel):
    number: str = Field(max_length=4)


class Charge(BaseStep[Number, Card]):
    async def execute(self, inp: Number) -> Card:
        return Card.model_construct(number=SECRET)


async def test_output_that_fails_validation_is_not_told(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    builder = SagaBuilder()
    builder.add_step(step=Charge(), input_map=lambda ctx: Number(n=1))
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    stuck = await one.see(saga_id)
    assert stuck.status is SagaStatus.STUCK
    told = [stuck.last_error or "", *(entry.error or "" for entry in stuck.step_history)]
    with pytest.raises(PayloadError) as refused:
        await one.admin.skip_step(saga_id, mock_output={"number": SECRET})
    told.append(str(refused.value))
    assert "number" in told[0]
    assert not [text for text in [*told, caplog.text] if SECRET in text]
    assert refused.value.__cause__ is None


async def test_step_that_fails_validation_itself_is_told_without_the_value(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    def deed(_: Number, ctx: Any) -> None:
        Card(number=SECRET)

    after = await saga(store, Story().step(deed)).run()
    assert after.error_code == "ValidationError"
    assert "number: String should have at most 4 characters" in (after.last_error or "")
    assert SECRET not in caplog.text + (after.last_error or "")


# --- typed outputs -------------------------------------------------------------------------------


class Booking(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    id: UUID
    seats: tuple[int, ...]
    booked_by: str = Field(alias="bookedBy")


BOOKING = Booking(day=date(2026, 1, 2), id=UUID(int=5), seats=(1, 2), bookedBy="ann")


class Book(BaseStep[Number, Booking]):
    async def execute(self, inp: Number) -> Booking:
        return BOOKING


async def test_typed_output_is_the_same_in_maps_and_snapshots(store: SagaStore) -> None:
    """Also where the model is strict and has aliases, which its stored form does not use."""
    seen: list[Booking] = []
    builder = SagaBuilder()
    booked = builder.add_step(step=Book(), input_map=lambda ctx: Number(n=1))

    def look(ctx: Any) -> Number:
        seen.append(ctx.output_of(booked))
        return Number(n=1)

    builder.add_step(step=Story().step(), input_map=look)
    one = saga(store, made=builder.build())
    after = await one.run()
    assert after.status is SagaStatus.COMPLETED, after.last_error
    assert seen == [BOOKING]
    assert after.output_of(booked) == BOOKING


async def test_timezone_of_a_snapshot_is_utc(store: SagaStore) -> None:
    after = await saga(store, Story().step()).run()
    assert after.created_at.utcoffset() == timedelta(0)
    assert after.created_at <= after.updated_at
