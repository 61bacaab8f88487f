"""How a parallel saga may go: what each entry of its history needs, and what it does to its lane.

Written down anew from what the library promises, like `course`, which is for all other sagas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from saga_core.records import NewEntry, Transition
from saga_core.status import EntryKind, SagaStatus, SignalKind
from tests.campaign.cast import DEFAULT, EDITED, HOUR, SKIPPED
from tests.campaign.forward import LATE, MAX_CRASHES
from tests.campaign.lanes import Lane, Lanes
from tests.campaign.plan import Act, Outcome
from tests.campaign.resting import IN_VAIN
from tests.campaign.standing import Execution, serial_of, slip_of
from tests.campaign.waits import Wait

__all__ = ["Fleet"]


class Fleet(Lanes):
    """Follows a parallel saga from entry to entry."""

    def obeys(self, change: Transition, kinds: list[SignalKind]) -> Iterator[str]:
        """Judge, before its entries are followed, a commit that uses up commands."""
        recorded = {entry.kind for entry in change.history}
        ended = self.status.is_terminal
        if SignalKind.ABORT in kinds and EntryKind.ABORTED not in recorded and not ended:
            yield "an abort was used up, but the saga was not aborted"
        turned = EntryKind.COMPENSATION_REQUESTED in recorded or self.rolling
        if kinds == [SignalKind.CANCEL] and not (turned or ended or self.is_past_pivot):
            yield "a cancel was used up, but no rollback began"

    def enters(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        """Judge an entry and follow it. `last` is what its writer ran last of the step."""
        if self.ended and entry.kind not in _AFTER_THE_END:
            yield f"{entry.kind} was recorded after the saga was {self.status}"
        lane = self.lane_of(entry.step_id)
        rule = getattr(self, f"_{entry.kind.value}", None)
        whole = getattr(self, f"_whole_{entry.kind.value}", None)
        if whole is not None:
            yield from whole(entry, lane)
        elif rule is None:
            yield f"{entry.kind} was recorded, which does not happen in a parallel saga"
        elif lane is None:
            if not (entry.kind is EntryKind.FAILED and entry.error_code == LATE):
                yield f"{entry.kind} was recorded for {entry.step_id}"
        else:
            if entry.kind in _FORWARD and self.rolling:
                yield f"{entry.kind} of {entry.step_id} was recorded after the rollback had begun"
            if entry.kind in _BACK and not self.rolling:
                yield f"{entry.kind} was recorded although no rollback had begun"
            yield from rule(entry, lane, last)
            lane.changed = entry.kind is not EntryKind.BRANCH
        if entry.kind is not EntryKind.SUSPECTED:
            self.suspicions = 0
            self.takeovers = 0

    # --- forward --------------------------------------------------------------------------------

    def _branch(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        fact = json.loads(entry.output or "{}")
        if "undone" in fact:
            if lane.is_owed:
                yield f"{entry.step_id} is said to be undone, which it is not"
            return
        if fact["direction"] == 0:
            yield from self.turn()
            if self.reopens:
                lane.start_anew()
            if not lane.is_owed:
                yield f"{entry.step_id} is to be undone, and there is nothing to undo"
            if blockers := self.blockers(lane):
                yield f"{entry.step_id} is to be undone before the steps {blockers}"
        elif not lane.begun:
            yield from self._begin(entry, lane)
        elif lane.done:
            yield f"{entry.step_id} was begun once more"
        if fact.get("left"):
            if not self.is_failing:
                yield f"{entry.step_id} was left, although no other step had failed"
            lane.left = True
        elif lane.left and fact["status"] != "FAILED":
            lane.left = False  # the pivot is done, so it goes on
        if entry.attempt != lane.failed:
            yield f"{entry.step_id} was left with {entry.attempt} failed attempts of {lane.failed}"
        lane.token = fact["token"]

    def _begin(self, entry: NewEntry, lane: Lane) -> Iterator[str]:
        if missing := [each for each in lane.plan.depends if not self.lanes[each].done]:
            yield f"{entry.step_id} was begun before the steps {missing}, on which it depends"
        if self.was_failing and self.is_failing and not self.is_past_pivot:
            yield f"{entry.step_id} was begun although another step had failed for good"
        if self.ahead or self.paused or self.rolling:
            yield f"{entry.step_id} was begun, ahead={self.ahead}, paused={self.paused}"
        if (entry.input is None) is not lane.plan.unmappable:
            yield f"{entry.step_id} was begun with the input {entry.input}"
        lane.begun = True
        lane.given = entry.input

    def _completed(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        if entry.reason is not None:
            yield from self._in_vain(entry, lane, "output")
            if serial_of(entry) != DEFAULT + lane.number:
                yield "a wait that ended by its time has another output than its default"
        else:
            yield from self._backed(entry, lane, last, Outcome.OK)
        yield from self._counted(entry, lane.failed + 1)
        self._finish(entry, lane)

    def _finish(self, entry: NewEntry, lane: Lane) -> None:
        lane.begun = lane.done = True
        lane.given, lane.serial = entry.input, serial_of(entry)
        lane.start_anew()

    def _skipped(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        if self.status not in (SagaStatus.SUSPENDED, SagaStatus.STUCK) or self.paused:
            yield f"a step was skipped while the saga was {self.status}"
        if not lane.is_open:
            yield f"{entry.step_id} was skipped, and is not begun"
        if serial_of(entry) != SKIPPED + int(entry.actor or 0):
            yield "a skipped step has another output than the one that was given"
        self.convicted = False
        self._finish(entry, lane)

    def _retrying(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        if entry.error_code == IN_VAIN:
            yield from self._in_vain(entry, lane, "retry")
        else:
            yield from self._backed(entry, lane, last, Outcome.FAIL)
        lane.failed += 1
        yield from self._counted(entry, lane.failed)
        if lane.failed >= lane.plan.attempts:
            yield f"attempt {lane.failed + 1} of {lane.plan.attempts} was planned"
        if self.is_failing:
            yield f"{entry.step_id} is to be tried again, although another step has failed for good"
        lane.go_on()
        lane.until = self.latest + HOUR if lane.plan.delayed else None

    def _failed(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        if self.is_past_pivot:
            yield "a step failed into a rollback after the pivot was done"
        if entry.error_code == LATE:
            if self.deadline is None or self.latest < self.deadline:
                yield f"the saga was stopped at {self.latest}, its deadline is {self.deadline}"
        else:
            garbled = lane.plan.maybe and self.plan.compensates
            yield from self._given_up(entry, lane, last, garbled=garbled)
        lane.given_up = True
        lane.go_on()

    def _given_up(
        self, entry: NewEntry, lane: Lane, last: Execution | None, *, garbled: bool
    ) -> Iterator[str]:
        if lane.plan.unmappable and lane.edited is None:
            return
        outcomes = (Outcome.FAIL, Outcome.FATAL, *([Outcome.GARBLED] if garbled else []))
        if entry.error_code == IN_VAIN:
            yield from self._in_vain(entry, lane, "retry", "fail")
            final = lane.plan.wait.on_timeout != "retry"
        else:
            yield from self._backed(entry, lane, last, *outcomes)
            final = last is not None and last.outcome is not Outcome.FAIL
        lane.failed += 1
        yield from self._counted(entry, lane.failed)
        if lane.failed < lane.plan.attempts and not final and not self.is_failing:
            yield f"the step was given up after {lane.failed} of {lane.plan.attempts} attempts"

    def _whole_stuck(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        if entry.error_code == "WorkerLost":
            if self.suspicions < MAX_CRASHES or self.takeovers <= MAX_CRASHES:
                yield f"it was stuck after {self.takeovers} drivers were lost"
            self.convicted = True
        elif lane is None:
            yield f"stuck was recorded for {entry.step_id}"
        elif lane.given_up:
            if not self.is_past_pivot:
                yield f"{entry.step_id} failed for good, and is stuck"
            lane.given_up, lane.stuck = False, True
        else:
            lane.failed += not lane.plan.unmappable or lane.edited is not None
            lane.stuck = True
            lane.go_on()

    def _whole_suspected(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        self.suspicions += 1
        if self.takeovers < self.suspicions:
            yield f"it was suspected after {self.takeovers} drivers were lost"

    # --- waits ----------------------------------------------------------------------------------

    def _waiting(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        yield from self._backed(entry, lane, last, Outcome.WAIT, Outcome.SLEEP)
        yield from self._counted(entry, lane.failed + 1)
        outcome = None if last is None else last.outcome
        over = 0 if last is None else last.began.context.waits
        wait = Wait.of(lane.plan.wait, outcome, self.latest)
        lane.waits = [*lane.waits[:over], wait]
        lane.until = wait.ends

    def _in_vain(self, entry: NewEntry, lane: Lane, *words: str) -> Iterator[str]:
        wait = lane.waits[-1] if lane.waits else None
        if wait is None or wait.is_sleep:
            yield f"{entry.step_id} waited in vain, but it did not wait for an event"
            return
        if wait.ends is None or self.latest < wait.ends:
            yield f"{entry.step_id} waited in vain at {self.latest}, its wait ends at {wait.ends}"
        if lane.plan.wait.on_timeout not in words:
            yield f"{entry.kind} was recorded for a wait that ends in {lane.plan.wait.on_timeout}"

    def _whole_woken(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        yield from ()

    def _event(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        if self.paused:
            yield "an event was taken while the saga was paused"
        lane.until = None
        lane.brought = entry.input
        if not lane.waits or lane.waits[-1].is_sleep:
            if lane.edited is not None:  # its map has looked again
                lane.edited = None
                lane.run += 1
            lane.go_on()

    # --- back -----------------------------------------------------------------------------------

    def _maybe_done(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        if not (lane.is_open and lane.plan.maybe) or self.rolling:
            yield f"{entry.step_id} was taken for maybe done, but it was not begun"
        if entry.input is None:
            yield f"{entry.step_id} is to be undone without the input that it was given"
        lane.maybe, lane.given = True, entry.input

    def _probed(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        yield from self._backed(entry, lane, last, Outcome.OK, Outcome.ABSENT)
        yield from self._counted(entry, lane.failed + 1)
        found = last is not None and last.outcome is Outcome.OK
        if found is (entry.output is None) or not lane.maybe:
            yield f"the probe of {entry.step_id} answered {found}, on record is {entry.output}"
        lane.maybe = False
        lane.done, lane.undone, lane.serial = True, not found, serial_of(entry)
        lane.start_anew()

    def _compensated(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        yield from self._backed(entry, lane, last, Outcome.OK)
        yield from self._counted(entry, lane.failed + 1)
        lane.undone = True
        lane.start_anew()

    def _compensation_retrying(
        self, entry: NewEntry, lane: Lane, last: Execution | None
    ) -> Iterator[str]:
        if entry.error_code == IN_VAIN:
            yield from self._in_vain(entry, lane, "retry")
        else:
            yield from self._backed(entry, lane, last, Outcome.FAIL)
        lane.failed += 1
        yield from self._counted(entry, lane.failed)
        lane.go_on()
        lane.until = self.latest + HOUR if lane.plan.undo_delayed else None
        if lane.failed >= lane.plan.undo_attempts:
            yield f"attempt {lane.failed + 1} of {lane.plan.undo_attempts} was planned"

    def _compensation_failed(
        self, entry: NewEntry, lane: Lane, last: Execution | None
    ) -> Iterator[str]:
        garbled = [Outcome.GARBLED] if self.next_act(lane) is Act.PROBE else []
        if entry.error_code == IN_VAIN:
            yield from self._in_vain(entry, lane, "retry", "fail", "output")
        else:
            yield from self._backed(entry, lane, last, Outcome.FAIL, Outcome.FATAL, *garbled)
        lane.failed += 1
        yield from self._counted(entry, lane.failed)
        lane.go_on()
        lane.stuck = True

    def _compensation_skipped(
        self, entry: NewEntry, lane: Lane, last: Execution | None
    ) -> Iterator[str]:
        if not entry.reason or not lane.is_owed or self.blockers(lane):
            yield f"the compensation of {entry.step_id} was skipped, {entry.reason}"
        self.convicted = False
        lane.undone = True
        lane.start_anew()

    # --- what people ask for --------------------------------------------------------------------

    def _whole_scheduled(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        if not self.plan.begins:
            yield "the saga is to begin later, which nobody wanted"
        self.ahead = True
        self.begins_at = self.latest + self.plan.begins

    def _whole_begun(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        if not self.ahead or self.begins_at is None or self.latest < self.begins_at:
            yield f"the saga has begun at {self.latest}, it was to wait until {self.begins_at}"
        self.ahead = False

    def _whole_deadline(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        if entry.output == "null":
            self.deadline = None
        elif self.plan.deadline is None:
            yield "the saga has a deadline, which nobody wanted"
        else:
            self.deadline = self.latest + self.plan.begins + self.plan.deadline

    def _whole_retry_requested(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        allowed = (SagaStatus.SUSPENDED, SagaStatus.STUCK, SagaStatus.FAILED)
        if self.status not in allowed or self.paused:
            yield f"a retry was granted while the saga was {self.status}"
        if self.rolling and self.status is not SagaStatus.STUCK:
            yield f"a retry was granted while the saga was {self.status}, in its rollback"
        self.aborted = self.convicted = self.ahead = self.ended = False
        self.moves = True
        chosen = [each for each in self.lanes if each.is_over] or self.lanes
        named = self.asked_for.get(int(entry.actor or 0))
        if named is not None:
            stopped = [each for each in self.lanes if each.left]
            others = [each for each in self.lanes if each.given_up and each.number != named]
            chosen = [self.lanes[named], *([] if others else stopped)]
        for each in chosen:
            if each.left:
                each.left = False  # it goes on where it was stopped
            else:
                each.start_anew()

    def _whole_compensation_requested(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        cancels = self.asked.get(int(entry.actor or 0)) == "cancel"
        ended = self.status in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
        cancels = cancels and not self.status.is_terminal
        if ended or not (self.has_begun or cancels or self.rolling):
            yield f"a rollback was granted while the saga was {self.status}"
        if self.is_past_pivot:
            yield "a rollback was granted after the pivot was done"
        self.aborted = self.convicted = self.ahead = self.paused = self.ended = False
        self.moves = True
        self.reopens = self.rolling

    def _whole_aborted(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        if self.status.is_terminal:
            yield f"the saga was aborted while it was {self.status}"
        self.aborted, self.paused = True, False

    def _whole_paused(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        stuck = self.status is SagaStatus.STUCK and not self.moves
        if self.status.is_terminal or stuck:
            yield f"the saga was paused while it was {self.status}"
        self.dated = '"at"' in (entry.output or "")
        self.paused = True

    def _whole_resumed(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        if not self.paused:
            yield "the saga was resumed, and was not paused"
        self.paused = False
        self.vague = self.dated

    def _input_edited(self, entry: NewEntry, lane: Lane, last: Execution | None) -> Iterator[str]:
        if self.rolling or not lane.is_open or self.status.is_terminal:
            yield f"an input was edited of {entry.step_id} while the saga was {self.status}"
        if slip_of(entry.input) != (EDITED + int(entry.actor or 0), 0):
            yield f"an edited input is {entry.input}, and not the one that was given"
        self.convicted = False
        self.moves = True
        lane.edited = slip_of(entry.input)[0]
        lane.given = entry.input
        lane.run += 1
        lane.start_anew()

    def _whole_revived(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        yield from ()

    def _whole_command_ignored(self, entry: NewEntry, lane: Lane | None) -> Iterator[str]:
        yield from ()

    # --- pieces ---------------------------------------------------------------------------------

    def _counted(self, entry: NewEntry, wanted: int) -> Iterator[str]:
        if entry.attempt != wanted:
            yield f"{entry.kind} was recorded as attempt {entry.attempt} instead of {wanted}"

    def _backed(
        self, entry: NewEntry, lane: Lane, last: Execution | None, *outcomes: Outcome
    ) -> Iterator[str]:
        if last is None or last.used or last.outcome not in outcomes:
            yield f"{entry.kind} of {entry.step_id} was recorded, but nothing of the kind happened"
            return
        last.used = True
        if last.began.act is not self.next_act(lane):
            yield f"{entry.kind} of {entry.step_id} was recorded after {last.began.what} had run"
        if entry.kind is EntryKind.COMPLETED:
            if serial_of(entry) != last.began.serial:
                yield "an output was recorded that the step did not put out"
            if slip_of(entry.input)[0] != last.began.after:
                yield "an input was recorded that the step was not given"


_FORWARD = (
    EntryKind.COMPLETED,
    EntryKind.SKIPPED,
    EntryKind.RETRYING,
    EntryKind.FAILED,
    EntryKind.INPUT_EDITED,
)
_BACK = (
    EntryKind.PROBED,
    EntryKind.COMPENSATED,
    EntryKind.COMPENSATION_RETRYING,
    EntryKind.COMPENSATION_FAILED,
    EntryKind.COMPENSATION_SKIPPED,
)
_AFTER_THE_END = (
    EntryKind.RETRY_REQUESTED,
    EntryKind.COMPENSATION_REQUESTED,
    EntryKind.REVIVED,
    EntryKind.COMMAND_IGNORED,
    EntryKind.DEADLINE,
)
