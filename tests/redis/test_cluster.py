"""Redis Cluster: a namespace is one hash tag, so it lives on one node and keeps the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

import pytest
import redis as blocking
from redis.crc import key_slot

from saga_core import SagaStatus, SagaWorker, StoreUnavailableError, open_store
from saga_testing.conformance import StoreConformance, StoreHarness
from saga_testing.conformance.sagas import leased
from saga_testing.servers import RedisServer, redis_server
from saga_testing.servers.ports import free_port
from tests.behaviour.cast import Story, saga
from tests.conformance.test_redis import RedisHarness
from tests.redis.acl import documented_commands
from tests.redis.patience import IN_TIME, finished, until

SLOTS = 16384


@contextmanager
def cluster_of(nodes: int) -> Iterator[list[RedisServer]]:
    """Yield the nodes of a cluster, each with an equal share of the slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                redis_server(
                    *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                    *("--cluster-node-timeout", "2000", "--loglevel", "warning"),
                    *("--appendfsync", "always"),
                )
            )
            for _ in range(nodes)
        ]
        clients = [
            stack.enter_context(blocking.Redis.from_url(server.url, decode_responses=True))
            for server in servers
        ]
        share = SLOTS // nodes
        for number, client in enumerate(clients):
            first = number * share
            last = SLOTS - 1 if number == nodes - 1 else first + share - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for client in clients:
            bus = client.config_get("cluster-port")["cluster-port"]
            for other in clients:
                port = client.connection_pool.connection_kwargs["port"]
                other.execute_command("CLUSTER MEET", "127.0.0.1", port, bus)
        deadline = time.monotonic() + IN_TIME
        while not all(_is_whole(client, nodes) for client in clients):
            assert time.monotonic() < deadline, "the cluster did not come up"
            time.sleep(0.01)
        yield servers


def _is_whole(client: blocking.Redis, nodes: int) -> bool:
    told = client.execute_command("CLUSTER INFO")
    found = (
        told
        if isinstance(told, dict)
        else dict(line.split(":", 1) for line in str(told).splitlines() if ":" in line)
    )
    return found["cluster_state"] == "ok" and int(found["cluster_known_nodes"]) == nodes


def address(server: RedisServer) -> str:
    return server.url.replace("redis://", "redis+cluster://")


@pytest.fixture(scope="module")
def node() -> Iterator[RedisServer]:
    with cluster_of(1) as (server,):
        yield server


class TestRedisClusterStore(StoreConformance):
    @pytest.fixture
    def harness(self, node: RedisServer) -> StoreHarness:
        return RedisHarness(address(node), admin=node.url)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with cluster_of(2) as servers:
        yield servers


def namespace_of(share: int, name: str) -> str:
    """Return a namespace whose slot is in the first or the second half."""
    for number in range(100):
        namespace = f"{name}{number}"
        if key_slot(f"saga:{{{namespace}}}:".encode()) // (SLOTS // 2) == share:
            return namespace
    raise AssertionError("no such namespace")


@pytest.mark.parametrize("share", [0, 1])
async def test_each_namespace_is_reached_through_any_node(
    nodes: list[RedisServer], share: int
) -> None:
    namespace = namespace_of(share, "reach")
    story = Story()
    async with (
        open_store(address(nodes[0]), namespace=namespace) as one,
        open_store(address(nodes[1]), namespace=namespace) as two,
    ):
        worker = saga(two, story.step(), story.step())
        starter = saga(one, story.step(), story.step())
        # With a poll this rare only a wake-up brings the saga in time.
        async with SagaWorker(worker.orchestrator, poll_interval=timedelta(hours=1)):
            wakeups = two.wakeups()
            await anext(wakeups)
            saga_id = await starter.start(wait=False)
            await finished(one, 1)
            await wakeups.aclose()  # type: ignore[attr-defined]
    client = blocking.Redis.from_url(nodes[share].url)
    assert client.exists(f"saga:{{{namespace}}}:saga:{saga_id}")
    client.close()


async def test_more_calls_than_connections_wait_their_turn(node: RedisServer) -> None:
    async with open_store(address(node), namespace="crowd") as store:
        record = (await store.create(leased())).record
        records = await asyncio.gather(*(store.load(record.saga_id) for _ in range(500)))
        assert {one.version for one in records} == {1}


async def test_node_that_was_killed_is_used_again_when_it_is_back() -> None:
    with cluster_of(1) as (server,):
        async with open_store(address(server), connect_timeout=2, command_timeout=2) as store:
            record = (await store.create(leased())).record
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreUnavailableError, match=r"redis\+cluster://"):
                await store.load(record.saga_id)
            await asyncio.to_thread(server.start)

            async def is_there() -> bool:
                with suppress(StoreUnavailableError):
                    return (await store.load(record.saga_id)).version == 1
                return False

            await until(is_there)


async def test_store_that_was_closed_connects_to_no_node_again(node: RedisServer) -> None:
    async with open_store(address(node), namespace="closed") as store:
        record = (await store.create(leased())).record
        calls = [asyncio.ensure_future(store.load(record.saga_id)) for _ in range(50)]
        await asyncio.sleep(0)
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, StoreUnavailableError) or one == record for one in found)
    with pytest.raises(StoreUnavailableError, match="was closed"):
        await store.load(record.saga_id)


async def test_weak_setting_of_any_node_is_named(
    nodes: list[RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    with blocking.Redis.from_url(nodes[1].url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        async with open_store(address(nodes[0])):
            pass
        client.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy is 'allkeys-lru'" in caplog.text


async def test_limited_user_of_a_cluster_needs_two_rules_more(node: RedisServer) -> None:
    lines = documented_commands("limited", user="limited")
    with blocking.Redis.from_url(node.url) as client:
        for line in (*lines, "ACL SETUSER limited +cluster|slots +command"):
            client.execute_command(*line.split())
    url = address(node).replace("://", "://limited:s3cret@")
    async with open_store(url, namespace="limited", require_durable=True) as store:
        story = Story()
        assert (await saga(store, story.step()).run()).status is SagaStatus.COMPLETED
        wakeups = store.wakeups()
        async with asyncio.timeout(IN_TIME):
            await anext(wakeups)
        await wakeups.aclose()  # type: ignore[attr-defined]


async def test_server_that_is_no_cluster_is_refused(redis: RedisServer) -> None:
    with pytest.raises(StoreUnavailableError, match=r"redis\+cluster://127"):
        async with open_store(address(redis)):
            pass
