"""Drive the steps of a parallel saga: each in a task of its own, their commits one after another.

All tasks belong to the saga's one driver, under its lease. Steps that end while a commit is on its
way travel together with the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

from saga_core.branches import Branch, ParallelOutputs, ready_steps
from saga_core.call import Interrupt
from saga_core.crew import LiveBranch, views_of
from saga_core.decide import decide
from saga_core.errors import ActiveSagaAlreadyExistsError, StoreUnavailableError
from saga_core.happening import (
    Begin,
    BranchesBegin,
    BranchesRest,
    BranchLeft,
    Decision,
    Happened,
    InBranch,
    Waits,
)
from saga_core.lease import LeaseLostError
from saga_core.live import LiveSaga
from saga_core.obeying import commands_in
from saga_core.observing import Observers
from saga_core.outage import Outage
from saga_core.performing import StepRunner, untimely
from saga_core.records import Committed, Due
from saga_core.status import Direction, SagaStatus, SignalKind
from saga_core.store import SagaStore
from saga_core.timing import AT_START
from saga_core.transacting import Transactions, Write, works_in_transaction
from saga_core.turns import commit_branches, taken_aggregate
from saga_core.waking import is_answered, used_up

__all__ = ["Crew", "answered", "due_at_rest", "used_by"]

_RESTS = (SagaStatus.SUSPENDED, SagaStatus.COMPENSATING)


class Driver(Protocol):
    """What a saga's engine does for its branches."""

    store: SagaStore
    runner: StepRunner
    observers: Observers
    outage: Outage
    transactions: Transactions

    async def commit(
        self, live: LiveSaga, decision: Decision, *, write: Write | None = None
    ) -> Committed:
        """Write a decision."""
        ...


