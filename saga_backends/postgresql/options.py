"""What `open_store("postgresql://...")` takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from saga_core.hookspecs import Identifier, StoreOptions

__all__ = ["PostgresqlOptions"]

Seconds = Annotated[float, Field(gt=0, le=3600)]


class PostgresqlOptions(StoreOptions):
    """Options of the PostgreSQL store; times in seconds."""

    schema_name: Identifier = "saga"
    """The schema that holds the tables. Several services may share one, each in its namespace."""
    pool_min_size: int = Field(default=1, ge=0, le=1000)
    pool_max_size: int = Field(default=10, ge=1, le=1000)
    connect_timeout: Seconds = 10.0
    command_timeout: Seconds = 30.0
    """After this long without an answer a call fails with `StoreUnavailableError`."""
    lock_timeout: Seconds = 10.0
    statement_cache_size: int = Field(default=256, ge=0, le=10_000)
    """0 makes it work behind a pooler in transaction mode, together with `wakeup=False`."""
    wakeup: bool = True
    """Whether to send and hear wake-ups (`NOTIFY`, `LISTEN`)."""
