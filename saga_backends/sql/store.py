"""`SqlSagaStore`: a `SagaStore` on a model and the sessions of a user's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from saga_backends.sql.binding import bind
from saga_backends.sql.lending import SQL_CAPABILITIES
from saga_core.records import (
    Claims,
    Committed,
    Created,
    Held,
    HistoryEntry,
    NewSaga,
    Page,
    Query,
    Receipt,
    Registered,
    SagaExport,
    SagaRecord,
    Signal,
    StoredSignal,
    Transition,
    Wakeup,
)
from saga_core.status import Direction
from saga_core.store import CONTRACT_VERSION

if TYPE_CHECKING:
    from saga_core.transactions import StoreTransaction

__all__ = ["SqlSagaStore"]

T = TypeVar("T")

PATIENCE = 1.0
"""How long, in seconds, a caller that is cancelled waits for his call to be over."""


class SqlSagaStore:
    """Keeps sagas in the table of a model made with `SagaStateMixin`.

    Every write is one short transaction of its own, on a connection from the engine behind
    `session_maker`; sessions of yours are not touched. Defaults of your own columns apply, on the
    Python side or the server's; `onupdate` and ORM events do not. Dialects: postgresql+asyncpg
    and sqlite+aiosqlite. A saga's id is unique in the table, so of two namespaces in one table
    only one can have it. There are no wake-ups: workers poll.

    Events of SQLAlchemy's engine do not see the statements, which go to the driver itself. An
    in-memory SQLite database has one connection for everybody: good for tests, as long as no
    session has writes under way while a saga is driven. End sagas with `purge`: a row deleted by
    a session leaves its history behind.

    Raises `SagaDefinitionError` when the model or the engine will not do. The tables are yours to
    migrate: Alembic's autogenerate sees all three.
    """

    contract_version = CONTRACT_VERSION
    capabilities = SQL_CAPABILITIES

    def __init__(
        self,
        *,
        model_class: type[Any],
        session_maker: async_sessionmaker[AsyncSession],
        namespace: str = "default",
        allow_retention: bool = False,
    ) -> None:
        """`allow_retention` lets workers with `retain=` delete rows of this table."""
        self.allows_retention = allow_retention
        self._store = bind(model_class, session_maker, namespace)
        self.namespace = namespace
        self._under_way: set[asyncio.Future[Any]] = set()

    async def _whole(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a call to its end, also if the caller is cancelled.

        Neither driver leaves a connection in order when it is cancelled in the middle, and
        SQLAlchemy's pool does not wait until it is. A caller that is cancelled is held for a
        moment, so that what he does next finds what the call has done.
        """
        task = asyncio.ensure_future(call)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task}, timeout=PATIENCE)
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StoreTransaction]:
        """Lend an `AsyncSession` in a transaction; see `TransactionalStore.transaction`.

        On SQLite everybody else's writes wait until it is over.
        """
        async with self._store.transaction() as lent:
            yield lent

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        """Look for a commit; see `TransactionalStore.recorded`."""
        return await self._whole(self._store.recorded(saga_id, commit_id))

    async def create_in(self, session: object, new: NewSaga) -> Created:
        """Write a saga in a caller's transaction; see `TransactionalStore.create_in`."""
        return await self._whole(self._store.create_in(session, new))

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga; see `SagaLog.create`."""
        return await self._whole(self._store.create(new))

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs; see `SagaLog.load`."""
        return await self._whole(self._store.load(saga_id))

    async def commit(self, transition: Transition) -> Committed:
        """Apply a transition; see `SagaLog.commit`."""
        return await self._whole(self._store.commit(transition))

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        """Return entries in order; see `SagaLog.history`."""
        return await self._whole(self._store.history(saga_id, after=after, limit=limit))

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
        """Take due sagas; see `WorkQueue.claim_due`."""
        return await self._whole(
            self._store.claim_due(
                worker, claim_id=claim_id, limit=limit, lease=lease, only=only, favour=favour
            )
        )

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int | None]:
        """Extend the leases that are still ours; see `WorkQueue.renew`."""
        return await self._whole(self._store.renew(worker, held, lease))

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still ours; see `WorkQueue.release`."""
        await self._whole(self._store.release(worker, held, delay=delay))

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        """End at once: workers poll."""
        return
        yield

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox; see `Inbox.signal`."""
        return await self._whole(self._store.signal(saga_id, signal))

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""
        return await self._whole(self._store.inbox(saga_id, after=after))

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`."""
        return await self._whole(self._store.find(query))

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`."""
        return await self._whole(self._store.count(query))

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        """Delete ended sagas with all they have; see `Catalog.purge`."""
        purging = self._store.purge(finished_for=finished_for, limit=limit, saga_name=saga_name)
        return await self._whole(purging)

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga, as of one moment; see `Catalog.export`."""
        return await self._whole(self._store.export(saga_id))

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was; see `Catalog.restore`."""
        await self._whole(self._store.restore(export))
