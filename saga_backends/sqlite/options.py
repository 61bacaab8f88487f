"""What `open_store("sqlite:///...")` takes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saga_core.hookspecs import StoreOptions

__all__ = ["SqliteOptions"]


class SqliteOptions(StoreOptions):
    """Options of the SQLite store; times in seconds."""

    synchronous: Literal["full", "normal"] = "full"
    """`normal` is faster, and may lose the last commits when the power fails."""
    busy_timeout: float = Field(default=10.0, ge=0, le=600)
    """How long a call waits while another process writes."""
