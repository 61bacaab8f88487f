"""What a server would lose is said when the store is opened, or refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
import redis as blocking

from saga_core import SagaNotFoundError, StoreUnavailableError, open_store
from saga_testing.conformance.sagas import new_saga
from saga_testing.servers import RedisServer, redis_server
from tests.redis.keys import Keys

WEAK = {
    "appendonly": "no",
    "appendfsync": "no",
    "maxmemory-policy": "allkeys-lru",
}


@pytest.fixture
def weakened(redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """Set one setting to what loses data; yields its name."""
    setting: str = request.param
    with blocking.Redis.from_url(redis.url, decode_responses=True) as client:
        sound = client.config_get(setting)[setting]
        client.config_set(setting, WEAK[setting])
        yield setting
        client.config_set(setting, sound)


async def test_durable_server_is_opened_in_silence(
    redis: RedisServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(redis.url, require_durable=True):
        pass
    assert caplog.messages == []


@pytest.mark.parametrize("weakened", WEAK, indirect=True)
async def test_weak_setting_is_named_in_a_warning(
    redis: RedisServer, keys: Keys, weakened: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(redis.url):
        pass
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{weakened} is '{WEAK[weakened]}'" in record.getMessage()
    assert f"set {weakened}" in record.getMessage()
    assert redis.url in record.getMessage()


@pytest.mark.parametrize("weakened", WEAK, indirect=True)
async def test_weak_setting_is_refused_if_durability_is_required(
    redis: RedisServer, keys: Keys, weakened: str
) -> None:
    with pytest.raises(StoreUnavailableError, match=rf"{weakened} is .*require_durable"):
        async with open_store(redis.url, require_durable=True):
            pass
    assert await keys.client.dbsize() == 0


@pytest.mark.parametrize("required", [False, True])
async def test_settings_that_cannot_be_read_are_taken_for_weak(
    redis: RedisServer, keys: Keys, required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    user = ("ACL", "SETUSER", "blind", "on", ">s3cret", "allkeys", "allchannels", "+@all")
    await keys.client.execute_command(*user, "-config")
    url = redis.url.replace("redis://", "redis://blind:s3cret@")
    if required:
        with pytest.raises(StoreUnavailableError, match="settings cannot be read"):
            async with open_store(url, require_durable=True):
                pass
    else:
        async with open_store(url):
            pass
        assert "settings cannot be read" in caplog.text
    await keys.client.execute_command("ACL", "DELUSER", "blind")


async def test_loss_without_an_append_only_file_is_announced_and_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server("--loglevel", "warning", durable=False) as server:
        async with open_store(server.url) as store:
            assert "appendonly is 'no'" in caplog.text
            new = new_saga()
            assert (await store.create(new)).created
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            with pytest.raises(SagaNotFoundError):
                await store.load(new.saga_id)
