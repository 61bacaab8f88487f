"""Leases and workers: who drives, how many at once, and what happens when that ends."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    Query,
    SagaDefinitionError,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    SagaWorker,
    StepContext,
)
from saga_core.records import Held
from saga_testing import Fault, FaultyStore, ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import NAME, Number, Story, definition, saga, waits

LEASE = timedelta(minutes=5)


async def test_lost_lease_cancels_the_step_and_commits_nothing_more(
    store: SagaStore, harness: StoreHarness, caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()
    mine = [True]

    async def hang(_: Number, ctx: Any) -> None:
        if mine:
            mine.clear()
            await asyncio.Event().wait()

    lease = timedelta(milliseconds=600)
    async with harness.open() as second:
        one = saga(store, story.step(hang), lease=lease)
        other = saga(second, story.step(hang), lease=LEASE)
        chosen = uuid4()
        task = asyncio.create_task(one.start(saga_id=chosen))
        await waits(lambda: bool(story.log))
        await harness.age(chosen, lease)
        await other.orchestrator.run_due()
        await task  # the starter hears that it lost the saga, and leaves it alone
        after = await one.see(chosen)
    assert after.status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_0"]
    assert len(after.step_history) == 1
    assert story.contexts[0].lease_lost
    assert "lost" in caplog.text


async def test_start_whose_creation_was_lost_leaves_the_saga_to_another_start_of_this_process(
    store: SagaStore,
) -> None:
    """Both give the same id, and both are the worker that holds the saga by its first lease."""
    story, release = Story(), asyncio.Event()

    async def held(_: Number, __: Any) -> None:
        await release.wait()

    faulty = FaultyStore(store)
    faulty.fail("create", 1, Fault.BEFORE)
    one = saga(faulty, story.step(held))
    chosen = uuid4()
    lost = asyncio.create_task(one.start(saga_id=chosen))
    await waits(lambda: bool(faulty.calls))
    other = asyncio.create_task(one.start(saga_id=chosen))
    async with asyncio.timeout(30):
        # The second, as a rule: the first begins its next try after a pause.
        await asyncio.wait({lost, other}, return_when=asyncio.FIRST_COMPLETED)
        assert story.log == ["do step_0"]
        release.set()
        assert {await lost, await other} == {chosen}
    assert (await one.see(chosen)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0"]


async def test_ends_of_several_drivers_are_all_seen(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Only one can be raised; no other is reported as lost once it is garbage."""

    class Gone(BaseException):
        pass

    async def goes(_: Number, __: Any) -> None:
        raise Gone

    one = saga(store, Story().step(goes))
    for _ in range(3):
        await one.start(wait=False)
    with pytest.raises(Gone):
        await one.orchestrator.run_due()
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_holder_that_cannot_reach_the_store_stops_before_its_lease_ends(
    store: SagaStore,
) -> None:
    story = Story()
    ended: list[float] = []
    loop = asyncio.get_running_loop()

    async def hang(_: Number, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(loop.time())

    faulty = FaultyStore(store)
    faulty.fail_always("renew", Fault.BLACKHOLE)
    lease = timedelta(milliseconds=600)
    begun = loop.time()
    await saga(faulty, story.step(hang), lease=lease).start()
    assert 0.3 < ended[0] - begun < 0.6
    (record,) = (await store.find(Query())).records
    assert record.version == 1


class Busy(FaultyStore):
    """Finds the row of one saga locked by somebody whenever it is renewed."""

    locked: UUID | None = None
    times = 0

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int | None]:
        busy = [one.saga_id for one in held if one.saga_id == self.locked and self.times > 0]
        self.times -= len(busy)
        free = [one for one in held if one.saga_id not in busy]
        return {**await super().renew(worker, free, lease), **dict.fromkeys(busy)}


@pytest.mark.parametrize(("times", "runs"), [(1, 1), (1000, 2)], ids=["once", "for ever"])
async def test_lease_that_cannot_be_renewed_just_now_is_not_lost_and_costs_no_other(
    store: SagaStore, times: int, runs: int
) -> None:
    story = Story()
    begun: Counter[UUID] = Counter()
    go = asyncio.Event()

    async def hold(_: Number, ctx: StepContext) -> None:
        begun[ctx.saga_id] += 1
        if begun[ctx.saga_id] == 1:
            await go.wait()

    busy = Busy(store)
    busy.times = times
    one = saga(busy, story.step(hold), lease=timedelta(milliseconds=600))
    ids = [await one.start(wait=False) for _ in range(3)]
    busy.locked = ids[0]
    async with SagaWorker(one.orchestrator, poll_interval=timedelta(milliseconds=20)):
        await waits(lambda: busy.calls_of("renew") >= 6 and begun[ids[0]] == runs)
        go.set()
        for saga_id in ids:
            assert (await one.orchestrator.wait(saga_id, 10)).status is SagaStatus.COMPLETED
    assert [begun[saga_id] for saga_id in ids] == [runs, 1, 1]


async def test_stores_clock_decides_not_the_workers() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    story = Story()
    one = saga(store, story.step())
    clock.jump(timedelta(days=-1))
    saga_id = await one.start(wait=False)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPLETED
    assert after.updated_at == clock.now()


