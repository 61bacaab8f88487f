"""What differs between two stores' knowledge of one saga."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from saga_core.records import SagaExport, StoredSignal

__all__ = ["difference", "is_ahead", "is_released"]

_PER_READ = frozenset({"now", "reclaimed"})
"""Belongs to the reading, not to the saga."""
_FOR_LIFE = (
    "saga_name",
    "definition_version",
    "fingerprint",
    "data",
    "aggregation_id",
    "trace_id",
    "created_at",
)
"""What no transition changes."""


def difference(one: SagaExport, other: SagaExport) -> str | None:
    """Name the first field that differs, such as `state.attempt` or `history[3].output`."""
    mine, theirs = one.record.state, other.record.state
    # When a queued saga is due hangs on who holds its aggregate there.
    queued = mine.is_queued and theirs.is_queued
    without = _PER_READ | {"due_at"} if queued else _PER_READ
    return (
        _first("", one.record, other.record, without=without)
        or _rows("history", one.history, other.history)
        or _rows("commit_ids", one.commit_ids, other.commit_ids)
        or _rows("inbox", one.inbox, other.inbox)
    )


def is_ahead(one: SagaExport, other: SagaExport) -> bool:
    """Tell whether the saga in `one` is that in `other`, driven further or sent more.

    All that `other` tells is in `one` at the same place. A claim leaves no history, so of two
    sagas that were claimed apart the one with the higher version counts as ahead.
    """
    return (
        all(getattr(one.record, name) == getattr(other.record, name) for name in _FOR_LIFE)
        and _leads(one, other)
        and one.history[: len(other.history)] == other.history
        and one.commit_ids[: len(other.commit_ids)] == other.commit_ids
        and [_sent(signal) for signal in one.inbox[: len(other.inbox)]]
        == [_sent(signal) for signal in other.inbox]
        and all(
            mine.consumed or not theirs.consumed
            for mine, theirs in zip(one.inbox, other.inbox, strict=False)
        )
    )


def is_released(one: SagaExport, other: SagaExport) -> bool:
    """Tell whether a lease that `other` still shows was given back in `one`, and no more than that.

    A lease ends by itself, so `other` will be driven like `one`.
    """
    if one.record.worker is not None or other.record.worker is None:
        return False
    released = replace(other.record, worker=None, due_at=one.record.due_at)
    return difference(one, replace(other, record=released)) is None


def _leads(one: SagaExport, other: SagaExport) -> bool:
    if one.record.version > other.record.version:
        return True
    # A signal, a renewal or a release changes no version.
    same = one.record.version == other.record.version and one.record.fence == other.record.fence
    return same and one.record.state == other.record.state and len(one.inbox) > len(other.inbox)


def _sent(signal: StoredSignal) -> tuple[Any, ...]:
    return signal.seq, signal.at, signal.event_id, signal.kind, signal.payload


def _rows(what: str, one: tuple[Any, ...], other: tuple[Any, ...]) -> str | None:
    for at, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return _first(f"{what}[{at}].", mine, theirs) or f"{what}[{at}]"
    return None if len(one) == len(other) else f"{what} ({len(one)} entries, not {len(other)})"


def _first(
    prefix: str, one: Any, other: Any, *, without: frozenset[str] = frozenset()
) -> str | None:
    if not hasattr(one, "__dataclass_fields__"):
        return None
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name in without or mine == theirs:
            continue
        inner = _first(f"{prefix}{field.name}.", mine, theirs) if field.name == "state" else None
        return inner or f"{prefix}{field.name}"
    return None