class Crew:
    """The branches of one saga that is being driven here."""

    def __init__(self, engine: Driver, live: LiveSaga) -> None:
        self._engine = engine
        self._live = live
        self._views = views_of(live)
        self._calls = self._views.calls
        self._tasks: dict[str, asyncio.Task[Happened | None]] = {}
        self._ended: list[str] = []
        """Steps whose tasks are over, in the order in which they ended."""
        self._recorded: set[str] = set()
        """Steps with a task still, whose outcome is on record by their own transaction."""
        self._commanded = False
        self._refused = False
        """Whether a step's own commit was refused: the saga may be somebody else's by now."""
        self._deaf = False
        """Whether something is in the inbox that could not be read: it may be a command."""
        self.lock = asyncio.Lock()
        """Held by whoever decides and commits for the saga."""

    @property
    def branches(self) -> dict[str, Branch]:
        """Where those stand that are on record."""
        return self._views.branches

    async def run(
        self, leaving: Callable[[], bool] | None, proven: Callable[[], None] | None
    ) -> None:
        """Drive the branches until none can go on, or something else comes first.

        That is: an interrupt, a command in the inbox, a wish to leave, a hook, the saga's end. No
        step runs any more then, and what they came to is on record. Raises what a commit raises.
        """
        live = self._live
        try:
            while live.driving and not live.state.in_hook:
                if live.signals > live.seen and not self._commanded:
                    await self._listen()
                stops = self._commanded or self._deaf or self._calls.interrupt is not None
                stops = stops or self._refused or (leaving is not None and leaving())
                if not stops:
                    self._start()
                if self._ended:
                    await self._settle()
                elif self._tasks:
                    await self._wait()
                    continue
                elif stops:
                    self._check_lease()
                    return
                else:
                    await self._advance()
                if proven is not None:
                    proven()
                    proven = None
        finally:
            await self._stop()

    def _check_lease(self) -> None:
        if self._calls.interrupt is Interrupt.LEASE_LOST:
            raise LeaseLostError(
                f"the lease of saga '{self._live.saga_name}' {self._live.saga_id} was lost; its "
                "steps were cancelled and what they did is not on record",
                saga_id=self._live.saga_id,
            )

    async def _listen(self) -> None:
        """Look at what is new in the inbox: events at once, commands once no step runs."""
        live = self._live
        try:
            signals = await self._engine.store.inbox(live.saga_id, after=live.seen)
        except StoreUnavailableError as error:
            if not self._tasks:
                raise
            # No reason to cancel steps that run: it is read again when one ends or a lease is kept.
            self._engine.outage.unanswered(f"reading the inbox of saga {live.saga_id}", error)
            self._deaf = True
            return
        self._deaf = False
        live.rests.keep(signals)
        commands = commands_in(signals)
        if not commands:
            live.seen = live.signals = signals[-1].seq if signals else live.seen
            return
        self._commanded = True
        if any(command.kind is SignalKind.ABORT for command in commands):
            self._calls.break_off(Interrupt.ABORTED)

    # --- tasks ----------------------------------------------------------------------------------

    def _start(self) -> None:
        """Run the code of what can go on; of those that wait, first what has waited longest."""
        cancels = self._is_cancelling()
        for step_id in self._views.oldest_first():
            if step_id in self._tasks:
                if cancels and not self._is_pivot(step_id):
                    self._views[step_id].call.break_off(Interrupt.SIBLING)
            elif self._views.can_go_on(step_id):
                left = cancels and not self._is_pivot(step_id)
                self._run(step_id, self._views[step_id], left=left)

    def _is_cancelling(self) -> bool:
        return self._live.definition.on_branch_failure == "cancel" and self._is_failing

    @property
    def _is_failing(self) -> bool:
        """Whether a step has failed for good and the others are to be stopped, or let end."""
        forward = self._live.state.direction is Direction.FORWARD
        return forward and any(branch.is_given_up for branch in self.branches.values())

    def _is_pivot(self, step_id: str) -> bool:
        return self._live.definition.step(step_id).pivot

    def _run(self, step_id: str, view: LiveBranch, *, left: bool = False) -> None:
        running = _left() if left else self._runs(view)
        task: asyncio.Task[Happened | None] = asyncio.ensure_future(running)
        self._tasks[step_id] = task
        task.add_done_callback(lambda _: self._note(step_id))

    async def _runs(self, view: LiveBranch) -> Happened | None:
        """Run a step, one that works in the store's transaction while nobody else commits."""
        if not works_in_transaction(view):
            return await self._engine.runner.run(view)
        async with self.lock:
            # Else another commit might wait for the transaction, and the step's for the other.
            if self._refused or self._live.signals > self._live.seen:
                return None  # what has come meanwhile may be a command, which goes first
            if self._is_cancelling() and not self._is_pivot(view.state.step_id or ""):
                return BranchLeft()  # another step has failed for good meanwhile
            try:
                return await self._engine.transactions.run(view, self._ran, self._record)
            except Exception:
                self._refused = True
                raise

    async def _ran(self, view: LiveSaga) -> Happened | None:
        """Run a step whose transaction stays open: a wait that is not kept must leave no trace."""
        happened = await self._engine.runner.run(view)
        return BranchLeft() if isinstance(happened, Waits) and self._is_failing else happened

    async def _record(self, view: LiveSaga, happened: Happened, write: Write) -> None:
        """Record what a step came to in its own transaction."""
        self._engine.observers.hand_over(view, self._live)
        step_id = view.state.step_id or ""
        await self._commit(self._decided([InBranch(step_id, happened)]), write=write)
        self._recorded.add(step_id)

    def _note(self, step_id: str) -> None:
        self._ended.append(step_id)
        self._calls.stirred.set()

    async def _wait(self) -> None:
        """Wait until a step ends, something comes to the saga, or a branch that rests is due."""
        times = [
            (branch.due_at - self._live.now).total_seconds()
            for step_id, branch in self.branches.items()
            if step_id not in self._tasks and branch.rests and branch.due_at is not None
        ]
        if self._deaf:
            times = []  # nothing would be begun
        if not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(min(times), 0.0) if times else None):
                    await self._calls.stirred.wait()
        self._calls.stirred.clear()

    async def _stop(self) -> None:
        """Let no task outlive the drive, whatever it was left for."""
        for task in self._tasks.values():
            task.cancel()
        while running := [task for task in self._tasks.values() if not task.done()]:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(running)
        for task in self._tasks.values():
            if not task.cancelled():
                task.exception()
        self._tasks.clear()
        self._ended.clear()

    # --- commits --------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Record what the steps came to that have ended, in one commit."""
        async with self.lock:
            ended, self._ended = self._ended, []
            self._recorded.difference_update(ended)
            came = [(step_id, self._tasks.pop(step_id).result()) for step_id in ended]
            happened: list[Happened] = []
            for step_id, what in came:
                if step_id not in self.branches:
                    continue  # recorded in its own transaction
                view = self._views[step_id]
                self._engine.observers.hand_over(view, self._live)
                if what is None and view.call.interrupt is Interrupt.SIBLING:
                    what = BranchLeft()
                if what is not None:
                    happened.append(InBranch(step_id, what))
            if not happened:
                return
            await commit_branches(self._commit, self._decided, happened, self._taken)

    async def _taken(self, error: ActiveSagaAlreadyExistsError) -> str | None:
        return await taken_aggregate(self._engine.store, self._live, self._engine.outage, error)

    async def _advance(self) -> None:
        """Begin what is ready, or see that nothing can go on: no step runs."""
        async with self.lock:
            happened = untimely(self._live)
            await self._commit(self._decided([] if happened is None else [happened]))

    def _decided(self, happened: Sequence[Happened]) -> Decision:
        """Return what follows from all that has happened, and from steps that are ready by then."""
        live = self._live
        real = live.outputs
        decision = Decision(live.state, (), drive=live.driving, due=live.due)
        try:
            for each in happened:
                # From here on maps see what is about to be recorded.
                if isinstance(each, InBranch):
                    running = frozenset(self._tasks) - self._recorded
                    each = replace(each, busy=running | _later(happened, each))
                decision = self._then(decision, each)
            begins = self._begins(decision)
            if begins:
                decision = self._then(decision, BranchesBegin(begins))
            elif not happened:
                decision = self._then(decision, BranchesRest())
        finally:
            live.outputs = real
        return decision

    def _then(self, before: Decision, happened: Happened) -> Decision:
        live = self._live
        after = decide(live.definition, before.state, live.outputs, happened)
        live.outputs = live.outputs.after(after.history)
        history, spawn = (*before.history, *after.history), (*before.spawn, *after.spawn)
        return replace(after, history=history, spawn=spawn)

    def _begins(self, decision: Decision) -> tuple[Begin, ...]:
        live, state = self._live, decision.state
        forward = state.direction is Direction.FORWARD and not state.in_hook
        if decision.ends or not decision.drive or not forward:
            return ()
        assert isinstance(live.outputs, ParallelOutputs)  # noqa: S101 - made so for such sagas
        if any(branch.is_given_up for branch in live.outputs.branches.values()):
            return ()
        steps = map(live.definition.step, ready_steps(live.definition, live.outputs))
        return tuple(Begin(spec.step_id, live.map_input(spec), uuid4()) for spec in steps)

    async def _commit(self, decision: Decision, write: Write | None = None) -> None:
        gone = self._views.gone_after(decision)
        try:
            await self._engine.commit(self._live, decision, write=write)
        except BaseException:
            for entry in decision.history:
                if entry.kind.is_step_output and entry.step_id is not None:
                    self._live.forget(entry.step_id)  # maps have seen what is not on record
            raise
        self._views.applied(decision, gone)


