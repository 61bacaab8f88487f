"""How sentences about a saga tell times, numbers and errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from saga_core.records import SagaRecord

__all__ = ["duration", "short", "time", "times", "when"]

LONGEST_ERROR = 300
"""Characters of an error that a sentence bears; the snapshot has all of it."""


def short(error: str) -> str:
    """Return an error in quotes, in one line, cut to what a sentence bears."""
    line = " ".join(error.split())
    if len(line) > LONGEST_ERROR:
        line = line[: LONGEST_ERROR - 3] + "..."
    return f"'{line}'"


def times(count: int, what: str) -> str:
    """Return a number with its word."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def time(moment: datetime) -> str:
    """Return a moment, in UTC."""
    return f"{moment.astimezone(UTC).isoformat(sep=' ', timespec='milliseconds')[:-6]} UTC"


def when(record: SagaRecord, moment: datetime | None) -> str:
    """Return a moment, and how far it is from the one at which the saga was read."""
    if moment is None:
        return "an unknown time"
    away = moment - record.now
    if away < timedelta(0):
        return f"{time(moment)} ({duration(-away)} ago)"
    return f"{time(moment)} (in {duration(away)})" if away else f"{time(moment)} (now)"


def duration(length: timedelta) -> str:
    """Return how long something is."""
    if length < timedelta(minutes=1):
        return f"{length.total_seconds():.3g} s"
    return str(timedelta(seconds=int(length.total_seconds())))
