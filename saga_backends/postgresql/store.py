"""The PostgreSQL store: each call is one statement on a pooled asyncpg connection."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from saga_backends.postgresql.catalog import PostgresqlCatalog
from saga_backends.postgresql.connection import our_errors, safe
from saga_backends.postgresql.creation import PostgresqlCreation
from saga_backends.postgresql.lending import PostgresqlLender
from saga_backends.postgresql.listening import listen
from saga_backends.postgresql.options import PostgresqlOptions
from saga_backends.postgresql.queues import Queues
from saga_backends.postgresql.statements import Statements, names_in
from saga_backends.postgresql.values import (
    entry_values,
    lease_of,
    outputs_of,
    pairs,
)
from saga_backends.sql.reading import readable
from saga_backends.sql.rows import entry_of, record_of, signal_of, state_values
from saga_core.errors import (
    SagaNotFoundError,
    SagaStateError,
    StaleVersionError,
    StoreUnavailableError,
)
from saga_core.records import (
    Claims,
    Committed,
    Created,
    Held,
    HistoryEntry,
    NewSaga,
    Receipt,
    Registered,
    SagaRecord,
    Signal,
    StoredSignal,
    Transition,
    Wakeup,
)
from saga_core.status import Direction
from saga_core.store import CONTRACT_VERSION

__all__ = ["PostgresqlStore"]

ZERO = timedelta(0)
COMMIT_TRIES = 25


class PostgresqlStore(PostgresqlCreation, PostgresqlLender, PostgresqlCatalog):
    """A `SagaStore` on tables of its own. Made by `open_store("postgresql://...")`."""

    contract_version = CONTRACT_VERSION
    _inbox_table = "saga_inbox"

    def __init__(self, pool: asyncpg.Pool, url: str, options: PostgresqlOptions) -> None:
        self._pool = pool
        self._url = url
        self._options = options
        self._where = safe(url)
        self._sql = Statements(names_in(options.schema_name))
        self.namespace = options.namespace
        digest = hashlib.sha256(f"{options.schema_name}.{options.namespace}".encode()).hexdigest()
        self._channel = f"saga_{digest[:24]}"
        self._queues = Queues(self._sql, self.namespace, self._channel)

    # --- the saga log ---------------------------------------------------------------------------

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga; see `SagaLog.create`."""
        with self._errors():
            return await self._create(self._pool, new)

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs; see `SagaLog.load`."""
        with self._errors():
            row = await self._pool.fetchrow(self._sql.load, self.namespace, saga_id)
        if row is None:
            raise self._not_found(saga_id)
        return record_of(row, now=row[29], outputs=outputs_of(row[30]))

    async def commit(self, transition: Transition) -> Committed:
        """Apply a transition in one statement; see `SagaLog.commit`."""
        with self._errors():
            if not transition.spawn and not transition.state.is_queued:
                try:
                    return await self._commit(self._pool, transition)
                except _InQueue:
                    pass
            async with self._pool.acquire() as connection, connection.transaction():
                committed = await self._commit_in_order(connection, transition)
                if committed.version == transition.expected_version + 1 and committed.held:
                    for new in transition.spawn:
                        await self._create(connection, new)
                return committed

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        """Return entries in order; see `SagaLog.history`."""
        with self._errors():
            rows = await self._pool.fetch(self._sql.history, self.namespace, saga_id, after, limit)
        return [entry_of(row) for row in rows]

    # --- the work queue -------------------------------------------------------------------------

    async def claim_due(
        self,
        worker: str,
        *,
        claim_id: UUID,
        limit: int,
        lease: timedelta,
        only: Collection[Registered],
        favour: Direction,
    ) -> Claims:
        """Take due sagas in one statement, skipping what others lock; see `WorkQueue`."""
        kinds = list(only)
        with self._errors():
            rows = await self._pool.fetch(
                self._sql.claim,
                self.namespace,
                worker,
                claim_id,
                limit,
                lease,
                [kind.saga_name for kind in kinds],
                [kind.definition_version for kind in kinds],
                [kind.fingerprint for kind in kinds],
                int(favour),
            )
        # The lease of one that cannot be read ends by itself.
        records, _ = readable(
            [row for row in rows if row[0] is not None],
            lambda row: record_of(row, now=row[29], outputs=outputs_of(row[30]), reclaimed=row[31]),
            lambda row: row[0],
        )
        # The statement sees the state before the claim.
        return Claims.after(rows[0][32], taken=records, limit=limit)

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int | None]:
        """Extend the leases that are still ours; see `WorkQueue.renew`."""
        with self._errors():
            rows = await self._pool.fetch(
                self._sql.renew, self.namespace, worker, *pairs(held), lease
            )
        return {row[0]: row[1] for row in rows}

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still ours; see `WorkQueue.release`."""
        with self._errors():
            await self._pool.execute(
                self._sql.release, self.namespace, worker, *pairs(held), delay, self._channel
            )

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        """Yield a hint when something falls due for others; see `WorkQueue.wakeups`."""
        if not self._options.wakeup:
            return
        async for wakeup in listen(self._url, self._options, self._channel):
            yield wakeup

    # --- the inbox ------------------------------------------------------------------------------

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox in one statement; see `Inbox.signal`."""
        with self._errors():
            row = await self._pool.fetchrow(
                self._sql.signal,
                self.namespace,
                saga_id,
                signal.event_id,
                signal.kind.value,
                signal.payload,
                self._channel,
            )
        if row is None:
            raise self._not_found(saga_id)
        active, held, kept, kept_before = row[0], row[1], row[2], row[3]
        if active:
            return Receipt(accepted=True, duplicate=not kept, held=held)
        return Receipt(accepted=kept_before, duplicate=kept_before, held=held)

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""
        with self._errors():
            rows = await self._pool.fetch(self._sql.inbox, self.namespace, saga_id, after)
        return [signal_of(row) for row in rows]

    # --- pieces ---------------------------------------------------------------------------------

    def _errors(self) -> Any:
        return our_errors(self._where, self._options.schema_name)

    def _not_found(self, saga_id: UUID) -> SagaNotFoundError:
        return SagaNotFoundError(
            f"no saga {saga_id} in namespace '{self.namespace}' of {self._where}",
            saga_id=saga_id,
        )

    async def _commit_in_order(self, runner: Any, transition: Transition) -> Committed:
        """Commit under the locks of the queues that the saga, or one that it spawns, is in."""
        key = await self._queues.find(runner, transition.saga_id)
        entered = [new.aggregation_id for new in transition.spawn if new.state.is_queued]
        keys = [one for one in (key, *entered) if one is not None]
        await self._queues.lock(runner, keys)
        if key is None:
            return await self._commit(runner, transition)
        committed = await self._settled(runner, transition)
        if committed is not None:
            return committed
        holder = await self._queues.holder(runner, key)
        if transition.state.active:
            await self._queues.check_turn(runner, transition.saga_id, key, holder)
        committed = await self._commit(runner, transition, queued=True)
        if not transition.state.active:
            await self._queues.call_next(runner, key)
        return committed

    async def _commit(
        self, runner: Any, transition: Transition, *, queued: bool = False
    ) -> Committed:
        keys: tuple[str, ...] = ("queue",) if queued else ("",)
        if not queued and not transition.state.active:
            keys = self._queues.forms_of_end(transition.saga_id)
        for _ in range(COMMIT_TRIES):
            for key in keys:
                committed = await self._try_to_commit(runner, transition, key)
                if committed is not None:
                    return committed
            committed = await self._settled(runner, transition, queued=queued)
            if committed is not None:
                return committed
            keys = keys[-1:]
        raise StoreUnavailableError(
            f"{self._where}: the queue behind saga {transition.saga_id} changes faster than the "
            "saga can end; try again",
            saga_id=transition.saga_id,
        )

    async def _try_to_commit(
        self, runner: Any, transition: Transition, key: str
    ) -> Committed | None:
        lease, lease_values = lease_of(transition)
        notifies = (lease == "release" or key == "free") and self._sql.notifies
        marks = transition.consumed
        statement = self._sql.commit(
            lease,
            len(transition.history),
            len(transition.signals_in),
            bool(marks),
            transition.tags is not None,
            key,
        )
        arguments: list[Any] = [
            self.namespace,
            transition.saga_id,
            transition.expected_version,
            transition.commit_id,
            transition.seen + len(transition.signals_in),
            *state_values(transition.state),
            *lease_values,
        ]
        if transition.tags is not None:
            arguments.append(transition.tags)
        arguments.extend(entry_values(transition.history))
        for signal in transition.signals_in:
            arguments += (signal.event_id, signal.kind.value, signal.payload)
        if marks:
            arguments.append(marks)
        if notifies:
            arguments.append(self._channel)
        try:
            async with runner.transaction() if transition.spawn else nullcontext():
                # With spawned sagas a savepoint, so that what refused can be looked up after it.
                row = await runner.fetchrow(statement, *arguments)
        except asyncpg.UniqueViolationError as error:
            committed = await self._first_answer(runner, transition)
            if committed is not None:
                return committed
            if error.table_name == self._inbox_table:
                raise SagaStateError(
                    f"saga {transition.saga_id} has an event with one of these ids already",
                    saga_id=transition.saga_id,
                ) from error
            await self._refuse_revival(runner, transition)
            raise
        if row is None:
            return None
        self._queues.note(transition.saga_id, awaited=row[3] > 0 and transition.state.active)
        return Committed(version=row[0], fence=row[1], signals=row[2], held=True)

    async def _settled(
        self, runner: Any, transition: Transition, *, queued: bool = True
    ) -> Committed | None:
        """Return what the commit was answered before; None if it may still be applied."""
        committed, version, is_queued = await self._standing(
            runner, transition.saga_id, transition.commit_id
        )
        if committed is not None:
            return committed
        if version != transition.expected_version:
            raise StaleVersionError(
                f"saga {transition.saga_id} is no longer at version {transition.expected_version}",
                saga_id=transition.saga_id,
            )
        if is_queued and not queued:
            raise _InQueue
        return None

    async def _first_answer(self, runner: Any, transition: Transition) -> Committed | None:
        return await self._made_by(runner, transition.saga_id, transition.commit_id)

    async def _made_by(self, runner: Any, saga_id: UUID, commit_id: UUID) -> Committed | None:
        return (await self._standing(runner, saga_id, commit_id))[0]

    async def _standing(
        self, runner: Any, saga_id: UUID, commit_id: UUID
    ) -> tuple[Committed | None, int, bool]:
        """Return a commit's first answer, and the saga's version and whether it is queued."""
        row = await runner.fetchrow(self._sql.find_commit, self.namespace, saga_id, commit_id)
        if row is None:
            raise self._not_found(saga_id)
        now, signals, version, fence, is_queued = row
        if version is None:
            return None, now, bool(is_queued)
        held = now == version
        return Committed(version=version, fence=fence, signals=signals, held=held), now, False

    async def _refuse_revival(self, runner: Any, transition: Transition) -> None:
        row = await runner.fetchrow(self._sql.load, self.namespace, transition.saga_id)
        await self._refuse_second(runner, None if row is None else row[5])


class _InQueue(Exception):  # noqa: N818 - control flow within commit
    """The saga is queued, so its commit needs the queue's lock."""
