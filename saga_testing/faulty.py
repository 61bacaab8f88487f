"""`FaultyStore`: any store, with the failures of a network put between it and its caller."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from saga_core.errors import StoreUnavailableError
from saga_core.hookspecs import Capability
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
from saga_core.store import SagaStore
from saga_core.transactions import StoreTransaction, lender_of

__all__ = ["Fault", "FaultyStore", "StoreCall"]

T = TypeVar("T")

Between = Callable[[], Awaitable[None]]

Probe = Callable[[str, int, str], None]
"""Gets a method's name, the ordinal of the call, and `before` or `after`."""


class Fault(StrEnum):
    """Where a call goes wrong."""

    BEFORE = "before"
    """The call never reaches the store."""
    AFTER = "after"
    """The store applies the call, and its answer is lost."""
    BLACKHOLE = "blackhole"
    """The call never reaches the store, and no answer ever comes."""


@dataclass(frozen=True, slots=True)
class StoreCall:
    """One call that was made."""

    method: str
    ordinal: int
    """Counts the calls of this method from 1."""
    fault: Fault | None


class _FaultyTransaction:
    def __init__(self, inner: StoreTransaction, passes: Callable[..., Awaitable[Any]]) -> None:
        self._inner = inner
        self._pass = passes

    @property
    def handle(self) -> Any:
        return self._inner.handle

    async def commit(self, transition: Transition) -> Committed:
        committed: Committed = await self._pass(
            "commit_lent", lambda: self._inner.commit(transition)
        )
        return committed


class FaultyStore:
    """Passes every call on to `inner`, unless the plan says otherwise.

    store = FaultyStore(MemoryStore())
    store.fail("commit", 2, Fault.AFTER)      # the second commit's answer is lost
    store.between("commit", 1, takeover)      # awaited before the first commit is passed on
    """

    def __init__(
        self,
        inner: SagaStore,
        *,
        seed: int = 0,
        rate: float = 0.0,
        probe: Probe | None = None,
    ) -> None:
        """With a `rate`, calls fail at random before or after; `seed` makes that repeatable.

        `probe` is told before each call is passed on, and after the store has applied it.
        """
        self.inner = inner
        self._probe = probe
        self.calls: list[StoreCall] = []
        self._seed = seed
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311 - replayable on purpose
        self._counts: Counter[str] = Counter()
        self._plan: dict[tuple[str, int], Fault] = {}
        self._always: dict[str, Fault] = {}
        self._between: dict[tuple[str, int], Between] = {}

    def __repr__(self) -> str:
        return f"FaultyStore({self.inner!r}, seed={self._seed}, rate={self._rate})"

    def fail(self, method: str, ordinal: int, fault: Fault) -> None:
        """Let the `ordinal`-th call of a method, counted from 1, go wrong."""
        self._plan[method, ordinal] = fault

    def fail_always(self, method: str, fault: Fault) -> None:
        """Let every call of a method go wrong, until `heal`."""
        self._always[method] = fault

    def heal(self) -> None:
        """Forget all faults that are planned."""
        self._plan.clear()
        self._always.clear()
        self._rate = 0.0

    def between(self, method: str, ordinal: int, action: Between) -> None:
        """Await `action` just before the `ordinal`-th call of a method is passed on."""
        self._between[method, ordinal] = action

    def calls_of(self, method: str) -> int:
        """Return how often a method was called."""
        return self._counts[method]

    async def _pass(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self._counts[method] += 1
        ordinal = self._counts[method]
        fault = self._plan.get((method, ordinal), self._always.get(method))
        if fault is None and self._rate and self._random.random() < self._rate:
            fault = self._random.choice((Fault.BEFORE, Fault.AFTER))
        self.calls.append(StoreCall(method, ordinal, fault))
        action = self._between.get((method, ordinal))
        if action is not None:
            await action()
        if fault is Fault.BLACKHOLE:
            await asyncio.Event().wait()
        if fault is Fault.BEFORE:
            raise StoreUnavailableError(f"planned fault before {method} no. {ordinal}")
        if self._probe is not None:
            self._probe(method, ordinal, "before")
        answer = await call()
        if self._probe is not None:
            self._probe(method, ordinal, "after")
        if fault is Fault.AFTER:
            raise StoreUnavailableError(f"planned fault: the answer of {method} no. {ordinal}")
        return answer

    @property
    def namespace(self) -> str:
        return self.inner.namespace

    @property
    def contract_version(self) -> int:
        return self.inner.contract_version

    @property
    def capabilities(self) -> frozenset[Capability]:
        return getattr(self.inner, "capabilities", frozenset())

    @property
    def allows_retention(self) -> bool:
        """Whether workers may delete here: a store that says nothing of it lets them."""
        return getattr(self.inner, "allows_retention", True)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StoreTransaction]:
        """Lend a transaction of `inner`; its commit is the call `commit_lent`."""
        async with AsyncExitStack() as stack:
            lent = lender_of(self.inner, "FaultyStore").transaction()
            transaction = await self._pass("transaction", lambda: stack.enter_async_context(lent))
            yield _FaultyTransaction(transaction, self._pass)

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        lender = lender_of(self.inner, "FaultyStore")
        return await self._pass("recorded", lambda: lender.recorded(saga_id, commit_id))

    async def create_in(self, session: object, new: NewSaga) -> Created:
        lender = lender_of(self.inner, "FaultyStore")
        return await self._pass("create_in", lambda: lender.create_in(session, new))

    async def create(self, new: NewSaga) -> Created:
        return await self._pass("create", lambda: self.inner.create(new))

    async def load(self, saga_id: UUID) -> SagaRecord:
        return await self._pass("load", lambda: self.inner.load(saga_id))

    async def commit(self, transition: Transition) -> Committed:
        return await self._pass("commit", lambda: self.inner.commit(transition))

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        return await self._pass(
            "history", lambda: self.inner.history(saga_id, after=after, limit=limit)
        )

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
        return await self._pass(
            "claim_due",
            lambda: self.inner.claim_due(
                worker, claim_id=claim_id, limit=limit, lease=lease, only=only, favour=favour
            ),
        )

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int | None]:
        return await self._pass("renew", lambda: self.inner.renew(worker, held, lease))

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        await self._pass("release", lambda: self.inner.release(worker, held, delay=delay))

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        async for wakeup in self.inner.wakeups():
            yield wakeup

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        return await self._pass("signal", lambda: self.inner.signal(saga_id, signal))

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        return await self._pass("inbox", lambda: self.inner.inbox(saga_id, after=after))

    async def find(self, query: Query) -> Page:
        return await self._pass("find", lambda: self.inner.find(query))

    async def count(self, query: Query) -> int:
        return await self._pass("count", lambda: self.inner.count(query))

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        return await self._pass(
            "purge",
            lambda: self.inner.purge(finished_for=finished_for, limit=limit, saga_name=saga_name),
        )

    async def export(self, saga_id: UUID) -> SagaExport:
        return await self._pass("export", lambda: self.inner.export(saga_id))

    async def restore(self, export: SagaExport) -> None:
        await self._pass("restore", lambda: self.inner.restore(export))
