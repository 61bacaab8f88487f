"""The rules of what people and events ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator

from saga_core.records import NewEntry, Transition
from saga_core.status import EntryKind, SagaStatus, SignalKind
from tests.campaign.cast import EDITED, SKIPPED
from tests.campaign.resting import Waiting
from tests.campaign.standing import Execution, slip_of

__all__ = ["Requests"]


class Requests(Waiting):
    def _event(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if self.paused:
            yield "an event was taken while the saga was paused"
        if self.waits and not self.waits[-1].is_sleep:
            # It lies in the inbox now, for the step to find it there.
            yield from self.comes_in_time()
            return
        yield from self.needs_forward(entry)
        if self.status is not SagaStatus.SUSPENDED:
            yield f"an event was taken while the saga was {self.status}"
        if self.ahead:
            yield "an event was taken before the saga began"
        before = self._event_in_input()
        self.event = json.loads(entry.input or "null")["n"]
        edited = self.edited.pop(self.position, None)  # its map has looked again
        if edited is not None or self._event_in_input() != before:
            yield from self._leaves(entry)
        self.go_on()

    def _event_in_input(self) -> int:
        is_root = self.position == 0 or self.step.rooted
        return self.event if is_root else 0

    def _skipped(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_forward(entry)
        if self.status not in (SagaStatus.SUSPENDED, SagaStatus.STUCK):
            yield f"a step was skipped while the saga was {self.status}"
        if entry.output is None or json.loads(entry.output)["serial"] != SKIPPED + _by(entry):
            yield "a skipped step has another output than the one that was given"
        self._goes_on_late()
        self.advance(entry)

    def _retry_requested(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        allowed = self.status in (SagaStatus.SUSPENDED, SagaStatus.STUCK, SagaStatus.FAILED)
        if not allowed or (self.rolling and self.rest is not SagaStatus.STUCK):
            yield f"a retry was granted while the saga was {self.status}"
        if self.paused:
            yield "a retry was granted while the saga was paused"
        self.rest = None
        self.start_anew()
        self._goes_on_late()

    def _goes_on_late(self) -> None:
        # Only who was told that the deadline has passed can lift it.
        if not self.rolling and self.deadline is not None and self.earliest >= self.deadline:
            self.overdue = True

    def _compensation_requested(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        ended = self.rest in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
        # What has done nothing can be cancelled, unless it has ended.
        cancels = self.asked.get(_by(entry)) == "cancel" and self.rest is not SagaStatus.FAILED
        if ended or not (self.is_reversible or cancels):
            yield f"a rollback was granted while the saga was {self.status}"
        if self.is_past_pivot:
            yield "a rollback was granted after the pivot was done"
        self.roll_back()

    def _aborted(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if self.status.is_terminal:
            yield f"the saga was aborted while it was {self.status}"
        self.go_on()
        self.rest = SagaStatus.FAILED

    def _paused(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if self.rest is not None or (self.paused and not self.repaused):
            yield f"the saga was paused while it was {self.status}, paused={self.paused}"
        if not self.waits and not self.ahead and '"at"' in (entry.output or ""):
            self.until = None  # it names a time of day, which does not move with the saga
            self.vague = True
        self.paused = True
        self.repaused = False

    def _resumed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if not self.paused:
            yield f"the saga was resumed while it was {self.status}, and not paused"
        self.paused = False
        self.dated = self.dated or entry.output is not None  # it says when a retry is due

    def _input_edited(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_forward(entry)
        if self.status not in (SagaStatus.RUNNING, SagaStatus.SUSPENDED, SagaStatus.STUCK):
            yield f"an input was edited while the saga was {self.status}"
        given = slip_of(entry.input)
        if given != (EDITED + _by(entry), 0):
            yield f"an edited input is {given}, and not the one that was given"
        yield from self._leaves(entry)
        self.run += 1
        paused, ahead, until = self.paused, self.ahead, self.until
        self.rest = None
        self.start_anew()
        self.edited[self.position] = given
        self.paused = self.repaused = paused
        if ahead:
            self.ahead, self.waiting, self.until = True, True, until
        self._goes_on_late()

    def _leaves(self, entry: NewEntry) -> Iterator[str]:
        """Judge that what may have been done so far of the current step is not forgotten."""
        if self.is_begun and self.step.maybe and self.left is None:
            yield f"{entry.kind} forgets that step_{self.position} may have been done as it stood"
        self.left = None

    def _went_back(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_forward(entry)
        if self.status is SagaStatus.COMPLETED or self.paused:
            yield f"the saga went back while it was {self.status}, paused={self.paused}"
        yield from self._leaves(entry)
        target = int((entry.step_id or "").removeprefix("step_"))
        if target not in self.done:
            yield f"the saga went back to {entry.step_id}, which is not done"
            return
        if any(self.plan.steps[number].pivot for number in self.done if number >= target):
            yield f"the saga went back to {entry.step_id}, before the pivot, which is done"
        if self.plan.steps[target].unmappable:
            yield f"the saga went back to {entry.step_id}, which gets no input"
        self.voids = sorted(number for number in self.done if number >= target)
        self.done = {number: each for number, each in self.done.items() if number < target}
        self.edited = {number: each for number, each in self.edited.items() if number < target}
        self.run += 1
        self.position = target
        self.rest = None
        self.start_anew()
        self._goes_on_late()

    def _voided(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if not self.voids or entry.step_id != f"step_{self.voids.pop()}":
            yield f"{entry.step_id} is said to count no more, which nobody wanted"

    def _revived(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from ()

    def _command_ignored(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        # It may name when a retry is due, by a time of day, which does not move with the saga.
        if entry.output is not None and self.dated:
            self.until = None
            self.vague = True
        self.dated = self.dated or entry.output is not None
        yield from ()

    def obeys(self, change: Transition, kinds: list[SignalKind]) -> Iterator[str]:
        """Judge, before its entries are followed, a commit that uses up commands."""
        recorded = {entry.kind for entry in change.history}
        if SignalKind.ABORT in kinds:
            if EntryKind.ABORTED not in recorded and not self.status.is_terminal:
                yield "an abort was used up, but the saga was not aborted"
        elif SignalKind.PAUSE in kinds:
            idle = self.paused or self.rest is not None
            if EntryKind.PAUSED not in recorded and len(kinds) == 1 and not idle:
                yield "a pause was used up, but the saga goes on"
        elif SignalKind.CANCEL in kinds or SignalKind.COMPENSATE in kinds:
            nothing = not self.is_reversible and SignalKind.CANCEL not in kinds
            idle = nothing or self.rolling or self.status.is_terminal
            idle = idle or self.is_past_pivot
            if EntryKind.COMPENSATION_REQUESTED not in recorded and not idle:
                yield "a compensate_step was used up, but no rollback began"


def _by(entry: NewEntry) -> int:
    return int(entry.actor or 0)
