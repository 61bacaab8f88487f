"""Where everything a saga does waits for its cue: each store call and each step.

One saga of a world has a few processes. Whatever they do stops at a `Point` until the world lets it
go on, so that the plan alone decides what happens between any two store calls, on any store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

from saga_core import SagaAdmin, SagaDefinition, SagaError, SagaOrchestrator, StoreUnavailableError
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
)
from saga_core.status import Direction
from saga_core.store import SagaStore
from saga_core.transactions import StoreTransaction, lender_of
from saga_testing import FaultyStore
from tests.campaign.ledger import Call, Crashed, Happening, Lost

__all__ = ["LEASE", "PROCESS", "Cue", "Killed", "Point", "Process", "Stage"]

T = TypeVar("T")

LEASE = timedelta(minutes=10)
"""Far longer than any world lasts: leases end only when the plan lets time pass."""

TURNS = 16
"""Turns of the event loop without any news after which everybody waits for a cue."""


class Killed(BaseException):
    """The process died here: none of its code may act any more."""


class Cue(Enum):
    GO = "go"
    LOSE_BEFORE = "lose before"
    LOSE_AFTER = "lose after"
    CRASH_APPLIED = "crash applied"


class Point:
    """Somebody who waits for a cue."""

    def __init__(self, process: Process, what: str) -> None:
        self.process = process
        self.what = what
        self.cue: asyncio.Future[Cue] = asyncio.get_running_loop().create_future()

    @property
    def is_call(self) -> bool:
        return self.what != "step"


class Stage:
    """The points of one world, and what happened there."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.happenings: list[Happening] = []
        self._calls = 0
        self._answered = asyncio.Event()
        self._news = 0

    def tell(self, happening: Happening) -> None:
        self.happenings.append(happening)
        self._news += 1

    async def reach(self, process: Process, what: str) -> Cue:
        """Wait for a cue. Raises `Killed` when the process dies meanwhile, or has died."""
        if process.dead:
            raise Killed
        point = Point(process, what)
        self.points.append(point)
        self._news += 1
        try:
            return await point.cue
        finally:
            self.points.remove(point)
            self._news += 1

    async def cross(
        self, process: Process, method: str, request: Any, call: Callable[[], Awaitable[T]]
    ) -> T:
        """Pass a store call on, as the cue says."""
        cue = await self.reach(process, method)
        if cue is Cue.LOSE_BEFORE:
            self.tell(Lost(process.worker, method))
            raise StoreUnavailableError(f"planned: {method} was lost on its way")
        self._calls += 1
        answer, error = None, None
        calling = asyncio.ensure_future(call())
        given_up: asyncio.CancelledError | None = None
        while not calling.done():
            # A renewal whose lease is over waits for a moment of real time only; what was handed
            # over is applied all the same, and has to be on record.
            try:
                await asyncio.wait({calling})
            except asyncio.CancelledError as cancelled:
                given_up = cancelled
        try:
            answer = calling.result()
        except SagaError as refused:
            error = refused
        finally:
            self.leave()
        heard = cue is Cue.GO and given_up is None
        self.tell(Call(process.worker, method, request, answer, error, heard))
        if cue is Cue.CRASH_APPLIED:
            self.kill(process)
            raise Killed
        if given_up is not None:
            raise given_up
        if cue is Cue.LOSE_AFTER:
            raise StoreUnavailableError(f"planned: the answer of {method} was lost")
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]

    def enter(self) -> None:
        """Count a transaction as a call: nobody gets a cue until it is over."""
        self._calls += 1

    def leave(self) -> None:
        self._calls -= 1
        self._news += 1
        self._answered.set()

    def kill(self, process: Process) -> None:
        """Let a process die where it stands."""
        process.dead = True
        self.tell(Crashed(process.worker))
        for point in self.points:
            if point.process is process and not point.cue.done():
                point.cue.set_exception(Killed())

    async def quiet(self) -> None:
        """Return once everybody waits for a cue, or has nothing to do."""
        still = 0
        while still < TURNS:
            news = self._news
            if self._calls:
                self._answered.clear()
                await self._answered.wait()
            await asyncio.sleep(0)
            still = still + 1 if self._news == news and not self._calls else 0


