"""Round trips are counted where they happen: on the wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saga_core import SagaOrchestrator, SagaStatus, open_store
from saga_testing.conformance.sagas import commit_of, ended, leased
from saga_testing.conformance.waiters import gone, queued
from saga_testing.proxy import PostgresqlProxy
from tests.wire.conftest import options, three_steps


async def warm(orchestrator: SagaOrchestrator) -> None:
    """Run every kind of statement once, so that all are prepared."""
    await orchestrator.start(saga_name="count", initial_data={"n": 0})
    await orchestrator.start(saga_name="count", initial_data={"n": 0}, wait=False)
    await orchestrator.run_due()


async def test_saga_of_three_steps_is_four_round_trips(proxy: PostgresqlProxy) -> None:
    chosen: dict[str, Any] = options()
    async with open_store(proxy.url, **chosen) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("count", three_steps())
        await warm(orchestrator)
        for _ in range(3):
            proxy.round_trips = 0
            saga_id = await orchestrator.start(saga_name="count", initial_data={"n": 1})
            assert proxy.round_trips == 4
            snapshot = await orchestrator.get_snapshot(saga_id)
            assert (snapshot.status, snapshot.outputs["step_2"]) == (
                SagaStatus.COMPLETED,
                {"n": 4},
            )


async def test_claim_of_a_saga_with_outputs_is_one_round_trip(proxy: PostgresqlProxy) -> None:
    chosen: dict[str, Any] = options()
    async with open_store(proxy.url, **chosen) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("count", three_steps())
        await warm(orchestrator)
        await orchestrator.start(saga_name="count", initial_data={"n": 1}, wait=False)
        proxy.round_trips = 0
        assert await orchestrator.run_due(limit=1) == 1
        assert proxy.round_trips == 1 + 3  # the claim, and a commit for each step


async def test_end_of_a_saga_that_others_wait_for_is_one_round_trip(
    proxy: PostgresqlProxy,
) -> None:
    chosen: dict[str, Any] = options()
    async with open_store(proxy.url, **chosen) as store:
        for _ in range(3):  # the first round prepares the statements
            holder = (await store.create(leased(aggregation_id="a"))).record
            waiters = [(await store.create(queued())).record for _ in range(2)]
            step = await store.commit(commit_of(holder))  # it tells that others wait
            proxy.round_trips = 0
            await store.commit(replace(ended(holder), expected_version=step.version))
            counted = proxy.round_trips
            assert (await store.load(waiters[0].saga_id)).due_at is not None
            for waiter in waiters:
                await store.commit(gone(await store.load(waiter.saga_id)))
        assert counted == 1


async def test_bytes_per_step_do_not_grow_with_the_steps_before(proxy: PostgresqlProxy) -> None:
    chosen: dict[str, Any] = options()
    async with open_store(proxy.url, **chosen) as store:
        orchestrator = SagaOrchestrator(store=store)
        sizes = {}
        for steps in (5, 200):
            orchestrator.register(f"count{steps}", three_steps(steps))
            # The first run prepares the statements.
            await orchestrator.start(saga_name=f"count{steps}", initial_data={"n": 0})
            proxy.bytes_sent = proxy.round_trips = 0
            await orchestrator.start(saga_name=f"count{steps}", initial_data={"n": 0})
            assert proxy.round_trips == steps + 1
            sizes[steps] = proxy.bytes_sent / steps
        assert sizes[200] < sizes[5] * 1.1
