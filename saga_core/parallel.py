"""Drive the steps of a parallel saga: each in a task of its own, their commits one after another.

All tasks belong to the saga's one driver, under its lease. Steps that end while a commit is on its
way travel together with the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

from saga_core.branches import Branch, ParallelOutputs, ready_steps
from saga_core.call import Interrupt
from saga_core.crew import BranchCalls, BranchRests, LiveBranch
from saga_core.decide import decide
from saga_core.happening import (
    Begin,
    BranchesBegin,
    BranchesRest,
    BranchLeft,
    Decision,
    Happened,
    InBranch,
)
from saga_core.lease import LeaseLostError
from saga_core.live import LiveSaga
from saga_core.observing import Observers
from saga_core.performing import StepRunner, untimely
from saga_core.records import Committed
from saga_core.rests import TOLERANCE
from saga_core.status import Direction, SignalKind
from saga_core.store import SagaStore
from saga_core.waking import is_answered

__all__ = ["Crew", "crew_of"]

_EVENTS = (SignalKind.EVENT, SignalKind.TYPED_EVENT)


class Driver(Protocol):
    """What a saga's engine does for its branches."""

    store: SagaStore
    runner: StepRunner
    observers: Observers

    async def commit(
        self, live: LiveSaga, decision: Decision, *, consumed: tuple[str, ...] = ()
    ) -> Committed:
        """Write a decision."""
        ...


def crew_of(engine: Driver, live: LiveSaga) -> Crew:
    """Return what drives the branches of a saga, the same one as long as we drive it."""
    if not isinstance(live.crew, Crew):
        live.crew = Crew(engine, live)
    return live.crew


