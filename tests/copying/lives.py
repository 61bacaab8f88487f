"""Sagas at every stage of their lives, in a store."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from saga_core.records import Due, LeaseAction, NewSaga, SagaExport, Transition
from saga_core.status import EntryKind, SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.sagas import (
    HOUR,
    commit_of,
    ended,
    entry,
    event,
    leased,
    new_saga,
    parked,
    state,
)

__all__ = ["exports", "live", "moved_on"]


async def live(store: SagaStore, *, held: bool = False) -> list[UUID]:
    """Write sagas: due, waiting, half done with signals, stuck, ended; `held`, one driven too."""
    ids: list[UUID] = []

    async def write(new: NewSaga) -> Transition:
        record = (await store.create(new)).record
        ids.append(record.saga_id)
        return commit_of(record)

    await write(new_saga(aggregation_id="due", tags=("a", "b"), trace_id="trace"))
    await write(new_saga(due=Due(delay=HOUR)))
    step = await write(leased(aggregation_id="half", history=(entry(EntryKind.EVENT),)))
    await store.signal(step.saga_id, event("early"))
    await store.signal(step.saga_id, event("late", '{"text":"zwölf \\u2028 ✓"}'))
    await store.commit(step)
    record = await store.load(step.saga_id)
    await store.commit(parked(record, seen=1, consumed=("early",)))
    stuck = await write(leased())
    await store.commit(
        commit_of(
            await store.load(stuck.saga_id),
            state=state(SagaStatus.STUCK, error_code="ValueError", last_error="ValueError: no"),
            lease=LeaseAction.RELEASE,
            history=(entry(EntryKind.STUCK, error="ValueError: no", actor="me", reason="why"),),
        )
    )
    for status in (SagaStatus.COMPLETED, SagaStatus.FAILED):
        over = await write(leased(aggregation_id="again"))
        await store.commit(ended(await store.load(over.saga_id), status))
    if held:
        await write(leased("worker-alive", aggregation_id="held"))
    return ids


async def exports(store: SagaStore, ids: list[UUID]) -> list[SagaExport]:
    """Return everything the store knows of the sagas."""
    return [await store.export(saga_id) for saga_id in ids]


async def moved_on(store: SagaStore, saga_id: UUID) -> None:
    """Let somebody commit to a saga."""
    record = await store.load(saga_id)
    await store.commit(
        commit_of(record, lease=LeaseAction.RELEASE, due=Due(delay=timedelta(minutes=1)))
    )
