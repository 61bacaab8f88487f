"""An ACL that denies one command, or one kind of key: told, and nothing changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from saga_core import StoreUnavailableError, open_store
from saga_testing.servers import RedisServer
from tests.redis.keys import Keys
from tests.redis.scene import CALLS, Scene, set_scene

COMMANDS = [
    "evalsha",
    "eval",
    "type",
    "exists",
    "time",
    "publish",
    "pexpire",
    "unlink",
    "hset",
    "hsetnx",
    "hdel",
    "hget",
    "hmget",
    "hexists",
    "hgetall",
    "rpush",
    "lrange",
    "zadd",
    "zrem",
    "zrangebyscore",
    "zscore",
    "zcount",
    "zcard",
]
FAMILIES = [
    "meta",
    "saga:*",
    "history:*",
    "commits:*",
    "inbox:*",
    "events:*",
    "claim:*",
    "aggregates",
    "due",
    "due:*",
    "ended",
    "by:*",
]
ALL = ["resetkeys", "allkeys", "resetchannels", "allchannels", "+@all"]

WRITTEN = {
    "open": {"hsetnx"},
    "create": {"hset", "rpush", "zadd", "publish"},
    "commit": {"hset", "hdel", "rpush", "zadd", "zrem", "publish"},
    "commit that ends": {"hset", "hdel", "rpush", "zadd", "zrem"},
    "claim_due": {"hset", "rpush", "zadd", "pexpire"},
    "renew": {"hset", "zadd"},
    "release": {"hset", "hdel", "zadd", "publish"},
    "signal": {"hset", "rpush", "zadd", "publish"},
    "purge": {"zrem", "unlink"},
    "restore": {"hset", "rpush", "zadd"},
}
"""What each verb cannot do without, so that its denial must be told."""


class Restricted:
    """The server through the eyes of a user whose rules change while it is connected."""

    def __init__(self, keys: Keys, server: RedisServer) -> None:
        self._client = keys.client
        self._server = server
        self._name = "restricted"

    @property
    def url(self) -> str:
        parts = urlsplit(self._server.url)
        return f"redis://{self._name}:s3cret@{parts.netloc}"

    async def may(self, *rules: str) -> None:
        await self._client.execute_command(
            "ACL", "SETUSER", self._name, "on", ">s3cret", *ALL, *rules
        )


@pytest_asyncio.fixture
async def user(keys: Keys, redis: RedisServer) -> AsyncIterator[Restricted]:
    user = Restricted(keys, redis)
    await user.may()
    yield user
    await keys.client.execute_command("ACL", "DELUSER", "restricted")


async def refused(
    verb: str, user: Restricted, keys: Keys, denials: dict[str, list[str]]
) -> set[str]:
    """Try each denial on the verb; return those that were told, nothing having changed."""
    told: set[str] = set()
    left = list(denials)
    number = 0
    while left:
        number += 1
        async with open_store(user.url, namespace=f"n{number}") as store:
            scene = await set_scene(store)
            own = Keys(keys.client, store.namespace)
            while left:
                denial = left.pop()
                await user.may(*(rule.format(prefix=own.prefix) for rule in denials[denial]))
                content = await own.content()
                try:
                    await CALLS[verb](scene)
                except StoreUnavailableError as error:
                    words = str(error)
                    assert "denies" in words
                    assert "docs/redis.md" in words
                    assert "s3cret" not in words
                    assert await own.content() == content, denial
                    told.add(denial)
                else:
                    await user.may()
                    break
            await user.may()
    return told


@pytest.mark.parametrize("verb", WRITTEN)
async def test_command_that_is_denied_stops_a_verb_before_it_writes(
    user: Restricted, keys: Keys, verb: str
) -> None:
    told = await refused(verb, user, keys, {name: [f"-{name}"] for name in COMMANDS})
    assert WRITTEN[verb] | {"evalsha", "time"} <= told


@pytest.mark.parametrize("verb", [verb for verb in WRITTEN if verb != "open"])
@pytest.mark.parametrize("access", ["no", "read"])
async def test_key_that_is_denied_stops_a_verb_before_it_writes(
    user: Restricted, keys: Keys, verb: str, access: str
) -> None:
    denials = {
        family: [
            "resetkeys",
            "~{prefix}",
            *(f"~{{prefix}}{other}" for other in FAMILIES if other != family),
            *([f"%R~{{prefix}}{family}"] if access == "read" else []),
        ]
        for family in FAMILIES
    }
    told = await refused(verb, user, keys, denials)
    assert "saga:*" in told


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"evalsha", "eval", "time"}))
async def test_denied_at_open_names_what_is_missing(
    user: Restricted, keys: Keys, command: str
) -> None:
    await user.may(f"-{command}")
    with pytest.raises(StoreUnavailableError, match=f"may not run {command.upper()} on 'saga:"):
        async with open_store(user.url):
            pass
    assert await keys.client.dbsize() == 0


async def test_store_goes_on_once_the_rules_are_mended(user: Restricted, keys: Keys) -> None:
    async with open_store(user.url, namespace="mended") as store:
        scene: Scene = await set_scene(store)
        await user.may("-zadd")
        with pytest.raises(StoreUnavailableError, match="ZADD"):
            await CALLS["commit"](scene)
        await user.may()
        await CALLS["commit"](scene)


async def test_wrong_password_is_told_without_it(redis: RedisServer, user: Restricted) -> None:
    wrong = user.url.replace("s3cret", "secr3t")
    with pytest.raises(StoreUnavailableError, match="refused the login") as refusal:
        async with open_store(wrong):
            pass
    assert "secr3t" not in str(refusal.value)
