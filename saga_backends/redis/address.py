"""Store URLs to redis-py's clients. What redis-py can do is asked of it, not done again."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from saga_backends.redis.lines import Lines
from saga_backends.redis.options import RedisOptions
from saga_core.errors import StoreUrlError

__all__ = ["make_calls", "make_client", "safe"]

POOL = 10
"""Connections beside the lines: for checks at open and for wake-ups."""
FORMS = "redis://host, redis+tls://, redis+unix:///socket, redis+cluster:// or redis+sentinel://"


def safe(url: str) -> str:
    """Return the URL without a password and without its query."""
    parts = urlsplit(url)
    name, at, place = parts.netloc.rpartition("@")
    user = name.partition(":")[0] + at if name.partition(":")[0] else ""
    return urlunsplit((parts.scheme, user + place, parts.path, "", ""))


def make_client(url: str, options: RedisOptions) -> Any:
    """Return a client for the URL; nothing is connected yet. Raises `StoreUrlError`.

    Forms: `redis://`, `redis+tls://` (also `rediss://`), `redis+unix:///path`,
    `redis+cluster://` and `redis+sentinel://host:port,host:port/service/db`. The query is
    redis-py's own (`ssl_ca_certs=`, `ssl_cert_reqs=` and so on).
    """
    scheme, _, rest = url.partition("://")
    how = set(scheme.split("+")[1:])
    unknown = how - {"tls", "unix", "cluster", "sentinel"}
    if scheme.split("+")[0] != "redis" or unknown or len(how - {"tls"}) > 1:
        raise StoreUrlError(f"a Redis URL is one of {FORMS}, each with a +tls if wanted")
    if "unix" not in how and not urlsplit(f"redis://{rest}").netloc.rpartition("@")[2]:
        raise StoreUrlError("a Redis URL looks like redis://user:password@host:6379/0")
    try:
        if "sentinel" in how:
            return _behind_sentinel(rest, options, tls="tls" in how)
        if "cluster" in how:
            inner = ("rediss" if "tls" in how else "redis") + f"://{rest}"
            return RedisCluster.from_url(inner, **_settings(options))
        inner = "unix" if "unix" in how else "rediss" if "tls" in how else "redis"
        pool = BlockingConnectionPool.from_url(
            f"{inner}://{rest}",
            max_connections=POOL,
            timeout=options.command_timeout,
            **_settings(options),
        )
        return Redis.from_pool(pool)
    except (ValueError, TypeError) as error:
        raise StoreUrlError(f"{safe(url)}: {error}") from None


def make_calls(client: Any, options: RedisOptions) -> Any:
    """Return what sends the scripts: lines, or a cluster's client, which must route each call."""
    if isinstance(client, RedisCluster):
        return client
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


def _settings(options: RedisOptions) -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_connect_timeout": options.connect_timeout,
        "socket_timeout": options.command_timeout,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # Every write carries an id, so a repeat is harmless: once, for a connection gone stale.
        "retry": Retry(NoBackoff(), 1),
        "protocol": 2,
        "client_name": f"saga-{options.namespace}",
    }


def _behind_sentinel(rest: str, options: RedisOptions, *, tls: bool) -> Any:
    parts = urlsplit(f"redis://{rest}")
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise StoreUrlError(
            "redis+sentinel:// needs the name of the service: redis+sentinel://host:26379/mymaster"
        )
    sentinels = []
    for place in places.split(","):
        host, _, port = place.rpartition(":") if ":" in place else (place, "", "26379")
        sentinels.append((host, int(port)))
    settings = _settings(options) | {"db": int(database or 0)} | dict(parse_qsl(parts.query))
    if user:
        settings["username"] = unquote(user)
    if password:
        settings["password"] = unquote(password)
    if tls:
        settings["ssl"] = True
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        sentinels, sentinel_kwargs={"socket_timeout": options.connect_timeout}
    )
    return sentinel.master_for(service, **settings)