class Process:
    """One process: an orchestrator whose store calls and steps wait on the stage."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        store: SagaStore,
        definitions: Mapping[str, SagaDefinition],
    ) -> None:
        self.stage = stage
        self.name = name
        self.dead = False
        self.orchestrator = SagaOrchestrator(store=Line(store, self), execution_lease=LEASE)
        for kind, definition in definitions.items():
            self.orchestrator.register(kind, definition)
        self.admin = SagaAdmin(engine=self.orchestrator.engine)
        self.worker = self.orchestrator.engine.worker

    async def renew(self) -> None:
        """Renew what is held now, instead of after a third of the lease."""
        await self.orchestrator.engine._keeper._renew()

    @property
    def holds(self) -> bool:
        return bool(self.orchestrator.engine._keeper._held)


PROCESS: ContextVar[Process] = ContextVar("PROCESS")
"""Whose code is running. Tasks inherit it."""


class Lent:
    """A transaction that is lent to a step: one cue for all of it, its commit included.

    The step waits for no cue while it is open. It may have the only connection of the store, and
    whoever was to go on meanwhile would wait for it.
    """

    def __init__(self, process: Process, cue: Cue, stack: AsyncExitStack) -> None:
        self._process = process
        self._cue = cue
        self._stack = stack
        self._inner: StoreTransaction

    async def open(self, store: SagaStore) -> None:
        self._process.stage.enter()
        self._stack.callback(self._process.stage.leave)
        lender = lender_of(store, "the campaign")
        self._inner = await self._stack.enter_async_context(lender.transaction())

    @property
    def handle(self) -> Any:
        return self._inner.handle

    async def commit(self, transition: Transition) -> Committed:
        stage, worker, cue = self._process.stage, self._process.worker, self._cue
        if cue is Cue.LOSE_BEFORE:
            await self._stack.aclose()
            stage.tell(Lost(worker, "transaction"))
            raise StoreUnavailableError("planned: the commit of a step was lost on its way")
        answer, error = None, None
        try:
            answer = await self._inner.commit(transition)
        except SagaError as refused:
            error = refused
        stage.tell(Call(worker, "commit", transition, answer, error, cue is Cue.GO))
        await self._stack.aclose()  # what is asked next waits for a cue
        self.end()
        if cue is Cue.LOSE_AFTER:
            raise StoreUnavailableError("planned: the answer of a step's commit was lost")
        if error is not None:
            raise error
        assert answer is not None
        return answer

    def end(self) -> None:
        """Die, if that is planned."""
        if self._cue is Cue.CRASH_APPLIED:
            if not self._process.dead:
                self._process.stage.kill(self._process)
            raise Killed


class Line(FaultyStore):
    """The way from a process to the store."""

    def __init__(self, inner: SagaStore, process: Process) -> None:
        super().__init__(inner)
        self._process = process

    async def _send(self, method: str, request: Any, call: Callable[[], Awaitable[T]]) -> T:
        return await self._process.stage.cross(self._process, method, request, call)

    async def _pass(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._send(method, None, call)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StoreTransaction]:
        cue = await self._process.stage.reach(self._process, "transaction")
        async with AsyncExitStack() as stack:
            lent = Lent(self._process, cue, stack)
            await lent.open(self.inner)
            yield lent
        lent.end()

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        lender = lender_of(self.inner, "the campaign")
        return await self._send("recorded", commit_id, lambda: lender.recorded(saga_id, commit_id))

    async def create(self, new: NewSaga) -> Created:
        return await self._send("create", new, lambda: self.inner.create(new))

    async def load(self, saga_id: UUID) -> SagaRecord:
        return await self._send("load", saga_id, lambda: self.inner.load(saga_id))

    async def commit(self, transition: Transition) -> Committed:
        return await self._send("commit", transition, lambda: self.inner.commit(transition))

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        return await self._send(
            "history",
            (after, limit),
            lambda: self.inner.history(saga_id, after=after, limit=limit),
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
        return await self._send(
            "claim_due",
            claim_id,
            lambda: self.inner.claim_due(
                worker, claim_id=claim_id, limit=limit, lease=lease, only=only, favour=favour
            ),
        )

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int | None]:
        return await self._send("renew", tuple(held), lambda: self.inner.renew(worker, held, lease))

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        await self._send(
            "release", (tuple(held), delay), lambda: self.inner.release(worker, held, delay=delay)
        )

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        return await self._send("signal", signal, lambda: self.inner.signal(saga_id, signal))

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        return await self._send("inbox", after, lambda: self.inner.inbox(saga_id, after=after))
