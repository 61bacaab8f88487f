"""Workers that delete what ended long ago, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_backends.sql import SqlSagaStore
from saga_core import (
    Query,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
    SagaNotFoundError,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    Sleep,
    StepContext,
)
from saga_core.child import child_id_of
from saga_core.records import Page
from saga_core.retention import BATCH, Retention
from saga_core.worker import SagaWorker
from saga_testing import Fault, FaultyStore, ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, NAME, Number, Story, fails, retry, saga

DAY = timedelta(days=1)
POLL = timedelta(milliseconds=20)


@pytest.fixture
def store_may_delete(store: SagaStore) -> SagaStore:
    """On tables of a user's own, what the store is told there."""
    if isinstance(store, SqlSagaStore):
        store.allows_retention = True
    return store


async def gone(store: SagaStore, left: int) -> None:
    async with asyncio.timeout(30):
        while await store.count(Query()) > left:  # noqa: ASYNC110 - another process might do it
            await asyncio.sleep(0.01)


async def test_worker_deletes_what_ended_long_ago_with_all_it_has(
    store_may_delete: SagaStore, harness: StoreHarness
) -> None:
    store = store_may_delete
    one = saga(store, Story().step(), Story().step())
    old = [await one.start() for _ in range(3)]
    lately = await one.start()
    for saga_id in old:
        await harness.age(saga_id, DAY)
    async with SagaWorker(one.orchestrator, poll_interval=POLL, retain=HOUR):
        await gone(store, 1)
    for saga_id in old:
        with pytest.raises(SagaNotFoundError):
            await store.load(saga_id)
        assert not await store.history(saga_id)
    assert (await one.see(lately)).status is SagaStatus.COMPLETED


async def test_worker_deletes_more_than_a_batch_and_nothing_that_goes_on(
    store_may_delete: SagaStore, harness: StoreHarness
) -> None:
    store = store_may_delete
    done = saga(store, Story().step())
    count = BATCH + 10 if isinstance(store, MemoryStore) else 4
    for _ in range(count):
        await harness.age(await done.start(), DAY)
    one = saga(store, Story().step(fails()), retry_policy=retry(3))
    waiting = await one.start(aggregation_id="a")
    queued = await one.start(aggregation_id="a", on_conflict="queue")
    stuck = await saga(store, Story().step(undo=fails()), Story().step(fails())).start()
    paused = await one.start()
    await one.admin.pause(paused)
    later = await one.start(delay=HOUR)
    kept = {waiting, queued, stuck, paused, later}
    for saga_id in kept:
        await store.load(saga_id)
    aged: list[UUID] = [queued, stuck, paused]  # the others would fall due
    for saga_id in aged:
        await harness.age(saga_id, DAY)
    only_deletes = SagaOrchestrator(store=store)
    async with SagaWorker(only_deletes, poll_interval=POLL, retain=HOUR):
        await gone(store, len(kept))
    page = await store.find(Query())
    assert {record.saga_id for record in page.records} == kept


async def test_nothing_is_deleted_by_default(store: SagaStore, harness: StoreHarness) -> None:
    one = saga(store, Story().step())
    saga_id = await one.start()
    await harness.age(saga_id, 1000 * DAY)
    async with SagaWorker(one.orchestrator, poll_interval=POLL):
        other = await one.start(wait=False)
        await one.orchestrator.wait(other, timeout=30)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_definition_says_how_long_its_own_sagas_are_kept(
    store_may_delete: SagaStore, harness: StoreHarness
) -> None:
    store = store_may_delete
    orchestrator = SagaOrchestrator(store=store)
    kept = []
    for name, retain in (("short", HOUR), ("long", 9 * DAY), ("other", None)):
        orchestrator.register(name, kept_for(retain))
        ids = [await orchestrator.start(saga_name=name, initial_data={"n": 1}) for _ in range(2)]
        await harness.age(ids[0], DAY)
        kept += ids if name != "short" else ids[1:]
    async with SagaWorker(orchestrator, poll_interval=POLL):
        await gone(store, len(kept))
    assert {record.saga_id for record in (await store.find(Query())).records} == set(kept)


async def test_definition_that_is_registered_under_a_running_worker_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saga_core.retention.LONGEST", 0.01)
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    orchestrator = SagaOrchestrator(store=store)
    async with SagaWorker(orchestrator, poll_interval=POLL):
        orchestrator.register(NAME, kept_for(HOUR))
        await orchestrator.start(saga_name=NAME, initial_data={"n": 1})
        clock.advance(DAY)
        await gone(store, 0)


