"""Rollbacks: what may have been done, probes, the pivot, and compensations that fail."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    NonRetryableError,
    SagaAdmin,
    SagaStateError,
    SagaStatus,
    SagaStore,
    Sleep,
)
from saga_core.status import Direction
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga, waits

LEASE = timedelta(minutes=5)


async def hang(_: Number, ctx: Any) -> None:
    await asyncio.Event().wait()


def answers(*found: Number | Exception | None) -> Any:
    """Return a probe that gives these answers one after the other, and the last for ever."""
    left = list(found)

    def probe(_: Number, ctx: Any) -> Number | None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return probe


def told(after: Any) -> list[tuple[str, str]]:
    return [(str(entry.kind), entry.step_id or "") for entry in after.step_history]


# --- what may have been done ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"timeout": timedelta(milliseconds=5)}, {"retry_policy": retry(2, timedelta(0))}],
    ids=["an error", "a timeout", "the last retry"],
)
async def test_step_that_failed_may_have_been_done_and_is_undone_without_output(
    store: SagaStore, options: dict[str, Any]
) -> None:
    story = Story()
    deed = hang if "timeout" in options else fails()
    made = [story.step(), story.uncertain(deed)]
    after = await saga(store, *made, **options).run()
    assert after.status is SagaStatus.COMPENSATED
    assert [line for line in story.log if "undo" in line] == [
        "undo step_1 2->None",
        "undo step_0 1->2",
    ]
    assert after.outputs == {"step_0": {"n": 2}}
    assert told(after)[-3:] == [
        ("maybe_done", "step_1"),
        ("compensated", "step_1"),
        ("compensated", "step_0"),
    ]


async def test_step_that_was_done_is_undone_with_its_output(store: SagaStore) -> None:
    story = Story()
    await saga(store, story.uncertain(), story.step(fails())).run()
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]


async def test_step_that_an_abort_cut_off_is_undone_when_a_rollback_is_asked_for(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.uncertain(hang))
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: bool(story.log))
    await one.admin.abort(chosen, reason="enough")
    await task
    assert (await one.see(chosen)).status is SagaStatus.FAILED
    await one.admin.compensate_step(chosen)
    assert (await one.see(chosen)).status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "undo step_0 1->None"]


async def test_step_whose_worker_was_lost_is_undone_when_a_rollback_is_asked_for(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, story.step(), story.uncertain())
    chosen = uuid4()
    async with harness.open() as second:
        lost = saga(second, story.step(), story.uncertain(hang))
        driver = asyncio.create_task(lost.start(saga_id=chosen))
        await waits(lambda: len(story.log) == 2)
        await harness.age(chosen, LEASE * 2)
        await one.admin.compensate_step(chosen)
        driver.cancel()
        await asyncio.wait({driver})
    assert (await one.see(chosen)).status is SagaStatus.COMPENSATED
    assert story.log[2:] == ["undo step_1 2->None", "undo step_0 1->2"]


async def test_what_is_to_be_undone_survives_the_death_of_its_driver(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(),
        story.uncertain(fails(), fails("busy", times=1)),
        compensation_retry_policy=retry(2),
    )
    saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATING
    await harness.age(saga_id, HOUR)
    async with harness.open() as second:
        other = saga(second, story.step(), story.uncertain(), compensation_retry_policy=retry(2))
        assert await other.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-3:] == ["undo step_1 2->None", "undo step_1 2->None", "undo step_0 1->2"]


async def test_output_that_cannot_be_stored_is_rolled_back_where_it_may_be_missing(
    store: SagaStore,
) -> None:
    story = Story()

    def unstorable(_: Number, ctx: Any) -> Number:
        return Number.model_construct(n=float("nan"))

    after = await saga(store, story.step(), story.uncertain(unstorable)).run()
    assert after.status is SagaStatus.COMPENSATED
    assert after.error_code == "PayloadError"
    assert story.log[-2:] == ["undo step_1 2->None", "undo step_0 1->2"]


async def test_step_that_the_deadline_cut_off_is_undone(store: SagaStore) -> None:
    story = Story()
    after = await saga(store, story.step(), story.uncertain(hang)).run(
        deadline=timedelta(milliseconds=300)
    )
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "SagaDeadlineError")
    assert story.log[-2:] == ["undo step_1 2->None", "undo step_0 1->2"]


async def test_step_that_waits_when_a_rollback_is_asked_for_is_undone(store: SagaStore) -> None:
    story = Story()

    def asleep(_: Number, ctx: Any) -> Any:
        return Sleep(HOUR)

    one = saga(store, story.step(), story.uncertain(asleep))
    saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-2:] == ["undo step_1 2->None", "undo step_0 1->2"]


async def test_step_in_doubt_is_stuck_where_the_code_no_longer_undoes_it_without_output(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    options = {"compensation_retry_policy": retry(2)}
    before = saga(store, story.step(), story.uncertain(fails(), fails("busy")), **options)
    saga_id = await before.start()
    await harness.age(saga_id, HOUR)
    deployed = saga(store, story.step(), story.step(), **options)
    await deployed.orchestrator.run_due()
    stuck = await deployed.see(saga_id)
    assert stuck.status is SagaStatus.STUCK
    assert "no longer takes None" in (stuck.last_error or "")
    assert story.log.count("undo step_1 2->None") == 1
    await deployed.admin.skip_compensation(saga_id, reason="looked: nothing was done")
    assert (await deployed.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-1] == "undo step_0 1->2"


async def test_what_may_have_been_done_with_an_older_input_is_undone_too(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.uncertain(fails()), retry_policy=retry(2))
    saga_id = await one.start()
    await one.admin.edit_input(saga_id, {"n": 50})
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    undone = [line for line in story.log if "undo" in line]
    assert undone == ["undo step_1 50->None", "undo step_1 2->None", "undo step_0 1->2"]


# --- probes --------------------------------------------------------------------------------------


async def test_probe_that_finds_the_step_done_gives_its_output_to_the_compensation(
    store: SagaStore,
) -> None:
    story = Story()
    made = [story.step(), story.uncertain(fails(), probe=answers(Number(n=40)))]
    after = await saga(store, *made).run()
    assert after.status is SagaStatus.COMPENSATED
    assert story.log[2:] == ["probe step_1 2", "undo step_1 2->40", "undo step_0 1->2"]
    found = next(entry for entry in after.step_history if entry.kind == "probed")
    assert (found.output, found.input) == ({"n": 40}, {"n": 2})
    assert after.outputs == {"step_0": {"n": 2}}, "it is no output of a completed step"


async def test_probe_that_does_not_find_the_step_done_leaves_it(store: SagaStore) -> None:
    story = Story()
    made = [story.step(), story.uncertain(fails(), probe=answers(None))]
    after = await saga(store, *made).run()
    assert after.status is SagaStatus.COMPENSATED
    assert story.log[2:] == ["probe step_1 2", "undo step_0 1->2"]


async def test_probe_asks_by_the_key_that_the_step_was_done_with(store: SagaStore) -> None:
    story = Story()
    await saga(store, story.uncertain(fails(), probe=answers(Number(n=2)))).run()
    do, probe, undo = (ctx.idempotency_key for ctx in story.contexts)
    assert do == probe != undo


async def test_probe_that_raises_is_asked_again_and_not_once_it_has_answered(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.uncertain(
            fails(),
            undo=fails("busy", times=1),
            probe=answers(ConnectionError("no answer"), Number(n=2)),
        ),
        compensation_retry_policy=retry(2),
    )
    saga_id = await one.start()
    waiting = await one.see(saga_id)
    assert (waiting.status, waiting.retry_counter) == (SagaStatus.COMPENSATING, 1)
    error = waiting.step_history[-1].error
    assert error == "the probe raised ConnectionError: no answer"
    for _ in range(2):
        await harness.age(saga_id, HOUR)
        await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[1:] == ["probe step_0 1"] * 2 + ["undo step_0 1->2"] * 2


async def test_saga_is_stuck_when_nobody_knows_and_a_person_may_have_it_asked_again(
    store: SagaStore,
) -> None:
    story = Story()
    probe = answers(NonRetryableError("no such account"), None)
    one = saga(store, story.uncertain(fails(), probe=probe))
    saga_id = await one.start()
    stuck = await one.see(saga_id)
    assert (stuck.status, stuck.direction) == (SagaStatus.STUCK, Direction.ROLLBACK)
    assert stuck.last_error == "the probe raised NonRetryableError: no such account"
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[1:] == ["probe step_0 1"] * 2


async def test_probe_has_the_time_limit_of_the_compensation(store: SagaStore) -> None:
    story = Story()
    one = saga(
        store,
        story.uncertain(fails(), probe=hang),
        compensation_timeout=timedelta(milliseconds=5),
    )
    stuck = await one.run()
    assert (stuck.status, stuck.error_code) == (SagaStatus.STUCK, "StepTimeoutError")


# --- compensations that fail ---------------------------------------------------------------------


async def test_compensation_is_tried_as_its_policy_says_then_stuck(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(undo=fails("busy")),
        story.final(fails()),
        compensation_retry_policy=retry(3),
    )
    saga_id = await one.start()
    for attempt in (1, 2):
        waiting = await one.see(saga_id)
        assert (waiting.status, waiting.retry_counter) == (SagaStatus.COMPENSATING, attempt)
        assert waiting.error_code == "ValueError"
        await harness.age(saga_id, HOUR)
        await one.orchestrator.run_due()
    stuck = await one.see(saga_id)
    assert (stuck.status, stuck.last_error) == (SagaStatus.STUCK, "ValueError: busy")
    assert story.log.count("undo step_0 1->2") == 3


async def test_compensation_that_outlasts_its_time_is_a_failed_attempt(store: SagaStore) -> None:
    one = saga(
        store,
        Story().step(undo=hang),
        Story().final(fails()),
        compensation_timeout=timedelta(milliseconds=5),
    )
    stuck = await one.run()
    assert (stuck.status, stuck.error_code) == (SagaStatus.STUCK, "StepTimeoutError")


async def stuck_in_its_rollback(store: SagaStore, story: Story) -> tuple[saga, UUID]:
    one = saga(store, story.step(), story.step(undo=fails("gone")), story.final(fails()))
    return one, await one.start()


async def test_stuck_rollback_is_listed_and_skipped_with_a_reason(store: SagaStore) -> None:
    story = Story()
    one, saga_id = await stuck_in_its_rollback(store, story)
    listed = await one.admin.find(status=SagaStatus.STUCK)
    assert [(each.saga_id, each.direction) for each in listed.sagas] == [
        (saga_id, Direction.ROLLBACK)
    ]
    assert "skip_compensation" in await one.admin.explain(saga_id)

    await one.admin.skip_compensation(saga_id, actor="ann", reason="refunded by hand")

    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    skipped = next(entry for entry in after.step_history if entry.kind == "compensation_skipped")
    assert (skipped.step_id, skipped.actor, skipped.reason) == (
        "step_1",
        "ann",
        "refunded by hand",
    )
    assert story.log[-1] == "undo step_0 1->2"
    assert after.outputs == {"step_0": {"n": 2}, "step_1": {"n": 3}}
    assert "except 'step_1', whose compensation a person has skipped" in (
        await one.admin.explain(saga_id)
    )


@pytest.mark.parametrize("fails_then", [True, False])
async def test_skip_that_reaches_a_running_compensation_waits_for_its_attempt(
    store: SagaStore, fails_then: bool
) -> None:
    story = Story()
    go_on = asyncio.Event()

    async def undo(_: Number, ctx: Any) -> None:
        await go_on.wait()
        if fails_then:
            raise ValueError("gone")

    one = saga(
        store,
        story.step(),
        story.step(undo=undo),
        story.final(fails()),
        compensation_retry_policy=retry(5, timedelta(0)),
    )
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: "undo step_1 2->3" in story.log)
    await one.admin.skip_compensation(chosen, reason="done by hand", wait=False)
    go_on.set()
    await task
    after = await one.see(chosen)
    assert after.status is SagaStatus.COMPENSATED
    assert story.log[-2:] == ["undo step_1 2->3", "undo step_0 1->2"], "the next one is undone"
    kind = "compensation_skipped" if fails_then else "command_ignored"
    assert kind in [entry.kind for entry in after.step_history]


@pytest.mark.parametrize("reason", ["", "  ", None])
async def test_compensation_is_not_skipped_without_a_reason(store: SagaStore, reason: Any) -> None:
    one, saga_id = await stuck_in_its_rollback(store, Story())
    before = await store.load(saga_id)
    with pytest.raises(SagaStateError, match="needs a reason"):
        await one.admin.skip_compensation(saga_id, reason=reason)
    assert (await store.load(saga_id)).version == before.version


async def test_stuck_rollback_goes_on_when_it_is_retried(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(undo=fails("gone", times=1)), story.final(fails()))
    saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.STUCK
    mended = saga(store, story.step(), story.step(), story.final())
    await mended.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert story.log[-2:] == ["undo step_1 2->3", "undo step_0 1->2"]


# --- the pivot -----------------------------------------------------------------------------------


async def test_after_the_pivot_a_saga_is_stuck_and_goes_on_when_mended(store: SagaStore) -> None:
    story = Story()
    broken = [True]

    def last(_: Number, ctx: Any) -> None:
        if broken:
            raise ValueError("no")

    one = saga(store, story.step(), story.step(), story.final(last), pivot=1)
    saga_id = await one.start(aggregation_id="a")
    stuck = await one.see(saga_id)
    assert (stuck.status, stuck.direction) == (SagaStatus.STUCK, Direction.FORWARD)
    assert stuck.outputs == {"step_0": {"n": 2}, "step_1": {"n": 3}}
    explained = await one.admin.explain(saga_id)
    assert "its pivot 'step_1' is done, so there is no way back" in explained
    assert "compensate_step" not in explained
    with pytest.raises(SagaStateError, match="its pivot, step 'step_1', is done"):
        await one.admin.compensate_step(saga_id)
    assert (await one.see(saga_id)).step_history == stuck.step_history
    broken.clear()
    await one.admin.retry_step(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert not [line for line in story.log if "undo" in line]


async def test_failure_of_the_pivot_itself_is_rolled_back(store: SagaStore) -> None:
    story = Story()
    after = await saga(store, story.step(), story.step(fails()), pivot=1).run()
    assert after.status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]


async def test_rollback_that_is_asked_for_while_the_pivot_runs_comes_too_late(
    store: SagaStore,
) -> None:
    story = Story()
    go_on = asyncio.Event()

    async def wait(_: Number, ctx: Any) -> None:
        await go_on.wait()

    one = saga(store, story.step(), story.step(wait), story.final(), pivot=1)
    chosen = uuid4()
    task = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: len(story.log) == 2)
    await one.admin.compensate_step(chosen, wait=False)
    go_on.set()
    await task
    after = await one.see(chosen)
    assert after.status is SagaStatus.COMPLETED
    ignored = next(entry for entry in after.step_history if entry.kind == "command_ignored")
    assert "pivot" in (ignored.reason or "")


async def test_abort_ends_a_saga_after_its_pivot_and_leaves_no_way_back(store: SagaStore) -> None:
    one = saga(store, Story().step(), Story().final(fails()), pivot=0)
    saga_id = await one.start(aggregation_id="a")
    await one.admin.abort(saga_id, reason="lost for good")
    ended = await one.see(saga_id)
    assert ended.status is SagaStatus.FAILED
    with pytest.raises(SagaStateError, match="pivot"):
        await SagaAdmin(engine=one.orchestrator.engine).compensate_step(saga_id)
    assert await one.start(aggregation_id="a") != saga_id


async def test_deadline_does_not_stop_a_saga_after_its_pivot(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(
        store,
        story.step(),
        story.final(fails(times=1)),
        pivot=0,
        retry_policy=retry(2, HOUR),
    )
    saga_id = await one.start(deadline=HOUR / 2)
    waiting = await store.load(saga_id)
    assert waiting.due_at is not None
    assert waiting.due_at > waiting.created_at + HOUR * 0.9, "nothing looks at it earlier"
    await harness.age(saga_id, HOUR)
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1", "do step_1"]
