"""The steps of a parallel saga while it is looked at: each a view of the saga that has only it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from saga_core.branches import Branch, branches_of
from saga_core.call import Interrupt, StepCall
from saga_core.definition import StepSpec
from saga_core.events import TypedEvent
from saga_core.happening import Decision, NextInput
from saga_core.live import LiveSaga
from saga_core.records import Due, StoredSignal
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


class Takers:
    """Says which step of a saga an event is for, if it is not for any."""

    def __init__(self, branches: Callable[[], Mapping[str, Branch]]) -> None:
        """`branches` are those on record."""
        self.given: dict[str, str] = {}
        """The steps that have been given an event, by event id."""
        self._branches = branches
        self._tokens: dict[str, str | None] = {}

    def of(self, signal: StoredSignal) -> str | None:
        """Return the step that was given an event, or that it is meant for."""
        taker = self.given.get(signal.event_id)
        if taker is not None:
            return taker
        if signal.event_id not in self._tokens:
            self._tokens[signal.event_id] = TypedEvent.decode(signal.payload).token
        token = self._tokens[signal.event_id]
        if token is None:
            return None
        tokens = ((step_id, str(each.state.token)) for step_id, each in self._branches().items())
        return next((step_id for step_id, each in tokens if each == token), None)


class BranchRests(Rests):
    """The rests of one step. Events come to the saga, and each is given to one step only."""

    def __init__(self, whole: Rests, branch: Branch, takers: Takers, aged: bool) -> None:
        record = whole.record
        changed = branch.at if aged and branch.at is not None else record.now
        view = replace(record, state=branch.state, updated_at=changed, signals=0, seen=0)
        super().__init__(view, (), whole.clock)
        self._whole = whole
        self._takers = takers
        self._step_id = branch.state.step_id or ""
        self._on_record = branch.given
        self.reserved: str | None = None
        """The event that is kept for the step, which was not entered with it yet."""
        self._keep_own()

    def follow(self, branch: Branch) -> None:
        """Take up where a command or a commit has put the step."""
        self._state = branch.state
        self._on_record = branch.given
        self._keep_own()

    @property
    def news(self) -> int:
        """How many of the events that are kept nobody had heard of when the saga was read."""
        return self._whole.news

    @property
    def due(self) -> Due | None:
        """When the rest ends by time: by a delay, unless the step has asked for a time."""
        due = super().due
        if due is None or due.at is None or self.waits[-1].rest.until is not None:
            return due
        return Due(delay=max(due.at - self.clock(), timedelta()))

    @property
    def _free(self) -> list[StoredSignal]:
        mine = self._step_id
        return [each for each in self._whole.kept if self._takers.of(each) in (mine, None)]

    def answers(
        self, models: Mapping[str, type[BaseModel]], waits: Sequence[Resting] | None = None
    ) -> list[StoredSignal | None]:
        """Return the events that end the waits of this attempt, those that no other step has."""
        return self._answers(self._on_record, self.waits if waits is None else waits, models)

    def would_be_answered(self, rest: Rest, models: Mapping[str, type[BaseModel]]) -> bool:
        """Tell whether the event that a new wait asks for is there already."""
        waits = (*self._earlier(rest), Resting(rest, self.clock()))
        return self._answers(self.entered, waits, models)[-1] is not None

    def _answers(
        self,
        known: Sequence[str | None],
        waits: Sequence[Resting],
        models: Mapping[str, type[BaseModel]],
    ) -> list[StoredSignal | None]:
        """Let the first waits have the events that are `known`, the others the first that fit."""
        mine = {signal.event_id: signal for signal in self._free}
        given: list[StoredSignal | None] = []
        for event_id in known[: len(waits)]:
            if event_id is not None and event_id not in mine:
                break  # it is used up
            given.append(mine.pop(event_id or "", None))
        return given + answers(waits[len(given) :], list(mine.values()), models)

    def knows(self, event_id: str) -> bool:
        """Tell whether a signal with this id has been heard, used or not."""
        return self._whole.knows(event_id)

    def _keep_own(self) -> None:
        """Keep from others what the step was given by what is on record."""
        if self._on_record and self.waits:
            self._take(self._on_record)

    def _take(self, event_ids: Iterable[str | None]) -> None:
        for event_id in event_ids:
            if event_id is not None:
                self._takers.given[event_id] = self._step_id

    def reserve(self, given: Sequence[StoredSignal | None]) -> None:
        """Keep from others what the waits were given, and what the last of them is to get."""
        ids = [None if signal is None else signal.event_id for signal in given]
        self._take(ids)
        self.reserved = ids[-1]

    def enter(self, given: Iterable[StoredSignal | None] = (), over: Iterable[Any] = ()) -> None:
        """Note with which events the step is entered: no other step gets them."""
        super().enter(given, over)
        self.reserved = None
        if self.entered:  # what was kept for it is not its own if it got another by its token
            self.let_go()
            self._take(self.entered)

    def let_go(self) -> None:
        """Let any step have what this one was given: an attempt is over, or has not waited."""
        given = self._takers.given
        for event_id in [each for each, taker in given.items() if taker == self._step_id]:
            del given[event_id]

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
        self._takers = Takers(lambda: self.branches)
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
            rests = BranchRests(self._live.rests, branch, self._takers, self._aged)
            view = LiveBranch(self._live, branch, self.calls.child(), rests)
            self._views[step_id] = view
        elif view.state is not branch.state:
            view.state = branch.state
            view.rests.follow(branch)
            if not view.rests.waits:
                view.rests.let_go()  # a command has ended the wait
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
            for event_id, step_id in self._takers.given.items()
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
            self._forget(step_id)
        told = {entry.step_id for entry in decision.history}
        for step_id, view in self._views.items():
            if step_id in told:
                branch = self.branches[step_id]
                view.state = branch.state
                view.rests.follow(branch)
                if view.call.is_running:  # what it was entered with is its own until it is left
                    continue
                view.rests.applied(replace(_of(decision, step_id), state=view.state), used)
                if not view.rests.waits:
                    view.rests.let_go()

    def _forget(self, step_id: str) -> None:
        view = self._views.pop(step_id, None)
        if view is not None:
            view.rests.let_go()
            self.calls.drop(view.call)


def _of(decision: Decision, step_id: str) -> Decision:
    own = tuple(entry for entry in decision.history if entry.step_id == step_id)
    return replace(decision, history=own)


def _age(view: LiveBranch) -> float:
    waits = view.rests.waits
    return waits[-1].began.timestamp() if waits else 0.0
