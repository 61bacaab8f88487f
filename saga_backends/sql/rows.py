"""Rows to records: what the SQL stores share, whatever their driver."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from saga_core.errors import SchemaError
from saga_core.records import HistoryEntry, SagaRecord, SagaState, StoredSignal
from saga_core.status import ENDED, Direction, EntryKind, SagaStatus, SignalKind

__all__ = [
    "ENDED_STATUSES",
    "HISTORY_COLUMNS",
    "INBOX_COLUMNS",
    "NOT_OURS",
    "SAGA_COLUMNS",
    "STATE_COLUMNS",
    "entry_of",
    "not_ours",
    "record_of",
    "signal_of",
    "state_values",
]

STATE_COLUMNS = (
    "status",
    "direction",
    "active",
    "step_id",
    "step_index",
    "step_input",
    "token",
    "generation",
    "attempt",
    "waiting_for",
    "last_error",
    "error_code",
)

ENDED_STATUSES = "('" + "', '".join(ENDED) + "')"
"""Those of a saga that has ended, as SQL; the others may be queued, and so not active either."""

SAGA_COLUMNS = (
    "saga_id",
    "saga_name",
    "definition_version",
    "fingerprint",
    "data",
    "aggregation_id",
    "trace_id",
    "tags",
    *STATE_COLUMNS,
    "version",
    "fence",
    "worker",
    "due_at",
    "signals",
    "seen",
    "reclaims",
    "created_at",
    "updated_at",
)
"""The order in which `record_of` takes a row."""

HISTORY_COLUMNS = (
    "seq",
    "version",
    "at",
    "kind",
    "step_id",
    "attempt",
    "input",
    "output",
    "error",
    "error_code",
    "actor",
    "reason",
)
"""The order in which `entry_of` takes a row."""

INBOX_COLUMNS = ("seq", "at", "event_id", "kind", "payload", "consumed")
"""The order in which `signal_of` takes a row."""

NOT_OURS = (ValueError, TypeError, KeyError, IndexError, OverflowError)
"""What reading a row raises that something else has written."""


def state_values(state: SagaState) -> tuple[Any, ...]:
    """Return a state in the order of `STATE_COLUMNS`."""
    return (
        state.status.value,
        int(state.direction),
        state.active,
        state.step_id,
        state.step_index,
        state.step_input,
        state.token,
        state.generation,
        state.attempt,
        state.waiting_for,
        state.last_error,
        state.error_code,
    )


def not_ours(what: str, error: Exception, saga_id: UUID | None = None) -> SchemaError:
    """Return what is raised for a row that cannot be read."""
    return SchemaError(
        f"{what} is not what this library writes ({error}): something else, or a later version, "
        "writes to its tables",
        saga_id=saga_id,
    )


def record_of(
    row: Sequence[Any],
    *,
    now: datetime,
    outputs: tuple[HistoryEntry, ...] = (),
    reclaimed: bool = False,
) -> SagaRecord:
    """Make a record of a row that has (at least) the columns of `SAGA_COLUMNS`, in order.

    Raises `SchemaError`.
    """
    try:
        return _record(row, now, outputs, reclaimed)
    except NOT_OURS as error:
        raise not_ours(f"the row of saga {row[0]}", error, row[0]) from error


def _record(
    row: Sequence[Any], now: datetime, outputs: tuple[HistoryEntry, ...], reclaimed: bool
) -> SagaRecord:
    return SagaRecord(
        saga_id=row[0],
        saga_name=row[1],
        definition_version=row[2],
        fingerprint=row[3],
        data=row[4],
        aggregation_id=row[5],
        trace_id=row[6],
        tags=tuple(row[7] or ()),
        state=SagaState(
            status=SagaStatus(row[8]),
            direction=Direction(row[9]),
            active=bool(row[10]),
            step_id=row[11],
            step_index=row[12],
            step_input=row[13],
            token=row[14],
            generation=row[15],
            attempt=row[16],
            waiting_for=row[17],
            last_error=row[18],
            error_code=row[19],
        ),
        version=row[20],
        fence=row[21],
        worker=row[22],
        due_at=row[23],
        signals=row[24],
        seen=row[25],
        reclaims=row[26],
        created_at=row[27],
        updated_at=row[28],
        now=now,
        outputs=outputs,
        reclaimed=reclaimed,
    )


def entry_of(row: Sequence[Any]) -> HistoryEntry:
    """Make a history entry of a row in the order of `HISTORY_COLUMNS`. Raises `SchemaError`."""
    try:
        kind = EntryKind(row[3])
    except NOT_OURS as error:
        raise not_ours(f"entry {row[0]} of a history", error) from error
    return HistoryEntry(
        seq=row[0],
        version=row[1],
        at=row[2],
        kind=kind,
        step_id=row[4],
        attempt=row[5],
        input=row[6],
        output=row[7],
        error=row[8],
        error_code=row[9],
        actor=row[10],
        reason=row[11],
    )


def signal_of(row: Sequence[Any]) -> StoredSignal:
    """Make a signal of a row in the order of `INBOX_COLUMNS`. Raises `SchemaError`."""
    try:
        kind = SignalKind(row[3])
    except NOT_OURS as error:
        raise not_ours(f"signal {row[0]} of an inbox", error) from error
    return StoredSignal(
        seq=row[0],
        at=row[1],
        event_id=row[2],
        kind=kind,
        payload=row[4],
        consumed=bool(row[5]),
    )