class Crew:
    """The branches of one saga that is being driven here."""

    def __init__(self, engine: Driver, live: LiveSaga) -> None:
        self._engine = engine
        self._live = live
        self._outputs = live.outputs if isinstance(live.outputs, ParallelOutputs) else None
        self._views: dict[str, LiveBranch] = {}
        self._tasks: dict[str, asyncio.Task[Happened | None]] = {}
        self._ended: list[str] = []
        """Steps whose tasks are over, in the order in which they ended."""
        self._taken: dict[str, str] = {}
        self._commanded = False
        self._calls = BranchCalls(live.call)
        live.call = self._calls
        self.lock = asyncio.Lock()
        """Held by whoever decides and commits for the saga."""

    @property
    def branches(self) -> dict[str, Branch]:
        """Where those stand that are on record."""
        return {} if self._outputs is None else self._outputs.branches

    async def run(
        self, leaving: Callable[[], bool] | None, proven: Callable[[], None] | None
    ) -> None:
        """Drive the branches until none can go on, or something else comes first.

        That is: an interrupt, a command in the inbox, a wish to leave, a hook, the saga's end. No
        step runs any more then, and what they came to is on record. Raises what a commit raises.
        """
        live = self._live
        self._commanded = False
        try:
            while live.driving and not live.state.in_hook:
                if live.signals > live.seen and not self._commanded:
                    await self._listen()
                stops = self._commanded or self._calls.interrupt is not None
                stops = stops or (leaving is not None and leaving())
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
        signals = await self._engine.store.inbox(live.saga_id, after=live.seen)
        live.rests.keep(signals)
        commands = [each for each in signals if each.kind not in _EVENTS and not each.consumed]
        if not commands:
            live.seen = live.signals = signals[-1].seq if signals else live.seen
            return
        self._commanded = True
        if any(command.kind is SignalKind.ABORT for command in commands):
            self._calls.break_off(Interrupt.ABORTED)

    # --- tasks ----------------------------------------------------------------------------------

    def _start(self) -> None:
        """Run the code of what can go on, the oldest waits first."""
        cancels = self._is_cancelling()
        waiting = []
        for step_id, branch in self.branches.items():
            if step_id in self._tasks or not (branch.drive or branch.rests):
                continue
            view = self._view(step_id, branch)
            if cancels and not self._is_pivot(step_id):
                self._run(step_id, view, left=True)
            elif branch.drive:
                self._run(step_id, view)
            else:
                waiting.append((step_id, branch, view))
        for step_id, branch, view in sorted(waiting, key=lambda each: _began(each[2])):
            due_at = branch.due_at
            due = due_at is not None and due_at <= self._live.now + TOLERANCE
            if due or is_answered(view):
                self._run(step_id, view)
        if cancels:
            for step_id in self._tasks:
                if not self._is_pivot(step_id):
                    self._views[step_id].call.break_off(Interrupt.SIBLING)

    def _is_cancelling(self) -> bool:
        if self._live.definition.on_branch_failure == "finish":
            return False
        forward = self._live.state.direction is Direction.FORWARD
        return forward and any(branch.is_given_up for branch in self.branches.values())

    def _is_pivot(self, step_id: str) -> bool:
        return self._live.definition.step(step_id).pivot

    def _view(self, step_id: str, branch: Branch) -> LiveBranch:
        view = self._views.get(step_id)
        if view is not None and view.state.direction is not branch.state.direction:
            self._forget(step_id)
            view = None
        if view is None:
            rests = BranchRests(self._live.rests, branch, self._taken, self._is_aged)
            view = LiveBranch(self._live, branch, self._calls.child(), rests)
            self._views[step_id] = view
        elif view.state is not branch.state:
            view.state = branch.state
            view.rests.follow(branch.state)
        if view.call.interrupt is Interrupt.SIBLING:
            self._calls.drop(view.call)
            view.call = self._calls.child()
        view.fence, view.timing = self._live.fence, self._live.timing
        return view

    @property
    def _is_aged(self) -> bool:
        record = self._live.rests.record
        return any(entry.at > record.updated_at for entry in record.outputs)

    def _forget(self, step_id: str) -> None:
        view = self._views.pop(step_id, None)
        if view is not None:
            self._calls.drop(view.call)

    def _run(self, step_id: str, view: LiveBranch, *, left: bool = False) -> None:
        running = _left() if left else self._engine.runner.run(view)
        task: asyncio.Task[Happened | None] = asyncio.ensure_future(running)
        self._tasks[step_id] = task
        task.add_done_callback(lambda _: self._note(step_id))

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
            came = [(step_id, self._tasks.pop(step_id).result()) for step_id in ended]
            happened: list[Happened] = []
            for step_id, what in came:
                view = self._views[step_id]
                self._engine.observers.hand_over(view, self._live)
                if what is None and view.call.interrupt is Interrupt.SIBLING:
                    what = BranchLeft()
                if what is not None:
                    happened.append(InBranch(step_id, what))
            if happened:
                await self._commit(self._decided(happened))

    async def _advance(self) -> None:
        """Begin what is ready, or see that nothing can go on: no step runs."""
        async with self.lock:
            happened = untimely(self._live)
            await self._commit(self._decided([] if happened is None else [happened]))

    def _decided(self, happened: list[Happened]) -> Decision:
        """Return what follows from all that has happened, and from steps that are ready by then."""
        live = self._live
        real = live.outputs
        decision = Decision(live.state, (), drive=live.driving, due=live.due)
        try:
            for each in happened:
                # From here on maps see what is about to be recorded.
                if isinstance(each, InBranch):
                    each = replace(each, busy=frozenset(self._tasks) | _later(happened, each))
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
        return replace(after, history=(*before.history, *after.history))

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

    async def _commit(self, decision: Decision) -> None:
        live = self._live
        known = live.outputs.after(decision.history)
        assert isinstance(known, ParallelOutputs)  # noqa: S101 - made so for such sagas
        gone = [
            step_id
            for step_id, view in self._views.items()
            if step_id not in known.branches
            or known.branches[step_id].state.direction is not view.state.direction
        ]
        used = tuple(event_id for event_id, step_id in self._taken.items() if step_id in gone)
        await self._engine.commit(live, decision, consumed=used)
        for event_id in used:
            del self._taken[event_id]
        for step_id in gone:
            self._forget(step_id)
        for step_id, view in self._views.items():
            own = tuple(entry for entry in decision.history if entry.step_id == step_id)
            if own:
                branch = self.branches[step_id]
                view.state = branch.state
                view.rests.applied(replace(decision, state=branch.state, history=own), used)


async def _left() -> Happened | None:
    return BranchLeft()


def _later(happened: list[Happened], each: Happened) -> frozenset[str]:
    """Return the steps that have ended as well, and whose turn comes after this one."""
    after = happened[happened.index(each) + 1 :]
    return frozenset(one.step_id for one in after if isinstance(one, InBranch))


def _began(view: LiveBranch) -> float:
    waits = view.rests.waits
    return waits[0].began.timestamp() if waits else 0.0
