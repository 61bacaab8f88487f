"""Sagas on Redis or Valkey: `open_store("redis://...")`. See docs/redis.md."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from saga_backends.redis.address import close, make_calls, make_client, safe
from saga_backends.redis.durability import check_durability, check_version
from saga_backends.redis.faults import our_errors
from saga_backends.redis.options import RedisOptions
from saga_backends.redis.store import RedisStore
from saga_core.hookspecs import BackendSpec, Capability, hookimpl

__all__ = ["RedisOptions", "RedisStore", "open_redis"]


@asynccontextmanager
async def open_redis(
    url: str, *, create_schema: bool | None, options: RedisOptions
) -> AsyncIterator[RedisStore]:
    """Connect, check the server and the namespace's format, and close.

    There is no schema to create: `create_schema` changes nothing.
    """
    client = make_client(url, options)
    calls = make_calls(client, options)
    try:
        with our_errors(safe(url)):
            await check_version(client, safe(url))
            await check_durability(client, safe(url), required=options.require_durable)
        store = RedisStore(client, calls, url, options)
        await store.check_format()
        yield store
    finally:
        await calls.aclose()
        await close(client)


@hookimpl
def saga_backend() -> BackendSpec:
    """Describe this backend."""
    return BackendSpec(
        name="redis",
        summary="Redis 7.0 or newer, or Valkey, through redis-py; one Lua script per call",
        open=open_redis,
        capabilities=frozenset({Capability.WAKEUP, Capability.MULTI_PROCESS, Capability.DURABLE}),
        options=RedisOptions,
    )
