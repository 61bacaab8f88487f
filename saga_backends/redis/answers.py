"""Answers of the scripts to records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from saga_backends.redis.moments import moment
from saga_core.errors import SchemaError
from saga_core.records import Committed, HistoryEntry, SagaRecord, SagaState, StoredSignal
from saga_core.status import Direction, EntryKind, SagaStatus, SignalKind

__all__ = ["committed_of", "entries_of", "entry_of", "record_of", "saga_id_of", "signals_of"]

_NOT_OURS = (ValueError, TypeError, KeyError, IndexError)


def saga_id_of(text: str) -> UUID:
    """Read a saga's id from an index. Raises `SchemaError`."""
    try:
        return UUID(text)
    except _NOT_OURS as error:
        raise SchemaError(
            f"{text!r} stands where the id of a saga belongs: something else writes to the keys "
            "of this namespace"
        ) from error


def committed_of(saga_id: UUID, answer: Sequence[Any]) -> Committed:
    """Read what a commit has made, or the same commit before it. Raises `SchemaError`."""
    try:
        _, version, fence, signals, stands = answer
        return Committed(
            version=int(version), fence=int(fence), signals=int(signals), held=stands == "1"
        )
    except _NOT_OURS as error:
        raise SchemaError(
            f"what a commit has made of saga {saga_id} is not what this library writes: something "
            "else writes to the keys of this namespace",
            saga_id=saga_id,
        ) from error


def entry_of(seq: int, text: str) -> tuple[HistoryEntry, UUID | None]:
    """Read a history entry, and which commit wrote it. Raises `SchemaError`."""
    try:
        return _entry(seq, text)
    except _NOT_OURS as error:
        raise SchemaError(
            f"entry {seq} of a history is not what this library writes: something else writes to "
            "the keys of this namespace"
        ) from error


def _entry(seq: int, text: str) -> tuple[HistoryEntry, UUID | None]:
    version, at, commit_id, rest = text.split(" ", 3)
    kind, step_id, attempt, inp, output, error, error_code, actor, reason = json.loads(rest[1:])
    entry = HistoryEntry(
        seq=seq,
        version=int(version),
        at=moment(at),
        kind=EntryKind(kind),
        step_id=step_id,
        attempt=attempt,
        input=inp,
        output=output,
        error=error,
        error_code=error_code,
        actor=actor,
        reason=reason,
    )
    return entry, None if commit_id == "-" else UUID(commit_id)


def entries_of(numbered: Sequence[Any]) -> tuple[HistoryEntry, ...]:
    """Read entries that each come after their number."""
    pairs = zip(numbered[::2], numbered[1::2], strict=True)
    return tuple(entry_of(int(seq), text)[0] for seq, text in pairs)


def signals_of(texts: Sequence[str], consumed: Iterable[str], after: int) -> list[StoredSignal]:
    """Read the signals of an inbox that come after a place. Raises `SchemaError`."""
    used = set(consumed)
    return [_signal_of(seq, text, used) for seq, text in enumerate(texts, start=after + 1)]


def _signal_of(seq: int, text: str, used: set[str]) -> StoredSignal:
    try:
        at, _, rest = text.partition(" ")
        event_id, kind, payload = json.loads(rest)
        return StoredSignal(
            seq=seq,
            at=moment(at),
            event_id=event_id,
            kind=SignalKind(kind),
            payload=payload,
            consumed=event_id in used,
        )
    except _NOT_OURS as error:
        raise SchemaError(
            f"signal {seq} of an inbox is not what this library writes: something else writes to "
            "the keys of this namespace"
        ) from error


def record_of(
    saga_id: UUID,
    row: Sequence[Any],
    *,
    now: datetime,
    outputs: tuple[HistoryEntry, ...] = (),
    reclaimed: bool = False,
) -> SagaRecord:
    """Make a record of a row in the order of `read` in prelude.lua. Raises `SchemaError`."""
    try:
        return _record(saga_id, row, now, outputs, reclaimed)
    except _NOT_OURS as error:
        raise SchemaError(
            f"the row of saga {saga_id} is not what this library writes: something else writes to "
            "the keys of this namespace",
            saga_id=saga_id,
        ) from error


def _record(
    saga_id: UUID,
    row: Sequence[Any],
    now: datetime,
    outputs: tuple[HistoryEntry, ...],
    reclaimed: bool,
) -> SagaRecord:
    (
        name,
        definition,
        fingerprint,
        aggregate,
        trace,
        data,
        tags,
        state,
        version,
        fence,
        worker,
        due,
        signals,
        seen,
        reclaims,
        created,
        updated,
    ) = row
    return SagaRecord(
        saga_id=saga_id,
        saga_name=name,
        definition_version=definition,
        fingerprint=fingerprint,
        data=data,
        state=_state_of(json.loads(state)),
        aggregation_id=aggregate,
        trace_id=trace,
        tags=tuple(json.loads(tags)),
        version=int(version),
        fence=int(fence),
        worker=worker,
        due_at=None if due is None else moment(due),
        signals=int(signals),
        seen=int(seen),
        reclaims=int(reclaims),
        reclaimed=reclaimed,
        outputs=outputs,
        created_at=moment(created),
        updated_at=moment(updated),
        now=now,
    )


def _state_of(values: Sequence[Any]) -> SagaState:
    return SagaState(
        status=SagaStatus(values[0]),
        direction=Direction(values[1]),
        active=values[2],
        step_id=values[3],
        step_index=values[4],
        step_input=values[5],
        token=None if values[6] is None else UUID(values[6]),
        generation=values[7],
        attempt=values[8],
        waiting_for=values[9],
        last_error=values[10],
        error_code=values[11],
    )
