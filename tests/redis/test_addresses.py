"""URLs and options: wrong ones are refused before anything connects, without the password."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from saga_backends.redis.address import safe
from saga_core import StoreUnavailableError, StoreUrlError, open_store
from saga_testing.servers import RedisServer
from tests.redis.keys import Keys

PASSWORD = "s3cret"

WRONG = {
    "redis://": "no host",
    "redis:///0": "no host",
    "redis://127.0.0.1:notaport": "notaport",
    "redis://127.0.0.1:99999": "range",
    "redis://127.0.0.1/orders": "orders",
    "redis://127.0.0.1/1/2": "1/2",
    "redis://127.0.0.1?nope=1": "nope",
    "redis://127.0.0.1?socket_timeout=soon": "socket_timeout",
    "rediss://127.0.0.1?ssl_cert_reqs=perhaps": "perhaps",
    "redis+ftp://127.0.0.1": "redis\\+unix",
    "rediss+unix+cluster:///tmp/socket": "scheme",
    "redis+unix://": "no host or path",
    "redis+cluster://127.0.0.1/3": "database 0",
    "redis+cluster://": "no host",
    "redis+cluster://127.0.0.1?nope=1": "nope",
    "redis+sentinel://127.0.0.1": "service",
    "redis+sentinel:///main": "sentinels",
    "redis+sentinel://127.0.0.1,,/main": "without a host",
    "redis+sentinel://127.0.0.1:x/main": "x",
    "redis+sentinel://127.0.0.1/main?nope=1": "nope",
    "redis://127.0.0.1?retry=3": "'retry' cannot be set",
    "redis+cluster://127.0.0.1?ssl_ca_certs=x&credential_provider=me": "'credential_provider'",
    "redis+sentinel://127.0.0.1/main?encoding=latin-1": "'encoding' cannot be set",
}


@pytest.mark.parametrize(("url", "words"), WRONG.items())
async def test_wrong_url_is_refused_with_the_part_that_is_wrong(url: str, words: str) -> None:
    with pytest.raises(StoreUrlError, match=words):
        async with open_store(url):
            pass


@pytest.mark.parametrize(
    "url",
    [
        f"redis://ann:{PASSWORD}@127.0.0.1:notaport",
        f"redis://ann:{PASSWORD}@127.0.0.1/orders",
        f"redis://ann:{PASSWORD}/x@127.0.0.1",
        f"redis://ann:x?{PASSWORD}@127.0.0.1",
        f"redis://ann:x#{PASSWORD}@127.0.0.1",
        f"redis://ann:x@{PASSWORD}@127.0.0.1/orders",
        f"redis://127.0.0.1?nope=1&password={PASSWORD}",
        f"redis+ftp://ann:{PASSWORD}@127.0.0.1",
        f"redis+cluster://ann:{PASSWORD}@127.0.0.1/3",
        f"redis+sentinel://ann:{PASSWORD}@127.0.0.1/main?nope=1",
        f"redis+sentinel://127.0.0.1?sentinel_password={PASSWORD}",
        f"redis+unix://ann:{PASSWORD}@",
    ],
)
async def test_password_is_in_no_refusal_of_a_url(url: str) -> None:
    assert PASSWORD not in safe(url)
    with pytest.raises(StoreUrlError) as refusal:
        async with open_store(url):
            pass
    assert PASSWORD not in f"{refusal.value!r} {refusal.value.__cause__!r}"


@pytest.mark.parametrize("way", ["", "+cluster", "+sentinel"])
async def test_unreachable_server_is_told_without_the_password(
    caplog: pytest.LogCaptureFixture, way: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        path = "/main" if way == "+sentinel" else ""
        with pytest.raises(StoreUnavailableError) as refused:
            async with open_store(f"redis{way}://ann:{PASSWORD}@127.0.0.1:{port}{path}"):
                pass
    assert f"redis{way}://ann@127.0.0.1:{port}" in str(refused.value)
    told = f"{refused.value!r} {refused.value.__cause__!r} {caplog.text}"
    assert PASSWORD not in told


async def test_password_is_in_no_log_and_no_repr_of_an_open_store(
    redis: RedisServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await keys.client.execute_command(
        "ACL", "SETUSER", "ann", "on", f">{PASSWORD}", "allkeys", "allchannels", "+@all"
    )
    url = redis.url.replace("redis://", f"redis://ann:{PASSWORD}@")
    async with open_store(url) as store:
        assert PASSWORD not in f"{store!r} {vars(store)['_where']!r} {vars(store)['_options']!r}"
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": "a" * 49},
        {"namespace": "a{b}"},
        {"namespace": "a}b"},
        {"namespace": "a\n"},
        {"namespace": "a\x00b"},
        {"namespace": "a\x1bb"},
        {"namespace": "a*"},
        {"namespace": "a:b"},
        {"namespace": "A"},
        {"namespace": "\u00e4"},
        {"namespace": None},
        {"connections": 0},
        {"connections": 1000},
        {"connect_timeout": 0},
        {"command_timeout": -1},
        {"command_timeout": float("nan")},
        {"command_timeout": "soon"},
        {"require_durable": "perhaps"},
        {"nope": 1},
    ],
    ids=repr,
)
async def test_wrong_option_is_refused_and_named(
    redis: RedisServer, keys: Keys, options: dict[str, Any]
) -> None:
    with pytest.raises(StoreUrlError, match=next(iter(options))):
        async with open_store(redis.url, **options):
            pass
    assert await keys.client.dbsize() == 0


async def test_database_of_the_url_is_the_one_in_use(redis: RedisServer, keys: Keys) -> None:
    async with open_store(f"{redis.url}/3"):
        assert await keys.client.dbsize() == 0
        assert "keys" in (await keys.client.info("keyspace"))["db3"]


async def test_unix_socket_takes_the_store(redis: RedisServer, keys: Keys) -> None:
    async with open_store(f"redis+unix://{redis.folder}/socket?db=2") as store:
        await store.check_format()  # type: ignore[attr-defined]
        assert "db2" in await keys.client.info("keyspace")
