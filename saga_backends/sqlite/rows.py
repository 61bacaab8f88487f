"""How SQLite keeps what it has no type for: ids as text, times as microseconds, tags as JSON."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from saga_backends.sql import rows
from saga_backends.sql.rows import HISTORY_COLUMNS, INBOX_COLUMNS, SAGA_COLUMNS
from saga_core.records import HistoryEntry, SagaRecord, SagaState, StoredSignal

__all__ = [
    "entry_of",
    "entry_values",
    "load_record",
    "micros",
    "moment",
    "now_micros",
    "outputs_of",
    "record_of",
    "signal_of",
    "state_values",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)

_TAGS = SAGA_COLUMNS.index("tags")
_TOKEN = SAGA_COLUMNS.index("token")
_TIMES = tuple(SAGA_COLUMNS.index(name) for name in ("due_at", "created_at", "updated_at"))

LOAD = f"SELECT {', '.join(SAGA_COLUMNS)} FROM saga WHERE namespace = ? AND saga_id = ?"  # noqa: S608
OUTPUTS = (
    f"SELECT {', '.join(HISTORY_COLUMNS)} FROM saga_history "  # noqa: S608
    "WHERE namespace = ? AND saga_id = ? AND output IS NOT NULL ORDER BY seq"
)


def now_micros() -> int:
    """Return the time of the machine that has the file, which all its processes share."""
    return time.time_ns() // 1000


def micros(value: datetime | timedelta) -> int:
    """Return a time or a duration in microseconds."""
    return (value - EPOCH if isinstance(value, datetime) else value) // MICRO


def moment(value: int) -> datetime:
    """Return the time of stored microseconds."""
    return EPOCH + timedelta(microseconds=value)


def state_values(state: SagaState) -> tuple[Any, ...]:
    """Return a state in the order of `STATE_COLUMNS`."""
    values = list(rows.state_values(state))
    values[6] = None if state.token is None else str(state.token)
    return tuple(values)


def entry_values(entry: HistoryEntry | Any) -> tuple[Any, ...]:
    """Return what a new history entry brings, in the order of its columns from `kind` on."""
    return (
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


def record_of(
    row: Sequence[Any],
    *,
    now: int,
    outputs: tuple[HistoryEntry, ...] = (),
    reclaimed: bool = False,
) -> SagaRecord:
    """Make a record of a row in the order of `SAGA_COLUMNS`."""
    values = list(row)
    values[0] = UUID(values[0])
    values[_TAGS] = json.loads(values[_TAGS])
    if values[_TOKEN] is not None:
        values[_TOKEN] = UUID(values[_TOKEN])
    for index in _TIMES:
        if values[index] is not None:
            values[index] = moment(values[index])
    return rows.record_of(values, now=moment(now), outputs=outputs, reclaimed=reclaimed)


def entry_of(row: Sequence[Any]) -> HistoryEntry:
    """Make a history entry of a row in the order of `HISTORY_COLUMNS`."""
    values = list(row)
    values[2] = moment(values[2])
    return rows.entry_of(values)


def signal_of(row: Sequence[Any]) -> StoredSignal:
    """Make a signal of a row in the order of `INBOX_COLUMNS`."""
    values = list(row)
    values[1] = moment(values[1])
    return rows.signal_of(values)


def outputs_of(db: sqlite3.Connection, namespace: str, saga_id: str) -> tuple[HistoryEntry, ...]:
    """Return the entries that carry an output."""
    return tuple(entry_of(row) for row in db.execute(OUTPUTS, (namespace, saga_id)))


def load_record(db: sqlite3.Connection, namespace: str, saga_id: UUID) -> SagaRecord | None:
    """Return a saga with its outputs, or None."""
    key = str(saga_id)
    row = db.execute(LOAD, (namespace, key)).fetchone()
    if row is None:
        return None
    return record_of(row, now=now_micros(), outputs=outputs_of(db, namespace, key))


assert INBOX_COLUMNS[1] == HISTORY_COLUMNS[2] == "at"  # noqa: S101 - entry_of and signal_of rely on it
