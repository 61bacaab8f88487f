"""How a saga may go: what each entry of its history needs, and where it leaves the saga.

The rules are written down anew from what the library promises, not taken from its code: a new
kind of entry gets a method of its name here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from saga_core.records import NewEntry, SagaState, Transition
from saga_core.status import Direction, EntryKind, SagaStatus, SignalKind
from tests.campaign.cast import FIRST, SKIPPED
from tests.campaign.ledger import Began
from tests.campaign.plan import Outcome, SagaPlan, StepPlan

__all__ = ["Course", "Execution"]

MAX_CRASHES = 3


class Execution:
    """One time that a step, or its compensation, ran."""

    def __init__(self, began: Began) -> None:
        self.began = began
        self.outcome: Outcome | None = None
        self.used = False
        """Whether an entry of the history is about it."""


class Course:
    """Where the saga stands by its history alone."""

    def __init__(self, plan: SagaPlan) -> None:
        self.plan = plan
        self.position = 0
        self.failed = 0
        """Failed attempts at the current position."""
        self.rolling = False
        self.waiting = False
        self.rest: SagaStatus | None = None
        self.event = 0
        """The latest event."""
        self.done: dict[int, tuple[str | None, int]] = {}
        """By step: its input, and the serial in its output."""
        self.undone: set[int] = set()
        self.suspicions = 0
        self.takeovers = 0
        """Leases that ended under a driver since the last entry that was no suspicion."""

    # --- where it stands ------------------------------------------------------------------------

    @property
    def status(self) -> SagaStatus:
        if self.rest is not None:
            return self.rest
        if self.rolling:
            return SagaStatus.COMPENSATING
        return SagaStatus.SUSPENDED if self.waiting else SagaStatus.RUNNING

    @property
    def undoing(self) -> int | None:
        """The newest step that is done and can be undone, if the rollback has one left."""
        left = [
            number
            for number, (given, _) in self.done.items()
            if given is not None
            and self.plan.steps[number].undo is not None
            and number not in self.undone
        ]
        return max(left, default=None)

    @property
    def current(self) -> int | None:
        """The step to be done or undone next."""
        if self.rolling:
            return self.undoing
        return self.position if self.position < len(self.plan.steps) else None

    def fits(self, state: SagaState) -> Iterator[str]:
        """Compare a state that was committed with where the history leaves the saga."""
        if state.status is not self.status:
            yield f"the saga was left {state.status}; by its history it is {self.status}"
            return
        if state.active is self.status.is_terminal:
            yield f"a saga that is {self.status} was left active={state.active}"
        if self.status.is_terminal:
            return
        step = None if self.current is None else f"step_{self.current}"
        if state.step_id != step:
            yield f"the saga was left at {state.step_id}; by its history it is at {step}"
        if state.attempt != self.failed:
            yield f"the saga was left with {state.attempt} failed attempts instead of {self.failed}"
        direction = Direction.ROLLBACK if self.rolling else Direction.FORWARD
        if state.direction is not direction:
            yield f"the saga was left in the lane {state.direction.name}"

    # --- what runs ------------------------------------------------------------------------------

    def begins(self, began: Began) -> Iterator[str]:
        """Judge a step that its rightful driver entered."""
        what = f"{'step' if began.forward else 'compensation of step'} {began.step}"
        if self.rest is not None:
            yield f"{what} ran although the saga was {self.rest}"
            return
        if began.forward and self.rolling:
            yield f"{what} ran forward after the rollback had begun"
            return
        if began.step != self.current or began.forward is self.rolling:
            yield f"{what} ran, but step {self.current} was next ({self.status})"
            return
        if began.context.attempt != self.failed + 1:
            yield f"{what} was told attempt {began.context.attempt} instead of {self.failed + 1}"
        if began.forward:
            yield from self._given(began, what)
        else:
            wanted = self.done[began.step]
            if began.out != wanted[1]:
                yield f"{what} was given output {began.out} instead of {wanted[1]}"
            if _slip(wanted[0]) != (began.after, began.event):
                yield f"{what} was given another input than the one on record"
        seen = 0 if began.context.event is None else began.context.event["n"]
        if seen != self.event:
            yield f"{what} was shown event {seen} instead of {self.event}"

    def _given(self, began: Began, what: str) -> Iterator[str]:
        after = FIRST if began.step == 0 else self.done[began.step - 1][1]
        if began.after != after:
            yield f"{what} was given {began.after} instead of the output {after} before it"
        rooted = began.step == 0 or self.plan.steps[began.step].rooted
        event = self.event if rooted else 0
        if began.event != event:
            yield f"{what} was given event {began.event} instead of {event}"

    # --- what is recorded -----------------------------------------------------------------------

    def enters(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        """Judge an entry and follow it. `last` is what its writer ran last."""
        ended = self.rest is not None and self.rest.is_terminal
        if ended and entry.kind not in _AFTER_THE_END:
            yield f"{entry.kind} was recorded after the saga was {self.rest}"
        step = None if self.current is None else f"step_{self.current}"
        if entry.step_id != step and entry.kind not in _ANYWHERE:
            yield f"{entry.kind} was recorded for {entry.step_id}, but {step} was next"
        yield from getattr(self, f"_{entry.kind.value}")(entry, last)
        if entry.kind is not EntryKind.SUSPECTED:
            self.suspicions = 0
            self.takeovers = 0

    def _completed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._forward(entry)
        yield from self._backed(entry, last, Outcome.OK)
        yield from self._counted(entry, self.failed + 1)
        self._advance(entry)

    def _retrying(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._forward(entry)
        yield from self._backed(entry, last, Outcome.FAIL)
        self.failed += 1
        yield from self._counted(entry, self.failed)
        step = self._step()
        if self.failed >= step.attempts:
            yield f"attempt {self.failed + 1} of {step.attempts} was planned"
        self.waiting = step.delayed

    def _failed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._forward(entry)
        step = self._step()
        if not step.unmappable:
            yield from self._backed(entry, last, Outcome.FAIL, Outcome.FATAL)
            self.failed += 1
            final = last is not None and last.outcome is Outcome.FATAL
            if self.failed < step.attempts and not final:
                yield f"the step was given up after {self.failed} of {step.attempts} attempts"
        yield from self._counted(entry, self.failed)
        if self.plan.compensates:
            self._roll_back()
        else:
            self.rest = SagaStatus.FAILED

    def _stuck(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        self.rest = SagaStatus.STUCK
        self.waiting = False
        if entry.error_code == "WorkerLost":
            if self.suspicions < MAX_CRASHES or self.takeovers <= MAX_CRASHES:
                yield f"it was stuck after {self.takeovers} drivers were lost"
            return
        yield from self._backed(entry, last, Outcome.GARBLED)
        self.failed += 1
        yield from self._counted(entry, self.failed)

    def _suspected(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        # The first takes two losses, unless it was one before it was turned round.
        self.suspicions += 1
        if self.takeovers < self.suspicions:
            yield f"it was suspected after {self.takeovers} drivers were lost"

    def _skipped(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._forward(entry)
        if self.status not in (SagaStatus.SUSPENDED, SagaStatus.STUCK):
            yield f"a step was skipped while the saga was {self.status}"
        if entry.output is None or json.loads(entry.output)["serial"] != SKIPPED + _by(entry):
            yield "a skipped step has another output than the one that was given"
        self._advance(entry)

    def _compensated(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._backward(entry)
        yield from self._backed(entry, last, Outcome.OK)
        yield from self._counted(entry, self.failed + 1)
        if self.undoing is not None:
            self.undone.add(self.undoing)
        self._roll_back()

    def _compensation_retrying(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._backward(entry)
        yield from self._backed(entry, last, Outcome.FAIL)
        self.failed += 1
        yield from self._counted(entry, self.failed)
        if self.failed >= self._step().undo_attempts:
            yield f"attempt {self.failed + 1} of {self._step().undo_attempts} was planned"

    def _compensation_failed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._backward(entry)
        yield from self._backed(entry, last, Outcome.FAIL, Outcome.FATAL)
        self.failed += 1
        yield from self._counted(entry, self.failed)
        final = last is not None and last.outcome is Outcome.FATAL
        if self.failed < self._step().undo_attempts and not final:
            yield f"the compensation was given up after {self.failed} attempts"
        self.rest = SagaStatus.STUCK

    def _event(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self._forward(entry)
        if self.status is not SagaStatus.SUSPENDED:
            yield f"an event was taken while the saga was {self.status}"
        self.event = json.loads(entry.input or "null")["n"]
        self.waiting = False

    def _retry_requested(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        allowed = self.status in (SagaStatus.SUSPENDED, SagaStatus.STUCK, SagaStatus.FAILED)
        if not allowed or (self.rolling and self.rest is not SagaStatus.STUCK):
            yield f"a retry was granted while the saga was {self.status}"
        self.rest = None
        self.waiting = False
        self.failed = 0

    def _compensation_requested(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if self.rest in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED) or not self.done:
            yield f"a rollback was granted while the saga was {self.status}"
        self._roll_back()

    def _aborted(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if self.status.is_terminal:
            yield f"the saga was aborted while it was {self.status}"
        self.rest = SagaStatus.FAILED

    def _revived(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from ()

    def _command_ignored(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from ()

    def obeys(self, change: Transition, kinds: list[SignalKind]) -> Iterator[str]:
        """Judge, before its entries are followed, a commit that uses up commands."""
        recorded = {entry.kind for entry in change.history}
        if SignalKind.ABORT in kinds:
            if EntryKind.ABORTED not in recorded and not self.status.is_terminal:
                yield "an abort was used up, but the saga was not aborted"
        elif SignalKind.COMPENSATE in kinds:
            idle = self.rolling or self.status.is_terminal or not self.done
            if EntryKind.COMPENSATION_REQUESTED not in recorded and not idle:
                yield "a compensate_step was used up, but no rollback began"

    # --- pieces ---------------------------------------------------------------------------------

    def _step(self) -> StepPlan:
        return self.plan.steps[self.current or 0]

    def _advance(self, entry: NewEntry) -> None:
        serial = json.loads(entry.output or '{"serial": 0}')["serial"]
        self.done[self.position] = (entry.input, serial)
        self.position += 1
        self.failed = 0
        self.waiting = False
        self.rest = SagaStatus.COMPLETED if self.position == len(self.plan.steps) else None

    def _roll_back(self) -> None:
        self.rolling = True
        self.waiting = False
        self.failed = 0
        self.rest = SagaStatus.COMPENSATED if self.undoing is None else None

    def _forward(self, entry: NewEntry) -> Iterator[str]:
        if self.rolling:
            yield f"{entry.kind} was recorded after the rollback had begun"

    def _backward(self, entry: NewEntry) -> Iterator[str]:
        if not self.rolling:
            yield f"{entry.kind} was recorded although no rollback had begun"

    def _counted(self, entry: NewEntry, wanted: int) -> Iterator[str]:
        if entry.attempt != wanted:
            yield f"{entry.kind} was recorded as attempt {entry.attempt} instead of {wanted}"

    def _backed(self, entry: NewEntry, last: Execution | None, *outcomes: Outcome) -> Iterator[str]:
        """Judge whether what is recorded has really happened, and once."""
        if last is None or last.used or last.outcome not in outcomes:
            yield f"{entry.kind} of {entry.step_id} was recorded, but nothing of the kind happened"
            return
        last.used = True
        began = last.began
        if f"step_{began.step}" != entry.step_id or began.forward is self.rolling:
            yield f"{entry.kind} of {entry.step_id} was recorded after step {began.step} had run"
        if entry.kind is EntryKind.COMPLETED:
            if json.loads(entry.output or "{}").get("serial") != began.serial:
                yield "an output was recorded that the step did not put out"
            if _slip(entry.input) != (began.after, began.event):
                yield "an input was recorded that the step was not given"


_AFTER_THE_END = (
    EntryKind.RETRY_REQUESTED,
    EntryKind.COMPENSATION_REQUESTED,
    EntryKind.REVIVED,
    EntryKind.COMMAND_IGNORED,
)
_ANYWHERE = (
    EntryKind.COMPENSATION_REQUESTED,
    EntryKind.REVIVED,
    EntryKind.ABORTED,
    EntryKind.COMMAND_IGNORED,
)


def _slip(text: str | None) -> tuple[int, int]:
    value = json.loads(text or "{}")
    return value.get("after", 0), value.get("event", 0)


def _by(entry: NewEntry) -> int:
    return int(entry.actor or 0)
