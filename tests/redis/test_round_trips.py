"""Replies are counted where they happen: on the wire. One script per store call."""

from __future__ import annotations

from typing import Any

import pytest

from saga_core import SagaOrchestrator, SagaStatus, open_store
from saga_testing.conformance.sagas import ended, leased
from saga_testing.conformance.waiters import gone, queued
from saga_testing.redis_proxy import RedisProxy
from tests.redis.keys import Keys
from tests.redis.scene import CALLS, set_scene
from tests.wire.conftest import three_steps


async def warm(orchestrator: SagaOrchestrator) -> None:
    """Send every script once, so that the server knows it."""
    await orchestrator.start(saga_name="count", initial_data={"n": 0})
    await orchestrator.start(saga_name="count", initial_data={"n": 0}, wait=False)
    await orchestrator.run_due()


async def test_saga_of_three_steps_is_four_replies(proxy: RedisProxy, namespace: str) -> None:
    async with open_store(proxy.url, namespace=namespace) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("count", three_steps())
        await warm(orchestrator)
        for _ in range(3):
            proxy.replies = 0
            saga_id = await orchestrator.start(saga_name="count", initial_data={"n": 1})
            assert proxy.replies == 4
            snapshot = await orchestrator.get_snapshot(saga_id)
            assert (snapshot.status, snapshot.outputs["step_2"]) == (
                SagaStatus.COMPLETED,
                {"n": 4},
            )


async def test_claim_of_a_saga_with_outputs_is_one_reply(proxy: RedisProxy, namespace: str) -> None:
    async with open_store(proxy.url, namespace=namespace) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("count", three_steps())
        await warm(orchestrator)
        await orchestrator.start(saga_name="count", initial_data={"n": 1}, wait=False)
        proxy.replies = 0
        assert await orchestrator.run_due(limit=1) == 1
        assert proxy.replies == 1 + 3  # the claim, and a commit for each step


async def test_end_of_a_saga_that_others_wait_for_is_one_reply(
    proxy: RedisProxy, namespace: str
) -> None:
    async with open_store(proxy.url, namespace=namespace) as store:
        for _ in range(2):  # the first round sends the scripts
            holder = (await store.create(leased(aggregation_id="a"))).record
            waiter = (await store.create(queued())).record
            proxy.replies = 0
            await store.commit(ended(holder))
            counted = proxy.replies
            await store.commit(gone(await store.load(waiter.saga_id)))
        assert counted == 1


async def test_bytes_per_step_do_not_grow_with_the_steps_before(
    proxy: RedisProxy, namespace: str
) -> None:
    async with open_store(proxy.url, namespace=namespace) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("count", three_steps())
        await warm(orchestrator)
        sizes = {}
        for steps in (5, 200):
            orchestrator.register(f"count{steps}", three_steps(steps))
            proxy.bytes_sent = proxy.replies = 0
            await orchestrator.start(saga_name=f"count{steps}", initial_data={"n": 0})
            assert proxy.replies == steps + 1
            sizes[steps] = proxy.bytes_sent / steps
        assert sizes[200] < sizes[5] * 1.1


@pytest.mark.parametrize("verb", CALLS)
async def test_store_call_is_one_script_and_one_reply(
    proxy: RedisProxy, keys: Keys, namespace: str, verb: str
) -> None:
    async with (
        open_store(proxy.url, namespace=namespace) as store,
        open_store(proxy.url, namespace=f"{namespace}_2") as other,
    ):
        await CALLS[verb](await set_scene(store))  # the server knows the script from now on
        scene = await set_scene(other)
        await keys.client.config_resetstat()
        proxy.replies = 0
        await CALLS[verb](scene)
        assert proxy.replies == 1
        stats: dict[str, Any] = await keys.client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 1
        assert not {"cmdstat_keys", "cmdstat_scan", "cmdstat_eval"} & set(stats)
