"""The rules of the way forward: attempts, their ends, what a lost driver leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from saga_core.records import NewEntry
from saga_core.status import SagaStatus
from tests.campaign.cast import HOUR
from tests.campaign.plan import Outcome
from tests.campaign.resting import IN_VAIN, Waiting
from tests.campaign.standing import Execution

__all__ = ["Forward"]

MAX_CRASHES = 3


LATE = "SagaDeadlineError"


class Forward(Waiting):
    def _scheduled(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if self.plan.begins == timedelta(0):
            yield "the saga is to begin later, which nobody wanted"
        self.waiting = self.ahead = True
        self.until = self.latest + self.plan.begins

    def _begun(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_forward(entry)
        if not self.ahead or self.until is None or self.latest < self.until:
            yield f"the saga has begun at {self.latest}, it was to wait until {self.until}"
        self.go_on()

    def _deadline(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if entry.output != "null":
            wanted = self.plan.deadline
            if wanted is None:
                yield "the saga has a deadline, which nobody wanted"
            else:
                self.deadline = self.latest + self.plan.begins + wanted
            return
        if self.lifted:
            return  # two commands of one commit each say so
        if self.deadline is None or self.latest < self.deadline:
            yield f"the deadline was lifted at {self.latest}, it is {self.deadline}"
        self.deadline = None
        self.lifted = True
        self.overdue = False

    def _completed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_forward(entry)
        if entry.reason is not None:
            yield from self.goes_on_in_vain(entry)
        else:
            yield from self.backed(entry, last, Outcome.OK)
        yield from self.counted(entry, self.failed + 1)
        self.advance(entry)

    def _retrying(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_forward(entry)
        if entry.error_code == IN_VAIN:
            yield from self.times_out(entry, "retry")
        else:
            yield from self.backed(entry, last, Outcome.FAIL)
        self.failed += 1
        yield from self.counted(entry, self.failed)
        if self.failed >= self.step.attempts:
            yield f"attempt {self.failed + 1} of {self.step.attempts} was planned"
        self.go_on()
        self.waiting = self.step.delayed
        self.until = self.latest + HOUR if self.waiting else None

    def _failed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_forward(entry)
        if self.is_past_pivot:
            yield "a step failed into a rollback after the pivot was done"
        if entry.error_code == LATE:
            yield from self._late(entry)
        else:
            garbled = self.step.maybe and self.plan.compensates
            yield from self._given_up(entry, last, garbled=garbled)
        if self.plan.compensates:
            self.roll_back()
        else:
            self.rest = SagaStatus.FAILED

    def _late(self, entry: NewEntry) -> Iterator[str]:
        yield from self.counted(entry, self.failed)
        if self.limit is None or self.latest < self.limit:
            yield f"the saga was stopped at {self.latest}, its deadline is {self.limit}"

    def _given_up(self, entry: NewEntry, last: Execution | None, *, garbled: bool) -> Iterator[str]:
        """Judge that a step failed for good; `garbled` says whether that could not be recorded."""
        if self.is_unmappable:
            yield from self.counted(entry, self.failed)
            return
        outcomes = (Outcome.FAIL, Outcome.FATAL, *([Outcome.GARBLED] if garbled else []))
        if entry.error_code == IN_VAIN:
            yield from self.times_out(entry, "retry", "fail")
            final = self.step.wait.on_timeout != "retry"
        else:
            yield from self.backed(entry, last, *outcomes)
            final = last is not None and last.outcome is not Outcome.FAIL
        self.failed += 1
        yield from self.counted(entry, self.failed)
        if self.failed < self.step.attempts and not final:
            yield f"the step was given up after {self.failed} of {self.step.attempts} attempts"

    def _stuck(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if entry.error_code == "WorkerLost":
            if self.suspicions < MAX_CRASHES or self.takeovers <= MAX_CRASHES:
                yield f"it was stuck after {self.takeovers} drivers were lost"
        elif self.is_past_pivot and not self.rolling:
            yield from self._given_up(entry, last, garbled=True)
        else:
            if self.step.maybe and self.plan.compensates:
                yield "it was stuck, although its step is undone whether it was done or not"
            yield from self.backed(entry, last, Outcome.GARBLED)
            self.failed += 1
            yield from self.counted(entry, self.failed)
        self.rest = SagaStatus.STUCK
        self.go_on()

    def _suspected(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        # The first takes two losses, unless it was one before it was turned round.
        self.suspicions += 1
        if self.takeovers < self.suspicions:
            yield f"it was suspected after {self.takeovers} drivers were lost"
