"""Listing, counting, purging and moving sagas on SQLite."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from typing import Any
from uuid import UUID

from saga_backends.sql.reading import page_of
from saga_backends.sql.rows import ENDED_STATUSES
from saga_backends.sqlite.connection import Transactions
from saga_backends.sqlite.layout import Layout, micros, now_micros
from saga_backends.sqlite.rows import Rows, entry_values
from saga_backends.sqlite.statements import Statements
from saga_core.cursor import read_cursor
from saga_core.errors import SagaNotFoundError, SagaStateError
from saga_core.records import Page, Query, SagaExport
from saga_core.store import checked_purge

__all__ = ["SqliteCatalog"]


class SqliteCatalog:
    """The `Catalog` half of the store."""

    _db: Transactions
    _rows: Rows
    _sql: Statements
    _layout: Layout
    namespace: str

    def _not_found(self, saga_id: UUID) -> SagaNotFoundError:
        raise NotImplementedError

    def _check_aggregate(
        self, db: sqlite3.Connection, aggregation_id: str | None, but: str = ""
    ) -> None:
        raise NotImplementedError

    def _call_next(
        self, db: sqlite3.Connection, aggregation_id: str | None, now: int
    ) -> str | None:
        raise NotImplementedError

    def _time(self, value: int) -> Any:
        raise NotImplementedError

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`."""
        names = self._layout.names
        where, values = self._conditions(query)
        if query.cursor is not None:
            created_at, saga_id = read_cursor(query.cursor)
            where += f" AND (created_at, {names.saga_id}) > (?, ?)"
            values += [self._time(micros(created_at)), self._layout.id_of(saga_id)]

        def read(db: sqlite3.Connection) -> list[Any]:
            return db.execute(
                f"SELECT {', '.join(names.saga_columns)} FROM {names.sagas} "  # noqa: S608
                f"WHERE {where} ORDER BY created_at, {names.saga_id} LIMIT ?",
                (*values, query.limit + 1),
            ).fetchall()

        rows = await self._db.read(read)
        now = now_micros()
        return page_of(
            rows,
            query.limit,
            lambda row: self._rows.record_of(row, now=now),
            self._rows.place_of,
        )

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`."""
        where, values = self._conditions(query)

        def read(db: sqlite3.Connection) -> int:
            sagas = self._layout.names.sagas
            row = db.execute(f"SELECT count(*) FROM {sagas} WHERE {where}", values)  # noqa: S608
            found: int = row.fetchone()[0]
            return found

        return await self._db.read(read)

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        """Delete ended sagas with all they have, in one transaction; see `Catalog.purge`."""
        finished_for, limit = checked_purge(finished_for, limit, saga_name)
        of_name = "" if saga_name is None else "AND saga_name = ? "
        name = () if saga_name is None else (saga_name,)

        def delete(db: sqlite3.Connection) -> int:
            names = self._layout.names
            until = self._time(now_micros() - micros(finished_for))
            gone = db.execute(
                f"SELECT namespace, {names.saga_id} FROM {names.sagas} "  # noqa: S608
                # What has ended so long ago was created before that, and `created_at` has an index:
                # one on a column that every commit changes would cost each of them.
                "WHERE namespace = ? AND NOT active AND created_at <= ? AND updated_at <= ? "
                f"AND status IN {ENDED_STATUSES} {of_name}ORDER BY created_at LIMIT ?",
                (self.namespace, until, until, *name, limit),
            ).fetchall()
            for table, key in (
                (names.history, "saga_id"),
                (names.inbox, "saga_id"),
                (names.sagas, names.saga_id),
            ):
                db.executemany(
                    f"DELETE FROM {table} WHERE namespace = ? AND {key} = ?",  # noqa: S608
                    gone,
                )
            return len(gone)

        return await self._db.write(delete)

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga, as of one moment; see `Catalog.export`."""
        key = self._rows.key(saga_id)

        def read(db: sqlite3.Connection) -> SagaExport:
            record = self._rows.load(db, saga_id)
            if record is None:
                raise self._not_found(saga_id)
            history = db.execute(self._sql.history, (*key, 0, -1)).fetchall()
            inbox = db.execute(self._sql.inbox, (*key, 0)).fetchall()
            return SagaExport(
                record=record,
                history=tuple(self._rows.entry_of(row) for row in history),
                commit_ids=tuple(None if row[-1] is None else UUID(row[-1]) for row in history),
                inbox=tuple(self._rows.signal_of(row) for row in inbox),
            )

        return await self._db.read(read)

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was, in one transaction; see `Catalog.restore`."""
        record = export.record
        key = self._rows.key(record.saga_id)

        def write(db: sqlite3.Connection) -> None:
            if self._rows.load(db, record.saga_id) is not None:
                raise SagaStateError(
                    f"saga {record.saga_id} exists already in namespace '{self.namespace}'",
                    saga_id=record.saga_id,
                )
            if record.state.active:
                self._check_aggregate(db, record.aggregation_id)
            db.execute(
                self._sql.insert,
                (
                    *key,
                    record.saga_name,
                    record.definition_version,
                    record.fingerprint,
                    record.data,
                    record.aggregation_id,
                    record.trace_id,
                    json.dumps(record.tags),
                    *self._rows.state_values(record.state),
                    record.version,
                    record.fence,
                    record.worker,
                    None if record.due_at is None else self._time(micros(record.due_at)),
                    record.signals,
                    record.seen,
                    record.reclaims,
                    len(export.history),
                    self._time(micros(record.created_at)),
                    self._time(micros(record.updated_at)),
                    *self._layout.names.own_values(),
                ),
            )
            db.executemany(
                self._sql.insert_entry,
                [
                    (
                        *key,
                        entry.seq,
                        None if commit_id is None else self._layout.id_of(commit_id),
                        entry.version,
                        record.fence,
                        self._time(micros(entry.at)),
                        *entry_values(entry),
                    )
                    for entry, commit_id in zip(export.history, export.commit_ids, strict=True)
                ],
            )
            db.executemany(
                self._sql.insert_signal,
                [
                    (
                        *key,
                        signal.seq,
                        self._time(micros(signal.at)),
                        signal.event_id,
                        signal.kind.value,
                        signal.payload,
                        signal.consumed,
                    )
                    for signal in export.inbox
                ],
            )

            if record.state.is_queued:
                self._call_next(db, record.aggregation_id, now_micros())

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
            values.append(self._time(micros(query.created_after)))
        if query.created_before is not None:
            parts.append("created_at < ?")
            values.append(self._time(micros(query.created_before)))
        if query.overdue_by is not None:
            parts.append(f"{self._layout.names.due_at} <= ?")
            values.append(self._time(now_micros() - micros(query.overdue_by)))
        return " AND ".join(parts), values
