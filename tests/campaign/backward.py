"""The rules of the way back: what is undone, asked for, or left."""

from __future__ import annotations

import json
from collections.abc import Iterator

from saga_core.records import NewEntry
from saga_core.status import SagaStatus
from tests.campaign.cast import HOUR
from tests.campaign.plan import Act, Outcome
from tests.campaign.resting import IN_VAIN, Waiting
from tests.campaign.standing import Execution, Thing, serial_of

__all__ = ["Backward"]


class Backward(Waiting):
    def _maybe_done(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if entry.input is None:
            yield f"{entry.step_id} is to be undone without the input that it was given"
        number = self.owed
        if not self.rolling and self.is_begun and self.step.maybe:
            number = self.left = self.position
            self.voids = [number]
        if number is None:
            yield f"{entry.step_id} was taken for maybe done, but it was not begun"
            return
        self.things.append(Thing(number, entry.input, None, self.run))
        self.owed = None

    def _probed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_rollback(entry)
        yield from self.backed(entry, last, Outcome.OK, Outcome.ABSENT)
        yield from self.counted(entry, self.failed + 1)
        thing = self.undoing
        if thing is None or thing.serial is not None:
            yield f"{entry.step_id} was asked for, but nobody doubted it"
            return
        found = last is not None and last.outcome is Outcome.OK
        if found is (entry.output is None):
            yield f"the probe of {entry.step_id} answered {found}, on record is {entry.output}"
        if found and last is not None:
            if json.loads(entry.output or "{}").get("serial") != last.began.serial:
                yield "an output was recorded that the probe did not find"
            thing.serial = serial_of(entry)
        else:
            thing.undone = True
        self.roll_back()

    def _compensated(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_rollback(entry)
        yield from self.backed(entry, last, Outcome.OK)
        yield from self.counted(entry, self.failed + 1)
        self._leave()

    def _compensation_retrying(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_rollback(entry)
        if entry.error_code == IN_VAIN:
            yield from self.times_out(entry, "retry")
        else:
            yield from self.backed(entry, last, Outcome.FAIL)
        self.failed += 1
        yield from self.counted(entry, self.failed)
        self.go_on()
        self.until = self.latest + HOUR if self.step.undo_delayed else None
        if self.failed >= self.step.undo_attempts:
            yield f"attempt {self.failed + 1} of {self.step.undo_attempts} was planned"

    def _compensation_failed(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_rollback(entry)
        garbled = [Outcome.GARBLED] if self.next_act is Act.PROBE else []
        if entry.error_code == IN_VAIN:
            yield from self.times_out(entry, "retry", "fail", "output")
            final = self.step.wait.on_timeout != "retry"
        else:
            yield from self.backed(entry, last, Outcome.FAIL, Outcome.FATAL, *garbled)
            final = last is not None and last.outcome is not Outcome.FAIL
        self.failed += 1
        yield from self.counted(entry, self.failed)
        self.go_on()
        if self.failed < self.step.undo_attempts and not final:
            yield f"the compensation was given up after {self.failed} attempts"
        self.rest = SagaStatus.STUCK

    def _compensation_skipped(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.needs_rollback(entry)
        if self.status not in (SagaStatus.STUCK, SagaStatus.COMPENSATING):
            yield f"a compensation was skipped while the saga was {self.status}"
        if not entry.reason:
            yield "a compensation was skipped, and nobody said why"
        self._leave()

    def _leave(self) -> None:
        """Be done with the current step."""
        if self.undoing is not None:
            self.undoing.undone = True
        self.roll_back()
