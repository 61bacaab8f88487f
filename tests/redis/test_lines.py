"""Connections that many calls share: an answer reaches the call it belongs to, or none does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis import exceptions
from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from saga_backends.redis.lines import LARGEST_GROUP, Lines
from saga_core import SagaStateError, StoreUnavailableError, open_store
from saga_testing.conformance.sagas import event, leased
from saga_testing.redis_proxy import RedisProxy
from saga_testing.servers import RedisServer
from tests.redis.keys import Keys

MANY = 5 * LARGEST_GROUP


@pytest_asyncio.fixture
async def lines(proxy: RedisProxy) -> AsyncIterator[Lines]:
    lines = made(proxy)
    yield lines
    await lines.aclose()


def made(proxy: RedisProxy, *, size: int = 1, seconds: float = 10) -> Lines:
    port = int(proxy.url.rpartition(":")[2])
    return Lines(
        lambda: Connection(
            host="127.0.0.1",
            port=port,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=10,
        ),
        size=size,
        timeout=seconds,
    )


async def echo(lines: Lines, number: int) -> bool:
    return bool(await lines.execute_command("ECHO", f"echo {number}") == f"echo {number}")


def begun(lines: Lines, many: int = MANY) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(echo(lines, number)) for number in range(many)]


def says(number: int) -> Any:
    return lambda command: command.endswith(f"\r\necho {number}\r\n".encode())


async def test_each_call_gets_its_own_answer(lines: Lines, keys: Keys) -> None:
    assert all(await asyncio.gather(*begun(lines)))
    assert await keys.client.client_list() != []


async def test_calls_share_one_connection(lines: Lines, proxy: RedisProxy) -> None:
    await asyncio.gather(*begun(lines))
    assert proxy.connections == 1


async def test_lines_share_what_waits(proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = made(proxy, size=2)
    send, sizes = lines._send_group, []

    async def counted(line: Any, group: list[Any]) -> Any:
        sizes.append(len(group))
        return await send(line, group)

    monkeypatch.setattr(lines, "_send_group", counted)

    async def lane() -> None:
        for number in range(10):
            assert await echo(lines, number)

    await asyncio.gather(*(lane() for _ in range(16)))
    assert sum(sizes) == 160
    # One that took all would leave nothing to do for the server while its answers are read.
    assert max(sizes) == 8
    await lines.aclose()


@pytest.mark.parametrize("lost", [0, 1, 40, LARGEST_GROUP, MANY - 1])
async def test_connection_that_breaks_within_a_group_mixes_no_answers_up(
    lines: Lines, proxy: RedisProxy, lost: int
) -> None:
    await echo(lines, MANY)  # the line is there: what it carries is sent again once
    proxy.drop_next_reply(says(lost))
    assert all(await asyncio.gather(*begun(lines)))
    assert proxy.dropped.is_set()


async def test_first_group_of_a_connection_is_not_sent_again(
    lines: Lines, proxy: RedisProxy
) -> None:
    proxy.drop_next_reply(says(0))
    with pytest.raises(exceptions.ConnectionError):
        await echo(lines, 0)
    assert await echo(lines, 1)


async def test_connection_that_breaks_twice_fails_what_it_carried_and_nothing_else(
    lines: Lines, proxy: RedisProxy
) -> None:
    await echo(lines, MANY)

    def twice(command: bytes) -> bool:
        if not says(3)(command):
            return False
        if not proxy.dropped.is_set():
            asyncio.get_running_loop().call_soon(proxy.drop_next_reply, says(3))
        return True

    proxy.drop_next_reply(twice)
    found = await asyncio.gather(*begun(lines), return_exceptions=True)
    errors = [one for one in found if isinstance(one, BaseException)]
    assert all(isinstance(one, exceptions.ConnectionError) for one in errors)
    assert len(set(map(id, errors))) == len(errors)  # each caller has one of its own
    assert all(one is True for one in found if not isinstance(one, BaseException))
    assert all(await asyncio.gather(*begun(lines)))


async def test_error_for_one_call_is_no_error_for_its_neighbours(lines: Lines) -> None:
    async def wrong() -> None:
        with pytest.raises(exceptions.ResponseError, match="unknown command"):
            await lines.execute_command("NOPE")

    calls = begun(lines)
    await asyncio.gather(*calls[: MANY // 2], wrong(), *calls[MANY // 2 :])
    assert all(call.result() for call in calls)


async def test_cancelled_callers_leave_the_answers_of_the_others_alone(lines: Lines) -> None:
    for turns in range(6):
        calls = begun(lines)
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(one is True for one in found[1::3] + found[2::3])


async def test_server_that_falls_silent_fails_all_that_wait_in_time(proxy: RedisProxy) -> None:
    lines = made(proxy, seconds=0.2)
    await echo(lines, 0)
    proxy.blackhole()
    async with asyncio.timeout(10):
        found = await asyncio.gather(*begun(lines), return_exceptions=True)
    assert all(isinstance(one, exceptions.TimeoutError) for one in found)
    proxy.heal()
    # The late answers went down with the connection they were for.
    assert all(await asyncio.gather(*begun(lines, LARGEST_GROUP)))
    await lines.aclose()


async def test_call_that_waited_too_long_for_a_line_is_not_sent(
    proxy: RedisProxy, keys: Keys
) -> None:
    lines = made(proxy, seconds=0.2)
    await echo(lines, 0)
    proxy.blackhole()
    first = asyncio.create_task(echo(lines, 1))
    await proxy.held.wait()
    waits = asyncio.create_task(lines.execute_command("SET", "late", "1"))
    await asyncio.sleep(0)
    found = await asyncio.gather(first, waits, return_exceptions=True)
    assert [type(one) for one in found] == [exceptions.TimeoutError] * 2
    proxy.heal()
    assert await echo(lines, 2)
    assert not await keys.client.exists("late")
    await lines.aclose()


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_close_answers_what_waits_and_what_is_in_flight(
    proxy: RedisProxy, turns: int
) -> None:
    lines = made(proxy, size=2)
    await echo(lines, 0)
    proxy.blackhole()
    calls = begun(lines)
    for _ in range(turns):
        await asyncio.sleep(0)
    await lines.aclose()
    proxy.heal()
    async with asyncio.timeout(10):
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, exceptions.ConnectionError) for one in found)
        with pytest.raises(exceptions.ConnectionError, match="was closed"):
            await lines.execute_command("PING")
        while proxy.connections:  # noqa: ASYNC110 - nothing is left open
            await asyncio.sleep(0.001)


async def test_store_that_was_closed_says_so(redis: RedisServer, namespace: str) -> None:
    async with open_store(redis.url, namespace=namespace) as store:
        pass
    with pytest.raises(StoreUnavailableError, match="was closed"):
        await store.create(leased())


async def test_store_of_another_event_loop_says_so(redis: RedisServer, namespace: str) -> None:
    async with open_store(redis.url, namespace=namespace) as store:
        record = (await store.create(leased())).record

        def elsewhere() -> None:
            asyncio.run(store.signal(record.saga_id, event()))

        with pytest.raises(SagaStateError, match="event loop"):
            await asyncio.to_thread(elsewhere)
        assert (await store.load(record.saga_id)).signals == 0


async def test_listener_that_is_cancelled_leaves_no_connection(
    proxy: RedisProxy, namespace: str
) -> None:
    for turns in (0, 1, 2, 3, 5, 8, 13, 40, 100):
        async with open_store(proxy.url, namespace=namespace) as store:
            heard = asyncio.Event()

            async def listen(store: Any = store, heard: asyncio.Event = heard) -> None:
                async for _ in store.wakeups():
                    heard.set()

            listener = asyncio.create_task(listen())
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns == 100:
                await heard.wait()
            listener.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listener
        async with asyncio.timeout(10):
            while proxy.connections:  # noqa: ASYNC110 - nothing is left open
                await asyncio.sleep(0.001)


async def test_listener_listens_again_after_its_connection_broke(
    proxy: RedisProxy, keys: Keys, namespace: str
) -> None:
    async with open_store(proxy.url, namespace=namespace) as store:
        wakeups = store.wakeups()
        async with asyncio.timeout(20):
            await anext(wakeups)  # it has subscribed
            await proxy.cut()
            again = asyncio.ensure_future(anext(wakeups))
            await again  # and again
            await keys.client.publish(f"{keys.prefix}wake", "1")
            await anext(wakeups)
        await wakeups.aclose()  # type: ignore[attr-defined]
