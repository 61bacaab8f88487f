"""`SagaStore`: what the engine asks of a backend.

The protocol is a contract, not a base class. `saga_testing.conformance` is its executable form:
a store that passes it is right. Rules common to all methods:

* **Ids make writes repeatable.** Every write carries an id made by the caller (`saga_id` for
  `create`, `commit_id`, `claim_id`, `event_id`). A write repeated with the same id changes
  nothing and returns the first answer, also when the row has moved on since. A lost answer is
  settled by sending the same write again, never by comparing versions.
* **Two numbers.** `version` rises by one with every commit and every claim and is the only thing
  that safety rests on. `fence` rises when the holder changes. Renewal, release and signals change
  neither.
* **A claim, not the clock, ends a holder.** An expired lease that nobody has claimed still
  commits.
* **The store's clock decides.** Durations go in, timestamps (aware, UTC) come out.
* **A queue per aggregate.** A queued saga (`SagaState.is_queued`) has neither taken its
  `aggregation_id` nor ended. The first of those with one id is the one created first (ties by
  id). Whatever is written of a saga that is or was queued, or was active and is no more: if then
  no saga with its `aggregation_id` is active, the first in the queue is due now by the same
  transaction, and a wake-up is sent; unless it is due already, or somebody holds it. So nobody in
  a queue is forgotten, whoever crashes where.
* **Own errors only.** `StoreUnavailableError` when the answer is not known, `SchemaError`,
  `PayloadError`, `SagaNotFoundError`, `StaleVersionError`, `ActiveSagaAlreadyExistsError`,
  `SagaStateError`, `QueryError`; the driver's exception is the `__cause__`.
* **Cancellation is harmless.** A call that is cancelled is applied whole or not at all and leaks
  no connection.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from saga_core.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from uuid import UUID

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

__all__ = [
    "CONTRACT_VERSION",
    "Catalog",
    "Inbox",
    "SagaLog",
    "SagaStore",
    "WorkQueue",
    "checked_purge",
]

CONTRACT_VERSION = 1
"""The version of this contract. A store declares the one it keeps in `contract_version`."""

LONGEST_PURGED = timedelta(days=36525)
"""A century: every store can subtract it from its now, and no saga ended so long ago."""

MOST_PURGED = 2**31 - 1
"""More sagas than are purged at once; every store can count to it."""


class SagaLog(Protocol):
    """Sagas and what happened to them."""

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga at version 1, with its history.

        If `saga_id` exists, change nothing and return the saga as it stands with
        `created=False`; the id wins over the aggregate. Otherwise, if `new.state.active` and
        another active saga of the namespace has the same `aggregation_id`, raise
        `ActiveSagaAlreadyExistsError` carrying that saga's id. Of concurrent creators exactly one
        wins. A saga that would be stranded (`SagaRecord.is_stranded`) raises `SagaStateError`. One
        that is due at once for others sends a wake-up.
        """
        ...

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs. Raises `SagaNotFoundError`."""
        ...

    async def commit(self, transition: Transition) -> Committed:
        """Apply a transition whole, or nothing of it.

        In this order: an unknown saga raises `SagaNotFoundError`; a `commit_id` already in the
        saga's history returns the first answer; a version other than `expected_version` raises
        `StaleVersionError`. Then the row takes `state`, `tags`, `version + 1`; `reclaims`
        becomes 0; `signals_in` are appended (a known event id raises `SagaStateError`) and
        `consumed` marked; `seen` becomes `transition.seen` plus the number of `signals_in`;
        history is appended; `spawn` is created as by `create`.

        Lease: `KEEP` leaves `worker`, `fence` and `due_at`. `RELEASE` clears the worker and sets
        `due_at` from `due`; if the saga has not ended and the inbox has more signals than `seen`,
        it is due now whatever `due` says. A `Lease` makes its worker the holder until now plus its
        duration, and raises `fence` if the holder changes.

        `state.active` on a saga that had given up its aggregate takes it again, or raises
        `ActiveSagaAlreadyExistsError` and changes nothing. So does a queued saga that is made
        active, and not only if another is active: the error carries that one's id, or that of
        the first in the queue if it is not this one. A saga that would be stranded raises
        `SagaStateError` and changes nothing either. Sends a wake-up only if the saga
        falls due at once for somebody else, or spawned one that does.
        """
        ...

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        """Return up to `limit` entries with `seq > after`, in order; empty for an unknown saga."""
        ...


class WorkQueue(Protocol):
    """Who drives what, and until when."""

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
        """Take up to `limit` sagas that are due, and hold them for `lease`.

        If some sagas are held under this `worker` and `claim_id` already, return those and take
        nothing. Eligible: `due_at` is at or before the store's now (due, or the lease has
        expired), and name, version and fingerprint are in `only`. Each lane (`direction`) that
        has due work gets at least half of `limit`, the odd one going to `favour`; what a lane
        leaves goes to the other. Oldest `due_at` first within a lane, in what is taken and in the
        answer to the first call. No two calls take the same saga.

        A repeat that comes while the call before is still at work need not see what that one
        takes, and may take up to `limit` for itself: a caller repeats when it waits for no answer
        any more, and what a call took that nobody heard of falls due again with its lease. Once
        both are through, a repeat returns what either took.

        A claimed saga gets `version + 1`, `fence + 1`, this worker, `due_at` at now plus
        `lease`, and `reclaims + 1` if it had a worker (then `reclaimed` is True in the answer).
        """
        ...

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int | None]:
        """Extend the leases that are still this worker's under this fence to now plus `lease`.

        Returns those, each with how many signals its inbox has. Changes no version and no fence;
        an expired lease that nobody took is renewed. One whose row somebody else has locked just
        now, a caller's open transaction for example, is not waited for, so that no other lease
        runs out meanwhile: it comes back with None if it was still this worker's. Its lease is as
        it was; ask again.
        """
        ...

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still this worker's under this fence, due `delay` from now.

        `version`, `fence` and `reclaims` stay. A repeat, and what is not ours any more, is no
        error. With a delay of zero a wake-up is sent.
        """
        ...

    def wakeups(self) -> AsyncIterator[Wakeup]:
        """Yield a hint whenever something of this namespace falls due for others.

        Coalesced, possibly late, lost or spurious: polling stays correct without it. A store
        without push ends the iteration at once. Reconnects by itself. The iterator is an async
        generator: `aclose()` frees what it holds.
        """
        ...


