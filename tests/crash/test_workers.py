"""Workers that die, and workers that are asked to go."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from saga_core import (
    Query,
    SagaAdmin,
    SagaAdminSnapshot,
    SagaStatus,
    SagaStore,
    SagaWorker,
    open_store,
)
from saga_testing.ending import end_of
from saga_testing.servers import PostgresqlServer, RedisServer
from tests.crash.workshop import (
    DEADLINE,
    LEASE,
    NAP,
    SOON,
    Paid,
    Workshop,
    drain_by_run_due,
    orchestrator_of,
    start_later,
    start_with_deadline,
    work,
    work_until_signal,
)

INNOCENTS = 20
MOST_DEATHS = 15
PATIENCE = 30.0

_processes = multiprocessing.get_context("forkserver")


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Workshop:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'sagas.db'}"
    elif request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        url = redis.url
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        url = server.url
    return Workshop(url, f"workers_{uuid4().hex[:12]}", tmp_path)


@asynccontextmanager
async def opened(shop: Workshop) -> AsyncIterator[SagaStore]:
    async with open_store(shop.url, create_schema=True, namespace=shop.namespace) as store:
        yield store


async def run(target: Callable[[Workshop], None], shop: Workshop) -> int | None:
    process = _processes.Process(target=target, args=(shop,))
    process.start()
    code = await end_of(process, PATIENCE)
    if code is None:
        process.kill()
    return code


async def begin(shop: Workshop, store: SagaStore, *names: str) -> None:
    orchestrator = orchestrator_of(shop, store)
    for name in names:
        await orchestrator.start(saga_name=name, initial_data={}, wait=False)


async def test_only_the_saga_that_kills_its_worker_is_stuck(shop: Workshop) -> None:
    shop = Workshop(shop.url, shop.namespace, shop.folder, sagas=INNOCENTS + 1)
    async with opened(shop) as store:
        await begin(shop, store, *["slow"] * 10, "deadly", *["slow"] * 10)
        deaths = 0
        while (code := await run(work, shop)) == -signal.SIGKILL:
            deaths += 1
            assert deaths < MOST_DEATHS
        assert code == 0
        assert await store.count(Query(statuses=(SagaStatus.COMPLETED,))) == INNOCENTS
        (record,) = (await store.find(Query(statuses=(SagaStatus.STUCK,)))).records
        assert record.saga_name == "deadly"
        assert record.state.last_error is not None
        assert record.state.last_error == "worker lost 3 times in step 'step_1'"
        assert deaths >= 5  # two made it a suspect, three convicted it

        shop.mended.touch()
        orchestrator = orchestrator_of(shop, store)
        await SagaAdmin(engine=orchestrator.engine).retry_step(record.saga_id)
        snapshot = await orchestrator.get_snapshot(record.saga_id)
        assert snapshot.status is SagaStatus.COMPLETED


async def test_deadly_saga_under_run_due_is_stuck_after_bounded_deaths(shop: Workshop) -> None:
    async with opened(shop) as store:
        await begin(shop, store, "deadly")
        deaths = 0
        while await store.count(Query(statuses=(SagaStatus.STUCK,))) == 0:
            code = await run(drain_by_run_due, shop)
            assert code in (0, -signal.SIGKILL)
            deaths += code != 0
            assert deaths < MOST_DEATHS
            await asyncio.sleep(LEASE.total_seconds())
        assert deaths > 0


async def await_first_deed(shop: Workshop, deeds: int = 1) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(shop.ledger.read()) < deeds:  # noqa: ASYNC110 - written by another process
            await asyncio.sleep(0.01)


async def test_sigterm_finishes_the_step_and_gives_the_saga_back(shop: Workshop) -> None:
    shop = Workshop(
        shop.url, shop.namespace, shop.folder, step_seconds=0.3, lease=timedelta(minutes=1)
    )
    async with opened(shop) as store:
        await begin(shop, store, *["slow"] * 5)
        process = _processes.Process(target=work_until_signal, args=(shop,))
        process.start()
        await await_first_deed(shop, 3)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        assert await end_of(process, PATIENCE) == 0
        deeds = shop.ledger.read()
        begun = [deed for deed in deeds if deed.began]
        assert len(begun) == 3  # concurrency: no more were claimed
        assert len(deeds) == 6  # and each was finished
        records = (await store.find(Query())).records
        assert [record.worker for record in records] == [None] * 5
        assert all(record.due_at and record.due_at <= record.now for record in records)
        assert sorted(record.state.step_index for record in records) == [0, 0, 1, 1, 1]
        assert await orchestrator_of(shop, store).run_due() == 5
        assert await store.count(Query(statuses=(SagaStatus.COMPLETED,))) == 5


async def test_step_that_outlasts_the_grace_is_cancelled_and_given_back(shop: Workshop) -> None:
    shop = Workshop(
        shop.url,
        shop.namespace,
        shop.folder,
        step_seconds=60,
        lease=timedelta(minutes=1),
        grace=timedelta(milliseconds=200),
    )
    async with opened(shop) as store:
        await begin(shop, store, "slow")
        process = _processes.Process(target=work_until_signal, args=(shop,))
        process.start()
        await await_first_deed(shop)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        assert await end_of(process, PATIENCE) == 0
        (record,) = (await store.find(Query())).records
        assert record.worker is None
        assert record.due_at is not None
        assert record.due_at <= record.now
        assert (record.state.attempt, record.state.status) == (0, SagaStatus.RUNNING)


async def test_saga_begins_at_its_time_although_its_starter_is_dead(shop: Workshop) -> None:
    shop = Workshop(shop.url, shop.namespace, shop.folder, step_seconds=0.0)
    async with opened(shop) as store:
        assert await run(start_later, shop) == -signal.SIGKILL
        (record,) = (await store.find(Query())).records
        assert (record.state.waiting_for, shop.ledger.read()) == ("start", [])
        orchestrator = orchestrator_of(shop, store)
        async with SagaWorker(orchestrator, poll_interval=timedelta(milliseconds=20)):
            await orchestrator.wait(record.saga_id, PATIENCE)
        saga = await SagaAdmin(engine=orchestrator.engine).get_saga(record.saga_id)
        assert saga.status is SagaStatus.COMPLETED
        assert saga.starts_at == saga.created_at + SOON
        assert min(item.at for item in saga.step_history if item.step_id) >= saga.starts_at
        assert len(shop.ledger.read()) == 4


async def test_deadline_stops_a_saga_although_its_driver_is_dead(shop: Workshop) -> None:
    shop = Workshop(shop.url, shop.namespace, shop.folder, step_seconds=60)
    async with opened(shop) as store:
        process = _processes.Process(target=start_with_deadline, args=(shop,))
        process.start()
        await await_first_deed(shop)
        process.kill()
        await asyncio.to_thread(process.join, PATIENCE)
        (record,) = (await store.find(Query())).records
        orchestrator = orchestrator_of(shop, store)
        async with SagaWorker(orchestrator, poll_interval=timedelta(milliseconds=20)):
            saga = await orchestrator.wait(record.saga_id, PATIENCE)
        assert (saga.status, saga.error_code) == (SagaStatus.COMPENSATED, "SagaDeadlineError")
        assert saga.saga_deadline_at == saga.created_at + DEADLINE
        assert saga.updated_at >= saga.saga_deadline_at
        assert not [deed for deed in shop.ledger.read() if not deed.began]


async def one_resting(shop: Workshop, store: SagaStore, name: str) -> UUID:
    await begin(shop, store, name)
    (record,) = (await store.find(Query())).records
    return record.saga_id


async def kill_at_rest(shop: Workshop, store: SagaStore, saga_id: UUID) -> None:
    """Let a worker bring the saga to its rest, and kill it there."""
    process = _processes.Process(target=work, args=(shop,))
    process.start()
    async with asyncio.timeout(PATIENCE):
        while (  # noqa: ASYNC110 - another process brings it there
            (await store.load(saga_id)).state.waiting_for is None and process.is_alive()
        ):
            await asyncio.sleep(0.01)
    process.kill()
    assert await end_of(process, PATIENCE) == -signal.SIGKILL


async def taken_over(shop: Workshop, store: SagaStore, saga_id: UUID) -> SagaAdminSnapshot:
    """Let another worker bring the saga to its end."""
    shop.mended.touch()
    orchestrator = orchestrator_of(shop, store)
    async with SagaWorker(orchestrator, poll_interval=timedelta(milliseconds=20)):
        await orchestrator.wait(saga_id, PATIENCE)
    return await SagaAdmin(engine=orchestrator.engine).get_saga(saga_id)


@pytest.mark.parametrize("comes", ["before the wait", "in the wait", "after the death"])
async def test_event_of_a_wait_whose_worker_is_killed_is_used_once(
    shop: Workshop, comes: str
) -> None:
    shop = Workshop(shop.url, shop.namespace, shop.folder, sagas=1)
    async with opened(shop) as store:
        saga_id = await one_resting(shop, store, "waiting")
        orchestrator = orchestrator_of(shop, store)

        async def pay(moment: str) -> None:
            if moment == comes:
                await orchestrator.signal(saga_id=saga_id, event=Paid(amount=7), event_id="e")

        await pay("before the wait")
        if comes != "before the wait":
            await kill_at_rest(shop, store, saga_id)
        await pay("in the wait")
        if comes != "after the death":
            # This one dies with the event in its hands.
            assert await run(work, shop) == -signal.SIGKILL
        await pay("after the death")
        saga = await taken_over(shop, store, saga_id)
        assert (saga.status, saga.outputs) == (SagaStatus.COMPLETED, {"step_0": {"amount": 7}})
        inbox = await store.inbox(saga_id)
        assert [(one.event_id, one.consumed) for one in inbox] == [("e", True)]
        fences = [deed.fence for deed in shop.ledger.read()]
        assert len(fences) == (1 if comes == "after the death" else 2)
        assert sorted(set(fences)) == fences  # each holder after the one before
        kinds = [item.kind.value for item in saga.step_history]
        assert (kinds.count("waiting"), kinds.count("completed")) == (1, 1)


@pytest.mark.parametrize("killed", ["asleep", "awake"])
async def test_sleep_of_a_saga_whose_worker_is_killed_ends_at_its_time(
    shop: Workshop, killed: str
) -> None:
    shop = Workshop(shop.url, shop.namespace, shop.folder, sagas=1)
    async with opened(shop) as store:
        saga_id = await one_resting(shop, store, "sleeping")
        if killed == "asleep":
            await kill_at_rest(shop, store, saga_id)
        else:
            assert await run(work, shop) == -signal.SIGKILL
        saga = await taken_over(shop, store, saga_id)
        assert saga.status is SagaStatus.COMPLETED
        kinds = [item.kind.value for item in saga.step_history]
        assert (kinds.count("waiting"), kinds.count("completed")) == (1, 1)
        fell_asleep, *_, done = saga.step_history
        assert done.at >= fell_asleep.at + NAP