def kept_for(retain: timedelta | None) -> SagaDefinition:
    builder = SagaBuilder(retain=retain)
    builder.add_step(step=Story().step(), input_map=lambda ctx: Number(n=ctx.initial_data["n"]))
    return builder.build()


async def test_worker_that_would_delete_earlier_than_a_definition_says_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("saga_core.retention.SHORTEST", 0.01)
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    orchestrator = SagaOrchestrator(store=store)
    worker = SagaWorker(orchestrator, retain=timedelta(seconds=0.1))
    orchestrator.register(NAME, kept_for(DAY))
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={"n": 1})
    clock.advance(HOUR)
    says = f"saga '{NAME}' is to be kept for 1 day, 0:00:00"
    with pytest.raises(SagaDefinitionError, match=says):
        SagaWorker(orchestrator, retain=HOUR)
    async with worker, asyncio.timeout(30):
        while says not in caplog.text:  # noqa: ASYNC110 - a line in a log sets no event
            await asyncio.sleep(0.01)
    assert (await store.load(saga_id)).state.status is SagaStatus.COMPLETED


@pytest.mark.parametrize("wrong", [timedelta(0), -HOUR, 3600, "1 day", True])
def test_definition_with_a_retention_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(SagaDefinitionError, match="retain must be a timedelta above zero"):
        SagaBuilder(retain=wrong)


def test_how_long_a_saga_is_kept_does_not_change_what_it_is() -> None:
    assert kept_for(HOUR).fingerprint == kept_for(DAY).fingerprint


async def test_own_table_must_be_opened_to_the_retention_of_a_definition(store: SagaStore) -> None:
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register(NAME, kept_for(HOUR))
    if not isinstance(store, SqlSagaStore):
        SagaWorker(orchestrator)
        return
    with pytest.raises(SagaDefinitionError, match="allow_retention=True"):
        SagaWorker(orchestrator)


@pytest.mark.parametrize("faulty", [False, True])
async def test_own_table_must_be_opened_to_retention_as_well(
    store: SagaStore, faulty: bool
) -> None:
    one = saga(FaultyStore(store) if faulty else store, Story().step())
    if not isinstance(store, SqlSagaStore):
        SagaWorker(one.orchestrator, retain=HOUR)
        return
    with pytest.raises(SagaDefinitionError, match="allow_retention=True"):
        SagaWorker(one.orchestrator, retain=HOUR)
    store.allows_retention = True
    SagaWorker(one.orchestrator, retain=HOUR)


@pytest.mark.parametrize("wrong", [timedelta(0), -HOUR, 3600, "1 day", True])
async def test_retention_that_makes_no_sense_is_refused(wrong: Any) -> None:
    one = saga(MemoryStore(), Story().step())
    with pytest.raises(SagaDefinitionError, match="retain must be a timedelta above zero"):
        SagaWorker(one.orchestrator, retain=wrong)


async def test_several_workers_delete_each_saga_once_and_the_load_goes_on(
    store_may_delete: SagaStore, harness: StoreHarness
) -> None:
    store = store_may_delete
    story = Story()
    one = saga(store, story.step())
    for _ in range(6):
        await harness.age(await one.start(), DAY)
    story.log.clear()
    workers = [SagaWorker(one.orchestrator, poll_interval=POLL, retain=HOUR) for _ in range(2)]
    async with workers[0], workers[1]:
        ids = [await one.start(wait=False) for _ in range(6)]
        for saga_id in ids:
            await one.orchestrator.wait(saga_id, timeout=30)
        await gone(store, 6)
    assert len(story.log) == 6


async def test_deleted_id_is_new_again(store_may_delete: SagaStore, harness: StoreHarness) -> None:
    store, saga_id, story = store_may_delete, uuid4(), Story()
    one = saga(store, story.step())
    await one.start(saga_id=saga_id)
    await harness.age(saga_id, DAY)
    async with SagaWorker(one.orchestrator, poll_interval=POLL, retain=HOUR):
        await gone(store, 0)
    await one.start(saga_id=saga_id)
    assert story.log == ["do step_0"] * 2


