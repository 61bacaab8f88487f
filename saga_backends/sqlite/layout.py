"""How SQLite keeps what it has no type for, and in which tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from saga_backends.sql.names import Names

__all__ = ["OWN_LAYOUT", "Layout", "micros", "moment", "now_micros"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)


def now_micros() -> int:
    """Return the time of the machine that has the file, which all its processes share."""
    return time.time_ns() // 1000


def micros(value: datetime | timedelta) -> int:
    """Return a time or a duration in microseconds."""
    return (value - EPOCH if isinstance(value, datetime) else value) // MICRO


def moment(value: int) -> datetime:
    """Return the time of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=value)


def _same(value: int) -> int:
    return value


@dataclass(frozen=True)
class Layout:
    """Names, and the stored forms of ids and times.

    The store counts in microseconds; `time_of` and `micros_of` turn them into what a column
    holds and back. Stored times must sort as the times do.
    """

    names: Names
    id_of: Callable[[UUID], str] = str
    """`UUID(text)` is the way back, whatever the form."""
    time_of: Callable[[int], Any] = _same
    micros_of: Callable[[Any], int] = _same


OWN_LAYOUT = Layout(Names(sagas="saga", history="saga_history", inbox="saga_inbox"))
"""Tables of the store's own: ids as text with dashes, times as microseconds."""