async def test_worker_drives_no_more_at_once_than_it_may_and_claims_no_more(
    store: SagaStore,
) -> None:
    story = Story()
    running = [0]
    most = [0]

    async def slow(_: Number, ctx: Any) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        held = [each for each in (await store.find(Query())).records if each.worker]
        assert len(held) <= 3
        await asyncio.sleep(0.005)
        running[0] -= 1

    one = saga(store, story.step(slow), story.step(slow))
    ids = [await one.start(wait=False) for _ in range(15)]
    async with SagaWorker(one.orchestrator, concurrency=3):
        for saga_id in ids:
            assert (await one.orchestrator.wait(saga_id, 20)).status is SagaStatus.COMPLETED
    assert most == [3]


async def test_stopped_worker_finishes_the_step_and_gives_the_saga_back(store: SagaStore) -> None:
    story = Story()
    worker_ref: list[SagaWorker] = []

    async def stop(_: Number, ctx: Any) -> None:
        worker_ref[0].stop()
        await asyncio.sleep(0.01)

    one = saga(store, story.step(stop), story.step())
    saga_id = await one.start(wait=False)
    worker = SagaWorker(one.orchestrator)
    worker_ref.append(worker)
    await asyncio.wait_for(worker.run(), 10)
    record = await store.load(saga_id)
    assert (record.worker, record.state.step_id) == (None, "step_1")
    assert await one.orchestrator.run_due() == 1
    assert story.log == ["do step_0", "do step_1"]


async def test_cancelled_worker_cancels_its_steps_and_gives_them_back(store: SagaStore) -> None:
    story = Story()

    async def hang(_: Number, ctx: Any) -> None:
        await asyncio.Event().wait()

    one = saga(store, story.step(hang))
    saga_id = await one.start(wait=False)
    task = asyncio.create_task(SagaWorker(one.orchestrator).run())
    await waits(lambda: bool(story.log))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await store.load(saga_id)
    assert (record.worker, record.reclaims, record.state.attempt) == (None, 0, 0)


async def test_worker_outlives_an_outage_and_asks_again_with_the_same_claim(
    store: SagaStore,
) -> None:
    story = Story()
    faulty = FaultyStore(store)
    faulty.fail("claim_due", 1, Fault.AFTER)
    faulty.fail("claim_due", 2, Fault.BEFORE)
    one = saga(faulty, story.step())
    saga_id = await one.start(wait=False)
    async with SagaWorker(one.orchestrator, poll_interval=timedelta(milliseconds=50)):
        assert (await one.orchestrator.wait(saga_id, 10)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0"]
    assert len({record.fence for record in (await store.find(Query())).records}) == 1


async def test_unregistered_sagas_stay_due_and_are_warned_of_once(
    store: SagaStore, harness: StoreHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    foreign = SagaOrchestrator(store=store)
    foreign.register("foreign", definition(Story().step()))
    for _ in range(2):
        saga_id = await foreign.start(saga_name="foreign", initial_data={"n": 1}, wait=False)
        await harness.age(saga_id, LEASE)
    one = saga(store, Story().step())
    worker = SagaWorker(one.orchestrator)
    for _ in range(2):
        worker._warn_of((await store.find(Query(overdue_by=timedelta(minutes=1)))).records)
    assert caplog.text.count("'foreign'") == 1
    assert await one.orchestrator.run_due() == 0
    assert (await store.load(saga_id)).state.status is SagaStatus.RUNNING
    assert await foreign.run_due() == 2


async def test_worker_hears_of_work_from_a_store_that_pushes(harness: StoreHarness) -> None:
    from saga_core import Capability

    if Capability.WAKEUP not in harness.capabilities:
        return
    story = Story()
    async with harness.open() as one, harness.open() as two:
        starter, driver = saga(one, story.step()), saga(two, story.step())
        loop = asyncio.get_running_loop()
        async with SagaWorker(driver.orchestrator, poll_interval=timedelta(minutes=5)):
            await asyncio.sleep(0.5)  # polling has slowed down to long pauses by now
            begun = loop.time()
            saga_id = await starter.start(wait=False)
            await driver.orchestrator.wait(saga_id, 10)
            assert loop.time() - begun < 2


BAD_WORKERS: list[dict[str, Any]] = [
    {"concurrency": 0},
    {"concurrency": 1.5},
    {"poll_interval": timedelta(0)},
    {"poll_interval": 1},
    {"shutdown_grace": timedelta(seconds=-1)},
]


@pytest.mark.parametrize("options", BAD_WORKERS, ids=str)
def test_bad_worker_options_are_refused(options: dict[str, Any]) -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    with pytest.raises(SagaDefinitionError, match=next(iter(options))):
        SagaWorker(orchestrator, **options)


def test_bad_registrations_are_refused() -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    made = definition(Story().step())
    for name in ("", "a b", "a\x00", "x" * 201, None):
        with pytest.raises(SagaDefinitionError, match="saga name"):
            orchestrator.register(name, made)  # type: ignore[arg-type]
    with pytest.raises(SagaDefinitionError, match="build"):
        orchestrator.register(NAME, object())  # type: ignore[arg-type]
    orchestrator.register(NAME, made)
    with pytest.raises(SagaDefinitionError, match="version of its own"):
        orchestrator.register(NAME, definition(Story().step()))
    for lease in (timedelta(0), 30):
        with pytest.raises(SagaDefinitionError, match="execution_lease"):
            SagaOrchestrator(store=MemoryStore(), execution_lease=lease)  # type: ignore[arg-type]
