"""One driver for all branches: workers that stop or die, hooks, versions, observers, speed."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from saga_core import (
    AwaitEvent,
    BaseStep,
    EntryKind,
    SagaBuilder,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    SagaWorker,
    StepContext,
    Upcaster,
)
from saga_core.hookspecs import ObservedEvent, hookimpl
from saga_testing import MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import Gate, parallel
from tests.behaviour.cast import HOUR, NAME, Number, Story, fails, retry, saga

STEPS = 10
STEP = 0.05
"""Seconds that each of them takes."""


class Paid(BaseModel):
    amount: int


def awaits(_: Number, ctx: StepContext) -> Any:
    return Number(n=ctx.event.amount) if isinstance(ctx.event, Paid) else AwaitEvent(Paid)


async def test_stopped_worker_finishes_the_running_steps_and_begins_no_further(
    store: SagaStore,
) -> None:
    story, gate, release = Story(), Gate(3), asyncio.Event()

    async def held(_: Number, __: StepContext) -> None:
        await gate()
        await release.wait()

    made = parallel(
        {"a": story.step(held), "b": story.step(held), "after": story.step()}, {"after": ["a"]}
    )
    one = saga(store, made=made)
    saga_id = await one.start(wait=False)
    worker = SagaWorker(one.orchestrator)
    running = asyncio.ensure_future(worker.run())
    async with asyncio.timeout(20):
        await gate()
        worker.stop()
        release.set()
        await running
    given_back = await one.see(saga_id)
    assert set(given_back.outputs) == {"a", "b"}
    assert given_back.worker is None
    assert "do after" not in story.log
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log.count("do a") == story.log.count("do b") == 1


async def test_driver_that_lost_its_lease_cancels_all_steps_and_records_nothing(
    store: SagaStore, harness: StoreHarness
) -> None:
    story, gate = Story(), Gate(3)
    lost: list[str] = []

    async def held(_: Number, ctx: StepContext) -> None:
        if len(story.log) > 2:
            return
        await gate()
        try:
            await asyncio.Event().wait()
        finally:
            lost.append(ctx.step_id)

    made = parallel({"a": story.step(held), "b": story.step(held)})
    first = saga(store, made=made, lease=timedelta(seconds=1))
    saga_id = uuid4()
    driver = asyncio.ensure_future(first.start(saga_id=saga_id))
    async with asyncio.timeout(20):
        await gate()
        await harness.age(saga_id, HOUR)
        other = saga(store, made=made)
        assert await other.orchestrator.run_due() == 1
        await driver
    assert sorted(lost) == ["a", "b"]
    ended = await other.see(saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert [each.kind for each in ended.step_history].count(EntryKind.COMPLETED) == 2


async def test_saga_that_kills_its_workers_is_stuck_and_goes_on_by_retry_step(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = parallel({"a": story.step(), "b": story.step(awaits)})
    one = saga(store, made=made)
    saga_id = await one.start(wait=False)
    for _ in range(20):
        if (await store.load(saga_id)).state.status is SagaStatus.STUCK:
            break
        # Who takes it dies before its first commit.
        only = one.orchestrator.engine.registry.claimable
        record = await store.load(saga_id)
        if record.state.error_code == "WorkerLost" or record.reclaims >= 2:
            await one.orchestrator.run_due()
            break
        await store.claim_due("dead", claim_id=uuid4(), limit=1, lease=HOUR, only=only, favour=1)
        await harness.age(saga_id, HOUR * 2)
    rests = await one.see(saga_id)
    assert rests.status is SagaStatus.SUSPENDED
    assert any(item.kind is EntryKind.SUSPECTED for item in rests.step_history)
    assert rests.error_code is None  # it was proven innocent
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=2))
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


class Note(BaseStep[str, None]):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def execute(self, inp: str) -> None:
        self.log.append(inp)


@pytest.mark.parametrize("ending", ["completed", "compensated", "stuck"])
async def test_hooks_run_around_parallel_steps(store: SagaStore, ending: str) -> None:
    story, log = Story(), list[str]()
    builder = SagaBuilder(parallel=True)
    deed = {"completed": None, "compensated": fails("no"), "stuck": fails("no")}[ending]
    for name in ("a", "b"):
        builder.add_step(
            step=story.step(deed if name == "b" else None),
            input_map=lambda _: Number(n=1),
            step_id=name,
            pivot=ending == "stuck" and name == "a",
        )
    builder.on_start(step=Note(log), input_map=lambda ctx: f"start {ctx.status}")
    builder.on_completed(step=Note(log), input_map=lambda ctx: f"end {ctx.status}")
    builder.on_compensated(step=Note(log), input_map=lambda ctx: f"end {ctx.status} {ctx.error}")
    builder.on_stuck(step=Note(log), input_map=lambda ctx: f"end {ctx.status} {ctx.step_id}")
    ended = await saga(store, made=builder.build()).run()
    wanted = {
        "completed": "end COMPLETED",
        "compensated": "end COMPENSATED ValueError: no",
        "stuck": "end STUCK b",
    }
    assert log == ["start RUNNING", wanted[ending]]
    assert ended.status is SagaStatus(ending.upper())


async def test_taken_over_saga_gives_each_event_to_the_branch_that_had_it(
    store: SagaStore, harness: StoreHarness
) -> None:
    """What a wait was answered with stays with its step while that waits for more."""

    def twice(_: Number, ctx: StepContext) -> Any:
        return AwaitEvent(Paid) if ctx.waits < 2 else Number(n=sum(e.amount for e in ctx.events))

    story = Story()
    made = parallel({"first": story.step(twice), "second": story.step(twice)})
    saga_id = await saga(store, made=made).start()
    seen = []
    for amount in (1, 10, 100, 1000):
        fresh = saga(store, made=made)  # each event finds another process
        await fresh.orchestrator.signal(saga_id=saga_id, event=Paid(amount=amount))
        await fresh.orchestrator.run_due()
        seen.append(dict((await fresh.see(saga_id)).outputs))
    ended = await fresh.see(saga_id)
    assert ended.status is SagaStatus.COMPLETED
    outputs = sorted(out["n"] for out in ended.outputs.values())
    assert sum(outputs) == 1111, seen
    inbox = await store.inbox(saga_id)
    assert all(each.consumed for each in inbox)


class Go(BaseModel):
    pass


class Shipped(BaseModel):
    pass


async def test_event_of_a_step_that_waits_for_more_is_not_given_to_a_later_one(
    store: SagaStore,
) -> None:
    def paid_then_shipped(_: Number, ctx: StepContext) -> Any:
        if ctx.waits < 2:
            return AwaitEvent(Shipped if ctx.waits else Paid)
        return Number(n=ctx.events[0].amount)

    def goes(_: Number, ctx: StepContext) -> Any:
        return None if ctx.waits else AwaitEvent(Go)

    story = Story()
    steps = {"both": story.step(paid_then_shipped), "gate": story.step(goes)}
    made = parallel({**steps, "late": story.step(awaits)}, {"late": ["gate"]})
    saga_id = await saga(store, made=made).start()
    events: tuple[BaseModel, ...] = (Paid(amount=1), Go(), Paid(amount=2), Shipped())
    for event in events:
        fresh = saga(store, made=made)  # each event finds another process
        await fresh.orchestrator.signal(saga_id=saga_id, event=event)
        await fresh.orchestrator.run_due()
        if isinstance(event, Go):
            assert "late" not in (await fresh.see(saga_id)).outputs
    ended = await fresh.see(saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert (ended.outputs["both"], ended.outputs["late"]) == ({"n": 1}, {"n": 2})


async def test_attempt_that_runs_beside_a_failure_is_made_again_after_a_takeover(
    store: SagaStore, harness: StoreHarness
) -> None:
    """Also where its branch was resting until that attempt: it runs, so it is not left."""
    story, second = Story(), asyncio.Event()

    async def again(_: Number, ctx: StepContext) -> None:
        times = story.log.count(f"do {ctx.step_id}")
        if times == 1:
            raise ValueError("busy")
        if times == 2:
            second.set()
            await asyncio.Event().wait()

    async def bad(_: Number, __: StepContext) -> None:
        await second.wait()
        raise ValueError("no")

    made = parallel(
        {"again": story.step(again), "bad": story.step(bad)},
        options={"again": {"retry_policy": retry(3, timedelta(milliseconds=5))}},
    )
    first = saga(store, made=made)
    saga_id = uuid4()
    driver = asyncio.ensure_future(first.start(saga_id=saga_id))
    async with asyncio.timeout(20):
        await second.wait()
        while not any(  # noqa: ASYNC110
            each.status is SagaStatus.FAILED for each in (await first.see(saga_id)).branches
        ):
            await asyncio.sleep(0.002)
    await harness.age(saga_id, HOUR)
    other = saga(store, made=made)
    await other.orchestrator.run_due()
    ended = await other.see(saga_id)
    assert (ended.status, ended.last_error) == (SagaStatus.COMPENSATED, "ValueError: no")
    assert story.log.count("do again") == 3
    assert story.log[-1] == "undo again 1->2"
    driver.cancel()
    await asyncio.wait({driver})


async def test_definition_that_links_its_steps_otherwise_is_not_driven(store: SagaStore) -> None:
    story = Story()
    steps = {name: story.step(awaits if name == "a" else None) for name in ("a", "b", "c")}
    one = saga(store, made=parallel(steps, {"b": ["a"]}))
    rests = await one.run()
    other = saga(store, made=parallel(steps, {"b": ["a"], "c": ["b"]}))
    told = await other.admin.explain(rests.saga_id)
    assert "the dependencies of step 'c' have changed" in told
    assert (await other.orchestrator.check_definitions()).ok is False
    turned = saga(store, made=parallel(dict(reversed(steps.items())), {"b": ["a"]}))
    assert (await turned.orchestrator.check_definitions()).ok is True


async def test_upcaster_does_not_move_a_parallel_saga(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = parallel({"a": story.step(awaits)})
    saga_id = await saga(store, made=made).start()
    later = SagaOrchestrator(store=store)
    more = parallel({"a": story.step(), "b": story.step()})
    same = Upcaster(lambda flight: flight, fingerprints=(made.fingerprint,))
    later.register(NAME, more, version="2", upcast={"1": same})
    await later.signal(saga_id=saga_id, event=Paid(amount=1))
    await later.run_due()
    stays = await later.get_snapshot(saga_id)
    assert stays.status is SagaStatus.SUSPENDED
    report = await later.check_definitions()
    assert "parallel sagas end with the version that they were started with" in str(report)
    both = SagaOrchestrator(store=store)
    both.register(NAME, made)
    both.register(NAME, more, version="2", upcast={"1": lambda flight: flight})
    assert (await both.check_definitions()).ok
    await harness.age(saga_id, HOUR)  # it was given back, to be looked at later
    await both.run_due()
    ended = await both.get_snapshot(saga_id)
    assert (ended.status, ended.version_name) == (SagaStatus.COMPLETED, "1")


class Listener:
    def __init__(self) -> None:
        self.events: list[ObservedEvent] = []

    @hookimpl
    def saga_observe(self, event: ObservedEvent) -> None:
        self.events.append(event)


async def test_observers_learn_how_long_each_step_took() -> None:
    story, listener = Story(), Listener()

    async def slow(_: Number, __: StepContext) -> None:
        await asyncio.sleep(0.03)

    made = parallel({"quick": story.step(), "slow": story.step(slow)})
    one = saga(MemoryStore(), made=made, plugins=[listener])
    await one.run()
    took = {e.step_id: e.duration for e in listener.events if e.kind is EntryKind.COMPLETED}
    assert took["slow"] is not None
    assert took["quick"] is not None
    assert took["slow"] >= timedelta(seconds=0.03) > took["quick"]


async def test_thread_steps_run_beside_each_other(store: SagaStore) -> None:
    story, running = Story(), list[str]()

    def deed(_: Number, ctx: StepContext) -> None:
        running.append(ctx.step_id)
        until = time.monotonic() + 10
        while len(running) < 3 and time.monotonic() < until:
            time.sleep(0.001)

    made = parallel({name: story.threaded(deed) for name in "abc"})
    ended = await saga(store, made=made).run()
    assert ended.status is SagaStatus.COMPLETED
    assert len(running) == 3


class TimedStore(MemoryStore):
    """Counts the time that its writes take."""

    spent = 0.0

    async def commit(self, transition: Any) -> Any:
        begun = time.perf_counter()
        try:
            return await super().commit(transition)
        finally:
            self.spent += time.perf_counter() - begun


async def test_ten_independent_steps_of_50_ms_take_less_than_100_ms_and_their_commits() -> None:
    """The best of some runs, so that it speaks of us and not of who else uses the machine."""

    async def works(_: Number, __: StepContext) -> None:
        await asyncio.sleep(STEP)

    best = 1.0
    for _ in range(20):
        store, story = TimedStore(), Story()
        one = saga(store, made=parallel({f"s{n}": story.step(works) for n in range(STEPS)}))
        begun = time.perf_counter()
        saga_id = await one.start()
        best = min(best, time.perf_counter() - begun - store.spent)
        assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
        if best < 0.1:
            break
    assert best < 0.1


async def test_branch_that_is_retried_at_once_lets_siblings_end(store: SagaStore) -> None:
    story = Story()
    made = parallel(
        {"again": story.step(fails(times=3)), "other": story.step()},
        retry_policy=retry(5, timedelta(0)),
    )
    ended = await saga(store, made=made).run()
    assert ended.status is SagaStatus.COMPLETED
    assert story.log.count("do again") == 4
