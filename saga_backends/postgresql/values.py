"""Records to parameters of the PostgreSQL statements, and what comes back to records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from saga_backends.sql.rows import entry_of
from saga_core.records import (
    Due,
    Held,
    HistoryEntry,
    Lease,
    LeaseAction,
    NewEntry,
    Transition,
)

__all__ = ["due_of", "entry_values", "lease_of", "outputs_of", "pairs"]


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
    return (None, None) if due is None else (due.delay, due.at)


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
