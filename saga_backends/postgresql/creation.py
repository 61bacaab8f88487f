"""Writing new sagas on PostgreSQL, queued ones under the lock of their queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import asyncpg

from saga_backends.postgresql.queues import Queues
from saga_backends.postgresql.statements import Statements
from saga_backends.postgresql.values import due_of, entry_values, outputs_of
from saga_backends.sql.rows import record_of, state_values
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaStateError,
    StoreUnavailableError,
)
from saga_core.records import Created, NewSaga

__all__ = ["PostgresqlCreation"]

CREATE_TRIES = 10


class PostgresqlCreation:
    """What `create`, and a commit that spawns sagas, are written with."""

    _pool: asyncpg.Pool
    _sql: Statements
    _queues: Queues
    _where: str
    _channel: str
    namespace: str

    async def _create_queued(self, runner: Any, new: NewSaga) -> Created:
        key = new.aggregation_id or ""
        await self._queues.lock(runner, [key])
        await self._queues.holder(runner, key)
        created = await self._insert(runner, new)
        called = await self._queues.call_next(runner, key) if created.created else None
        if called is None or called[0] != new.saga_id:
            return created
        return replace(created, record=replace(created.record, due_at=called[1]))

    async def _create(self, runner: Any, new: NewSaga) -> Created:
        if not new.state.is_queued:
            return await self._insert(runner, new)
        if runner is not self._pool:
            return await self._create_queued(runner, new)
        async with runner.acquire() as connection, connection.transaction():
            return await self._create_queued(connection, new)

    async def _insert(self, runner: Any, new: NewSaga) -> Created:
        statement = self._sql.create(len(new.history), new.lease is not None)
        delay, at = due_of(new.due)
        if new.lease is not None:
            delay = new.lease.duration
        arguments = (
            self.namespace,
            new.saga_id,
            new.saga_name,
            new.definition_version,
            new.fingerprint,
            new.data,
            new.aggregation_id,
            new.trace_id,
            new.tags,
            *state_values(new.state),
            None if new.lease is None else new.lease.worker,
            len(new.history),
            *(() if new.lease is not None else (at,)),
            delay,
            *entry_values(new.history),
            *((self._channel,) if new.lease is None and self._sql.notifies else ()),
            *self._sql.names.own_values(),
        )
        for _ in range(CREATE_TRIES):
            row = await runner.fetchrow(statement, *arguments)
            if row is not None:
                return Created(record=new.as_record(now=row[0], due_at=row[1]), created=True)
            # Refused by one of the two unique indexes: which one decides the answer.
            existing = await runner.fetchrow(self._sql.load, self.namespace, new.saga_id)
            if existing is not None:
                record = record_of(existing, now=existing[29], outputs=outputs_of(existing[30]))
                return Created(record=record, created=False)
            await self._refuse_second(runner, new.aggregation_id)
            if new.aggregation_id is None:
                raise SagaStateError(
                    f"saga {new.saga_id} was refused by a unique index of {self._where}",
                    saga_id=new.saga_id,
                )
        raise StoreUnavailableError(
            f"{self._where}: aggregation_id {new.aggregation_id!r} changes hands faster than a "
            "saga can be created; try again",
            saga_id=new.saga_id,
        )

    async def _refuse_second(self, runner: Any, aggregation_id: str | None) -> None:
        holder = await runner.fetchval(self._sql.active_holder, self.namespace, aggregation_id)
        if holder is not None:
            raise ActiveSagaAlreadyExistsError(
                f"saga {holder} is active with aggregation_id {aggregation_id!r}: wait for its "
                "end, or look why it does not end",
                saga_id=holder,
            )
