"""What a worker survives, and whom it convicts."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from saga_core import (
    Direction,
    Query,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    SagaWorker,
    StepContext,
)
from saga_core.records import Claims
from saga_testing import Fault, FaultyStore, ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga, waits

LEASE = timedelta(minutes=5)
SOON = timedelta(milliseconds=20)


async def hang(_: Number, ctx: Any) -> None:
    await asyncio.Event().wait()


# --- workers that die ----------------------------------------------------------------------------


class Deaths:
    """Workers that claim a saga and are never heard of again."""

    def __init__(self, harness: StoreHarness, saga_id: UUID) -> None:
        self._harness = harness
        self._saga_id = saga_id
        self._tasks: list[asyncio.Task[int]] = []

    async def one(self, dying: saga, story: Story) -> bool:
        """Let a worker begin the saga's step and die in it; False if it did not begin it."""
        begun = len(story.log)
        task = asyncio.create_task(dying.orchestrator.run_due())
        self._tasks.append(task)
        await waits(lambda: task.done() or len(story.log) > begun)
        await self._harness.age(self._saga_id, LEASE)
        return len(story.log) > begun

    async def bury(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_step_that_kills_its_worker_each_time_is_stuck_and_retry_finishes_it(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    mended: list[bool] = []

    async def kill(_: Number, ctx: Any) -> None:
        if not mended:
            await asyncio.Event().wait()

    def worker() -> saga:
        return saga(store, story.step(), story.step(kill), lease=LEASE)

    saga_id = await worker().start(wait=False)
    deaths = Deaths(harness, saga_id)
    died = 0
    while await deaths.one(worker(), story):
        died += 1
        assert died < 12
    stuck = await worker().see(saga_id)
    assert (stuck.status, stuck.error_code) == (SagaStatus.STUCK, "WorkerLost")
    assert "worker lost 3 times in step 'step_1'" in (stuck.last_error or "")
    kinds = Counter(str(entry.kind) for entry in stuck.step_history)
    assert kinds["suspected"] == 3
    mended.append(True)
    await worker().admin.retry_step(saga_id)
    assert (await worker().see(saga_id)).status is SagaStatus.COMPLETED
    await deaths.bury()
    assert (await worker().see(saga_id)).status is SagaStatus.COMPLETED


async def test_deploys_and_cancellations_convict_nobody(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(hang))
    saga_id = await one.start(wait=False)
    for n in range(8):
        task = asyncio.create_task(one.orchestrator.run_due())
        await waits(lambda n=n: len(story.log) == n + 1)  # type: ignore[misc]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    record = await store.load(saga_id)
    assert (record.state.status, record.reclaims) == (SagaStatus.RUNNING, 0)
    assert (await one.see(saga_id)).step_history == ()


async def test_aggregate_of_a_dead_worker_is_free_once_its_saga_has_ended(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    dying = saga(store, story.step(hang), lease=LEASE)
    saga_id = await dying.start(wait=False, aggregation_id="a")
    deaths = Deaths(harness, saga_id)
    assert await deaths.one(dying, story)
    healthy = saga(store, story.step())
    assert await healthy.orchestrator.run_due() == 1
    assert await healthy.start(aggregation_id="a") != saga_id
    await deaths.bury()


# --- stopping ------------------------------------------------------------------------------------


async def test_step_longer_than_the_grace_is_cancelled_and_given_back(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(hang))
    saga_id = await one.start(wait=False)
    worker = SagaWorker(one.orchestrator, shutdown_grace=SOON)
    task = asyncio.create_task(worker.run())
    await waits(lambda: bool(story.log))
    worker.stop()
    await asyncio.wait_for(task, 5)
    record = await store.load(saga_id)
    assert (record.worker, record.reclaims, record.state.attempt) == (None, 0, 0)
    assert await store.count(Query(overdue_by=timedelta(0))) == 1


async def test_block_that_raises_still_stops_its_worker(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(hang))
    saga_id = await one.start(wait=False)

    async def block() -> None:
        async with SagaWorker(one.orchestrator, shutdown_grace=SOON):
            await waits(lambda: bool(story.log))
            raise LookupError

    with pytest.raises(LookupError):
        await block()
    assert (await store.load(saga_id)).worker is None


async def test_sigterm_stops_a_worker_that_handles_signals() -> None:
    worker = SagaWorker(saga(MemoryStore(), Story().step()).orchestrator)
    task = asyncio.create_task(worker.run(handle_signals=True))
    await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, 5)


# --- trouble -------------------------------------------------------------------------------------


async def test_worker_drives_the_rest_of_a_batch_in_which_one_saga_is_broken(
    store: SagaStore,
) -> None:
    builder = SagaBuilder()
    first = builder.add_step(step=Story().step(), input_map=lambda ctx: Number(n=1))
    builder.add_step(step=Story().step(), input_map=lambda out: Number(n=1 // 0), depends_on=first)
    one = saga(store, made=builder.build())
    one.orchestrator.register("good", definition(Story().step()))
    names = ("good", "story", "good", "story", "good")
    ids = [await one.start(saga_name=name, wait=False) for name in names]
    async with SagaWorker(one.orchestrator, concurrency=5):
        ended = [await one.orchestrator.wait(saga_id, 10) for saga_id in ids]
    good, bad = SagaStatus.COMPLETED, SagaStatus.COMPENSATED
    assert [each.status for each in ended] == [good, bad, good, bad, good]


async def test_worker_outlives_a_store_that_is_gone_in_the_middle_of_sagas(
    store: SagaStore, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up the sagas it holds, and takes them again when their leases have ended."""
    monkeypatch.setattr("saga_core.engine.PATIENCE", 0.1)
    story = Story()
    faulty = FaultyStore(store)
    one = saga(faulty, story.step(), lease=LEASE)
    ids = [await one.start(wait=False) for _ in range(3)]
    for method in ("commit", "renew", "release"):
        faulty.fail_always(method, Fault.BEFORE)
    async with SagaWorker(one.orchestrator, poll_interval=SOON) as worker:
        await waits(lambda: len(story.log) == 3)
        await waits(lambda: not worker._driving)
        faulty.heal()
        for saga_id in ids:
            await harness.age(saga_id, LEASE)
        for saga_id in ids:
            assert (await one.orchestrator.wait(saga_id, 10)).status is SagaStatus.COMPLETED


async def test_worker_warns_once_of_due_sagas_that_it_does_not_know(
    store: SagaStore,
    harness: StoreHarness,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("saga_core.worker.UNREGISTERED_CHECK", 0.01)
    foreign = SagaOrchestrator(store=store)
    foreign.register("foreign", definition(Story().step()))
    for _ in range(2):
        saga_id = await foreign.start(saga_name="foreign", initial_data={"n": 1}, wait=False)
        await harness.age(saga_id, HOUR)
    faulty = FaultyStore(store)
    async with SagaWorker(saga(faulty, Story().step()).orchestrator):
        await waits(lambda: faulty.calls_of("find") >= 4)
    assert caplog.text.count("'foreign'") == 1
    assert await foreign.run_due() == 2


async def test_idle_worker_asks_ever_more_slowly_and_looks_when_something_falls_due() -> None:
    faulty = FaultyStore(MemoryStore())
    one = saga(faulty, Story().step(fails(times=1)), retry_policy=retry(2, SOON * 10))
    async with SagaWorker(one.orchestrator, poll_interval=timedelta(hours=1)):
        await asyncio.sleep(0.3)
        assert 2 <= faulty.calls_of("claim_due") <= 6
        saga_id = await one.start()  # fails, and is due in a fifth of a second
        assert (await one.orchestrator.wait(saga_id, 5)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("by", [timedelta(days=1), timedelta(days=-1)], ids=["ahead", "back"])
async def test_stores_clock_that_jumps_costs_time_but_never_correctness(by: timedelta) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    story = Story()
    go = asyncio.Event()

    async def hold(_: Number, ctx: Any) -> None:
        if len(story.log) == 1:
            await go.wait()

    one, other = (saga(store, story.step(hold), story.step()) for _ in range(2))
    task = asyncio.create_task(one.start())
    await waits(lambda: bool(story.log))
    clock.jump(by)
    taken = await other.orchestrator.run_due()
    assert taken == (1 if by > timedelta(0) else 0)
    go.set()
    saga_id = await task
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert [entry.step_id for entry in after.step_history] == ["step_0", "step_1"]


# --- limits --------------------------------------------------------------------------------------


class Crowd:
    """Steps that wait until they are let go, and how many of each saga run at once."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()
        self.gate = asyncio.Semaphore(0)

    async def step(self, _: Number, ctx: StepContext) -> None:
        name = ctx.saga_name
        self.running[name] += 1
        self.entered[name] += 1
        self.most[name] = max(self.most[name], self.running[name])
        self.most["all"] = max(self.most["all"], self.running.total())
        await self.gate.acquire()
        self.running[name] -= 1

    def go(self, many: int) -> None:
        for _ in range(many):
            self.gate.release()


async def crowded(store: SagaStore, crowd: Crowd, **counts: int) -> SagaOrchestrator:
    orchestrator = SagaOrchestrator(store=store)
    for name, count in counts.items():
        orchestrator.register(name, definition(Story().step(crowd.step)))
        for _ in range(count):
            await orchestrator.start(saga_name=name, initial_data={"n": 1}, wait=False)
    return orchestrator


async def test_limits_hold_in_all_and_for_each_name(store: SagaStore) -> None:
    crowd = Crowd()
    orchestrator = await crowded(store, crowd, slow=8, quick=8)
    async with SagaWorker(orchestrator, concurrency=5, per_name={"slow": 2}, poll_interval=SOON):
        await waits(lambda: crowd.running == {"slow": 2, "quick": 3})
        crowd.go(16)
        await waits(lambda: crowd.entered == {"slow": 8, "quick": 8})
        await waits(lambda: crowd.running.total() == 0)
    assert (crowd.most["slow"], crowd.most["all"]) == (2, 5)


async def test_name_at_its_limit_keeps_no_other_waiting(store: SagaStore) -> None:
    crowd = Crowd()
    orchestrator = await crowded(store, crowd, slow=20)
    async with SagaWorker(orchestrator, concurrency=5, per_name={"slow": 1}, poll_interval=SOON):
        await waits(lambda: crowd.running["slow"] == 1)
        orchestrator.register("quick", definition(Story().step(crowd.step)))
        for _ in range(4):
            await orchestrator.start(saga_name="quick", initial_data={"n": 1}, wait=False)
        await waits(lambda: crowd.running == {"slow": 1, "quick": 4})
        crowd.go(30)
        await waits(lambda: crowd.entered["slow"] == 20)
    assert crowd.most["slow"] == 1


async def test_place_that_comes_free_goes_to_the_next_of_the_name(store: SagaStore) -> None:
    crowd = Crowd()
    orchestrator = await crowded(store, crowd, slow=3)
    # It need not wait for a poll: the end of a drive makes the worker look.
    async with SagaWorker(orchestrator, per_name={"slow": 1}, poll_interval=HOUR):
        for entered in (1, 2, 3):
            await waits(lambda entered=entered: crowd.entered["slow"] == entered)
            crowd.go(1)


async def test_limits_hold_after_the_answer_to_a_claim_was_lost(store: SagaStore) -> None:
    """What was taken without a word is still held, so nothing else may take its places."""
    crowd = Crowd()
    faulty = FaultyStore(store)
    orchestrator = await crowded(faulty, crowd, slow=3, quick=3)
    faulty.fail("claim_due", 1, Fault.AFTER)
    async with SagaWorker(orchestrator, concurrency=2, per_name={"slow": 2}, poll_interval=SOON):
        await waits(lambda: crowd.running.total() == 2)
        crowd.go(1)
        await waits(lambda: crowd.entered.total() >= 3)
        crowd.go(6)
        await waits(lambda: crowd.entered.total() == 6 and crowd.running.total() == 0)
    assert crowd.most["all"] == 2


class Order:
    """What a worker has driven, in its order."""

    def __init__(self, store: SagaStore) -> None:
        self.seen: list[str] = []
        self._orchestrator = SagaOrchestrator(store=store)

    async def forward(self, name: str, count: int) -> None:
        def do(_: Number, ctx: StepContext) -> None:
            self.seen.append(name)

        await self._start(name, count, definition(Story().step(do)))

    async def rollbacks(self, name: str, count: int) -> None:
        def undo(_: Number, ctx: StepContext) -> None:
            self.seen.append(f"undo {name}")

        steps = Story().step(undo=undo), Story().step(fails())
        ids = await self._start(name, count, definition(*steps, retry_policy=retry(9)))
        while await self._orchestrator.run_due():
            pass
        for saga_id in ids:
            await SagaAdmin(engine=self._orchestrator.engine).cancel(saga_id, wait=False)

    async def _start(self, name: str, count: int, made: SagaDefinition) -> list[UUID]:
        self._orchestrator.register(name, made)
        given: dict[str, Any] = {"saga_name": name, "initial_data": {"n": 1}, "wait": False}
        return [await self._orchestrator.start(**given) for _ in range(count)]

    async def driven(self, many: int, **limits: Any) -> list[str]:
        async with SagaWorker(self._orchestrator, poll_interval=SOON, **limits):
            await waits(lambda: len(self.seen) == many)
        return self.seen


async def test_rollbacks_have_every_second_place_also_beside_a_name_with_a_limit(
    store: SagaStore,
) -> None:
    order = Order(store)
    await order.rollbacks("failing", 3)
    await order.forward("limited", 9)
    seen = await order.driven(12, concurrency=1, per_name={"limited": 1})
    assert seen[:6] == ["undo failing", "limited"] * 3


async def test_rollbacks_of_a_name_with_a_limit_have_every_second_place_too(
    store: SagaStore,
) -> None:
    order = Order(store)
    await order.rollbacks("limited", 3)
    await order.forward("other", 9)
    seen = await order.driven(12, concurrency=1, per_name={"limited": 1, "other": 1})
    assert seen[:6] == ["undo limited", "other"] * 3


async def test_what_is_due_first_is_driven_first_whichever_name_has_a_limit(
    store: SagaStore,
) -> None:
    order = Order(store)
    await order.forward("early", 2)
    await order.forward("limited", 4)
    await order.forward("late", 2)
    seen = await order.driven(8, concurrency=1, per_name={"limited": 1})
    assert seen == ["early"] * 2 + ["limited"] * 4 + ["late"] * 2


async def test_places_are_filled_with_one_call_more_for_each_limit(store: SagaStore) -> None:
    crowd = Crowd()
    faulty = FaultyStore(store)
    orchestrator = await crowded(faulty, crowd, one=0, two=0, quick=9)
    async with SagaWorker(orchestrator, concurrency=9, per_name={"one": 1, "two": 2}):
        await waits(lambda: crowd.running == {"quick": 9})
        assert faulty.calls_of("claim_due") == 3
        crowd.go(9)


async def test_look_that_finds_nothing_is_one_call_for_all_names(store: SagaStore) -> None:
    asked: list[set[str]] = []

    class Noting(FaultyStore):
        async def claim_due(self, worker: str, **given: Any) -> Claims:
            asked.append({kind.saga_name for kind in given["only"]})
            return await super().claim_due(worker, **given)

    orchestrator = await crowded(Noting(store), Crowd(), one=0, two=0, quick=0)
    async with SagaWorker(orchestrator, per_name={"one": 1, "two": 2}, poll_interval=SOON):
        await waits(lambda: len(asked) >= 3)
    assert asked[:3] == [{"one", "two", "quick"}] * 3


async def test_limited_names_fill_their_places_though_no_other_is_due(store: SagaStore) -> None:
    """The first call asks for what the tightest of them has, the later ones for the rest."""
    crowd = Crowd()
    orchestrator = await crowded(store, crowd, wide=0, quick=1, narrow=1)
    for _ in range(5):
        await orchestrator.start(saga_name="wide", initial_data={"n": 1}, wait=False)
    limits = {"narrow": 1, "wide": 4}
    async with SagaWorker(orchestrator, concurrency=9, per_name=limits, poll_interval=HOUR):
        await waits(lambda: crowd.running == {"quick": 1, "narrow": 1, "wide": 4})
        crowd.go(9)
        await waits(lambda: crowd.entered["wide"] == 5)


async def test_rollbacks_are_asked_for_first_and_then_in_turn(store: SagaStore) -> None:
    """With one place for a name: neither way keeps the other waiting for long."""
    favoured: list[Direction] = []

    class Noting(FaultyStore):
        async def claim_due(self, worker: str, **asked: Any) -> Claims:
            if asked["only"][0].saga_name == "limited":
                favoured.append(asked["favour"])
            return await super().claim_due(worker, **asked)

    orchestrator = SagaOrchestrator(store=Noting(store))
    for name in ("limited", "other"):
        orchestrator.register(name, definition(Story().step()))
    async with SagaWorker(orchestrator, per_name={"limited": 1}, poll_interval=SOON):
        await waits(lambda: len(favoured) >= 4)
    assert favoured[:4] == [Direction.ROLLBACK, Direction.FORWARD] * 2


@pytest.mark.parametrize(
    "bad", [0, -1, True, "2", 1.5, {"slow": 0}, {"slow": True}, {"slow": "2"}, {3: 1}, [1]]
)
async def test_limit_that_is_none_is_refused(bad: Any) -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    what = "concurrency" if isinstance(bad, int | str | float) else "per_name"
    with pytest.raises(SagaDefinitionError, match=what):
        SagaWorker(orchestrator, **{what: bad})
