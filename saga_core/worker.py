"""`SagaWorker`: drives what is due, for as long as the process lives."""

from __future__ import annotations

import asyncio
import logging
import signal as signals
import types
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Self
from uuid import UUID, uuid4

from saga_core.capacity import Capacity, Room
from saga_core.engine import SagaEngine
from saga_core.errors import SagaDefinitionError, SagaError
from saga_core.orchestrator import SagaOrchestrator
from saga_core.records import Claims, Query, Registered, SagaRecord
from saga_core.retention import Retention
from saga_core.status import Direction

__all__ = ["SagaWorker"]

logger = logging.getLogger("saga_core")

FIRST_POLL = 0.02
"""Seconds until the next look at the store after work was found."""

ABANDON_AFTER = 5.0
"""Seconds granted to cancelled steps to clean up, after the grace of a stop is over."""

UNREGISTERED_CHECK = 60.0
"""Seconds between looks for due sagas that nobody registers."""

SIGNALS = (signals.SIGTERM, signals.SIGINT)


class SagaWorker:
    """Claims due sagas and drives up to `concurrency` of them at once.

    It claims no more than it can drive right away, rollbacks in turn with forward work, and polls
    ever more slowly while nothing is due, up to `poll_interval`; a store's wake-ups and the
    store's own word on what falls due next make it look sooner.

        async with SagaWorker(orchestrator, concurrency=20):
            ...                      # drives in the background until the block is left

        worker = SagaWorker(orchestrator)
        await worker.run()           # drives until worker.stop() or cancellation
    """

    def __init__(
        self,
        orchestrator: SagaOrchestrator,
        *,
        concurrency: int = 10,
        per_name: Mapping[str, int] | None = None,
        poll_interval: timedelta = timedelta(seconds=1),
        shutdown_grace: timedelta = timedelta(seconds=25),
        retain: timedelta | None = None,
    ) -> None:
        """`concurrency` is how many sagas are driven at once in all, `per_name` how many of a name.

        A name at its limit keeps no other waiting, and the names are claimed together: what is due
        first comes first, and rollbacks have their half, whichever name has a limit.
        `poll_interval` is the longest time between looks while nothing is due.

        On a stop, sagas finish the step they are at and are given back; steps that take longer
        than `shutdown_grace` are cancelled first. With `retain` the worker deletes the sagas of
        the namespace that ended at least so long ago, with all they have, in small batches beside
        its work; without, only those of sagas that were built with `retain`. An id that is deleted
        is new to `start` again. On a table of your own the store must allow it too:
        `SqlSagaStore(allow_retention=True)`.
        Raises `SagaDefinitionError` for bad values.
        """
        self._capacity = Capacity(concurrency, per_name)
        if not isinstance(poll_interval, timedelta) or poll_interval <= timedelta(0):
            raise SagaDefinitionError(
                f"poll_interval must be a timedelta above zero, got {poll_interval!r}"
            )
        if not isinstance(shutdown_grace, timedelta) or shutdown_grace < timedelta(0):
            raise SagaDefinitionError(
                f"shutdown_grace must be a timedelta of zero or more, got {shutdown_grace!r}"
            )
        self._engine: SagaEngine = orchestrator.engine
        registry, outage = self._engine.registry, self._engine.outage
        self._retention = Retention(orchestrator.store, retain, registry, outage)
        self._longest_poll = poll_interval.total_seconds()
        self._grace = shutdown_grace.total_seconds()
        self._driving: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._look = asyncio.Event()
        self._background: asyncio.Task[None] | None = None
        self._favour: dict[tuple[Registered, ...], Direction] = {}
        self._pause = FIRST_POLL
        self._owed: tuple[UUID, Room] | None = None
        self._warned: set[tuple[str, str]] = set()

    async def __aenter__(self) -> Self:
        """Start driving in the background."""
        self._background = asyncio.create_task(self.run(), name="saga-worker")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Stop, and wait until everything held is finished or given back."""
        self.stop()
        if self._background is not None:
            await self._background

    def stop(self) -> None:
        """Claim nothing more, let running steps finish and give the rest back.

        Callable from a signal handler of the loop (`loop.add_signal_handler`). `run` returns
        when all is done.
        """
        self._stopping.set()
        self._look.set()

    async def run(self, *, handle_signals: bool = False) -> None:
        """Drive until `stop` is called, or this task is cancelled.

        With `handle_signals` SIGTERM and SIGINT call `stop`; without, the process's handlers
        are left alone. A store that does not answer is asked again, ever more slowly. A
        cancellation cancels the running steps, gives their sagas back and is raised again.
        """
        loop = asyncio.get_running_loop()
        if handle_signals:
            for number in SIGNALS:
                loop.add_signal_handler(number, self.stop)
        aside = [
            asyncio.create_task(self._listen(), name="saga-worker-wakeups"),
            asyncio.create_task(self._watch_unregistered(), name="saga-worker-unregistered"),
            asyncio.create_task(self._retention.run(), name="saga-worker-retention"),
        ]
        try:
            while not self._stopping.is_set():
                await self._turn()
            await self._drain(self._grace)
        finally:
            if handle_signals:
                for number in SIGNALS:
                    loop.remove_signal_handler(number)
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)
            await self._cancel_drives()

    # --- claiming -------------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Fill the free places, or wait until there is reason to look again."""
        self._look.clear()
        if self._owed is not None:
            if await self._claim(*self._owed) is None:
                await self._wait(self._slower())
            return
        full: frozenset[str] = frozenset()
        while room := self._capacity.room(self._engine.registry.claimable, without=full):
            claims = await self._claim(uuid4(), room)
            if claims is None:
                await self._wait(self._slower())
                return
            if len(claims.records) < room.places:
                if not full:  # else there may be more of those, in what places they have left
                    await self._rest(claims)
                return
            full |= room.full
        if not full:
            # With free places, a name that is registered only now may be due.
            await self._wait(None if self._capacity.free <= 0 else self._slower())

    async def _rest(self, last: Claims) -> None:
        """Wait: all that was due is taken."""
        pause = self._pause if last.records else self._slower()
        if last.next_due is not None:
            pause = min(pause, max(last.next_due.total_seconds(), 0.001))
        await self._wait(pause)

    def _begin(self, record: SagaRecord, since: float) -> None:
        task = asyncio.create_task(self._drive(record, since), name=f"saga-{record.saga_id}")
        self._driving.add(task)
        self._capacity.take(record.saga_name)
        task.add_done_callback(lambda done: self._driven(done, record.saga_name))

    def _slower(self) -> float:
        pause = self._pause
        self._pause = min(self._pause * 2, self._longest_poll)
        return min(pause, self._longest_poll)

    async def _wait(self, pause: float | None) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._look.wait()
        except TimeoutError:
            return

    async def _claim(self, claim_id: UUID, room: Room) -> Claims | None:
        """Claim what there is room for and begin to drive it; None if there was no answer."""
        # The same id until there is an answer, so that no lease is held by nobody; and nothing
        # else until then, as what was taken without a word needs the places it was asked for.
        self._owed = (claim_id, room)
        favour = self._favour.get(room.kinds, Direction.ROLLBACK)
        try:
            claims, since = await self._engine.claim(
                claim_id=claim_id, limit=room.places, favour=favour, only=room.kinds
            )
        except SagaError:
            return None  # the engine tells of it; it is asked again in a while
        self._owed = None
        self._favour[room.kinds] = Direction(1 - favour)
        for record in claims.records:
            self._begin(record, since)
            self._pause = FIRST_POLL
        return claims

    # --- driving --------------------------------------------------------------------------------

    async def _drive(self, record: SagaRecord, since: float) -> None:
        try:
            await self._engine.take_up(
                record, since=since, patient=True, leaving=self._stopping.is_set
            )
        except Exception as error:
            self._engine.outage.undriven(record.saga_id, error)

    def _driven(self, task: asyncio.Task[None], name: str) -> None:
        self._driving.discard(task)
        self._capacity.give(name)
        self._look.set()

    async def _drain(self, grace: float) -> None:
        if self._driving:
            await asyncio.wait(self._driving, timeout=grace)

    async def _cancel_drives(self) -> None:
        left = set(self._driving)
        for task in left:
            task.cancel()
        if not left:
            return
        _, still = await asyncio.wait(left, timeout=ABANDON_AFTER)
        for task in still:
            # Not given back: the step still runs, so nobody may begin it yet.
            logger.error("%s outlasted the stop; its lease ends by itself", task.get_name())

    # --- aside ----------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Look at the store whenever it says that something is due."""
        try:
            async for _ in self._engine.store.wakeups():
                self._pause = FIRST_POLL
                self._look.set()
        except Exception:
            logger.exception("wake-ups have ended; the worker goes on by polling")

    async def _watch_unregistered(self) -> None:
        """Warn once per name of due sagas that no worker here can take."""
        lease = self._engine.execution_lease
        while True:
            await asyncio.sleep(UNREGISTERED_CHECK)
            try:
                page = await self._engine.store.find(Query(overdue_by=lease))
            except SagaError as error:
                logger.debug("overdue sagas could not be listed: %s", error)
                continue
            self._warn_of(page.records)

    def _warn_of(self, overdue: Sequence[SagaRecord]) -> None:
        for record in overdue:
            name = (record.saga_name, record.definition_version)
            if name in self._warned or self._engine.registry.knows(record):
                continue
            self._warned.add(name)
            logger.warning(
                "saga '%s' version '%s' is due but cannot be driven here: it is not registered, or "
                "its definition has changed (for example saga %s). It stays due until a worker "
                "that has registered it runs.",
                *name,
                record.saga_id,
            )
