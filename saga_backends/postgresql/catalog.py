"""Listing, counting, purging and moving sagas on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from saga_backends.postgresql.queues import Queues
from saga_backends.postgresql.statements import Statements
from saga_backends.postgresql.values import check_finite
from saga_backends.sql.names import Names
from saga_backends.sql.reading import page_of
from saga_backends.sql.rows import (
    ENDED_STATUSES,
    HISTORY_COLUMNS,
    INBOX_COLUMNS,
    STATE_COLUMNS,
    entry_of,
    record_of,
    signal_of,
    state_values,
)
from saga_core.cursor import read_cursor
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateError,
)
from saga_core.records import Page, Query, SagaExport
from saga_core.store import checked_purge

__all__ = ["PostgresqlCatalog"]


class PostgresqlCatalog:
    """The `Catalog` half of the store."""

    _pool: asyncpg.Pool
    _sql: Statements
    _queues: Queues
    namespace: str

    def _errors(self) -> Any:
        raise NotImplementedError

    def _not_found(self, saga_id: UUID) -> SagaNotFoundError:
        raise NotImplementedError

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`."""
        names = self._sql.names
        where, values = self._conditions(query)
        if query.cursor is not None:
            created_at, saga_id = read_cursor(query.cursor)
            where += (
                f" AND (created_at, {names.saga_id}) > (${len(values) + 1}, ${len(values) + 2})"
            )
            values += [created_at, saga_id]
        with self._errors():
            rows = await self._pool.fetch(
                f"SELECT {', '.join(names.saga_columns)}, clock_timestamp() "  # noqa: S608
                f"FROM {names.sagas} WHERE {where} "
                f"ORDER BY created_at, {names.saga_id} LIMIT ${len(values) + 1}",
                *values,
                query.limit + 1,
            )
        return page_of(
            rows,
            query.limit,
            lambda row: record_of(row, now=row[29]),
            lambda row: (row[27], row[0]),
        )

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`."""
        where, values = self._conditions(query)
        with self._errors():
            found: int = await self._pool.fetchval(
                f"SELECT count(*) FROM {self._sql.names.sagas} WHERE {where}",  # noqa: S608
                *values,
            )
        return found

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        """Delete ended sagas with all they have, in one statement; see `Catalog.purge`."""
        finished_for, limit = checked_purge(finished_for, limit, saga_name)
        names = self._sql.names
        named = "" if saga_name is None else "AND saga_name = $4"
        with self._errors():
            gone: int = await self._pool.fetchval(
                f"""
                WITH gone AS (
                    SELECT {names.saga_id} AS saga_id FROM {names.sagas}
                     -- What ended so long ago was created before that, and only `created_at` can
                     -- have an index: one on what every commit changes would cost each of them.
                     WHERE namespace = $1 AND NOT active
                       AND created_at <= (SELECT clock_timestamp()) - $2::interval
                       AND updated_at <= (SELECT clock_timestamp()) - $2::interval
                       AND status IN {ENDED_STATUSES} {named}
                     ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
                ), history AS (
                    -- Arrays, not joins: for those the planner would read whole tables.
                    DELETE FROM {names.history} WHERE namespace = $1
                       AND saga_id = ANY (ARRAY(SELECT saga_id FROM gone))
                ), inbox AS (
                    DELETE FROM {names.inbox} WHERE namespace = $1
                       AND saga_id = ANY (ARRAY(SELECT saga_id FROM gone))
                ), sagas AS (
                    DELETE FROM {names.sagas} WHERE namespace = $1
                       AND {names.saga_id} = ANY (ARRAY(SELECT saga_id FROM gone)) RETURNING 1
                )
                SELECT count(*) FROM sagas
                """,  # noqa: S608 - a checked identifier and parameters only
                self.namespace,
                finished_for,
                limit,
                *(() if saga_name is None else (saga_name,)),
            )
        return gone

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga, as of one moment; see `Catalog.export`."""
        names = self._sql.names
        with self._errors():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                row = await connection.fetchrow(self._sql.load, self.namespace, saga_id)
                history = await connection.fetch(
                    f"SELECT {', '.join(HISTORY_COLUMNS)}, commit_id "  # noqa: S608
                    f"FROM {names.history} "
                    "WHERE namespace = $1 AND saga_id = $2 ORDER BY seq",
                    self.namespace,
                    saga_id,
                )
                inbox = await connection.fetch(self._sql.inbox, self.namespace, saga_id, 0)
        if row is None:
            raise self._not_found(saga_id)
        entries = tuple(entry_of(entry) for entry in history)
        outputs = tuple(entry for entry in entries if entry.output is not None)
        return SagaExport(
            record=record_of(row, now=row[29], outputs=outputs),
            history=entries,
            commit_ids=tuple(entry[len(HISTORY_COLUMNS)] for entry in history),
            inbox=tuple(signal_of(signal) for signal in inbox),
        )

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was, in one transaction; see `Catalog.restore`."""
        record = export.record
        check_finite(record.due_at, record.created_at, record.updated_at)
        check_finite(*(entry.at for entry in export.history))
        check_finite(*(signal.at for signal in export.inbox))
        names = self._sql.names
        columns = ("namespace", *names.saga_columns, "entries")
        values = (
            self.namespace,
            record.saga_id,
            record.saga_name,
            record.definition_version,
            record.fingerprint,
            record.data,
            record.aggregation_id,
            record.trace_id,
            record.tags,
            *state_values(record.state),
            record.version,
            record.fence,
            record.worker,
            record.due_at,
            record.signals,
            record.seen,
            record.reclaims,
            record.created_at,
            record.updated_at,
            len(export.history),
            *names.own_values(),
        )
        assert len(STATE_COLUMNS) == len(state_values(record.state))  # noqa: S101
        history = [
            (
                self.namespace,
                record.saga_id,
                commit_id,
                record.fence,
                *(
                    value.value if column == "kind" else value
                    for column in HISTORY_COLUMNS
                    for value in (getattr(entry, column),)
                ),
            )
            for entry, commit_id in zip(export.history, export.commit_ids, strict=True)
        ]
        inbox = [
            (
                self.namespace,
                record.saga_id,
                signal.seq,
                signal.at,
                signal.event_id,
                signal.kind.value,
                signal.payload,
                signal.consumed,
            )
            for signal in export.inbox
        ]
        try:
            with self._errors():
                async with self._pool.acquire() as connection, connection.transaction():
                    key = record.aggregation_id if record.state.is_queued else None
                    if key is not None:
                        await self._queues.lock(connection, [key])
                        await self._queues.holder(connection, key)
                    try:
                        await connection.execute(_insert_saga(names, columns), *values)
                    except asyncpg.UniqueViolationError as error:
                        raise _Taken from error
                    told = ("namespace", "saga_id", "commit_id", "fence", *HISTORY_COLUMNS)
                    await connection.executemany(_insert(names.history, told), history)
                    heard = ("namespace", "saga_id", *INBOX_COLUMNS)
                    await connection.executemany(_insert(names.inbox, heard), inbox)
                    if key is not None:
                        await self._queues.call_next(connection, key)
        except _Taken as taken:
            await self._explain_taken(record.saga_id, record.aggregation_id)
            raise SagaStateError(
                f"saga {record.saga_id} could not be restored", saga_id=record.saga_id
            ) from taken

    async def _explain_taken(self, saga_id: UUID, aggregation_id: str | None) -> None:
        with self._errors():
            there = await self._pool.fetchrow(self._sql.load, self.namespace, saga_id)
            if there is not None:
                raise SagaStateError(
                    f"saga {saga_id} exists already in namespace '{self.namespace}'",
                    saga_id=saga_id,
                )
            holder = await self._pool.fetchval(
                self._sql.active_holder, self.namespace, aggregation_id
            )
            if holder is not None:
                raise ActiveSagaAlreadyExistsError(
                    f"saga {holder} is active with aggregation_id {aggregation_id!r}",
                    saga_id=holder,
                )

    def _conditions(self, query: Query) -> tuple[str, list[Any]]:
        parts = ["namespace = $1"]
        values: list[Any] = [self.namespace]

        def add(condition: str, value: Any) -> None:
            values.append(value)
            parts.append(condition.format(f"${len(values)}"))

        if query.statuses:
            add("status = ANY({}::text[])", [status.value for status in query.statuses])
        for column in ("saga_name", "definition_version", "aggregation_id", "error_code"):
            wanted = getattr(query, column)
            if wanted is not None:
                add(column + " = {}", wanted)
        if query.tag is not None:
            add("tags @> ARRAY[{}::text]", query.tag)
        if query.created_after is not None:
            add("created_at > {}", query.created_after)
        if query.created_before is not None:
            add("created_at < {}", query.created_before)
        if query.overdue_by is not None:
            add(
                self._sql.names.due_at + " <= (SELECT clock_timestamp()) - {}::interval",
                query.overdue_by,
            )
        return " AND ".join(parts), values


class _Taken(Exception):  # noqa: N818 - control flow within restore
    """A unique index refused the row."""


def _insert(table: str, columns: Sequence[str]) -> str:
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608


def _insert_saga(names: Names, columns: Sequence[str]) -> str:
    places = [f"${n}" for n in range(1, len(columns) + 1)]
    places += names.own_places(lambda n: f"${len(columns) + 1 + n}")
    filled = (*columns, *names.own_columns)
    return f"INSERT INTO {names.sagas} ({', '.join(filled)}) VALUES ({', '.join(places)})"  # noqa: S608
