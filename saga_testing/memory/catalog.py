"""Listing, counting, purging and moving sagas in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from saga_core.cursor import cursor_of, read_cursor
from saga_core.errors import SagaStateError
from saga_core.records import Page, Query, SagaExport, SagaRecord
from saga_core.store import checked_purge
from saga_testing.memory.refusals import MemoryRefusals
from saga_testing.memory.table import Row

__all__ = ["MemoryCatalog"]


class MemoryCatalog(MemoryRefusals):
    """The `Catalog` half of the store."""

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`."""
        now = self._now()
        matching = sorted(
            (row.record for row in self._rows() if self._matches(row.record, query, now)),
            key=self._place,
        )
        if query.cursor is not None:
            place = read_cursor(query.cursor)
            matching = [record for record in matching if self._place(record) > place]
        page = tuple(
            replace(record, now=now, outputs=(), reclaimed=False)
            for record in matching[: query.limit]
        )
        more = len(matching) > query.limit
        return Page(records=page, cursor=cursor_of(page[-1]) if more and page else None)

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`."""
        now = self._now()
        return sum(self._matches(row.record, query, now) for row in self._rows())

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        """Delete ended sagas with all they have; see `Catalog.purge`."""
        finished_for, limit = checked_purge(finished_for, limit, saga_name)
        until = self._now() - finished_for
        ended = [
            row.record
            for row in self._rows()
            if row.record.state.has_ended and row.record.updated_at <= until
            if saga_name is None or row.record.saga_name == saga_name
        ]
        gone = sorted(ended, key=lambda record: record.updated_at)[:limit]
        for record in gone:
            del self.data.rows[self.namespace, record.saga_id]
            self._agenda.put(record.saga_id, None, record.state.direction)
        return len(gone)

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga; see `Catalog.export`."""
        row = self._row(saga_id)
        return SagaExport(
            record=self._read(row),
            history=tuple(row.history),
            commit_ids=tuple(row.commit_ids),
            inbox=tuple(row.inbox),
        )

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was; see `Catalog.restore`."""
        record = export.record
        if (self.namespace, record.saga_id) in self.data.rows:
            raise SagaStateError(
                f"saga {record.saga_id} exists already in namespace '{self.namespace}'",
                saga_id=record.saga_id,
            )
        self._check_state(record.state, record.due_at)
        self._check_aggregate(record.saga_id, record.state, record.aggregation_id)
        row = Row(replace(record, outputs=()))
        row.history = list(export.history)
        row.commit_ids = list(export.commit_ids)
        row.fences = {one: record.fence for one in export.commit_ids if one is not None}
        row.inbox = list(export.inbox)
        self.data.rows[self.namespace, record.saga_id] = row
        self._store(row, row.record)
        if record.state.is_queued:
            self._call_next(record.aggregation_id)

    def _matches(self, record: SagaRecord, query: Query, now: datetime) -> bool:
        wanted: tuple[tuple[Any, Any], ...] = (
            (query.saga_name, record.saga_name),
            (query.definition_version, record.definition_version),
            (query.aggregation_id, record.aggregation_id),
            (query.error_code, record.state.error_code),
        )
        return (
            all(value is None or value == found for value, found in wanted)
            and (not query.statuses or record.state.status in query.statuses)
            and (query.tag is None or query.tag in record.tags)
            and (query.created_after is None or record.created_at > query.created_after)
            and (query.created_before is None or record.created_at < query.created_before)
            and (
                query.overdue_by is None
                or (record.due_at is not None and record.due_at <= now - query.overdue_by)
            )
        )

    def _place(self, record: SagaRecord) -> tuple[datetime, UUID]:
        return record.created_at, record.saga_id
