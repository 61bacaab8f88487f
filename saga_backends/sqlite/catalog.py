"""Listing, counting, purging and moving sagas on SQLite."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from typing import Any
from uuid import UUID

from saga_backends.sql.rows import (
    HISTORY_COLUMNS,
    INBOX_COLUMNS,
    SAGA_COLUMNS,
    cursor_of,
    read_cursor,
)
from saga_backends.sqlite.connection import Database
from saga_backends.sqlite.rows import (
    entry_of,
    entry_values,
    load_record,
    micros,
    now_micros,
    record_of,
    signal_of,
    state_values,
)
from saga_core.errors import PayloadError, SagaNotFoundError, SagaStateError
from saga_core.records import Page, Query, SagaExport

__all__ = ["SqliteCatalog"]


class SqliteCatalog:
    """The `Catalog` half of the store."""

    _db: Database
    namespace: str

    def _not_found(self, saga_id: UUID) -> SagaNotFoundError:
        raise NotImplementedError

    def _check_aggregate(
        self, db: sqlite3.Connection, aggregation_id: str | None, but: str = ""
    ) -> None:
        raise NotImplementedError

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`."""
        where, values = self._conditions(query)
        if query.cursor is not None:
            try:
                created_at, saga_id = read_cursor(query.cursor)
            except (ValueError, TypeError):
                raise PayloadError("the cursor is not one that an earlier page gave") from None
            where += " AND (created_at, saga_id) > (?, ?)"
            values += [micros(created_at), str(saga_id)]

        def read(db: sqlite3.Connection) -> list[Any]:
            return db.execute(
                f"SELECT {', '.join(SAGA_COLUMNS)} FROM saga WHERE {where} "  # noqa: S608
                "ORDER BY created_at, saga_id LIMIT ?",
                (*values, query.limit + 1),
            ).fetchall()

        rows = await self._db.read(read)
        now = now_micros()
        records = tuple(record_of(row, now=now) for row in rows[: query.limit])
        more = len(rows) > query.limit
        return Page(records=records, cursor=cursor_of(records[-1]) if more and records else None)

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`."""
        where, values = self._conditions(query)

        def read(db: sqlite3.Connection) -> int:
            row = db.execute(f"SELECT count(*) FROM saga WHERE {where}", values)  # noqa: S608
            found: int = row.fetchone()[0]
            return found

        return await self._db.read(read)

    async def purge(self, *, finished_for: timedelta, limit: int) -> int:
        """Delete ended sagas with all they have, in one transaction; see `Catalog.purge`."""

        def delete(db: sqlite3.Connection) -> int:
            gone = db.execute(
                "SELECT namespace, saga_id FROM saga WHERE namespace = ? AND NOT active "
                "AND updated_at <= ? ORDER BY updated_at LIMIT ?",
                (self.namespace, now_micros() - micros(finished_for), limit),
            ).fetchall()
            for table in ("saga_history", "saga_inbox", "saga"):
                db.executemany(
                    f"DELETE FROM {table} WHERE namespace = ? AND saga_id = ?",  # noqa: S608
                    gone,
                )
            return len(gone)

        return await self._db.write(delete)

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga, as of one moment; see `Catalog.export`."""
        key = (self.namespace, str(saga_id))

        def read(db: sqlite3.Connection) -> SagaExport:
            record = load_record(db, self.namespace, saga_id)
            if record is None:
                raise self._not_found(saga_id)
            history = db.execute(
                f"SELECT {', '.join(HISTORY_COLUMNS)}, commit_id FROM saga_history "  # noqa: S608
                "WHERE namespace = ? AND saga_id = ? ORDER BY seq",
                key,
            ).fetchall()
            inbox = db.execute(
                f"SELECT {', '.join(INBOX_COLUMNS)} FROM saga_inbox "  # noqa: S608
                "WHERE namespace = ? AND saga_id = ? ORDER BY seq",
                key,
            ).fetchall()
            return SagaExport(
                record=record,
                history=tuple(entry_of(row[:-1]) for row in history),
                commit_ids=tuple(None if row[-1] is None else UUID(row[-1]) for row in history),
                inbox=tuple(signal_of(row) for row in inbox),
            )

        return await self._db.read(read)

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was, in one transaction; see `Catalog.restore`."""
        record = export.record
        key = (self.namespace, str(record.saga_id))

        def write(db: sqlite3.Connection) -> None:
            if load_record(db, self.namespace, record.saga_id) is not None:
                raise SagaStateError(
                    f"saga {record.saga_id} exists already in namespace '{self.namespace}'",
                    saga_id=record.saga_id,
                )
            if record.state.active:
                self._check_aggregate(db, record.aggregation_id)
            columns = ("namespace", *SAGA_COLUMNS, "entries")
            db.execute(
                f"INSERT INTO saga ({', '.join(columns)}) "  # noqa: S608
                f"VALUES ({', '.join('?' * len(columns))})",
                (
                    *key,
                    record.saga_name,
                    record.definition_version,
                    record.fingerprint,
                    record.data,
                    record.aggregation_id,
                    record.trace_id,
                    json.dumps(record.tags),
                    *state_values(record.state),
                    record.version,
                    record.fence,
                    record.worker,
                    None if record.due_at is None else micros(record.due_at),
                    record.signals,
                    record.seen,
                    record.reclaims,
                    micros(record.created_at),
                    micros(record.updated_at),
                    len(export.history),
                ),
            )
            db.executemany(
                "INSERT INTO saga_history (namespace, saga_id, seq, commit_id, version, fence, at, "  # noqa: S608, E501
                "kind, step_id, attempt, input, output, error, error_code, actor, reason) "
                f"VALUES ({', '.join('?' * 16)})",
                [
                    (
                        *key,
                        entry.seq,
                        None if commit_id is None else str(commit_id),
                        entry.version,
                        record.fence,
                        micros(entry.at),
                        *entry_values(entry),
                    )
                    for entry, commit_id in zip(export.history, export.commit_ids, strict=True)
                ],
            )
            db.executemany(
                "INSERT INTO saga_inbox (namespace, saga_id, seq, at, event_id, kind, payload, "
                "consumed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *key,
                        signal.seq,
                        micros(signal.at),
                        signal.event_id,
                        signal.kind.value,
                        signal.payload,
                        signal.consumed,
                    )
                    for signal in export.inbox
                ],
            )

        await self._db.write(write)

    def _conditions(self, query: Query) -> tuple[str, list[Any]]:
        parts = ["namespace = ?"]
        values: list[Any] = [self.namespace]
        if query.statuses:
            parts.append(f"status IN ({', '.join('?' * len(query.statuses))})")
            values += [status.value for status in query.statuses]
        for column in ("saga_name", "definition_version", "aggregation_id", "error_code"):
            wanted = getattr(query, column)
            if wanted is not None:
                parts.append(f"{column} = ?")
                values.append(wanted)
        if query.tag is not None:
            parts.append("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
            values.append(query.tag)
        if query.created_after is not None:
            parts.append("created_at > ?")
            values.append(micros(query.created_after))
        if query.created_before is not None:
            parts.append("created_at < ?")
            values.append(micros(query.created_before))
        if query.overdue_by is not None:
            parts.append("due_at <= ?")
            values.append(now_micros() - micros(query.overdue_by))
        return " AND ".join(parts), values
