"""Hooks run before an end is recorded, on every way to it, and again until they are through."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from saga_core import (
    ActiveSagaAlreadyExistsError,
    EntryKind,
    Message,
    SagaBuilder,
    SagaStateError,
    SagaStatus,
    SagaStore,
)
from saga_core.errors import SagaError
from saga_testing import Fault, FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import parallel
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga, waits
from tests.behaviour.hooked import Outbox, hooked

LEASE = timedelta(minutes=5)


def with_hooks(store: SagaStore, outbox: Outbox, *steps: Any, **options: Any) -> saga:
    return saga(store, made=hooked(*steps, outbox=outbox, **options))


# --- each end, and each way to it ---------------------------------------------------------------


async def test_hooks_run_in_order_around_a_saga_that_completes(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    after = await with_hooks(store, outbox, story.step(), story.step()).run()
    assert after.status is SagaStatus.COMPLETED
    assert outbox.topics == ["RUNNING", "COMPLETED"]
    last = outbox.sent[-1][1]
    assert last.key == str(after.saga_id)
    assert last.payload == {
        "saga": "story",
        "data": {"n": 1},
        "outputs": {"step_0": {"n": 2}, "step_1": {"n": 3}},
        "at": None,
        "error": None,
    }
    assert [each.kind for each in after.step_history] == [
        EntryKind.HOOK_DONE,
        EntryKind.COMPLETED,
        EntryKind.COMPLETED,
        EntryKind.ENDING,
        EntryKind.HOOK_DONE,
    ]
    assert set(after.outputs) == {"step_0", "step_1"}  # a hook's is none of the saga's
    assert [key.split(":")[1] for key, _ in outbox.sent] == ["on_start", "on_completed"]


async def test_failure_runs_the_hook_of_the_rollback(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    after = await with_hooks(store, outbox, story.step(), story.step(fails())).run()
    assert after.status is SagaStatus.COMPENSATED
    assert outbox.topics == ["RUNNING", "COMPENSATED"]
    assert outbox.sent[-1][1].payload["error"] == "ValueError"
    assert story.log[-1] == "undo step_0 1->2"


async def test_failure_without_compensation_runs_the_hook_of_failed(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(fails()), compensate_on_failure=False)
    after = await one.run()
    assert after.status is SagaStatus.FAILED
    assert outbox.topics == ["RUNNING", "FAILED"]
    assert outbox.sent[-1][1].payload["at"] == "step_0"


async def test_skip_step_that_completes_the_saga_runs_the_hook(store: SagaStore) -> None:
    outbox = Outbox()
    one = with_hooks(store, outbox, Story().step(fails()), retry_policy=retry(2))
    saga_id = await one.start()
    await one.admin.skip_step(saga_id, mock_output={"n": 40})
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert outbox.topics == ["RUNNING", "COMPLETED"]


@pytest.mark.parametrize("wait", [True, False])
async def test_abort_runs_the_hook(store: SagaStore, wait: bool) -> None:
    outbox = Outbox()
    one = with_hooks(store, outbox, Story().step(fails()), retry_policy=retry(2))
    saga_id = await one.start(aggregation_id="a")
    await one.admin.abort(saga_id, reason="wrong order", wait=wait)
    if not wait:
        after = await one.see(saga_id)
        assert (after.status, after.ends_as) == (SagaStatus.RUNNING, SagaStatus.FAILED)
        assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.FAILED, "Aborted")
    assert outbox.topics == ["RUNNING", "FAILED"]
    assert outbox.sent[-1][1].payload["error"] == "Aborted"
    assert await one.start(aggregation_id="a")


async def test_abort_of_a_saga_that_is_driven_runs_the_hook(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()

    async def hangs(_: Number, ctx: object) -> None:
        await asyncio.Event().wait()

    one = with_hooks(store, outbox, story.step(hangs))
    task = asyncio.create_task(one.start())
    await waits(lambda: bool(story.log))
    await one.admin.abort(story.contexts[0].saga_id)
    assert (await one.see(await task)).status is SagaStatus.FAILED
    assert outbox.topics == ["RUNNING", "FAILED"]


async def test_cancel_runs_the_hook(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(), story.step(fails()), retry_policy=retry(2))
    saga_id = await one.start()
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert outbox.topics == ["RUNNING", "COMPENSATED"]


async def test_cancel_of_a_saga_that_has_not_begun_runs_the_hook_of_its_end_alone(
    store: SagaStore,
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step())
    saga_id = await one.start(delay=HOUR)
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert (outbox.topics, story.log) == (["COMPENSATED"], [])


async def test_deadline_runs_the_hook(store: SagaStore, harness: StoreHarness) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(fails()), retry_policy=retry(5, 3 * HOUR))
    saga_id = await one.start(deadline=2 * HOUR)
    await harness.age(saga_id, 2 * HOUR)
    outbox.down("COMPENSATED")
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.STUCK
    outbox.up()
    await one.admin.retry_step(saga_id)  # its hook has no deadline
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "SagaDeadlineError")
    assert outbox.topics == ["RUNNING", "STUCK", "COMPENSATED"]


async def test_saga_that_lost_its_workers_runs_the_hook_of_stuck(
    store: SagaStore, harness: StoreHarness
) -> None:
    outbox, story = Outbox(), Story()
    hanging = asyncio.Event()

    async def hangs(_: Number, ctx: object) -> None:
        await hanging.wait()

    one = with_hooks(store, outbox, story.step(hangs))
    saga_id = await one.start(wait=False)
    tasks = []
    while not outbox.topics or outbox.topics[-1] != "STUCK":
        assert len(tasks) < 12, await one.admin.explain(saga_id)
        before = len(story.log)
        lost = with_hooks(store, outbox, story.step(hangs))
        task = asyncio.create_task(lost.orchestrator.run_due())
        tasks.append(task)
        await waits(lambda t=task, n=before: t.done() or len(story.log) > n)  # type: ignore[misc]
        await harness.age(saga_id, HOUR)
    await waits(tasks[-1].done)
    after = await one.see(saga_id)
    assert (after.status, after.error_code) == (SagaStatus.STUCK, "WorkerLost")
    assert (after.current_step_id, outbox.sent[-1][1].payload["at"]) == ("step_0", "step_0")
    hanging.set()
    for task in tasks:
        await task


async def test_rollback_that_gets_stuck_runs_the_hook_each_time(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(undo=fails("busy")), story.step(fails()))
    saga_id = await one.start()
    after = await one.see(saga_id)
    assert (after.status, after.current_step_id) == (SagaStatus.STUCK, "step_0")
    assert after.direction == 0
    assert outbox.topics == ["RUNNING", "STUCK"]
    await one.admin.retry_step(saga_id)
    assert outbox.topics == ["RUNNING", "STUCK", "STUCK"]  # two messages, with two keys
    await one.admin.skip_compensation(saga_id, reason="done by hand")
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    assert outbox.topics == ["RUNNING", "STUCK", "STUCK", "COMPENSATED"]


async def test_failed_saga_that_is_revived_runs_the_hook_of_its_next_end(
    store: SagaStore,
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(
        store, outbox, story.step(fails(times=1)), compensate_on_failure=False, hooks=("on_failed",)
    )
    saga_id = await one.start()
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.FAILED
    assert outbox.topics == ["FAILED", "FAILED"]


# --- hooks that fail ----------------------------------------------------------------------------


async def test_hook_is_retried_by_its_own_policy_and_holds_the_aggregate(
    store: SagaStore, harness: StoreHarness
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(
        store, outbox, story.step(), hooks=("on_completed",), hook_policy=retry(3, HOUR)
    )
    outbox.down()
    saga_id = await one.start(aggregation_id="a")
    after = await one.see(saga_id)
    assert (after.status, after.ends_as) == (SagaStatus.SUSPENDED, SagaStatus.COMPLETED)
    assert after.current_step_id == "on_completed"
    with pytest.raises(ActiveSagaAlreadyExistsError):
        await one.start(aggregation_id="a")
    outbox.up()
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert (after.status, after.ends_as, after.last_error) == (SagaStatus.COMPLETED, None, None)
    assert outbox.topics == ["COMPLETED"]
    assert story.log == ["do step_0"]
    assert await one.start(aggregation_id="a")


@pytest.mark.parametrize("way", ["retry_step", "skip_step", "abort"])
async def test_hook_that_fails_for_ever_is_stuck_and_a_person_goes_past_it(
    store: SagaStore, way: str
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(), hooks=("on_completed",))
    outbox.down()
    saga_id = await one.start(aggregation_id="a")
    (listed,) = (await one.admin.find(status=SagaStatus.STUCK)).sagas
    assert (listed.saga_id, listed.current_step_id) == (saga_id, "on_completed")
    said = await one.admin.explain(saga_id)
    assert "STUCK at hook 'on_completed'" in said
    assert "is COMPLETED once the hook is over" in said
    if way == "retry_step":
        outbox.up()
    await getattr(one.admin, way)(saga_id)
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert outbox.topics == (["COMPLETED"] if way == "retry_step" else [])
    assert story.log == ["do step_0"]


async def test_first_step_waits_for_the_hook_at_the_start(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(), story.step(), hooks=("on_start",))
    outbox.down()
    saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.STUCK
    assert story.log == []
    await one.admin.skip_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1"]


async def test_hook_of_stuck_hears_of_another_hook_that_is_stuck(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(), hooks=("on_completed", "on_stuck"))
    outbox.down("COMPLETED")
    saga_id = await one.start()
    after = await one.see(saga_id)
    assert (after.status, after.current_step_id) == (SagaStatus.STUCK, "on_completed")
    assert outbox.topics == ["STUCK"]
    assert outbox.sent[0][1].payload["at"] == "on_completed"
    outbox.up()
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert outbox.topics == ["STUCK", "COMPLETED"]


async def test_hook_of_stuck_that_is_stuck_leaves_every_way_out_of_what_is_behind_it(
    store: SagaStore,
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(), story.step(fails()), pivot=0)
    outbox.down("STUCK")
    saga_id = await one.start()
    after = await one.see(saga_id)
    assert (after.status, after.current_step_id) == (SagaStatus.STUCK, "on_stuck")
    assert "STUCK at step 'step_1' once the hook is over" in await one.admin.explain(saga_id)
    await one.admin.skip_step(saga_id)
    after = await one.see(saga_id)
    assert (after.status, after.current_step_id) == (SagaStatus.STUCK, "step_1")
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).current_step_id == "on_stuck"
    await one.admin.abort(saga_id, wait=True)
    after = await one.see(saga_id)
    assert (after.status, outbox.topics) == (SagaStatus.FAILED, ["RUNNING", "FAILED"])


async def test_cancel_of_a_saga_that_is_stuck_in_telling_so_rolls_it_back(
    store: SagaStore,
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(undo=fails(times=1)), story.step(fails()))
    outbox.down("STUCK")
    saga_id = await one.start()
    assert (await one.see(saga_id)).current_step_id == "on_stuck"
    await one.admin.cancel(saga_id)
    after = await one.see(saga_id)
    assert after.current_step_id == "on_stuck"  # attempts are counted anew, so it fails again
    assert story.log.count("undo step_0 1->2") == 2


@pytest.mark.parametrize("command", ["cancel", "compensate_step", "retry_from", "edit_input"])
async def test_settled_end_takes_no_command_that_would_change_it(
    store: SagaStore, command: str
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(), hooks=("on_completed",), hook_policy=retry(3))
    outbox.down()
    saga_id = await one.start()
    before = (await store.export(saga_id)).history
    more = {"retry_from": ("step_0",), "edit_input": ({"n": 1},)}.get(command, ())
    with pytest.raises(SagaStateError, match="in its hook on_completed"):
        await getattr(one.admin, command)(saga_id, *more)
    with pytest.raises(SagaStateError, match="its end is settled: COMPLETED"):
        await one.admin.abort(saga_id)
    assert (await store.export(saga_id)).history == before


@pytest.mark.parametrize("command", ["cancel", "abort"])
async def test_command_to_whoever_drives_the_hook_is_told_and_the_message_is_sent(
    store: SagaStore, command: str
) -> None:
    sending, go = asyncio.Event(), asyncio.Event()
    outbox, story = Outbox(), Story()
    keys: list[str] = []

    class Slow(Outbox):
        async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
            keys.append(idempotency_key)
            sending.set()
            await go.wait()
            return await outbox.publish(message, idempotency_key=idempotency_key)

    one = with_hooks(store, Slow(), story.step(), hooks=("on_completed",))
    task = asyncio.create_task(one.start())
    await sending.wait()
    saga_id = story.contexts[0].saga_id
    await getattr(one.admin, command)(saga_id, wait=False)
    go.set()
    after = await one.see(await task)
    assert after.status is SagaStatus.COMPLETED
    (ignored,) = [each for each in after.step_history if each.kind == "command_ignored"]
    assert "COMPLETED" in (ignored.reason or "")  # settled, or on record by then
    assert outbox.topics == ["COMPLETED"]
    assert set(keys) == {key for key, _ in outbox.sent}


async def test_paused_hook_rests_until_it_is_resumed(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step(), hooks=("on_completed",), hook_policy=retry(3))
    outbox.down()
    saga_id = await one.start()
    await one.admin.pause(saga_id)
    with pytest.raises(SagaStateError, match="paused"):
        await one.admin.skip_step(saga_id)
    outbox.up()
    await one.admin.resume(saga_id)
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert outbox.topics == ["COMPLETED"]


async def test_hook_at_the_start_waits_until_the_saga_begins(
    store: SagaStore, harness: StoreHarness
) -> None:
    outbox, story = Outbox(), Story()
    one = with_hooks(store, outbox, story.step())
    saga_id = await one.start(delay=HOUR)
    await one.orchestrator.run_due()
    assert outbox.topics == []
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert outbox.topics == ["RUNNING", "COMPLETED"]


@pytest.mark.parametrize("branched", [False, True])
@pytest.mark.parametrize("compensates", [True, False])
async def test_deadline_that_passes_before_the_hook_at_the_start_ends_the_saga(
    store: SagaStore, harness: StoreHarness, branched: bool, compensates: bool
) -> None:
    """In the queue, and before the time that it is to begin at."""
    outbox, story = Outbox(), Story()
    made = hooked(story.step(), outbox=outbox, compensate_on_failure=compensates)
    if branched:
        both = parallel({"a": story.step(), "b": story.step()}, compensate_on_failure=compensates)
        made = replace(both, hooks=made.hooks)
    one = saga(store, made=made)
    holder = await one.start(aggregation_id="key", delay=9 * HOUR)
    more = {"aggregation_id": "key", "on_conflict": "queue", "deadline": HOUR}
    looked_at = await one.start(**more)
    unseen = await one.start(**more, wait=False)
    passed = (await one.see(holder)).created_at - HOUR
    ahead = await one.start(delay=HOUR, deadline=passed)
    assert (await one.see(ahead)).deadline_at == passed
    for saga_id in (looked_at, unseen):
        stands = await one.see(saga_id)
        assert stands.deadline_at is not None
        assert abs(stands.deadline_at - stands.created_at - HOUR) < timedelta(seconds=5)
        assert "its deadline is at" in await one.admin.explain(saga_id)
        await harness.age(saga_id, HOUR)
    while await one.orchestrator.run_due():
        pass
    status = SagaStatus.COMPENSATED if compensates else SagaStatus.FAILED
    for saga_id in (looked_at, unseen, ahead):
        stands = await one.see(saga_id)
        assert (stands.status, stands.error_code) == (status, "SagaDeadlineError")
    assert outbox.topics == [f"{status}"] * 3
    assert story.log == []
    if not compensates:  # brought back it begins from its beginning, hook included
        await one.admin.retry_step(ahead)
        assert (await one.see(ahead)).status is SagaStatus.COMPLETED
        assert outbox.topics[3:] == ["RUNNING", "COMPLETED"]


async def test_deadline_does_not_stop_a_hook_at_the_start_that_has_begun(
    store: SagaStore, harness: StoreHarness
) -> None:
    outbox, story = Outbox(), Story()
    outbox.down("RUNNING")
    one = with_hooks(store, outbox, story.step(), hook_policy=retry(3))
    saga_id = await one.start(delay=HOUR, deadline=HOUR)
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    stands = await one.see(saga_id)
    assert (stands.status, stands.waiting_for) == (SagaStatus.SUSPENDED, None)
    outbox.up()
    await harness.age(saga_id, 2 * HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).error_code == "SagaDeadlineError"
    assert outbox.topics == ["RUNNING", "COMPENSATED"]
    assert story.log == []


@pytest.mark.parametrize("way", ["queued", "delayed", "paused"])
async def test_saga_that_begins_with_a_hook_has_no_input_to_be_changed_before(
    store: SagaStore, way: str
) -> None:
    one = with_hooks(store, Outbox(), Story().step())
    await one.start(aggregation_id="key", delay=HOUR)
    more = {"aggregation_id": "key", "on_conflict": "queue"} if way == "queued" else {"delay": HOUR}
    saga_id = await one.start(**more)
    if way == "paused":
        await one.admin.pause(saga_id)
    before = await store.export(saga_id)
    said = "SUSPENDED and has not begun; .* computed after its hook on_start"
    with pytest.raises(SagaStateError, match=said):
        await one.admin.edit_input(saga_id, {"n": 5})
    after = await store.export(saga_id)
    assert (after.history, after.record.state) == (before.history, before.record.state)


async def test_event_ends_the_wait_of_a_hook_for_its_next_attempt(store: SagaStore) -> None:
    outbox = Outbox()
    one = with_hooks(
        store, outbox, Story().step(), hooks=("on_completed",), hook_policy=retry(3, HOUR)
    )
    outbox.down()
    saga_id = await one.start()
    outbox.up()
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    assert await one.orchestrator.notify(saga_id=saga_id, token=token, event={"broker": "up"})
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    ((key, _),) = outbox.sent
    assert key.endswith(":on_completed:do:0")


async def test_parallel_saga_runs_its_hooks_once_for_all_its_branches(store: SagaStore) -> None:
    outbox, story = Outbox(), Story()
    broken = [True]

    def busy(_: Number, ctx: object) -> None:
        if broken:
            raise ValueError("busy")

    def made(*steps: Any) -> Any:
        builder = SagaBuilder(parallel=True)
        for number, step in enumerate(steps):
            builder.add_step(step=step, step_id=f"side_{number}", input_map=lambda ctx: Number(n=1))
        plain = hooked(Story().step(), outbox=outbox)
        return replace(builder.build(), hooks=plain.hooks)

    after = await saga(store, made=made(story.step(), story.step())).run()
    assert (after.status, outbox.topics) == (SagaStatus.COMPLETED, ["RUNNING", "COMPLETED"])
    assert set(outbox.sent[-1][1].payload["outputs"]) == {"side_0", "side_1"}
    outbox.sent.clear()
    failing = saga(store, made=made(story.step(undo=busy), story.step(fails())))
    saga_id = await failing.start()
    after = await failing.see(saga_id)
    assert (after.status, outbox.topics) == (SagaStatus.STUCK, ["RUNNING", "STUCK"])
    broken.clear()
    await failing.admin.retry_step(saga_id)
    after = await failing.see(saga_id)
    assert after.status is SagaStatus.COMPENSATED, await failing.admin.explain(saga_id)
    assert outbox.topics == ["RUNNING", "STUCK", "COMPENSATED"]


# --- workers that die ---------------------------------------------------------------------------


class Died(BaseException):
    """The process of a driver is gone."""


ROADS = {
    "completed": (None, ["RUNNING", "COMPLETED"]),
    "compensated": ("step_1", ["RUNNING", "COMPENSATED"]),
    "stuck": ("undo", ["RUNNING", "STUCK", "COMPENSATED"]),
}


@pytest.mark.parametrize("road", ROADS)
async def test_no_message_is_lost_when_its_sender_dies_at_any_store_call(
    store: SagaStore, harness: StoreHarness, road: str
) -> None:
    fault, wanted = ROADS[road]

    def steps(story: Story) -> tuple[Any, ...]:
        broken = fails("busy") if fault == "undo" else None
        return story.step(undo=broken), story.step(None if fault is None else fails())

    async def whole_life(moment: tuple[str, int, str]) -> None:
        outbox, story = Outbox(), Story()
        dead = False

        def probe(method: str, ordinal: int, when: str) -> None:
            nonlocal dead
            if (method, ordinal, when) == moment or dead:
                dead = True
                raise Died

        saga_id = uuid4()
        mortal = with_hooks(FaultyStore(store, probe=probe), outbox, *steps(story))
        with contextlib.suppress(Died, SagaError):
            await mortal.start(saga_id=saga_id)
        assert dead, moment
        other = with_hooks(store, outbox, *steps(story))
        await other.start(saga_id=saga_id, wait=False)
        for _ in range(6):
            await harness.age(saga_id, HOUR)
            await other.orchestrator.run_due()
            if (await other.see(saga_id)).status is SagaStatus.STUCK:
                await other.admin.skip_compensation(saga_id, reason="test")
        after = await other.see(saga_id)
        assert after.status.is_terminal, (moment, await other.admin.explain(saga_id))
        assert outbox.topics == wanted, (moment, outbox.sent)

    rehearsal = FaultyStore(store)
    one = with_hooks(rehearsal, Outbox(), *steps(Story()))
    await one.start()
    moments = [
        (call.method, call.ordinal, when)
        for call in rehearsal.calls
        for when in ("before", "after")
    ]
    assert len(moments) >= 10
    for moment in moments:
        await whole_life(moment)


async def test_lost_answer_of_any_call_sends_each_message_once(
    store: SagaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.writing.FIRST_PAUSE", 0.001)
    rehearsal = FaultyStore(store)
    await with_hooks(rehearsal, Outbox(), Story().step()).run()
    for call in rehearsal.calls:
        if call.method not in ("create", "commit"):
            continue
        outbox, faulty = Outbox(), FaultyStore(store)
        faulty.fail(call.method, call.ordinal, Fault.AFTER)
        one = with_hooks(faulty, outbox, Story().step())
        after = await one.run()
        assert after.status is SagaStatus.COMPLETED, call
        assert [message.topic for _, message in outbox.sent] == ["RUNNING", "COMPLETED"], call
