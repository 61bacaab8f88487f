"""Servers that will not, or cannot: our error, the saga as it was, and on once it is mended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from redis import exceptions
from redis.asyncio import Redis

from saga_core import SchemaError, StoreUnavailableError, open_store
from saga_core.records import Held
from saga_testing.conformance.sagas import (
    LEASE,
    ME,
    claim,
    commit_of,
    event,
    leased,
    new_saga,
)
from saga_testing.servers import PostgresqlServer, RedisServer, redis_server
from tests.redis.keys import Keys
from tests.redis.scene import CALLS, ZERO, set_scene

LOOPS = "while true do end"


# --- out of memory ----------------------------------------------------------------------------


async def test_out_of_memory_refuses_what_grows_and_lets_go_of_what_is_held(
    redis: RedisServer, keys: Keys, namespace: str
) -> None:
    async with open_store(redis.url, namespace=namespace) as store:
        scene = await set_scene(store)
        held = [Held(scene.held.saga_id, scene.held.fence)]
        await keys.client.config_set("maxmemory", "1mb")
        try:
            content = await keys.content()
            for verb in ("create", "commit", "commit that ends", "claim_due", "signal", "restore"):
                with pytest.raises(StoreUnavailableError, match=r"out of memory.*maxmemory"):
                    await CALLS[verb](scene)
                assert await keys.content() == content, verb
            for verb in ("load", "history", "inbox", "find", "count", "export"):
                await CALLS[verb](scene)
            assert set(await store.renew(ME, held, LEASE)) == {scene.held.saga_id}
            await store.release(ME, held, delay=ZERO)
            assert (await store.load(scene.held.saga_id)).worker is None
            # By somebody who comes to make room, too.
            async with open_store(redis.url, namespace=namespace) as other:
                assert await other.purge(finished_for=ZERO, limit=10) == 1
        finally:
            await keys.client.config_set("maxmemory", "0")
        await CALLS["create"](scene)


# --- a replica --------------------------------------------------------------------------------


async def test_read_only_replica_is_refused_and_its_primary_goes_on() -> None:
    with redis_server() as primary:
        where = primary.url.rpartition("/")[2].split(":")
        with redis_server("--replicaof", *where) as replica:
            with pytest.raises(StoreUnavailableError, match=r"replica.*primary"):
                async with open_store(replica.url):
                    pass
            # A primary that is made a replica while it is in use.
            async with open_store(primary.url) as store, Redis.from_url(primary.url) as client:
                record = (await store.create(leased())).record
                port = replica.url.rpartition(":")[2]
                await client.execute_command("REPLICAOF", "127.0.0.1", port)
                with pytest.raises(StoreUnavailableError, match=r"replica.*primary"):
                    await store.commit(commit_of(record))
                await client.execute_command("REPLICAOF", "NO", "ONE")
                assert (await store.load(record.saga_id)).version == 1
                assert (await store.commit(commit_of(record))).version == 2


# --- busy and killed --------------------------------------------------------------------------


@asynccontextmanager
async def busy(server: RedisServer) -> AsyncIterator[Callable[[], Any]]:
    """Keep the server busy with somebody's script; yields what kills the script."""
    async with Redis.from_url(server.url) as client, Redis.from_url(server.url) as admin:
        await admin.config_set("lua-time-limit", 1)
        script = asyncio.ensure_future(client.eval(LOOPS, 0))

        async def kill() -> None:
            await admin.script_kill()
            with pytest.raises(exceptions.ResponseError):
                await script

        try:
            async with asyncio.timeout(20):
                while not script.done():
                    with suppress(exceptions.ResponseError):
                        await admin.ping()
                        await asyncio.sleep(0.005)
                        continue
                    break
            yield kill
        finally:
            if not script.done():
                with suppress(exceptions.ResponseError):
                    await admin.script_kill()
                await asyncio.wait([script])
                script.exception()
            await admin.config_set("lua-time-limit", 5000)


async def test_busy_server_refuses_and_goes_on_when_the_script_is_killed(
    redis: RedisServer, keys: Keys, namespace: str
) -> None:
    async with open_store(redis.url, namespace=namespace) as store:
        scene = await set_scene(store)
        content = await keys.content()
        async with busy(redis) as kill:
            for verb in CALLS:
                with pytest.raises(StoreUnavailableError, match="BUSY"):
                    await CALLS[verb](scene)
            await kill()
        assert await keys.content() == content
        await CALLS["commit"](scene)


