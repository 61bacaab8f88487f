"""The ACL user of docs/redis.md: its rules are enough for everything, and hold for the rest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as blocking
from redis.exceptions import NoPermissionError

from saga_core import StoreUnavailableError, open_store
from saga_testing.conformance import StoreConformance, StoreHarness
from saga_testing.servers import RedisServer, redis_server
from tests.conformance.test_redis import RedisHarness
from tests.redis.acl import documented_commands


@pytest.fixture(scope="module")
def limited() -> Iterator[RedisServer]:
    """Start a server of its own: its default user may do nothing but what the tests do."""
    with redis_server("--loglevel", "warning") as server:
        with blocking.Redis.from_url(server.url) as client:
            # The namespaces of the suite differ; each begins with a t.
            # Line by line and split at spaces, as redis-cli takes what is pasted into it.
            for line in documented_commands("t*", user="limited"):
                client.execute_command(*line.split())
        yield server


def url_of(server: RedisServer) -> str:
    return server.url.replace("redis://", "redis://limited:s3cret@")


class TestRedisStoreOfALimitedUser(StoreConformance):
    @pytest.fixture
    def harness(self, limited: RedisServer) -> StoreHarness:
        return RedisHarness(url_of(limited), admin=limited.url)


async def test_limited_user_opens_without_a_warning(
    limited: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(url_of(limited), namespace="t_quiet", require_durable=True):
        pass
    assert caplog.messages == []


async def test_limited_user_reaches_no_other_namespace(limited: RedisServer) -> None:
    with pytest.raises(StoreUnavailableError, match="denies"):
        async with open_store(url_of(limited), namespace="others"):
            pass


@pytest.mark.parametrize(
    "command",
    ["GET secret", "SET secret 1", "KEYS *", "FLUSHALL", "CONFIG SET appendonly no", "ACL LIST",
     "SUBSCRIBE others", "SCRIPT FLUSH", "SHUTDOWN"],
)  # fmt: skip
def test_limited_user_may_do_nothing_else(limited: RedisServer, command: str) -> None:
    with blocking.Redis.from_url(url_of(limited)) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())
