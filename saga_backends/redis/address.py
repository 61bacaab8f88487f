"""Store URLs to redis-py's clients. What redis-py can do is asked of it, not done again."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from saga_backends.redis.lines import Lines
from saga_backends.redis.options import RedisOptions
from saga_backends.redis.routing import Routed
from saga_core.errors import StoreUrlError

__all__ = ["close", "make_calls", "make_client", "safe"]

POOL = 10
"""Connections beside the lines: for checks at open and for wake-ups."""
CLUSTER_CALLS = 32
"""How many calls to a cluster are under way at once; each has a connection of its own."""
FORMS = (
    "redis://host:6379/0, redis+unix:///path, redis+cluster://host or "
    "redis+sentinel://host:26379/service, each with user:password@ before the host if wanted, and "
    "with rediss in place of redis for TLS"
)
WAYS = {"tls", "unix", "cluster", "sentinel"}
NOT_IN_A_URL = {
    # What redis-py wants as an object, and would fall over as text.
    *("retry", "retry_on_error", "credential_provider", "redis_connect_func", "event_dispatcher"),
    *("maint_notifications_config", "socket_keepalive_options"),
    # What the store depends on.
    *("encoding", "encoding_errors", "decode_responses"),
}


def safe(url: str) -> str:
    """Return the URL without a password and without its query."""
    scheme, _, rest = url.partition("://")
    # A password may hold any character, also those that should have been written as %xx.
    login, at, place = rest.rpartition("@")
    user = login.partition(":")[0]
    place = re.split(r"[?#]", place, maxsplit=1)[0]
    return f"{scheme}://{user}{at if user else ''}{place}"


def make_client(url: str, options: RedisOptions) -> Any:
    """Return a client for the URL; nothing is connected yet. Raises `StoreUrlError`.

    Forms: `redis://`, `redis+unix:///path`, `redis+cluster://` and
    `redis+sentinel://host:port,host:port/service/db`; `rediss` (which arrives here as
    `redis+tls`) in place of `redis` for TLS. The query is redis-py's own (`ssl_ca_certs=`,
    `ssl_cert_reqs=` and so on), and `sentinel_username=`, `sentinel_password=`.
    """
    scheme, _, rest = url.partition("://")
    how = set(scheme.split("+")[1:])
    if scheme.split("+")[0] != "redis" or how - WAYS or len(how - {"tls"}) > 1:
        raise StoreUrlError(f"{safe(url)}: a Redis URL is one of {FORMS}")
    if re.search(r"[/?#].*@", rest.partition("?")[0]) or ("@" in rest and "#" in rest):
        raise StoreUrlError(
            f"{safe(url)}: characters such as / ? # @ in a user or password are written as %2F, "
            "%3F, %23, %40"
        )
    for name in parse_qs(rest.partition("?")[2]):
        if name in NOT_IN_A_URL:
            raise StoreUrlError(f"{safe(url)}: {name!r} cannot be set by a URL")
    try:
        if "unix" in how:
            inner = f"unix://{rest}"
            return _single(inner, urlsplit(inner).path, options)
        inner = f"{'rediss' if 'tls' in how else 'redis'}://{rest}"
        if "sentinel" in how:
            return _behind_sentinel(inner, options, tls="tls" in how)
        parts = urlsplit(inner)
        if not parts.hostname:
            raise ValueError("there is no host in it")
        if "cluster" in how:
            if parts.path.strip("/") not in ("", "0"):
                raise ValueError("a cluster has only the database 0")
            return RedisCluster.from_url(inner, **_settings(options))
        if not re.fullmatch(r"/?\d*/?", parts.path):
            raise ValueError(f"the database is a number, not {parts.path.strip('/')!r}")
        return _single(inner, parts.netloc, options)
    except (ValueError, TypeError, exceptions.RedisError) as error:
        words = str(error).replace("AbstractConnection.__init__() got an ", "")
        raise StoreUrlError(f"{safe(url)}: {words}; a Redis URL is one of {FORMS}") from None


def make_calls(client: Any, options: RedisOptions) -> Any:
    """Return what sends the scripts: lines, or what routes each call to a cluster's node."""
    if isinstance(client, RedisCluster):
        return Routed(client, size=CLUSTER_CALLS)
    pool = client.connection_pool
    settings = pool.connection_kwargs | {
        # The lines watch over the time of a whole group, and send it again themselves.
        "socket_timeout": None,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
    }
    return Lines(
        lambda: pool.connection_class(**settings),
        size=options.connections,
        timeout=options.command_timeout,
    )


async def close(client: Any) -> None:
    """Close the client's connections, and those to the sentinels."""
    with suppress(Exception):
        await client.aclose()
    pool = getattr(client, "connection_pool", None)
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        with suppress(Exception):
            await sentinel.aclose()


def _settings(options: RedisOptions) -> dict[str, Any]:
    return {
        "decode_responses": True,
        # What we wrote is UTF-8; what somebody else wrote is told of, not fallen over. A cluster's
        # client encodes by this as well: text that is no UTF-8 must be refused or come back.
        "encoding_errors": "surrogateescape",
        "socket_connect_timeout": options.connect_timeout,
        "socket_timeout": options.command_timeout,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # Every write carries an id, so a repeat is harmless: once, for a connection gone stale.
        "retry": Retry(NoBackoff(), 1),
        "protocol": 2,
        "client_name": f"saga-{options.namespace}",
    }


def _single(url: str, place: str, options: RedisOptions) -> Any:
    if not place:
        raise ValueError("there is no host or path in it")
    settings = _settings(options)
    if url.startswith("unix:"):
        del settings["socket_keepalive"]
    pool = BlockingConnectionPool.from_url(
        url, max_connections=POOL, timeout=options.command_timeout, **settings
    )
    _check_settings(pool)
    return Redis.from_pool(pool)


def _check_settings(pool: Any) -> None:
    """Make a connection, unconnected, so that what the query sets is refused here if at all."""
    pool.connection_class(**pool.connection_kwargs)


def _behind_sentinel(url: str, options: RedisOptions, *, tls: bool) -> Any:
    parts = urlsplit(url)
    login, at, places = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not places:
        raise ValueError("it needs sentinels and a service, redis+sentinel://host:26379/mymaster")
    sentinels = [_host_and_port(place) for place in places.split(",")]
    chosen: dict[str, Any] = dict(
        parse_url(parts._replace(netloc=f"{login}{at}host", path=f"/{database}").geturl())
    )
    for name in ("host", "port", "connection_class"):
        chosen.pop(name, None)
    if tls:
        chosen["ssl"] = True
    # Sentinels have users of their own, and the certificates of the servers.
    watch: dict[str, Any] = {name: chosen[name] for name in chosen if name.startswith("ssl")}
    for name in ("username", "password"):
        if f"sentinel_{name}" in chosen:
            watch[name] = chosen.pop(f"sentinel_{name}")
    watch |= {
        "socket_timeout": options.connect_timeout,
        "socket_connect_timeout": options.connect_timeout,
        "retry": Retry(NoBackoff(), 1),
    }
    sentinel = Sentinel(sentinels, sentinel_kwargs=watch)  # type: ignore[no-untyped-call]
    client = sentinel.master_for(service, **(_settings(options) | chosen))
    _check_settings(client.connection_pool)
    return client


def _host_and_port(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("a sentinel without a host")
    return parts.hostname, parts.port or 26379
