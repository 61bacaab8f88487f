"""The data behind memory stores, with the indexes that a real schema would have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from saga_core.errors import SagaNotFoundError
from saga_core.records import Due, HistoryEntry, SagaRecord, StoredSignal
from saga_testing.clock import Clock
from saga_testing.memory.agenda import Agenda

__all__ = ["MemoryData", "MemoryTable", "Row"]


@dataclass(slots=True)
class Row:
    """One saga with all it has."""

    record: SagaRecord
    claim_id: UUID | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    commit_ids: list[UUID | None] = field(default_factory=list)
    fences: dict[UUID, int] = field(default_factory=dict)
    inbox: list[StoredSignal] = field(default_factory=list)


class MemoryData:
    """What stores in one process share, by namespace."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, UUID], Row] = {}
        self.aggregates: dict[tuple[str, str], UUID] = {}
        self.queues: dict[tuple[str, str], set[UUID]] = {}
        """By namespace and aggregate, the sagas that wait for it."""
        self.agendas: dict[str, Agenda] = {}
        self.listeners: dict[str, set[asyncio.Event]] = {}
        self.claims: dict[tuple[str, str], dict[UUID, list[UUID]]] = {}
        """By namespace and worker, the sagas of each claim that still holds some."""


class MemoryTable:
    """Reads and writes the rows of one namespace; decides nothing."""

    namespace: str
    clock: Clock
    data: MemoryData

    def _now(self) -> datetime:
        return self.clock.now()

    @property
    def _agenda(self) -> Agenda:
        agenda = self.data.agendas.get(self.namespace)
        if agenda is None:
            agenda = self.data.agendas[self.namespace] = Agenda()
        return agenda

    def _rows(self) -> Iterator[Row]:
        for (namespace, _), row in self.data.rows.items():
            if namespace == self.namespace:
                yield row

    def _row(self, saga_id: UUID) -> Row:
        row = self.data.rows.get((self.namespace, saga_id))
        if row is None:
            raise SagaNotFoundError(
                f"no saga {saga_id} in namespace '{self.namespace}' of this memory store",
                saga_id=saga_id,
            )
        return row

    def _read(self, row: Row, *, reclaimed: bool = False) -> SagaRecord:
        outputs = tuple(entry for entry in row.history if entry.output is not None)
        return replace(row.record, outputs=outputs, now=self._now(), reclaimed=reclaimed)

    def _store(self, row: Row, record: SagaRecord) -> None:
        """Put a record into its row and into the indexes."""
        before = row.record
        row.record = record
        key = record.aggregation_id
        if key is not None:
            if record.state.active:
                self.data.aggregates[self.namespace, key] = record.saga_id
            elif before.state.active and record is not before:
                self.data.aggregates.pop((self.namespace, key), None)
            self._line_up(key, record)
        self._agenda.put(record.saga_id, record.due_at, record.state.direction)

    def _line_up(self, key: str, record: SagaRecord) -> None:
        queue = self.data.queues.setdefault((self.namespace, key), set())
        if record.state.is_queued:
            queue.add(record.saga_id)
        else:
            queue.discard(record.saga_id)
        if not queue:
            del self.data.queues[self.namespace, key]

    def _first_in_queue(self, key: str | None) -> Row | None:
        """Return the saga that is the next to take an aggregate."""
        queue = () if key is None else self.data.queues.get((self.namespace, key), ())
        rows = [self.data.rows[self.namespace, saga_id] for saga_id in queue]
        return min(rows, key=_place_in_queue, default=None)

    def _wake(self) -> None:
        for heard in self.data.listeners.get(self.namespace, ()):
            heard.set()

    def _call_next(self, key: str | None) -> None:
        """Make the first in an aggregate's queue due, if no active saga has the aggregate."""
        first = self._first_in_queue(key)
        if first is None or (self.namespace, key) in self.data.aggregates:
            return
        record, now = first.record, self._now()
        if record.worker is None and (record.due_at is None or record.due_at > now):
            self._store(first, replace(record, due_at=now))
            self._wake()

    def _due_at(self, due: Due | None) -> datetime | None:
        return None if due is None else due.moment(self._now())


def _place_in_queue(row: Row) -> tuple[datetime, UUID]:
    return row.record.created_at, row.record.saga_id
