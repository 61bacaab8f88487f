"""Listing, counting, purging and moving sagas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import islice, takewhile
from typing import Any
from uuid import UUID

from saga_core.errors import PayloadError, SagaStateError
from saga_core.records import Page, Query, SagaExport, SagaRecord
from saga_core.store import checked_purge
from saga_lmdb.table import Entry, Handle, Row, Table, id_at_end, time_at, time_key

__all__ = ["LmdbCatalog"]

_FIRST, _LAST = b"\x00" * 16, b"\xff" * 16


class LmdbCatalog(Handle):
    """The `Catalog` part of the store."""

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`."""
        after = _place(query.cursor)

        def read(table: Table) -> Page:
            found = list(islice(_matching(table, query, after), query.limit + 1))
            records = tuple(found[: query.limit])
            if len(found) == len(records) or not records:
                return Page(records=records, cursor=None)
            last = records[-1]
            cursor = time_key(last.created_at) + last.saga_id.bytes
            return Page(records=records, cursor=cursor.hex())

        return await self._read(read)

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`."""
        return await self._read(lambda table: sum(1 for _ in _matching(table, query, b"")))

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        """Delete ended sagas with all they have; see `Catalog.purge`."""
        finished_for, limit = checked_purge(finished_for, limit, saga_name)

        def write(table: Table) -> int:
            until = table.now - finished_for
            ended = takewhile(
                lambda key: time_at(key) <= until, (key for key, _ in table.scan(table.key("z")))
            )
            named = (
                saga_id
                for saga_id in map(id_at_end, ended)
                if saga_name is None or table.row(saga_id).record.saga_name == saga_name
            )
            gone = list(islice(named, limit))
            for saga_id in gone:
                table.delete(table.row(saga_id))
            return len(gone)

        return await self._write(write)

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga; see `Catalog.export`."""

        def read(table: Table) -> SagaExport:
            history = list(table.history(saga_id))
            return SagaExport(
                record=table.read(table.row(saga_id)),
                history=tuple(one.entry for one in history),
                commit_ids=tuple(one.commit_id for one in history),
                inbox=tuple(table.inbox(saga_id)),
            )

        return await self._read(read)

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was; see `Catalog.restore`."""
        record = replace(export.record, outputs=(), reclaimed=False)

        def write(table: Table) -> None:
            if table.find(record.saga_id) is not None:
                raise SagaStateError(
                    f"saga {record.saga_id} exists already", saga_id=record.saga_id
                )
            table.put(Row(record, entries=len(export.history)), before=None)
            for entry, commit_id in zip(export.history, export.commit_ids, strict=True):
                table.put_entry(record, Entry(entry, commit_id))
            for signal in export.inbox:
                table.put_signal(record.saga_id, signal)
            table.call_next(None, record)

        await self._write(write)


def _place(cursor: str | None) -> bytes:
    if cursor is None:
        return b""
    try:
        place = bytes.fromhex(cursor)
    except ValueError:
        place = b"?"
    if len(place) != 24:
        raise PayloadError("the cursor is not one that an earlier page gave")
    return place


def _matching(table: Table, query: Query, after: bytes) -> Iterator[SagaRecord]:
    """Walk the sagas by creation, between the times asked for; no other condition has an index."""
    if query.created_after is not None:
        after = max(after, time_key(query.created_after) + _LAST)
    end = None if query.created_before is None else time_key(query.created_before) + _FIRST
    for key, _ in table.scan(table.key("o"), after=after):
        if end is not None and key[-24:] >= end:
            return
        record = table.row(id_at_end(key)).record
        if _fits(record, query, table):
            yield replace(record, now=table.now, reclaimed=False)


def _fits(record: SagaRecord, query: Query, table: Table) -> bool:
    wanted: tuple[tuple[Any, Any], ...] = (
        (query.saga_name, record.saga_name),
        (query.definition_version, record.definition_version),
        (query.aggregation_id, record.aggregation_id),
        (query.error_code, record.state.error_code),
    )
    due_at = record.due_at
    return (
        all(value is None or value == found for value, found in wanted)
        and (not query.statuses or record.state.status in query.statuses)
        and (query.tag is None or query.tag in record.tags)
        and (
            query.overdue_by is None
            or (due_at is not None and due_at <= table.now - query.overdue_by)
        )
    )
