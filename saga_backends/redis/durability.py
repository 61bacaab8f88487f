"""What a server keeps when it dies, and whether it is one that the scripts run on."""

from __future__ import annotations

import logging
from typing import Any

from redis import exceptions
from redis.asyncio.cluster import RedisCluster

from saga_core.errors import SchemaError, StoreUnavailableError

__all__ = ["check_durability", "check_version"]

logger = logging.getLogger("saga_backends.redis")

OLDEST = (7, 0)
SETTINGS = ("appendonly", "appendfsync", "maxmemory-policy")


async def check_version(client: Any, where: str) -> None:
    """Raise `SchemaError` for a server older than 7.0 (or one that does not say)."""
    told = await client.info("server")
    if "redis_version" not in told:  # a cluster answers for each node
        told = next((node for node in told.values() if isinstance(node, dict)), {})
    version = str(told.get("redis_version", ""))
    try:
        number = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        number = ()
    if number < OLDEST:
        raise SchemaError(
            f"{where} is Redis {version or 'of an unknown version'}; the store needs 7.0 or newer, "
            "or Valkey"
        )


async def check_durability(client: Any, where: str, *, required: bool) -> None:
    """Warn of settings under which acknowledged transitions may be lost; refuse if `required`.

    Raises `StoreUnavailableError` naming the settings.
    """
    found: Any
    try:
        if isinstance(client, RedisCluster):
            found = await client.config_get(*SETTINGS, target_nodes=RedisCluster.PRIMARIES)
        else:
            found = await client.config_get(*SETTINGS)
    except (exceptions.NoPermissionError, exceptions.ResponseError) as error:
        _tell(where, [f"its settings cannot be read ({error})"], required=required)
        return
    # A cluster of several nodes answers for each.
    nodes = [found] if SETTINGS[0] in found else list(found.values())
    weak = list(dict.fromkeys(words for node in nodes for words in weaknesses(node)))
    if weak:
        _tell(where, weak, required=required)


def weaknesses(found: dict[str, str]) -> list[str]:
    """Say which settings lose data, when, and what to set instead."""
    weak = []
    if found.get("appendonly") != "yes":
        weak.append(
            "appendonly is 'no': a restart loses what was acknowledged since the last snapshot, "
            "or all of it; set appendonly yes"
        )
    elif found.get("appendfsync") == "no":
        weak.append(
            "appendfsync is 'no': a loss of power loses many seconds; set appendfsync everysec "
            "(at most a second or two) or always"
        )
    policy = found.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        weak.append(
            f"maxmemory-policy is '{policy}': sagas may be evicted; set maxmemory-policy noeviction"
        )
    return weak


def _tell(where: str, weak: list[str], *, required: bool) -> None:
    words = f"{where} is not durable: {'; '.join(weak)}"
    if required:
        raise StoreUnavailableError(f"{words} (require_durable=True)")
    logger.warning("%s", words)