async def test_outage_does_not_end_retention(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("saga_core.retention.SHORTEST", 0.01)
    clock = ManualClock()
    store = FaultyStore(MemoryStore(clock=clock))
    one = saga(store, Story().step())
    await one.start()
    clock.advance(DAY)
    store.fail("purge", 1, Fault.BEFORE)
    with caplog.at_level(logging.INFO, logger="saga_core"):
        async with SagaWorker(one.orchestrator, retain=timedelta(seconds=0.1)):
            await gone(store, 0)
    assert "deleting what ended long ago got no answer" in caplog.text
    assert "deleted 1 sagas" in caplog.text


async def test_batches_leave_most_of_the_time_to_others() -> None:
    """Beside each batch the store is left alone for nine times as long as the batch took."""
    loop = asyncio.get_running_loop()
    busy: list[tuple[float, float]] = []

    class Slow(MemoryStore):
        async def purge(
            self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
        ) -> int:
            begun = loop.time()
            await asyncio.sleep(0.01)
            busy.append((begun, loop.time()))
            return limit if len(busy) < 4 else 0

    engine = saga(MemoryStore(), Story().step()).orchestrator.engine
    retention = Retention(Slow(), DAY, engine.registry, engine.outage)
    assert await retention.round() == 3 * BATCH
    for (begun, ended), (following, _) in pairwise(busy):
        assert following - ended >= 8.5 * (ended - begun)


@pytest.mark.parametrize("whose", ["the worker's", "the child's own"])
async def test_child_is_kept_while_its_root_may_still_ask_for_it(
    store_may_delete: SagaStore, harness: StoreHarness, whose: str
) -> None:
    """However long ago it ended; a saga that no other one starts goes by its own end."""
    store, story = store_may_delete, Story()
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("leaf", kept_for(HOUR if whose == "the child's own" else None))
    orchestrator.register("plain", kept_for(HOUR if whose == "the child's own" else None))
    middle, root = SagaBuilder(), SagaBuilder()
    middle.add_child(saga_name="leaf", step_id="leaf", input_map=lambda ctx: {"n": 1})
    root.add_child(saga_name="middle", step_id="middle", input_map=lambda ctx: {"n": 1})
    root.add_step(step=story.step(sleeps_long), input_map=lambda ctx: Number(n=1))
    orchestrator.register("middle", middle.build())
    orchestrator.register("root", root.build())
    root_id = await orchestrator.start(saga_name="root", initial_data={})
    await harness.age(root_id, 9 * DAY)
    while await orchestrator.run_due():
        pass
    middle_id = child_id_of(root_id, "middle", 0)
    leaf_id = child_id_of(middle_id, "leaf", 0)
    before, plain = [
        await orchestrator.start(saga_name=name, initial_data={"n": 1})
        for name in ("leaf", "plain")
    ]
    for saga_id, days in ((middle_id, 7), (leaf_id, 6), (before, 19), (plain, 2)):
        assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
        await harness.age(saga_id, days * DAY)
    engine = orchestrator.engine
    retain = HOUR if whose == "the worker's" else None
    retention = Retention(store, retain, engine.registry, engine.outage)
    assert await retention.round() == 2  # one leaf ended before the oldest root had begun
    assert {each.saga_id for each in (await store.find(Query())).records} == {
        root_id,
        middle_id,
        leaf_id,
    }
    await SagaAdmin(engine=engine).cancel(root_id)
    while await orchestrator.run_due():
        pass
    for saga_id in (root_id, middle_id, leaf_id):
        assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPENSATED
        await harness.age(saga_id, DAY)
    assert await retention.round() == (3 if whose == "the worker's" else 1)


async def test_children_are_kept_while_a_parent_cannot_be_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody can say since when it is in flight."""
    broken = uuid4()

    class Torn(FaultyStore):
        async def find(self, query: Query) -> Page:
            return Page(records=(), cursor=None, unreadable=(broken,))

    clock = ManualClock()
    orchestrator = SagaOrchestrator(store=Torn(MemoryStore(clock=clock)))
    orchestrator.register("leaf", kept_for(HOUR))
    builder = SagaBuilder()
    builder.add_child(saga_name="leaf", input_map=lambda ctx: {"n": 1})
    orchestrator.register("root", builder.build())
    saga_id = await orchestrator.start(saga_name="leaf", initial_data={"n": 1})
    clock.advance(DAY)
    engine = orchestrator.engine
    assert await Retention(engine.store, None, engine.registry, engine.outage).round() == 0
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert f"children of saga {broken} ('root') are kept: it cannot be read" in caplog.text


def sleeps_long(_: Number, ctx: StepContext) -> Any:
    return Sleep(99 * DAY)
