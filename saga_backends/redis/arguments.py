"""Records to arguments of the scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from saga_backends.redis.moments import instant, micros
from saga_core.errors import PayloadError
from saga_core.records import (
    KEY,
    Due,
    Lease,
    LeaseAction,
    NewEntry,
    NewSaga,
    SagaExport,
    SagaState,
    Signal,
    Transition,
)
from saga_core.status import SagaStatus

__all__ = [
    "commit_arguments",
    "kind_of",
    "listed",
    "new_arguments",
    "optional",
    "restore_arguments",
    "signal_text",
]


def _dump(values: Any) -> str:
    try:
        return to_json(values).decode()
    except PydanticSerializationError:
        raise PayloadError("text with half a surrogate pair cannot be stored") from None


def optional(value: object | None) -> str:
    """Mark a value that may be absent."""
    return "" if value is None else f"={value}"


def listed(values: Sequence[Any]) -> list[Any]:
    """Put the number of values before them."""
    return [len(values), *values]


@lru_cache(maxsize=1024)
def kind_of(saga_name: str, definition_version: str, fingerprint: str) -> str:
    """Return the digest under which sagas of one definition queue."""
    text = "\0".join((saga_name, definition_version, fingerprint))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def new_arguments(new: NewSaga, write_id: str | None = None) -> list[Any]:
    """Return the arguments of one new saga, as newcomer.lua takes them.

    `write_id` is an id of the very call, by which its repetition on another connection is known.
    """
    _refuse_nul(new.saga_name, new.aggregation_id, new.trace_id, new.data, *new.tags)
    state, lease = new.state, new.lease
    facts = facts_of(new.saga_name, new.definition_version, state, new.aggregation_id, new.tags)
    return [
        str(new.saga_id),
        new.saga_name,
        new.definition_version,
        new.fingerprint,
        kind_of(new.saga_name, new.definition_version, new.fingerprint),
        optional(new.aggregation_id),
        optional(new.trace_id),
        new.data,
        _dump(new.tags),
        *listed(facts),
        *_state_arguments(state),
        optional(None if lease is None else lease.worker),
        optional(None if lease is None else micros(lease.duration)),
        *_due_arguments(new.due),
        *listed([_entry_text(entry) for entry in new.history]),
        optional(write_id),
    ]


def commit_arguments(transition: Transition) -> list[Any]:
    """Return the arguments of a transition, as commit.lua takes them."""
    lease = transition.lease
    arguments: list[Any] = [
        str(transition.saga_id),
        transition.expected_version,
        str(transition.commit_id),
        transition.seen,
        *_state_arguments(transition.state),
    ]
    if lease is LeaseAction.KEEP:
        arguments.append("keep")
    elif isinstance(lease, Lease):
        arguments += ("take", lease.worker, micros(lease.duration))
    else:
        arguments += ("release", *_due_arguments(transition.due))
    arguments.append(len(transition.history))
    arguments += [_entry_text(entry) for entry in transition.history]
    arguments.append(len(transition.signals_in))
    for signal in transition.signals_in:
        arguments += (signal.event_id, signal_text(signal))
    arguments += listed(transition.consumed)
    tags = transition.tags
    arguments.append(optional(None if tags is None else _dump(tags)))
    if tags is not None:
        arguments += listed([f"tag:{tag}" for tag in dict.fromkeys(tags)])
    arguments.append(len(transition.spawn))
    for new in transition.spawn:
        arguments += new_arguments(new)
    return arguments


def restore_arguments(export: SagaExport, write_id: str) -> list[Any]:
    """Return the arguments of a saga to be restored, as restore.lua takes them."""
    record = export.record
    state = record.state
    text, status, lane, active, waits, rests, code = _state_arguments(state)
    row = {
        "name": record.saga_name,
        "definition": record.definition_version,
        "fingerprint": record.fingerprint,
        "data": record.data,
        "tags": _dump(record.tags),
        "state": text,
        "version": record.version,
        "fence": record.fence,
        "signals": record.signals,
        "seen": record.seen,
        "reclaims": record.reclaims,
        "created": instant(record.created_at),
        "updated": instant(record.updated_at),
    }
    if record.trace_id is not None:
        row["trace"] = record.trace_id
    if record.worker is not None:
        row["worker"] = record.worker
    entries: list[str] = []
    commits: list[Any] = []
    for entry, commit_id in zip(export.history, export.commit_ids, strict=True):
        written_by = "-" if commit_id is None else str(commit_id)
        entries.append(f"{entry.version} {instant(entry.at)} {written_by} {_entry_text(entry)}")
        if commit_id is not None:
            commits += (written_by, entry.version)
    facts = facts_of(
        record.saga_name, record.definition_version, state, record.aggregation_id, record.tags
    )
    return [
        str(record.saga_id),
        write_id,
        kind_of(record.saga_name, record.definition_version, record.fingerprint),
        *(status, lane, active, waits, rests),
        optional(record.aggregation_id),
        code,
        optional(None if record.due_at is None else instant(record.due_at)),
        instant(record.created_at),
        instant(record.updated_at),
        record.fence,
        *listed(facts),
        *listed([part for pair in row.items() for part in pair]),
        *listed(entries),
        *listed(commits),
        *listed([signal.event_id for signal in export.inbox]),
        *listed([f"{instant(signal.at)} {signal_text(signal)}" for signal in export.inbox]),
        *listed([signal.event_id for signal in export.inbox if signal.consumed]),
    ]


def facts_of(
    saga_name: str,
    definition_version: str,
    state: SagaState,
    aggregation_id: str | None,
    tags: Iterable[str],
) -> list[str]:
    """Return the names of the indexes that a saga is in."""
    facts = [
        "created",
        f"name:{saga_name}",
        f"definition:{definition_version}",
        f"status:{state.status.value}",
    ]
    if aggregation_id is not None:
        facts.append(f"aggregate:{aggregation_id}")
    if state.error_code is not None:
        facts.append(f"error:{state.error_code}")
    facts += [f"tag:{tag}" for tag in dict.fromkeys(tags)]
    return facts


def signal_text(signal: Signal) -> str:
    """Return a signal as the scripts keep it."""
    _refuse_nul(signal.event_id, signal.payload)
    return _dump((signal.event_id, signal.kind.value, signal.payload))


def _state_arguments(state: SagaState) -> tuple[Any, ...]:
    text = _dump(
        (
            state.status.value,
            int(state.direction),
            state.active,
            state.step_id,
            state.step_index,
            state.step_input,
            None if state.token is None else state.token.hex,
            state.generation,
            state.attempt,
            state.waiting_for,
            state.last_error,
            state.error_code,
        )
    )
    return (
        text,
        state.status.value,
        int(state.direction),
        int(state.active),
        KEY if state.is_queued else int(state.waiting_for is not None),
        int(not state.active or state.status is SagaStatus.STUCK),
        optional(state.error_code),
    )


def _due_arguments(due: Due | None) -> tuple[str, str]:
    if due is None:
        return "", ""
    return (
        optional(None if due.delay is None else micros(due.delay)),
        optional(None if due.at is None else instant(due.at)),
    )


def _entry_text(entry: NewEntry) -> str:
    mark = "-" if entry.output is None else "o"
    return mark + _dump(
        (
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
    )


def _refuse_nul(*texts: str | None) -> None:
    # Redis could hold it, other stores could not: a saga must be able to move.
    for text in texts:
        if text is not None and "\x00" in text:
            raise PayloadError("text with a NUL character cannot be stored")
