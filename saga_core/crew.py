"""The steps of a parallel saga while it is looked at: each a view of the saga that has only it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from saga_core.branches import Branch, branches_of
from saga_core.call import Interrupt, StepCall
from saga_core.definition import StepSpec
from saga_core.happening import Decision, NextInput
from saga_core.live import LiveSaga
from saga_core.records import SagaState, StoredSignal
from saga_core.resting import Rest, Resting, answers
from saga_core.rests import TOLERANCE, Rests
from saga_core.retry import RetryPolicy
from saga_core.waking import awaited_models, is_answered

__all__ = ["BranchCalls", "BranchRests", "LiveBranch", "Views", "views_of"]


class BranchCalls(StepCall):
    """The place of all steps of one parallel saga: what breaks one off breaks off each."""

    def __init__(self, before: StepCall) -> None:
        """`before` may have been asked to break off already."""
        super().__init__()
        self._interrupt = before.interrupt
        self._children: list[StepCall] = []
        self.stirred = asyncio.Event()
        """Set when the driver is to look again at what can go on."""

    @property
    def is_running(self) -> bool:
        return any(child.is_running for child in self._children)

    def child(self) -> StepCall:
        """Return a place for one step."""
        made = StepCall()
        if self._interrupt is not None:
            made.break_off(self._interrupt)
        self._children.append(made)
        return made

    def drop(self, child: StepCall) -> None:
        """Forget the place of a step that is over."""
        self._children.remove(child)

    def break_off(self, reason: Interrupt) -> None:
        """Cancel all running steps, and let no further one begin."""
        super().break_off(reason)
        for child in self._children:
            child.break_off(reason)
        self.stirred.set()

    def heard(self) -> None:
        """Let steps run again after the command behind an interrupt was looked at."""
        super().heard()
        for child in self._children:
            child.heard()

    def stir(self) -> None:
        """Let the driver look at what has come to the saga meanwhile."""
        self.stirred.set()


class BranchRests(Rests):
    """The rests of one step. Events come to the saga, and each is given to one step only."""

    def __init__(self, whole: Rests, branch: Branch, taken: dict[str, str], aged: bool) -> None:
        """`taken` says which step has been given an event, by event id, of all branches."""
        record = whole.record
        changed = branch.at if aged and branch.at is not None else record.now
        view = replace(record, state=branch.state, updated_at=changed, signals=0, seen=0)
        super().__init__(view, (), whole.clock)
        self._whole = whole
        self._taken = taken
        self._step_id = branch.state.step_id or ""
        self.reserved: str | None = None
        """The event that is kept for the step, which was not entered with it yet."""

    def follow(self, state: SagaState) -> None:
        """Take up where a command has put the step."""
        self._state = state

    @property
    def news(self) -> int:
        """How many of the events that are kept nobody had heard of when the saga was read."""
        return self._whole.news

    @property
    def _free(self) -> list[StoredSignal]:
        mine = self._step_id
        return [
            signal for signal in self._whole.kept if self._taken.get(signal.event_id, mine) == mine
        ]

    def answers(
        self, models: Mapping[str, type[BaseModel]], waits: Sequence[Resting] | None = None
    ) -> list[StoredSignal | None]:
        """Return the events that end the waits of this attempt, those that no other step has."""
        return answers(self.waits if waits is None else waits, self._free, models)

    def would_be_answered(self, rest: Rest, models: Mapping[str, type[BaseModel]]) -> bool:
        """Tell whether the event that a new wait asks for is there already."""
        waits = (*self._earlier(rest), Resting(rest, self.clock()))
        return answers(waits, self._free, models)[-1] is not None

    def knows(self, event_id: str) -> bool:
        """Tell whether a signal with this id has been heard, used or not."""
        return self._whole.knows(event_id)

    def reserve(self, given: Sequence[StoredSignal | None]) -> None:
        """Keep from others what the waits were given, and what the last of them is to get."""
        for signal in given:
            if signal is not None:
                self._taken[signal.event_id] = self._step_id
        last = given[-1]
        self.reserved = None if last is None else last.event_id

    def enter(self, given: Iterable[StoredSignal | None] = (), over: Iterable[Any] = ()) -> None:
        """Note with which events the step is entered: no other step gets them."""
        events = list(given)
        self.reserved = None
        for signal in events:
            if signal is not None:
                self._taken[signal.event_id] = self._step_id
        super().enter(events, over)

    def retry_at(self, policy: RetryPolicy) -> datetime | None:
        """Return None: a branch keeps by itself when its next attempt begins."""
        return None


class LiveBranch(LiveSaga):
    """Shares with the saga all that belongs to the saga; state, call and rests are its own."""

    def __init__(self, whole: LiveSaga, branch: Branch, call: StepCall, rests: BranchRests) -> None:
        vars(self).update(vars(whole))
        self.state = branch.state
        self.call = call
        self.rests: BranchRests = rests

    def assume(self, step_id: str, output: str, value: Any) -> None:
        """Let nobody see an output that is yet to be recorded: other steps run meanwhile."""

    def forget(self, step_id: str) -> None:
        """Take nothing back: nothing was assumed."""

    def input_after(self, spec: StepSpec) -> NextInput | None:
        """Return None: what follows is found when the step is on record."""
        return None


def views_of(live: LiveSaga) -> Views:
    """Return the views of a parallel saga, the same ones as long as it is looked at."""
    if not isinstance(live.crew, Views):
        live.crew = Views(live)
    return live.crew


class Views:
    """The steps of one saga that are begun and not over, as they are on record."""

    def __init__(self, live: LiveSaga) -> None:
        """Give the events that have come to the branches, to those first that waited first."""
        self._live = live
        self._views: dict[str, LiveBranch] = {}
        self._taken: dict[str, str] = {}
        record = live.rests.record
        self._aged = any(entry.at > record.updated_at for entry in record.outputs)
        self.calls = BranchCalls(live.call)
        live.call = self.calls
        by_age = sorted(self.branches, key=lambda step_id: _age(self[step_id]))
        for step_id in by_age:
            view = self[step_id]
            if view.rests.waits:
                given = view.rests.answers(awaited_models(view, live.definition.step(step_id)))
                view.rests.reserve(given)

    @property
    def branches(self) -> dict[str, Branch]:
        """Where they stand."""
        return branches_of(self._live.outputs)

    def __getitem__(self, step_id: str) -> LiveBranch:
        """Return the view of a step that is begun, as it stands now."""
        branch = self.branches[step_id]
        view = self._views.get(step_id)
        if view is not None and view.state.direction is not branch.state.direction:
            self._forget(step_id)
            view = None
        if view is None:
            rests = BranchRests(self._live.rests, branch, self._taken, self._aged)
            view = LiveBranch(self._live, branch, self.calls.child(), rests)
            self._views[step_id] = view
        elif view.state is not branch.state:
            view.state = branch.state
            view.rests.follow(branch.state)
        if view.call.interrupt is Interrupt.SIBLING and not view.call.is_running:
            self.calls.drop(view.call)
            view.call = self.calls.child()
        view.fence, view.timing = self._live.fence, self._live.timing
        return view

    def with_token(self, token: object) -> LiveBranch | None:
        """Return the step that this token reaches, if there is one."""
        for step_id, branch in self.branches.items():
            if branch.state.token == token:
                return self[step_id]
        return None

    def oldest_first(self) -> list[str]:
        """Return the steps: those that are to run at once, then those that wait, by their age."""
        return sorted(
            self.branches, key=lambda each: (not self.branches[each].drive, _age(self[each]))
        )

    def can_go_on(self, step_id: str) -> bool:
        """Tell whether a step is to run: at once, by its time, or with what it waits for."""
        branch = self.branches[step_id]
        if branch.drive or not branch.rests:
            return branch.drive
        due_at = branch.due_at
        if due_at is not None and due_at <= self._live.now + TOLERANCE:
            return True
        return is_answered(self[step_id])

    def is_answered(self) -> bool:
        """Tell whether an event that a step waits for has come."""
        return any(
            branch.rests and is_answered(self[step_id]) for step_id, branch in self.branches.items()
        )

    def used_up(self, gone: Iterable[str]) -> tuple[str, ...]:
        """Return the ids of the events that steps were given which are over."""
        over = frozenset(gone)
        kept = {self._views[step_id].rests.reserved for step_id in over if step_id in self._views}
        return tuple(
            event_id
            for event_id, step_id in self._taken.items()
            if step_id in over and event_id not in kept
        )

    def gone_after(self, decision: Decision) -> list[str]:
        """Return the steps that are over, or turn back, once a decision is on record."""
        known = branches_of(self._live.outputs.after(decision.history))
        return [
            step_id
            for step_id, branch in self.branches.items()
            if step_id not in known or known[step_id].state.direction is not branch.state.direction
        ]

    def applied(self, decision: Decision, gone: Iterable[str]) -> None:
        """Follow a commit of ours, after which `gone` are over."""
        used = self.used_up(gone)
        for step_id in gone:
            self._release(step_id)
            self._forget(step_id)
        told = {entry.step_id for entry in decision.history}
        for step_id, view in self._views.items():
            if step_id in told:
                view.state = self.branches[step_id].state
                view.rests.applied(replace(_of(decision, step_id), state=view.state), used)
                if not view.rests.waits:
                    self._release(step_id)

    def _release(self, step_id: str) -> None:
        """Let any step have what an attempt was given that is over: the next has not waited."""
        for event_id in [each for each, taker in self._taken.items() if taker == step_id]:
            del self._taken[event_id]

    def _forget(self, step_id: str) -> None:
        view = self._views.pop(step_id, None)
        if view is not None:
            self.calls.drop(view.call)


def _of(decision: Decision, step_id: str) -> Decision:
    own = tuple(entry for entry in decision.history if entry.step_id == step_id)
    return replace(decision, history=own)


def _age(view: LiveBranch) -> float:
    waits = view.rests.waits
    return waits[0].began.timestamp() if waits else 0.0
