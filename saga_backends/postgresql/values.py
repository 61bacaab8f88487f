"""Records to parameters of the PostgreSQL statements, and what comes back to records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from saga_backends.sql.rows import entry_of
from saga_core.errors import PayloadError
from saga_core.records import (
    Due,
    Held,
    HistoryEntry,
    Lease,
    LeaseAction,
    NewEntry,
    Transition,
)

__all__ = ["check_finite", "due_of", "entry_values", "lease_of", "outputs_of", "pairs"]

FIRST = datetime(1, 1, 2, tzinfo=UTC)
LAST = datetime(9999, 12, 30, tzinfo=UTC)
"""What every zone can show; the driver writes the outermost times as infinity."""


def lease_of(transition: Transition) -> tuple[str, tuple[Any, ...]]:
    """Return which lease form of the statement a transition takes, and its values."""
    lease = transition.lease
    if lease is LeaseAction.KEEP:
        return "keep", ()
    if isinstance(lease, Lease):
        return "take", (lease.worker, lease.duration)
    if transition.due is None and not transition.state.active:
        return "release_quietly", due_of(None)
    return "release", due_of(transition.due)


def due_of(due: Due | None) -> tuple[timedelta | None, datetime | None]:
    """Return the two parameters that a `Due` becomes."""
    if due is None:
        return None, None
    check_finite(due.at)
    return due.delay, due.at


def check_finite(*times: datetime | None) -> None:
    """Refuse what PostgreSQL would keep as infinity, with which nothing can be reckoned.

    Raises `PayloadError`.
    """
    for time in times:
        if time is not None and not FIRST <= time <= LAST:
            raise PayloadError(
                f"PostgreSQL cannot hold the time {time}: it must be from {FIRST:%Y-%m-%d} to "
                f"{LAST:%Y-%m-%d}"
            )


def entry_values(entries: Sequence[NewEntry]) -> list[Any]:
    """Return the parameters of new history entries, in order."""
    values: list[Any] = []
    for entry in entries:
        values += (
            entry.kind.value,
            entry.step_id,
            entry.attempt,
            entry.input,
            entry.output,
            entry.error,
            entry.error_code,
            entry.actor,
            entry.reason,
        )
    return values


def pairs(held: Sequence[Held]) -> tuple[list[UUID], list[int]]:
    """Return what `unnest` makes the held sagas of."""
    return [one.saga_id for one in held], [one.fence for one in held]


def outputs_of(text: str | None) -> tuple[HistoryEntry, ...]:
    """Read the JSON array of history rows that a statement answers with."""
    if text is None:
        return ()
    entries = []
    for row in json.loads(text):
        row[2] = datetime.fromisoformat(row[2])
        entries.append(entry_of(row))
    return tuple(entries)
