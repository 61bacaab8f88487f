"""Records for rules: sagas, transitions and signals with as little said as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from saga_core.errors import SagaError
from saga_core.records import (
    DUE_NOW,
    Claims,
    Due,
    Lease,
    LeaseAction,
    NewEntry,
    NewSaga,
    Query,
    Registered,
    SagaRecord,
    SagaState,
    Signal,
    Transition,
)
from saga_core.status import Direction, EntryKind, SagaStatus, SignalKind
from saga_core.store import SagaStore

__all__ = [
    "ALIKE",
    "HOUR",
    "KIND",
    "LEASE",
    "ME",
    "OTHER",
    "accepted",
    "claim",
    "claim_one",
    "commit_of",
    "ended",
    "entry",
    "event",
    "leased",
    "listed",
    "new_saga",
    "one_of",
    "parked",
    "state",
]

T = TypeVar("T")

ME = "worker-me"
OTHER = "worker-other"
ALIKE = ("a", "A", "a ", " a", "á")
"""Names that some engines take for one unless they are told to compare exactly."""
HOUR = timedelta(hours=1)
LEASE = timedelta(minutes=5)
KIND = Registered("order", "1", "step_0:12345678")


def state(status: SagaStatus = SagaStatus.RUNNING, **changes: Any) -> SagaState:
    """Return a state that is at its first step."""
    values: dict[str, Any] = {
        "status": status,
        "active": not status.is_terminal,
        "step_id": None if status.is_terminal else "step_0",
        "step_input": '{"n":1}',
        "token": uuid4(),
    }
    return SagaState(**{**values, **changes})


def new_saga(**changes: Any) -> NewSaga:
    """Return a saga that is due at once for anybody."""
    values: dict[str, Any] = {
        "saga_id": uuid4(),
        "saga_name": KIND.saga_name,
        "definition_version": KIND.definition_version,
        "fingerprint": KIND.fingerprint,
        "data": '{"order_id":"1"}',
        "state": state(),
        "due": DUE_NOW,
    }
    return NewSaga(**{**values, **changes})


def leased(worker: str = ME, **changes: Any) -> NewSaga:
    """Return a saga that its creator drives."""
    return new_saga(lease=Lease(worker, LEASE), due=None, **changes)


def entry(kind: EntryKind = EntryKind.COMPLETED, **changes: Any) -> NewEntry:
    """Return a history entry; one that completes a step has an output."""
    values: dict[str, Any] = {"kind": kind, "step_id": "step_0", "attempt": 1}
    if kind is EntryKind.COMPLETED:
        values |= {"input": '{"n":1}', "output": '{"n":2}'}
    return NewEntry(**{**values, **changes})


def commit_of(record: SagaRecord, **changes: Any) -> Transition:
    """Return a commit of the holder who goes on."""
    values: dict[str, Any] = {
        "saga_id": record.saga_id,
        "expected_version": record.version,
        "commit_id": uuid4(),
        "state": state(step_id="step_1", step_index=1),
        "lease": LeaseAction.KEEP,
        "seen": record.seen,
        "history": (entry(),),
    }
    return Transition(**{**values, **changes})


def parked(record: SagaRecord, delay: timedelta = HOUR, **changes: Any) -> Transition:
    """Return a commit after which the saga waits for a retry."""
    values: dict[str, Any] = {
        "state": state(SagaStatus.SUSPENDED),
        "lease": LeaseAction.RELEASE,
        "due": Due(delay=delay),
        "history": (entry(EntryKind.RETRYING),),
    }
    return commit_of(record, **{**values, **changes})


def ended(record: SagaRecord, status: SagaStatus = SagaStatus.COMPLETED) -> Transition:
    """Return a commit that ends the saga."""
    return commit_of(record, state=state(status), lease=LeaseAction.RELEASE)


def event(event_id: str | None = None, payload: str = '{"ok":true}') -> Signal:
    """Return a signal."""
    return Signal(event_id=event_id or str(uuid4()), kind=SignalKind.EVENT, payload=payload)


async def claim(
    store: SagaStore,
    worker: str = ME,
    *,
    limit: int = 10,
    claim_id: UUID | None = None,
    only: tuple[Registered, ...] = (KIND,),
    favour: Direction = Direction.FORWARD,
    lease: timedelta = LEASE,
) -> Claims:
    """Claim what is due."""
    return await store.claim_due(
        worker,
        claim_id=claim_id or uuid4(),
        limit=limit,
        lease=lease,
        only=only,
        favour=favour,
    )


async def claim_one(store: SagaStore, worker: str = ME, **options: Any) -> SagaRecord:
    """Claim what is due; there is just one."""
    return one_of((await claim(store, worker, **options)).records)


def one_of(records: Sequence[T]) -> T:
    """Return the only record."""
    assert len(records) == 1
    return records[0]


@contextmanager
def accepted(call: str) -> Iterator[None]:
    """Say that a refusal of this call by the store is a broken rule, not a mishap."""
    try:
        yield
    except SagaError as refusal:
        pytest.fail(f"{call} was refused: {refusal!r}")


async def listed(store: SagaStore, size: int) -> tuple[list[UUID], list[UUID]]:
    """Return all sagas that `find` lists in pages of a size, and all that it cannot read."""
    readable: list[UUID] = []
    unreadable: list[UUID] = []
    query = Query(limit=size)
    while True:
        page = await store.find(query)
        readable += [record.saga_id for record in page.records]
        unreadable += page.unreadable
        if page.cursor is None:
            return readable, unreadable
        query = replace(query, cursor=page.cursor)
