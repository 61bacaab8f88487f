"""Drive sagas: run a step, let `decide` say what follows, commit it, go on.

One driver per saga: whoever holds its lease. The driver runs the step's code in its own task and
never holds a lock in the store while doing so. All it writes goes through `SagaStore.commit`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

from saga_core.call import Interrupt
from saga_core.children import Children
from saga_core.codec import PayloadLimits
from saga_core.decide import decide, ignore_command
from saga_core.deciding import go_on
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    PayloadError,
    SagaDefinitionError,
    SagaError,
    StaleVersionError,
)
from saga_core.failure import failure_of
from saga_core.happening import (
    Decision,
    Happened,
    Suspected,
    Undecodable,
    Woken,
    WorkerLost,
)
from saga_core.lease import TRUSTED, LeaseKeeper, LeaseLostError, TakenOverError, lease_used
from saga_core.live import LiveSaga
from saga_core.obeying import commands_in, obey, refused
from saga_core.observing import Observers
from saga_core.outage import Outage
from saga_core.parallel import Crew, answered, due_at_rest, used_by
from saga_core.performing import StepRunner
from saga_core.records import (
    DUE_NOW,
    Claims,
    Committed,
    Held,
    Lease,
    LeaseAction,
    Registered,
    SagaRecord,
    Signal,
    StoredSignal,
    Transition,
)
from saga_core.refusals import Refusals, TakenUp
from saga_core.registry import Registry
from saga_core.status import Direction, SignalKind
from saga_core.store import SagaStore
from saga_core.suspects import is_suspect, losses_on_record
from saga_core.transacting import LENT, Transactions, Write, works_in_transaction
from saga_core.turns import commit_or_wait
from saga_core.upcasting import bring_to_life
from saga_core.waits import told_of
from saga_core.watching import Watchers
from saga_core.writing import settle, to_the_end

__all__ = ["PATIENCE", "SagaEngine"]

logger = logging.getLogger("saga_core")

PATIENCE = 10.0
"""Seconds for which a driver repeats a write that got no answer, its lease permitting."""


class SagaEngine:
    """Drives the sagas of one store for one process. Use it through `SagaOrchestrator`."""

    def __init__(
        self,
        store: SagaStore,
        *,
        execution_lease: timedelta,
        limits: PayloadLimits,
        observers: Observers,
    ) -> None:
        self.store = store
        self.registry = Registry()
        self.limits = limits
        self.execution_lease = execution_lease
        self.worker = f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid4().hex[:12]}"
        """Who we are to the store: unique for each engine."""
        self.observers = observers
        self.children = Children(store, self.registry, limits)
        self.runner = StepRunner(limits, observers, self.children, execution_lease * LENT)
        self.outage = Outage()
        self.transactions = Transactions(store, self.outage, patience=PATIENCE)
        self._keeper = LeaseKeeper(
            store, self.worker, execution_lease, self._signalled, self.outage
        )
        self._suspect: UUID | None = None
        self._refusals = Refusals(longest=execution_lease / 3)
        self.watchers = Watchers()
        self._hearing: set[asyncio.Task[None]] = set()

    # --- driving --------------------------------------------------------------------------------

    async def drive(
        self,
        live: LiveSaga,
        *,
        since: float,
        leaving: Callable[[], bool] | None = None,
        proven: Callable[[], None] | None = None,
    ) -> None:
        """Drive a saga that we hold until it ends, waits or is not ours any more.

        `since` is the loop time before the lease was asked for. `leaving` is asked between steps
        whether to give the saga back instead of going on. `proven` is called after the first
        commit. Raises `StoreUnavailableError` with `saga_id` when the store is gone;
        the lease then ends by its time.

        A cancellation cancels the step, never a write, gives the saga back and is raised again:
        the driver has a task of its own, so that it is told instead of torn.
        """
        driver = asyncio.ensure_future(self._drive(live, since, leaving, proven))
        try:
            await asyncio.shield(driver)
        except asyncio.CancelledError:
            live.call.break_off(Interrupt.CANCELLED)
            while not driver.done():
                try:
                    await asyncio.wait({driver})
                except asyncio.CancelledError:
                    continue
            if not driver.cancelled():
                driver.exception()
            raise

    async def _drive(
        self,
        live: LiveSaga,
        since: float,
        leaving: Callable[[], bool] | None,
        proven: Callable[[], None] | None,
    ) -> None:
        self._keeper.hold(live, since=since)
        try:
            while True:
                # Who broke the step off may have read the inbox before we did: look in any case.
                while live.signals > live.seen or live.call.interrupt is Interrupt.ABORTED:
                    await self._hear(live)
                    live.call.heard()
                if not live.driving:
                    await self._rest_again(live)
                    return
                cancelled = live.call.interrupt is Interrupt.CANCELLED
                if cancelled or (leaving is not None and leaving()):
                    await self._give_back(live)
                    return
                if live.runs_branches:
                    await Crew(self, live).run(leaving, proven)
                    proven = None
                    continue
                version = live.version
                if live.definition.transacts and works_in_transaction(live):
                    happened = await self.transactions.run(live, self.runner.run, self._record)
                else:
                    happened = await self.runner.run(live)
                if happened is not None:
                    await self._record(live, happened)
                if proven is not None and live.version > version:
                    proven()
                    proven = None
        except LeaseLostError as lost:
            logger.warning("%s", lost)
        except asyncio.CancelledError:  # the loop is being shut down
            await self._give_back(live)
            raise
        except SagaError as error:
            if error.saga_id is None:
                error.saga_id = live.saga_id
            raise
        finally:
            self._keeper.drop(live)
            self.watchers.announce(live.saga_id)

    async def _record(self, live: LiveSaga, happened: Happened, write: Write | None = None) -> None:
        await commit_or_wait(self.commit, live, happened, write)

    async def commit(
        self,
        live: LiveSaga,
        decision: Decision,
        *,
        write: Write | None = None,
        lease: Lease | LeaseAction | None = None,
        signals_in: tuple[Signal, ...] = (),
        consumed: tuple[str, ...] = (),
        seen: int | None = None,
    ) -> Committed:
        """Write a decision. Raises `LeaseLostError` if somebody else was faster.

        By default the lease is kept while there is work, else released. A lost answer is settled
        by sending the same commit again; `write` is another way to write it and settle that.
        """
        decision = decision if decision.state.step_input else live.with_hook_input(decision)
        if lease is None:
            lease = LeaseAction.KEEP if decision.drive else LeaseAction.RELEASE
        seen = live.seen if seen is None else seen
        if live.unwritten is not None:
            decision = replace(decision, history=(*live.unwritten.history, *decision.history))
        used = used_by(live, decision)
        if used:
            consumed = tuple(dict.fromkeys((*consumed, *used)))
        transition = Transition(
            saga_id=live.saga_id,
            expected_version=live.version,
            commit_id=uuid4(),
            state=decision.state,
            lease=lease,
            due=live.due_after(decision),
            seen=seen,
            history=decision.history,
            signals_in=signals_in,
            consumed=consumed,
            spawn=decision.spawn,
            tags=None if live.unwritten is None else live.unwritten.tags,
        )
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        if live.trusted_until:
            until = min(until, live.trusted_until)
        try:
            if write is not None:
                committed = await write(transition)
            else:
                committed = await settle(
                    lambda: self.store.commit(transition),
                    what=lambda: f"commit of {live.position}",
                    outage=self.outage,
                    until=until,
                )
        except StaleVersionError as error:
            since = f"what was done here since version {live.version} is not on record"
            message = f"{live.position} is driven by somebody else now: {since}"
            raise LeaseLostError(message, saga_id=live.saga_id) from error
        live.rests.applied(decision, transition.consumed)
        live.applied(decision, committed, seen=seen + len(signals_in))
        self.observers.committed(live, decision)
        if not decision.drive:
            self.watchers.announce(live.saga_id)
        if decision.drive and not committed.held:
            raise TakenOverError(
                f"saga {live.saga_id}: committed, but somebody else has taken it over since",
                saga_id=live.saga_id,
            )
        return committed

    def _decide(self, live: LiveSaga, happened: Happened) -> Decision:
        return decide(live.definition, live.state, live.outputs, happened)

    async def _rest_again(self, live: LiveSaga) -> None:
        """Give up the lease of a resting saga that was claimed and had nothing to hear."""
        if live.claimed:
            reason = "it was looked at, and nothing new had been sent to it"
            await self.commit(live, ignore_command(live.state, None, reason=reason))

    # --- signals --------------------------------------------------------------------------------

    def _signalled(self, live: LiveSaga, signals: int) -> None:
        """A renewal showed signals that the driver has not heard: look whether one is urgent."""
        live.signals = max(live.signals, signals)
        live.call.stir()
        task = asyncio.ensure_future(self._heed(live))
        self._hearing.add(task)
        task.add_done_callback(self._hearing.discard)

    async def _heed(self, live: LiveSaga) -> None:
        try:
            signals = await self.store.inbox(live.saga_id, after=live.seen)
        except SagaError as error:
            self.outage.unanswered(f"reading the inbox of saga {live.saga_id}", error)
            return
        if any(each.kind is SignalKind.ABORT and each.seq > live.seen for each in signals):
            live.call.break_off(Interrupt.ABORTED)

    def interrupt(self, saga_id: UUID) -> None:
        """Cancel the saga's running step for an abort that is in the inbox, if driven here."""
        live = self._keeper.held(saga_id)
        if live is not None:
            live.call.break_off(Interrupt.ABORTED)

    def stir(self, saga_id: UUID) -> None:
        """Let the driver of a parallel saga, if it is ours, hear at once what has come to it."""
        live = self._keeper.held(saga_id)
        if live is not None and live.definition.parallel:
            self._signalled(live, live.seen + 1)

    async def _hear(self, live: LiveSaga) -> None:
        """Read what is new in the inbox and obey the commands in it, an abort before others."""
        signals = await self.store.inbox(live.saga_id, after=live.seen)
        if not signals:
            live.signals = live.seen
            return
        seen = signals[-1].seq
        live.rests.keep(signals)
        commands = commands_in(signals)
        if not commands:
            if live.driving:
                live.seen = live.signals = seen  # the next commit tells the store
            else:
                await self._keep(live, signals)
            return
        consumed = tuple(signal.event_id for signal in commands)
        decision = obey(live, commands)
        lease = None
        if decision.drive and not live.driving:
            # Our last commit has given the saga back: take it again, or leave it to whoever did.
            lease = Lease(self.worker, self.execution_lease)
            self._keeper.hold(live, since=asyncio.get_running_loop().time())
        elif not decision.drive and decision.state == live.state and answered(live):
            decision = replace(decision, due=DUE_NOW)  # its event came with the commands
        try:
            await self.commit(live, decision, lease=lease, consumed=consumed, seen=seen)
        except ActiveSagaAlreadyExistsError as error:  # whoever waited for its aggregate has it
            self._keeper.drop(live)
            told = refused(live, commands, str(error))
            await self.commit(live, told, consumed=consumed, seen=seen)

    async def _keep(self, live: LiveSaga, signals: Sequence[StoredSignal]) -> None:
        """Note events that came while our last commit gave the saga back; go on if one was due."""
        seen = signals[-1].seq
        if answered(live):
            self._keeper.hold(live, since=asyncio.get_running_loop().time())
            lease = Lease(self.worker, self.execution_lease)
            await self.commit(live, self._decide(live, Woken()), lease=lease, seen=seen)
            return
        due = due_at_rest(live)
        new = (each.kind is SignalKind.TYPED_EVENT and not each.consumed for each in signals)
        decision = ignore_command(live.state, due, reason=told_of(live.state, sum(new)))
        await self.commit(live, decision, seen=seen)

    # --- claiming -------------------------------------------------------------------------------

    async def claim(
        self,
        *,
        claim_id: UUID,
        limit: int,
        favour: Direction,
        only: Sequence[Registered] | None = None,
    ) -> tuple[Claims, float]:
        """Claim due sagas, of all registered kinds; return them and the loop time of asking.

        Raises `StoreUnavailableError` when there was no answer; ask again with the same
        `claim_id` then, so that no lease is held by nobody.
        """
        since = asyncio.get_running_loop().time()
        claiming = asyncio.ensure_future(
            self.store.claim_due(
                self.worker,
                claim_id=claim_id,
                limit=limit,
                lease=self.execution_lease,
                only=self.registry.claimable if only is None else only,
                favour=favour,
            )
        )
        try:
            claims = await to_the_end(claiming)
        except SagaError as error:
            self.outage.unanswered("a claim", error)
            raise
        except asyncio.CancelledError:
            if claiming.done() and not claiming.cancelled() and claiming.exception() is None:
                await self._release(claiming.result().records)
            raise
        self.outage.answered()
        return claims, since

    async def take_up(
        self,
        record: SagaRecord,
        *,
        since: float,
        patient: bool,
        leaving: Callable[[], bool] | None = None,
    ) -> TakenUp:
        """Drive a claimed saga, or put it back to be driven later or by others.

        A saga whose drivers were lost `SUSPECT_AFTER` times without a commit is a suspect. At
        most one suspect is driven at a time, which is recorded before, so that a crash convicts
        only the one that was driven; `patient` puts it back for a growing while first.
        """
        suspect = is_suspect(record)
        if suspect:
            if self._suspect is not None or (patient and record.reclaimed):
                await self._put_back(record, patient=patient)
                return TakenUp.PUT_BACK
            self._suspect = record.saga_id
        since -= lease_used(record, self.execution_lease)
        try:
            try:
                live = await self.bring_up(record)
            except SagaDefinitionError as error:
                await self._refuse(record, error)
                return TakenUp.REFUSED
            self._refusals.forget(record.saga_id)
            if live is None:
                return TakenUp.DRIVEN
            live.trusted_until = since + self.execution_lease.total_seconds() * TRUSTED
            on_trial = suspect and record.reclaims and live.driving
            if live.unwritten is not None and live.driving:
                # On record before a step of the new version runs: who knows only the old one will
                # find that the saga is not for him. Crashes count anew.
                await to_the_end(self.commit(live, go_on(live.state, ())))
            elif on_trial and not await self._on_trial(live):
                return TakenUp.DRIVEN
            await self.drive(
                live,
                since=since,
                leaving=leaving,
                proven=lambda: self._acquit(record.saga_id),
            )
        except LeaseLostError as lost:
            logger.warning("%s", lost)
        except asyncio.CancelledError:
            await self._release([record])  # if its driver has not done so
            raise
        finally:
            self._acquit(record.saga_id)
        return TakenUp.DRIVEN

    async def _on_trial(self, live: LiveSaga) -> bool:
        """Record that a suspect is driven apart; False if its crashes have convicted it."""
        times = await losses_on_record(self.store, live.saga_id)
        if times >= live.registration.max_crashes:
            release, lost = LeaseAction.RELEASE, WorkerLost(times)
            await to_the_end(self.commit(live, self._decide(live, lost), lease=release))
            return False
        await to_the_end(self.commit(live, self._decide(live, Suspected())))
        return True

    def _acquit(self, saga_id: UUID) -> None:
        if self._suspect == saga_id:
            self._suspect = None

    async def _refuse(self, record: SagaRecord, error: SagaDefinitionError) -> None:
        """Leave a saga that cannot be driven here to others, and to us after a growing while."""
        delay = self._refusals.delay(record, error)
        held = Held(record.saga_id, record.fence)
        await to_the_end(self.store.release(self.worker, [held], delay=delay))

    async def _put_back(self, record: SagaRecord, *, patient: bool) -> None:
        delay = timedelta(0)
        if patient:
            longer = 2.0 ** min(record.reclaims, 8) / 4 if record.reclaimed else 0.5
            delay = min(self.execution_lease * 0.1 * longer, timedelta(minutes=1))
        held = Held(record.saga_id, record.fence)
        await to_the_end(self.store.release(self.worker, [held], delay=delay))

    async def bring_up(self, record: SagaRecord) -> LiveSaga | None:
        """Make a claimed record drivable. What cannot be decoded becomes STUCK: then None.

        Raises `SagaDefinitionError` if its definition is not here or has changed.
        """
        live = await self.look_at(record)
        try:
            live.read()
        except PayloadError as error:
            stuck = self._decide(live, Undecodable(failure_of(error)))
            release = LeaseAction.RELEASE  # also where a hook is to be run
            await to_the_end(self.commit(live, stuck, lease=release, seen=record.signals))
            return None
        return live

    async def look_at(self, record: SagaRecord, *, upcast: bool = True) -> LiveSaga:
        """Return a record with its definition and its events, decoded or not.

        Raises `SagaDefinitionError` if its definition is not here or has changed, or if its
        upcaster fails, which without `upcast` is not asked.
        """
        signals: Sequence[StoredSignal] = ()
        if record.signals:
            signals = await self.store.inbox(record.saga_id)
        heard = tuple(signal for signal in signals if signal.seq <= record.seen or signal.consumed)
        live = bring_to_life(record, self.registry, self.limits, heard, upcast=upcast)
        live.rests.keep(signals)
        live.signals = max((record.signals, *(signal.seq for signal in signals)))
        return live

    async def _give_back(self, live: LiveSaga) -> None:
        """Release a saga that still has work, due now."""
        if live.driving:
            await self._let_go([Held(live.saga_id, live.fence)])

    async def abandon(self, live: LiveSaga) -> None:
        """Release a saga that a cancelled caller may just have taken over, due now."""
        await self._let_go([Held(live.saga_id, fence) for fence in (live.fence, live.fence + 1)])

    async def _release(self, records: Sequence[SagaRecord]) -> None:
        """Release what a cancelled driver has claimed, due now."""
        await self._let_go([Held(record.saga_id, record.fence) for record in records])

    async def _let_go(self, held: Sequence[Held]) -> None:
        if not held:
            return
        try:
            await to_the_end(self.store.release(self.worker, held, delay=timedelta(0)))
        except SagaError as error:
            # Their leases end by themselves.
            self.outage.unanswered(f"giving back saga {held[0].saga_id}", error)

    async def release_new(self, saga_id: UUID) -> None:
        """Release a saga that we may have created with a lease of ours, due now."""
        await to_the_end(self.store.release(self.worker, [Held(saga_id, 1)], delay=timedelta(0)))