class Inbox(Protocol):
    """What was sent to a saga."""

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox and raise the saga's signal count.

        Raises `SagaNotFoundError`. A known `event_id` is a duplicate: nothing changes. Else a saga
        that has ended (`SagaState.has_ended`) accepts nothing. If nobody holds the saga and it has
        a `due_at` or a `waiting_for`, it is due now, and a wake-up is sent; but a queued one keeps
        its `due_at`. If somebody holds it, the lease is left alone and the holder's next commit
        tells. Changes neither `version`
        nor `fence`.
        """
        ...

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals with `seq > after`, in order, consumed or not."""
        ...


class Catalog(Protocol):
    """All sagas of a namespace."""

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match. Cursors are stable while sagas come and go.

        A row that cannot be read hides no other: it is in the page's `unreadable`.
        """
        ...

    async def count(self, query: Query) -> int:
        """Return how many match; `limit` and `cursor` are ignored."""
        ...

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        """Delete up to `limit` sagas that ended at least `finished_for` ago, with all they have.

        With `saga_name` only those of that name. Returns how many. Ended is what
        `SagaState.has_ended` says, so no queued saga; since when, `updated_at` says. Raises
        `QueryError`, and deletes nothing, for what `checked_purge` refuses;
        larger values than it returns are read as those.
        """
        ...

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga, as of one moment. Raises `SagaNotFoundError`."""
        ...

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was: same versions, times, history and inbox.

        Raises `SagaStateError` if the id exists, `ActiveSagaAlreadyExistsError` if the
        aggregate is taken. A lease comes over as it was.
        """
        ...


@runtime_checkable
class SagaStore(SagaLog, WorkQueue, Inbox, Catalog, Protocol):
    """The whole contract. Safe for concurrent use by tasks of one event loop."""

    @property
    def namespace(self) -> str:
        """The name space all its sagas live in; others are invisible to it."""
        ...

    @property
    def contract_version(self) -> int:
        """The `CONTRACT_VERSION` this store was written for."""
        ...


def checked_purge(finished_for: object, limit: object, saga_name: object) -> tuple[timedelta, int]:
    """Return `finished_for` and `limit`, each no larger than a store can handle.

    For a store to call first, with the arguments of its `purge`. Raises `QueryError` for a
    time or a limit below zero, and for what is none; a limit of zero deletes nothing.
    """
    if not isinstance(finished_for, timedelta) or finished_for < timedelta(0):
        raise QueryError(f"finished_for must be a timedelta of zero or more, got {finished_for!r}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise QueryError(f"limit must be a whole number of zero or more, got {limit!r}")
    if saga_name is not None and (not isinstance(saga_name, str) or "\0" in saga_name):
        raise QueryError(f"saga_name must be the name of a saga, or None, got {saga_name!r}")
    return min(finished_for, LONGEST_PURGED), min(limit, MOST_PURGED)
