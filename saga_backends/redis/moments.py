"""Times as the scripts take and give them: whole microseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["instant", "micros", "moment"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def micros(duration: timedelta) -> int:
    """Return a duration as the scripts take it."""
    return duration // MICROSECOND


def instant(at: datetime) -> int:
    """Return a time as the scripts take it."""
    return (at - EPOCH) // MICROSECOND


def moment(text: str) -> datetime:
    """Read a time that a script gave."""
    try:
        return EPOCH + timedelta(microseconds=int(text))
    except OverflowError:  # a delay so long that it never ends
        return LAST