def used_by(live: LiveSaga, decision: Decision) -> tuple[str, ...]:
    """Return the ids of the events that a decision uses up: those of steps that are over."""
    if not live.runs_branches:
        return used_up(live, decision)
    views = views_of(live)
    return views.used_up(views.gone_after(decision))


def answered(live: LiveSaga) -> bool:
    """Tell whether an event that the saga waits for has come."""
    if not live.runs_branches:
        return is_answered(live)
    moves = live.state.status in (*_RESTS, SagaStatus.RUNNING) and not live.state.is_paused
    return moves and views_of(live).is_answered()


def due_at_rest(live: LiveSaga) -> Due | None:
    """Return when a saga that goes on resting is looked at again."""
    if not live.runs_branches:
        return live.rests.due if live.rests.waits else live.due
    moves = live.state.status in _RESTS
    if not moves or live.state.is_paused or live.state.waiting_for == AT_START:
        return live.due
    return decide(live.definition, live.state, live.outputs, BranchesRest()).due


async def _left() -> Happened | None:
    return BranchLeft()


def _later(happened: Sequence[Happened], each: Happened) -> frozenset[str]:
    """Return the steps that have ended as well, and whose turn comes after this one."""
    after = happened[happened.index(each) + 1 :]
    return frozenset(one.step_id for one in after if isinstance(one, InBranch))
