"""Sagas whose drivers were lost: when one is a suspect, and what is on record against it."""

from __future__ import annotations

from uuid import UUID

from saga_core.happening import WORKER_LOST
from saga_core.records import SagaRecord
from saga_core.status import EntryKind
from saga_core.store import SagaStore

__all__ = ["SUSPECT_AFTER", "is_suspect", "losses_on_record"]

SUSPECT_AFTER = 2
"""Drivers lost without a commit after which a saga is driven apart from other suspects."""


def is_suspect(record: SagaRecord) -> bool:
    """Tell whether drivers were lost so often that the saga must be driven apart."""
    return record.reclaims >= SUSPECT_AFTER or record.state.error_code == WORKER_LOST


async def losses_on_record(store: SagaStore, saga_id: UUID) -> int:
    """Return how often a saga was driven as the only suspect since its last step."""
    times = 0
    after = 0
    while page := await store.history(saga_id, after=after):
        for entry in page:
            times = times + 1 if entry.kind is EntryKind.SUSPECTED else 0
        after = page[-1].seq
    return times
