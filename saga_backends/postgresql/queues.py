"""The queue of an aggregate on PostgreSQL: what is done there under its lock.

The commit that ends an aggregate's holder is one statement and takes no lock but its row's. So
whoever changes the queue locks the queue first, then the holder's row, and raises `waiters` there:
an end that waited for that row finds another number than in its snapshot, and is sent again with
a new one. Whoever finds no holder, or the queue's first not his own, leaves the first due or held,
and that one will look.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from saga_backends.postgresql.statements import Statements
from saga_core.errors import ActiveSagaAlreadyExistsError

__all__ = ["Queues"]


MOST_AWAITED = 10_000
"""Sagas of which it is remembered at a time; to forget one costs its end a round trip."""


class Queues:
    """The queues of one namespace. Every call needs a connection that is in a transaction."""

    def __init__(self, sql: Statements, namespace: str, channel: str) -> None:
        self._sql = sql
        self._namespace = namespace
        self._channel = channel
        self._awaited: set[UUID] = set()

    def note(self, saga_id: UUID, *, awaited: bool) -> None:
        """Remember of a saga that is driven here whether others were queued behind it."""
        if not awaited:
            self._awaited.discard(saga_id)
        elif len(self._awaited) < MOST_AWAITED:
            self._awaited.add(saga_id)

    def forms_of_end(self, saga_id: UUID) -> tuple[str, ...]:
        """Return the forms of a commit that ends a saga, in the order in which to try them.

        The one that calls nobody does nothing where somebody waits. It costs least, and nearly
        always it is the right one, unless an earlier commit told that it is not.
        """
        return ("free",) if saga_id in self._awaited else ("end", "free")

    async def lock(self, runner: Any, aggregation_ids: Iterable[str]) -> None:
        """Let nobody else change these queues until the transaction's end."""
        for aggregation_id in sorted(set(aggregation_ids)):
            await runner.fetchval(self._sql.lock_queue, self._namespace, aggregation_id)

    async def find(self, runner: Any, saga_id: UUID) -> str | None:
        """Return the aggregate that a saga is queued for, if it is."""
        found: str | None = await runner.fetchval(self._sql.queued_for, self._namespace, saga_id)
        return found

    async def holder(self, runner: Any, aggregation_id: str) -> UUID | None:
        """Return the active saga of an aggregate, and let its end look at the queue."""
        found: UUID | None = await runner.fetchval(
            self._sql.lock_holder, self._namespace, aggregation_id
        )
        return found

    async def check_turn(
        self, runner: Any, saga_id: UUID, aggregation_id: str, holder: UUID | None
    ) -> None:
        """Raise `ActiveSagaAlreadyExistsError` if a queued saga may not take its aggregate yet."""
        if holder is not None:
            raise ActiveSagaAlreadyExistsError(
                f"saga {holder} is active with aggregation_id {aggregation_id!r}: wait for its "
                "end, or look why it does not end",
                saga_id=holder,
            )
        first = await runner.fetchval(self._sql.first_in_queue, self._namespace, aggregation_id)
        if first is not None and first != saga_id:
            raise ActiveSagaAlreadyExistsError(
                f"saga {first} is before this one in the queue for aggregation_id "
                f"{aggregation_id!r}",
                saga_id=first,
            )

    async def call_next(self, runner: Any, aggregation_id: str) -> tuple[UUID, datetime] | None:
        """Make the first due if nobody has the aggregate; return it, and since when it is."""
        row = await runner.fetchrow(
            self._sql.call_next, self._namespace, aggregation_id, self._channel
        )
        return None if row is None else (row[0], row[1])
