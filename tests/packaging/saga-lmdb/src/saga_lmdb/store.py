"""`LmdbStore`: the `SagaStore` contract, one LMDB transaction per call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import islice
from uuid import UUID

from saga_core.errors import StaleVersionError
from saga_core.records import (
    Committed,
    Created,
    HistoryEntry,
    LeaseAction,
    NewSaga,
    Receipt,
    SagaRecord,
    Signal,
    StoredSignal,
    Transition,
    Wakeup,
)
from saga_lmdb.catalog import LmdbCatalog
from saga_lmdb.queue import LmdbQueue
from saga_lmdb.table import Row, Table

__all__ = ["LmdbStore"]


class LmdbStore(LmdbQueue, LmdbCatalog):
    """A `SagaStore` in one LMDB file."""

    contract_version = 1
    """A literal: the contract that this was written for, whatever the installed core speaks."""

    # --- the saga log ---------------------------------------------------------------------------

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga; see `SagaLog.create`."""

        def write(table: Table) -> Created:
            existing = table.find(new.saga_id)
            if existing is not None:
                return Created(record=table.read(existing), created=False)
            return Created(record=_insert(table, new), created=True)

        return await self._write(write)

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs; see `SagaLog.load`."""
        return await self._read(lambda table: table.read(table.row(saga_id)))

    async def commit(self, transition: Transition) -> Committed:
        """Apply a transition in one transaction; see `SagaLog.commit`."""
        return await self._write(lambda table: _commit(table, transition))

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        """Return entries in order; see `SagaLog.history`."""
        return await self._read(
            lambda table: [one.entry for one in islice(table.history(saga_id, after), limit)]
        )

    # --- the inbox ------------------------------------------------------------------------------

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox; see `Inbox.signal`."""

        def write(table: Table) -> Receipt:
            row = table.row(saga_id)
            record = row.record
            is_held = record.worker is not None
            if table.knows(saga_id, signal.event_id):
                return Receipt(accepted=True, duplicate=True, held=is_held)
            if record.state.has_ended:
                return Receipt(accepted=False, duplicate=False, held=is_held)
            table.hear(saga_id, signal, record.signals + 1)
            waits = record.due_at is not None or record.state.waiting_for is not None
            wakes = waits and not is_held and not record.state.is_queued
            due_at = table.now if wakes else record.due_at
            after = replace(record, signals=record.signals + 1, due_at=due_at)
            table.put(replace(row, record=after), row)
            return Receipt(accepted=True, duplicate=False, held=is_held)

        return await self._write(write)

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""
        return await self._read(lambda table: list(table.inbox(saga_id, after)))

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        """End at once: LMDB tells nobody anything, workers poll."""
        return
        yield


def _insert(table: Table, new: NewSaga) -> SagaRecord:
    due_at = None if new.due is None else new.due.moment(table.now)
    if new.lease is not None:
        due_at = table.now + new.lease.duration
    record = new.as_record(now=table.now, due_at=due_at)
    row = Row(replace(record, outputs=()))
    table.put(table.append(row, new.history, commit_id=None), before=None)
    table.call_next(None, record)
    return replace(record, due_at=table.row(new.saga_id).record.due_at)


def _commit(table: Table, transition: Transition) -> Committed:
    saga_id = transition.saga_id
    before = table.row(saga_id)
    standing = before.record
    answer = table.answer(saga_id, transition.commit_id)
    if answer is not None:
        version, fence = answer
        held = standing.version == version
        return Committed(version=version, fence=fence, signals=standing.signals, held=held)
    if standing.version != transition.expected_version:
        raise StaleVersionError(
            f"saga {saga_id} is at version {standing.version}, not at "
            f"{transition.expected_version}",
            saga_id=saga_id,
        )
    record = transition.as_record(standing, now=table.now)
    keeps = transition.lease is LeaseAction.KEEP
    after = replace(before, record=record, claim_id=before.claim_id if keeps else None)
    for seq, signal in enumerate(transition.signals_in, start=standing.signals + 1):
        table.hear(saga_id, signal, seq)
    for event_id in transition.consumed:
        table.consume(saga_id, event_id)
    table.put(table.append(after, transition.history, transition.commit_id), before)
    table.call_next(before, record)
    for new in transition.spawn:
        if table.find(new.saga_id) is None:
            _insert(table, new)
    return Committed(version=record.version, fence=record.fence, signals=record.signals, held=True)
