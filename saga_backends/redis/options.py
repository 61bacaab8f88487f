"""What `open_store("redis://...")` takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from saga_core.hookspecs import StoreOptions

__all__ = ["RedisOptions"]

Seconds = Annotated[float, Field(gt=0, le=3600)]


class RedisOptions(StoreOptions):
    """Options of the Redis store; times in seconds."""

    require_durable: bool = False
    """Refuse settings under which a restart loses what was acknowledged, instead of warning of it.

    `appendfsync everysec` is accepted: docs/redis.md says what it may lose.
    """
    connections: int = Field(default=2, ge=1, le=100)
    """Calls share them: what waits for a free one is sent together."""
    connect_timeout: Seconds = 10.0
    command_timeout: Seconds = 10.0
    """After this long without an answer a call fails with `StoreUnavailableError`."""
    wakeup: bool = True
    """Whether to hear wake-ups (`SUBSCRIBE`); they are always sent."""
