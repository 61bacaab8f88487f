"""Parallel steps begin when what they depend on is done, and are undone the other way round."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from saga_core import Query, SagaError, SagaStatus, SagaStore, StepContext
from saga_testing import Fault, FaultyStore, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import Gate, order_of, parallel
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga
from tests.behaviour.test_any_moment import MOMENTS, again, breathe

DIAMOND = {"left": ["root"], "right": ["root"], "join": ["left", "right"]}


async def test_independent_steps_run_beside_each_other(store: SagaStore) -> None:
    story, gate = Story(), Gate(3)  # each needs the others to have begun
    made = parallel({name: story.step(gate) for name in "abc"})
    async with asyncio.timeout(20):
        ended = await saga(store, made=made).run()
    assert ended.status is SagaStatus.COMPLETED
    assert ended.outputs == {name: {"n": 2} for name in "abc"}
    assert ended.current_step_index == 3


async def test_step_begins_with_the_outputs_of_all_that_it_depends_on(store: SagaStore) -> None:
    story = Story()
    made = parallel({name: story.step() for name in ("join", "left", "right", "root")}, DIAMOND)
    ended = await saga(store, made=made).run()
    assert ended.status is SagaStatus.COMPLETED
    assert ended.outputs["join"] == {"n": 3 + 3 + 1}
    assert order_of(story.log, "do root", "do left", "do join")
    assert order_of(story.log, "do root", "do right", "do join")
    assert len(story.log) == 4


async def test_what_failed_is_undone_in_reverse_and_independent_steps_at_once(
    store: SagaStore,
) -> None:
    story, gate = Story(), Gate(2)
    steps = {
        "root": story.step(),
        "left": story.step(undo=gate),
        "right": story.step(undo=gate),
        "join": story.step(fails("no")),
    }
    async with asyncio.timeout(20):
        ended = await saga(store, made=parallel(steps, DIAMOND)).run()
    assert ended.status is SagaStatus.COMPENSATED
    assert (ended.last_error, ended.error_code) == ("ValueError: no", "ValueError")
    assert order_of(story.log, "undo left", "undo root")
    assert order_of(story.log, "undo right", "undo root")
    assert [line for line in story.log if line.startswith("undo join")] == []


async def test_takeover_in_the_middle_of_branches_runs_what_was_not_recorded(
    store: SagaStore, harness: StoreHarness
) -> None:
    story, begun = Story(), asyncio.Event()

    async def quick(_: Number, __: StepContext) -> None:
        return None

    async def hangs(_: Number, ctx: StepContext) -> None:
        if story.log.count(f"do {ctx.step_id}") == 1:
            begun.set()
            await asyncio.Event().wait()

    steps = {"quick": story.step(quick), "slow": story.step(hangs), "slower": story.step(hangs)}
    made = parallel({**steps, "after": story.step()}, {"after": ["quick"]})
    first = saga(store, made=made)
    saga_id = uuid4()
    driver = asyncio.ensure_future(first.start(saga_id=saga_id))
    await begun.wait()
    while "after" not in (await first.see(saga_id)).outputs:  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    # Its process is frozen: the lease runs out, and another one takes over.
    await harness.age(saga_id, HOUR)
    second = saga(store, made=made)
    assert await second.orchestrator.run_due() == 1
    ended = await second.see(saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert story.log.count("do quick") == story.log.count("do after") == 1
    assert story.log.count("do slow") == story.log.count("do slower") == 2
    keys = {ctx.idempotency_key for ctx in story.contexts if ctx.step_id == "slow"}
    tokens = {ctx.token for ctx in story.contexts if ctx.step_id == "slow"}
    fences = [ctx.fence for ctx in story.contexts if ctx.step_id == "slow"]
    assert len(keys) == len(tokens) == 1
    assert fences[1] > fences[0]
    driver.cancel()
    await asyncio.wait({driver})
    assert (await second.see(saga_id)).status is SagaStatus.COMPLETED


def whole_saga(store: SagaStore, story: Story) -> saga:
    """Return one with a retry, a failure for good, and a rollback of several branches."""
    steps = {
        "root": story.step(),
        "left": story.step(fails(times=1)),
        "right": story.step(undo=fails("busy", times=1)),
        "alone": story.step(),
        "join": story.step(fails("lost")),
    }
    policy = retry(2)
    made = parallel(
        steps,
        DIAMOND,
        options={"left": {"retry_policy": policy}},
        compensation_retry_policy=retry(3),
    )
    return saga(store, made=made)


async def whole_life(
    store: SagaStore, faulty: FaultyStore, harness: StoreHarness, story: Story
) -> None:
    one = whole_saga(faulty, story)
    saga_id = uuid4()
    await again(lambda: one.start(saga_id=saga_id, wait=False))
    for _ in range(8):
        if (await store.load(saga_id)).state.status.is_terminal:
            break
        await harness.age(saga_id, HOUR)
        await again(lambda: one.orchestrator.run_due())
    after = await whole_saga(store, Story()).see(saga_id)
    assert after.status is SagaStatus.COMPENSATED, after.step_history
    completed = [each.step_id for each in after.step_history if each.kind == "completed"]
    assert sorted(completed) == ["alone", "left", "right", "root"]
    undone = [each.step_id for each in after.step_history if each.kind == "compensated"]
    assert sorted(undone) == ["alone", "left", "right", "root"]
    assert undone[-1] == "root" or undone[-2:] == ["root", "alone"]


async def test_life_goes_on_when_any_one_call_is_lost(
    store: SagaStore, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.writing.FIRST_PAUSE", 0.001)
    rehearsal = FaultyStore(store)
    await whole_life(store, rehearsal, harness, Story())
    calls = [(call.method, call.ordinal) for call in rehearsal.calls]
    assert len(calls) > 12
    for fault in (Fault.BEFORE, Fault.AFTER):
        for method, ordinal in calls:
            await store.purge(finished_for=timedelta(0), limit=10)
            faulty = FaultyStore(store)
            faulty.fail(method, ordinal, fault)
            story = Story()
            await whole_life(store, faulty, harness, story)
            where = f"{fault} {method} {ordinal}"
            assert [call.fault for call in faulty.calls].count(fault) == 1, where
            for name in ("root", "alone", "right"):
                assert story.log.count(f"do {name}") == 1, where


@pytest.mark.parametrize("caller", ["start", "run_due"])
async def test_cancelled_caller_leaves_no_lease_and_nothing_undone(caller: str) -> None:
    finished = 0
    for moment in range(MOMENTS):
        story, store = Story(), MemoryStore()
        made = parallel(
            {name: story.step(breathe) for name in ("root", "left", "right")},
            {
                "left": ["root"],
                "right": ["root"],
            },
        )
        one = saga(store, made=made)
        moving: Any = one.start()
        if caller == "run_due":
            await one.start(wait=False)
            moving.close()
            moving = one.orchestrator.run_due()
        task = asyncio.ensure_future(moving)
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
            finished += 1
        for record in (await store.find(Query())).records:
            assert record.worker is None, f"held after a cancellation at moment {moment}"
        await one.orchestrator.run_due()
        assert await one.orchestrator.run_due() == 0, moment
        stands = [each.state.status for each in (await store.find(Query())).records]
        assert set(stands) <= {SagaStatus.COMPLETED}, (moment, stands)
        assert len(story.log) <= 5, (moment, story.log)  # those that were cancelled run again
    assert finished, "the sweep must reach the end of the call"


async def test_lost_store_leaves_the_saga_to_others(
    store: SagaStore, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.engine.PATIENCE", 0.01)
    story, faulty = Story(), FaultyStore(store)
    for ordinal in range(2, 12):
        faulty.fail("commit", ordinal, Fault.AFTER)
    made = parallel({name: story.step() for name in "abc"})
    saga_id = uuid4()
    with pytest.raises(SagaError):
        await saga(faulty, made=made).start(saga_id=saga_id)
    await harness.age(saga_id, HOUR)
    other = saga(store, made=made)
    await other.orchestrator.run_due()
    assert (await other.see(saga_id)).status is SagaStatus.COMPLETED
