"""`start`, `notify`, `wait` and the admin's five operations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from saga_core import (
    ActiveSagaAlreadyExistsError,
    InputContext,
    PayloadError,
    SagaAdmin,
    SagaBuilder,
    SagaDefinitionError,
    SagaNotFoundError,
    SagaStateError,
    SagaStatus,
    SagaStore,
    StoreUnavailableError,
)
from saga_testing import Fault, FaultyStore, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga, waits

# --- start ---------------------------------------------------------------------------------------


async def test_start_is_idempotent_by_saga_id(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    chosen = uuid4()
    for _ in range(3):
        assert await one.start(saga_id=chosen, aggregation_id="a") == chosen
    assert story.log == ["do step_0"]
    for other in ({"initial_data": {"n": 2}}, {"aggregation_id": "b"}):
        with pytest.raises(SagaStateError, match=str(chosen)):
            await one.start(**{"saga_id": chosen, "aggregation_id": "a", **other})


async def test_second_active_start_of_an_aggregate_names_the_first(store: SagaStore) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(2))
    first = await one.start(aggregation_id="a")
    with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
        await one.start(aggregation_id="a")
    assert refused.value.saga_id == first
    await one.admin.abort(first)
    assert await one.start(aggregation_id="a") != first


async def test_start_without_wait_leaves_it_to_others(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step())
    saga_id = await one.start(wait=False)
    assert story.log == []
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_unregistered_name_and_unknown_id_are_errors_of_ours(store: SagaStore) -> None:
    one = saga(store, Story().step())
    with pytest.raises(SagaDefinitionError, match="'nobody' is not registered"):
        await one.start(saga_name="nobody")
    missing = uuid4()
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: one.orchestrator.get_snapshot(missing),
        lambda: one.orchestrator.notify(saga_id=missing, token=uuid4()),
        lambda: one.orchestrator.wait(missing, 1),
        lambda: one.admin.get_saga(missing),
        lambda: one.admin.abort(missing),
        lambda: one.admin.retry_step(missing),
    ]
    for call in calls:
        with pytest.raises(SagaNotFoundError, match=str(missing)):
            await call()


BAD_STARTS: dict[str, dict[str, Any]] = {
    "initial_data.price is nan": {"initial_data": {"n": 1, "price": float("nan")}},
    "initial_data.x": {"initial_data": {"n": 1, "x": object()}},
    "NUL": {"initial_data": {"n": 1, "x": "a\x00b"}},
    "surrogate": {"initial_data": {"n": 1, "x": "\ud800"}},
    "the limit is": {"initial_data": {"n": 1, "x": "x" * 3_000_000}},
    "aggregation_id": {"aggregation_id": "a\x00b"},
    "at most 255": {"aggregation_id": "a" * 256},
    "must not be empty": {"aggregation_id": ""},
    "trace_id": {"trace_id": "t\n"},
    "tags": {"tags": "not-a-list"},
}


@pytest.mark.parametrize(("text", "changes"), BAD_STARTS.items(), ids=BAD_STARTS.keys())
async def test_bad_start_says_what_and_writes_nothing(
    store: SagaStore, text: str, changes: dict[str, Any]
) -> None:
    from saga_core import Query

    one = saga(store, Story().step())
    with pytest.raises(PayloadError, match=text):
        await one.start(**changes)
    assert await store.count(Query()) == 0


async def test_payload_values_never_reach_logs_or_errors(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    builder = SagaBuilder()
    builder.add_step(step=Story().step(), input_map=lambda ctx: ctx.initial_data)
    after = await saga(store, made=builder.build()).run(initial_data={"n": "s3cret"})
    assert after.status is SagaStatus.COMPENSATED
    assert "not a valid Number" in (after.last_error or "")
    assert "s3cret" not in caplog.text + (after.last_error or "")


async def test_cancelled_starter_cancels_the_step_and_gives_the_saga_back(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    first = [True]

    async def hang(_: Number, ctx: Any) -> None:
        if first:
            first.clear()
            await asyncio.Event().wait()

    one = saga(store, story.step(hang))
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: bool(story.log))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await store.load(chosen)
    assert (record.worker, record.state.attempt) == (None, 0)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(chosen)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.parametrize("call", [("create", 1), ("commit", 1), ("commit", 2)])
async def test_lost_call_is_sent_again_and_nothing_happens_twice(
    store: SagaStore, call: tuple[str, int], fault: Fault
) -> None:
    story = Story()
    faulty = FaultyStore(store)
    faulty.fail(*call, fault)
    after = await saga(faulty, story.step(), story.step()).run()
    assert after.status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1"]
    assert len(after.step_history) == 2


async def test_store_lost_while_driving_names_the_saga(
    store: SagaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.engine.PATIENCE", 0.2)
    faulty = FaultyStore(store)
    faulty.fail_always("commit", Fault.BEFORE)
    chosen = uuid4()
    with pytest.raises(StoreUnavailableError) as lost:
        await saga(faulty, Story().step()).start(saga_id=chosen)
    assert lost.value.saga_id == chosen
    faulty.fail_always("create", Fault.BEFORE)
    with pytest.raises(StoreUnavailableError) as never:
        await saga(faulty, Story().step()).start(saga_id=(other := uuid4()))
    assert never.value.saga_id == other


async def test_wait_returns_at_the_end_and_times_out_before(
    store: SagaStore, harness: StoreHarness
) -> None:
    async with harness.open() as second:
        one = saga(store, Story().step(fails(times=1)), retry_policy=retry(2))
        other = saga(second, Story().step())
        saga_id = await one.start()
        with pytest.raises(TimeoutError):
            await other.orchestrator.wait(saga_id, timeout=0.05)
        waiter = asyncio.create_task(other.orchestrator.wait(saga_id, timeout=10))
        await harness.age(saga_id, HOUR)
        await one.orchestrator.run_due()
        assert (await waiter).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), True, "5"])
async def test_wait_refuses_a_timeout_that_is_no_time(wrong: Any) -> None:
    one = saga(MemoryStore(), Story().step())
    saga_id = await one.start()
    with pytest.raises(SagaDefinitionError, match="timeout must be a number of seconds above zero"):
        await one.orchestrator.wait(saga_id, timeout=wrong)


async def test_snapshot_gives_typed_outputs_and_shows_a_retry_as_running(
    store: SagaStore, harness: StoreHarness
) -> None:
    builder = SagaBuilder()
    go = asyncio.Event()

    async def deed(_: Number, ctx: Any) -> None:
        if ctx.attempt == 1:
            raise ValueError
        await go.wait()

    first = builder.add_step(step=Story().step(), input_map=lambda ctx: Number(n=1))
    second = builder.add_step(
        step=Story().step(deed), input_map=lambda ctx: Number(n=2), retry_policy=retry(2)
    )
    one = saga(store, made=builder.build())
    saga_id = await one.start()
    await harness.age(saga_id, HOUR)
    drive = asyncio.create_task(one.orchestrator.run_due())
    await waits(lambda: drive.done() or one.orchestrator.engine._keeper.held(saga_id) is not None)
    snapshot = await one.orchestrator.get_snapshot(saga_id)
    assert snapshot.status is SagaStatus.RUNNING
    assert snapshot.output_of(first) == Number(n=2)
    with pytest.raises(SagaStateError, match="step_1"):
        snapshot.output_of(second)
    go.set()
    await drive


# --- notify --------------------------------------------------------------------------------------


def approval(story: Story) -> Any:
    """Return a saga whose second step waits for an event, and a later one that sees it too."""
    builder = SagaBuilder()

    def needs_event(inp: Number, ctx: Any) -> None:
        if ctx.event is None:
            raise ValueError("nobody has approved")

    def from_event(ctx: InputContext) -> Number:
        event = ctx.latest_event or {}
        return Number(n=event.get("n", 0))

    builder.add_step(step=story.step(), input_map=lambda ctx: Number(n=1))
    builder.add_step(step=story.step(needs_event), input_map=from_event, retry_policy=retry(5))
    builder.add_step(step=story.step(), input_map=lambda ctx: Number(n=len(ctx.events) * 100))
    return builder.build()


async def test_notify_hands_the_event_over_ends_the_wait_and_drives(store: SagaStore) -> None:
    story = Story()
    one = saga(store, made=approval(story))
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    assert token == story.contexts[-1].token
    assert await one.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 9})
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert after.outputs == {"step_0": {"n": 2}, "step_1": {"n": 10}, "step_2": {"n": 101}}
    assert after.events == ({"n": 9},)
    assert not await one.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 10})


async def test_notify_with_another_token_changes_nothing(store: SagaStore) -> None:
    one = saga(store, made=approval(Story()))
    saga_id = await one.start()
    before = await store.export(saga_id)
    assert not await one.orchestrator.notify(saga_id=saga_id, token=uuid4(), event={"n": 9})
    after = await store.export(saga_id)
    assert (after.history, after.inbox) == (before.history, before.inbox)
    assert after.record.version == before.record.version
    with pytest.raises(PayloadError):
        await one.orchestrator.notify(saga_id=saga_id, token=uuid4(), event={"x": float("inf")})


async def test_one_of_many_notifies_is_taken(store: SagaStore, harness: StoreHarness) -> None:
    story = Story()
    async with harness.open() as second:
        sagas = [saga(each, made=approval(story)) for each in (store, second)]
        saga_id = await sagas[0].start()
        token = (await sagas[0].see(saga_id)).step_execution_token
        assert token is not None
        taken = await asyncio.gather(
            *(
                sagas[n % 2].orchestrator.notify(saga_id=saga_id, token=token, event={"n": n})
                for n in range(6)
            )
        )
        assert sum(taken) == 1
        await sagas[0].orchestrator.wait(saga_id, 10)
        assert len((await sagas[0].see(saga_id)).events) == 1


async def test_event_survives_a_takeover(store: SagaStore, harness: StoreHarness) -> None:
    story = Story()
    one = saga(store, made=approval(story))
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    assert await one.orchestrator.notify(saga_id=saga_id, token=token, event={"n": 4}, wait=False)
    assert (await one.see(saga_id)).status is SagaStatus.RUNNING
    async with harness.open() as second:
        assert await saga(second, made=approval(story)).orchestrator.run_due() == 1
    assert (await one.see(saga_id)).outputs["step_2"] == {"n": 101}


# --- the admin's operations ----------------------------------------------------------------------

OPERATIONS = (
    "retry_step",
    "skip_step",
    "compensate_step",
    "cancel",
    "abort",
    "pause",
    "resume",
)
FORWARD = ("retry_step", "skip_step", "compensate_step", "cancel", "abort")
ALLOWED = {
    "SUSPENDED": (*FORWARD, "pause"),
    "STUCK": FORWARD,
    "FAILED": ("retry_step", "compensate_step", "cancel"),
    "COMPENSATING": ("compensate_step", "cancel", "abort", "pause"),
    "COMPLETED": (),
    "COMPENSATED": (),
}


async def stage(store: SagaStore, status: str) -> tuple[saga, Any]:
    """Return a saga with one step done that has come to this status."""
    story = Story()
    last = {"COMPLETED": None, "STUCK": lambda _, ctx: "not a number"}.get(status, fails())
    options: dict[str, Any] = {"compensate_on_failure": status != "FAILED"}
    if status == "SUSPENDED":
        options["retry_policy"] = retry(5)
    undo = fails(times=1) if status == "COMPENSATING" else None
    options["compensation_retry_policy"] = retry(5)
    one = saga(store, story.step(undo=undo), story.step(last), **options)
    saga_id = await one.start()
    assert (await one.see(saga_id)).status == status
    return one, saga_id


@pytest.mark.parametrize("status", ALLOWED)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_operation_is_done_or_refused_by_status(
    store: SagaStore, status: str, operation: str
) -> None:
    one, saga_id = await stage(store, status)
    before = await store.export(saga_id)
    command = getattr(one.admin, operation)
    arguments = {"mock_output": {"n": 1}} if operation == "skip_step" else {}
    if operation in ALLOWED[status]:
        await command(saga_id, actor="ann", reason="because", **arguments)
        entries = (await one.see(saga_id)).step_history[len(before.history) :]
        assert (entries[0].actor, entries[0].reason) == ("ann", "because")
        return
    with pytest.raises(SagaStateError, match=rf"{status}.* needs"):
        await command(saga_id, **arguments)
    after = await store.export(saga_id)
    assert (after.history, after.record.version) == (before.history, before.record.version)


async def test_retry_counts_attempts_anew(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(fails()), retry_policy=retry(3))
    saga_id = await one.start()
    await one.admin.retry_step(saga_id)
    after = await one.see(saga_id)
    assert (after.status, after.retry_counter) == (SagaStatus.SUSPENDED, 1)
    assert [context.attempt for context in story.contexts] == [1, 1]


async def test_failed_saga_takes_its_aggregate_again_or_is_refused(store: SagaStore) -> None:
    broken = [True]

    def deed(_: Number, ctx: Any) -> None:
        if broken:
            raise ValueError("broken")

    one = saga(store, Story().step(deed), compensate_on_failure=False)
    first = await one.start(aggregation_id="a")
    second = await one.start(aggregation_id="a")
    await one.admin.retry_step(second)
    assert (await one.see(second)).status is SagaStatus.FAILED
    broken.clear()
    third = await one.start(aggregation_id="b")
    assert (await one.see(third)).status is SagaStatus.COMPLETED
    await one.admin.retry_step(first)
    after = await one.see(first)
    assert after.status is SagaStatus.COMPLETED
    assert "revived" in [entry.kind for entry in after.step_history]


async def test_revival_is_refused_while_the_aggregate_is_taken(store: SagaStore) -> None:
    one = saga(store, Story().step(fails()), compensate_on_failure=False, retry_policy=retry(1))
    failed = await one.start(aggregation_id="a")
    waiting = saga(store, Story().step(fails()), retry_policy=retry(2))
    holder = await waiting.start(aggregation_id="a")
    with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
        await one.admin.retry_step(failed)
    assert refused.value.saga_id == holder
    assert (await one.see(failed)).status is SagaStatus.FAILED


async def test_skip_refuses_an_output_of_the_wrong_type(store: SagaStore) -> None:
    one, saga_id = await stage(store, "SUSPENDED")
    with pytest.raises(PayloadError, match="mock_output for step 'step_1'"):
        await one.admin.skip_step(saga_id, mock_output={"n": "many"})
    assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED


async def test_compensating_needs_a_completed_step(store: SagaStore) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(2))
    saga_id = await one.start()
    with pytest.raises(SagaStateError, match="no step was completed"):
        await one.admin.compensate_step(saga_id)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "another"])
async def test_abort_cancels_the_step_that_is_being_driven(
    store: SagaStore, harness: StoreHarness, elsewhere: bool
) -> None:
    story = Story()

    async def hang(_: Number, ctx: Any) -> None:
        await asyncio.Event().wait()

    lease = timedelta(milliseconds=600)
    async with harness.open() as second:
        one = saga(store, story.step(), story.step(hang), lease=lease)
        other = saga(second, story.step(), story.step(hang), lease=lease)
        chosen = uuid4()
        task = asyncio.create_task(one.start(saga_id=chosen))
        await waits(lambda: len(story.log) == 2)
        admin: SagaAdmin = other.admin if elsewhere else one.admin
        await admin.abort(chosen, reason="enough", wait=True)
        await task
        after = await one.see(chosen)
    assert (after.status, after.last_error) == (SagaStatus.FAILED, "aborted: enough")
    assert set(after.outputs) == {"step_0"}
    assert story.log == ["do step_0", "do step_1"]


async def test_cancel_of_a_saga_that_has_done_nothing_ends_it_as_compensated(
    store: SagaStore,
) -> None:
    one = saga(store, Story().step(fails()), retry_policy=retry(3))
    saga_id = await one.start()
    with pytest.raises(SagaStateError, match="nothing to undo"):
        await one.admin.compensate_step(saga_id)
    await one.admin.cancel(saga_id, actor="ann")
    after = await one.see(saga_id)
    assert (after.status, after.step_history[-1].actor) == (SagaStatus.COMPENSATED, "ann")
    failed = saga(store, Story().step(fails()), compensate_on_failure=False)
    saga_id = await failed.start()
    with pytest.raises(SagaStateError, match="cancel: the saga is FAILED"):
        await failed.admin.cancel(saga_id)


async def test_cancel_waits_for_whoever_drives_the_rollback(
    store: SagaStore, harness: StoreHarness
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
        cancelling = asyncio.create_task(other.admin.cancel(chosen, reason="sold out"))
        async with asyncio.timeout(10):
            while not await store.inbox(chosen):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        go.set()
        await cancelling
        assert (await other.see(chosen)).status is SagaStatus.COMPENSATED
        await task
    assert story.log == ["do step_0", "undo step_0 1->2"]


async def test_compensation_of_a_driven_saga_lets_the_step_finish_and_undoes_it(
    store: SagaStore, harness: StoreHarness
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
        await other.admin.compensate_step(chosen, wait=False)
        go.set()
        await task
        after = await one.see(chosen)
    assert after.status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "undo step_0 1->2"]
