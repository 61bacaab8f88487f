"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from saga_testing.arguments import check_duration, check_start

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Where a `MemoryStore` gets its time from."""

    def now(self) -> datetime:
        """Return the time, aware and in UTC."""
        ...


class SystemClock:
    """The machine's time."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class ManualClock:
    """A time that a test sets, so that leases and retries fall due without waiting."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        """Raises `ValueError` for a time without a zone, `SagaDefinitionError` for no time."""
        check_start(start)
        if start.tzinfo is None:
            raise ValueError("ManualClock needs an aware datetime, such as datetime.now(UTC)")
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> datetime:
        """Move on and return the new time.

        Raises `ValueError` for a negative step, `SagaDefinitionError` for what is no timedelta.
        """
        check_duration(by)
        if by < timedelta(0):
            raise ValueError("advance only goes forward; jump goes anywhere")
        self._now += by
        return self._now

    def jump(self, by: timedelta) -> datetime:
        """Move in either direction, as a badly kept clock does, and return the new time."""
        check_duration(by)
        self._now += by
        return self._now
