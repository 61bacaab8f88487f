"""Records for rules of queues: sagas that wait for an aggregate, and what becomes of them."""

from __future__ import annotations

from typing import Any

from saga_core.records import KEY, NewSaga, SagaRecord, SagaState, Transition
from saga_core.status import EntryKind, SagaStatus
from saga_testing.conformance.sagas import commit_of, ended, entry, new_saga, parked
from saga_testing.conformance.sagas import state as state_of

__all__ = ["back", "gone", "queued", "taking", "waiting"]


def waiting() -> SagaState:
    """Return the state of a queued saga."""
    return state_of(SagaStatus.SUSPENDED, active=False, waiting_for=KEY)


def queued(key: str = "a", **changes: Any) -> NewSaga:
    """Return a saga that waits for an aggregate."""
    values: dict[str, Any] = {"state": waiting(), "due": None, "aggregation_id": key}
    return new_saga(**{**values, **changes})


def taking(record: SagaRecord, **changes: Any) -> Transition:
    """Return the commit with which a queued saga takes its aggregate."""
    told = (entry(EntryKind.ADMITTED),)
    return commit_of(record, **{"state": state_of(), "history": told, **changes})


def back(record: SagaRecord, **changes: Any) -> Transition:
    """Return the commit that puts a queued saga back, because it may not take its aggregate."""
    values: dict[str, Any] = {"state": waiting(), "due": None}
    return parked(record, **{**values, "history": (entry(EntryKind.QUEUED),), **changes})


def gone(record: SagaRecord) -> Transition:
    """Return the commit that ends a queued saga before its turn."""
    return ended(record, SagaStatus.COMPENSATED)