async def test_killed_script_has_changed_nothing_and_can_be_repeated(
    redis: RedisServer, keys: Keys, namespace: str
) -> None:
    async with open_store(redis.url, namespace=namespace) as store:
        new = new_saga()
        await store.create(new)
        claim_id = uuid4()
        # What this claim is said to have taken: so much that there is time to kill the script.
        many = (
            "local ids = {} for n = 1, 4000 do ids[n] = n end "
            "for _ = 1, 250 do redis.call('RPUSH', KEYS[1], unpack(ids)) end"
        )
        taken = f"{keys.prefix}claim:{claim_id}"
        await keys.client.eval(many, 1, taken)
        before = await store.load(new.saga_id)
        await keys.client.config_set("lua-time-limit", 1)
        try:
            call = asyncio.ensure_future(claim(store, claim_id=claim_id))
            async with asyncio.timeout(20):
                while not call.done():
                    with suppress(exceptions.ResponseError):  # nothing runs yet, or no more
                        await keys.client.script_kill()
                    await asyncio.sleep(0)
            with pytest.raises(StoreUnavailableError, match="SCRIPT KILL"):
                await call
        finally:
            await keys.client.config_set("lua-time-limit", 5000)
        await keys.client.delete(taken)
        after = await store.load(new.saga_id)
        assert (after.version, after.worker) == (before.version, None)
        assert len((await claim(store, claim_id=claim_id)).records) == 1


# --- scripts that are forgotten ---------------------------------------------------------------


@pytest.mark.parametrize("verb", CALLS)
async def test_script_that_the_server_forgot_is_told_again(
    redis: RedisServer, keys: Keys, namespace: str, verb: str
) -> None:
    async with (
        open_store(redis.url, namespace=namespace) as store,
        open_store(redis.url, namespace=f"{namespace}_2") as warm_store,
    ):
        forgotten, warm = await set_scene(store), await set_scene(warm_store)
        await keys.client.script_flush()
        await CALLS[verb](forgotten)
        await CALLS[verb](warm)
        there = await keys.content()
        here = await Keys(keys.client, f"{namespace}_2").content()
        assert set(there) == set(here)
        assert {name: len(value) for name, (_, value) in there.items()} == {
            name: len(value) for name, (_, value) in here.items()
        }


async def test_calls_at_once_survive_a_server_that_forgets_all_the_time(
    redis: RedisServer, keys: Keys, namespace: str
) -> None:
    async with open_store(redis.url, namespace=namespace) as store:
        record = (await store.create(leased())).record

        async def signals(number: int) -> None:
            receipt = await store.signal(record.saga_id, event(str(number)))
            assert not receipt.duplicate

        calls = [asyncio.ensure_future(signals(number)) for number in range(200)]
        while not all(call.done() for call in calls):
            await keys.client.script_flush()
        await asyncio.gather(*calls)
        inbox = await store.inbox(record.saga_id)
        assert sorted(int(signal.event_id) for signal in inbox) == list(range(200))


# --- servers of another kind ------------------------------------------------------------------


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """Serve connections that get `answer` to what they send; yields the URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(answer(data))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def of_version(version: str) -> Callable[[bytes], bytes]:
    """Answer as an old Redis: to INFO with its version, to what it does not know with -ERR."""
    info = f"# Server\r\nredis_version:{version}\r\n".encode()
    known = {
        b"INFO": b"$%d\r\n%b\r\n" % (len(info), info),
        b"CLIENT": b"+OK\r\n",
        b"PING": b"+PONG\r\n",
    }

    def answer(data: bytes) -> bytes:
        commands = re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", data)
        return b"".join(known.get(command, b"-ERR unknown command\r\n") for command in commands)

    return answer


@pytest.mark.parametrize("version", ["6.2.14", "2.8", "unheard of"])
async def test_old_server_is_refused_with_the_version_that_is_needed(version: str) -> None:
    async with answering(of_version(version)) as url:
        with pytest.raises(SchemaError, match=rf"{url}.*{re.escape(version)}.*needs 7\.0"):
            async with open_store(url):
                pass


async def test_web_server_is_refused() -> None:
    page = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    async with answering(lambda _: page) as url:
        with pytest.raises(StoreUnavailableError, match=f"{url} does not speak Redis's protocol"):
            async with open_store(url):
                pass


async def test_postgresql_server_is_refused(postgresql: PostgresqlServer) -> None:
    port = postgresql.url.partition("@")[2].partition(":")[2].partition("/")[0]
    with pytest.raises(StoreUnavailableError, match=rf"127\.0\.0\.1:{port}"):
        async with open_store(f"redis://127.0.0.1:{port}"):
            pass


async def test_server_that_says_nothing_is_refused_in_time() -> None:
    async with answering(lambda _: b"") as url:
        with pytest.raises(StoreUnavailableError, match=f"{url} did not answer in time"):
            async with open_store(url, connect_timeout=0.2, command_timeout=0.2):
                pass
