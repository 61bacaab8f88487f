"""One step of a parallel saga while it is being driven: a view of the saga that has only it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from saga_core.branches import Branch
from saga_core.call import Interrupt, StepCall
from saga_core.definition import StepSpec
from saga_core.happening import NextInput
from saga_core.live import LiveSaga
from saga_core.records import SagaState, StoredSignal
from saga_core.resting import Rest, Resting, answers
from saga_core.rests import Rests
from saga_core.retry import RetryPolicy

__all__ = ["BranchCalls", "BranchRests", "LiveBranch"]


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

    def enter(self, given: Iterable[StoredSignal | None] = (), over: Iterable[Any] = ()) -> None:
        """Note with which events the step is entered: no other step gets them."""
        events = list(given)
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

    def input_after(self, spec: StepSpec) -> NextInput | None:
        """Return None: what follows is found when the step is on record."""
        return None
