"""Where a saga stands by its history alone, and how that compares with what was committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from saga_core.records import NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus
from tests.campaign.ledger import Began
from tests.campaign.plan import Act, Outcome, SagaPlan, StepPlan
from tests.campaign.waits import Came, Wait

__all__ = ["Execution", "Standing", "Thing", "serial_of", "slip_of"]


SLACK = timedelta(minutes=5)
"""What a world may last; all that it waits for lasts longer."""


class Execution:
    """One time that a step, its compensation or its probe ran."""

    def __init__(self, began: Began) -> None:
        self.began = began
        self.outcome: Outcome | None = None
        self.used = False
        """Whether an entry of the history is about it."""


@dataclass(slots=True)
class Thing:
    """One time that a step was done, or may have been."""

    step: int
    given: str | None
    """None for a step that was skipped, of which nothing is to be undone."""
    serial: int | None
    """None as long as nobody knows whether it was done."""
    run: int
    undone: bool = False


class Standing:
    """Where the saga stands. The rules that move it are in the classes below this one."""

    def __init__(self, plan: SagaPlan) -> None:
        self.plan = plan
        self.position = 0
        self.failed = 0
        """Failed attempts at the current position."""
        self.rolling = False
        self.waiting = False
        self.paused = False
        self.asked: dict[int, str] = {}
        """What each request was, by its number."""
        self.asked_for: dict[int, int] = {}
        """For which step, if it named one."""
        self.rest: SagaStatus | None = None
        self.event = 0
        """The latest event."""
        self.done: dict[int, tuple[str | None, int]] = {}
        """By step: its input, and the serial in its output, as maps see it."""
        self.things: list[Thing] = []
        """All that was done, oldest first, also what counts no more."""
        self.run = 0
        """How often a person made the saga do other work than before."""
        self.left: int | None = None
        """A step that a command is about to leave behind, although it may have been done."""
        self.voids: list[int] = []
        """The steps whose outputs are yet to be said to count no more, the next one last."""
        self.edited: dict[int, tuple[int, int]] = {}
        """By step: the input that a person gave it."""
        self.repaused = False
        """Whether an edit has just left the saga paused, which is to be told anew."""
        self.owed: int | None = None
        """A step that may have been done, as long as the history does not say so."""
        self.suspicions = 0
        self.takeovers = 0
        """Leases that ended under a driver since the last entry that was no suspicion."""
        self.earliest = timedelta(0)
        self.latest = timedelta(0)
        """Between which the clock is of whoever acts: he knows the time at which he last read."""
        self.waits: list[Wait] = []
        """What the current attempt has asked to wait for."""
        self.inbox: list[Came] = []
        """The events that no step had used, for whoever acts."""
        self.heard = 0
        """How many signals he must have looked at."""
        self.unsure = False
        """Whether it depends on what else he has looked at if the saga rests now."""
        self.ahead = False
        """Whether the saga was created to begin later, and has not."""
        self.dated = False
        """Whether the history names a time of day for it."""
        self.vague = False
        """Whether such a time is all that is known of when the wait is over."""
        self.until: timedelta | None = None
        """When a wait is over by itself."""
        self.put_off: dict[timedelta, timedelta] = {}
        """By when a rest ends: until when somebody has let it last who was late, and counted from
        the time that he knew."""
        self.deadline: timedelta | None = None
        """When forward work ends, all in all."""
        self.lifted = False
        self.overdue = False
        """Whether a person has asked for more forward work than the deadline allows."""

    # --- where it stands ------------------------------------------------------------------------

    @property
    def status(self) -> SagaStatus:
        if self.rest is not None:
            return self.rest
        if self.rolling:
            return SagaStatus.COMPENSATING
        return SagaStatus.SUSPENDED if self.waiting or self.paused else SagaStatus.RUNNING

    @property
    def undoing(self) -> Thing | None:
        """The newest thing that is to be undone, if the rollback has one left."""
        for thing in reversed(self.things):
            reversible = self.plan.steps[thing.step].undo is not None
            if reversible and thing.given is not None and not thing.undone:
                return thing
        return None

    @property
    def current(self) -> int | None:
        """The step to be done or undone next."""
        if self.rolling:
            undoing = None if self.undoing is None else self.undoing.step
            return undoing if self.owed is None else self.owed
        return self.position if self.position < len(self.plan.steps) else None

    @property
    def next_act(self) -> Act:
        """What is to be executed of the current step."""
        if not self.rolling:
            return Act.DO
        thing = self.undoing
        doubtful = self.owed is None and thing is not None and thing.serial is None
        return Act.PROBE if doubtful and self.step.probe is not None else Act.UNDO

    @property
    def step(self) -> StepPlan:
        return self.plan.steps[self.current or 0]

    @property
    def is_past_pivot(self) -> bool:
        return any(self.plan.steps[number].pivot for number in self.done)

    @property
    def is_begun(self) -> bool:
        """Whether the step that is to be done next may have been begun."""
        exists = self.position < len(self.plan.steps)
        return exists and not self.ahead and not self.is_unmappable

    @property
    def is_unmappable(self) -> bool:
        """Whether the step that is to be done next has no input, and will not get one."""
        return self.step.unmappable and self.position not in self.edited

    @property
    def is_reversible(self) -> bool:
        """Whether there is anything that a rollback could begin with."""
        return bool(self.things) or self.rolling or (self.is_begun and self.step.maybe)

    def fits(self, state: SagaState) -> Iterator[str]:
        """Compare a state that was committed with where the history leaves the saga."""
        if self.overdue:
            yield "the deadline has passed, and a person who went on did not lift it"
        if self.owed is not None:
            yield f"step {self.owed} may have been done, and the rollback passed it over"
        if self.left is not None or self.voids:
            yield f"what counts no more was not told in full: {self.left}, {self.voids}"
        if self.unsure:
            self.waiting = state.status is SagaStatus.SUSPENDED
            self.unsure = False
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
        if self.paused is not (state.waiting_for == "resume"):
            yield f"the saga was left waiting for {state.waiting_for}, but paused={self.paused}"
        word = "sleep" if self.waits and self.waits[-1].is_sleep else "event:"
        waits = self.waits and not self.paused
        if waits and not (state.waiting_for or "").startswith(word):
            yield f"the saga was left waiting for {state.waiting_for}, it awaits {word}"
        if state.attempt != self.failed:
            yield f"the saga was left with {state.attempt} failed attempts instead of {self.failed}"
        direction = Direction.ROLLBACK if self.rolling else Direction.FORWARD
        if state.direction is not direction:
            yield f"the saga was left in the lane {state.direction.name}"

    def rests(self, due: timedelta | None, *, woken: bool) -> Iterator[str]:
        """Judge when a saga that nobody drives is looked at again: at once only if `woken`."""
        if self.paused:
            if due is not None and not (woken and due <= self.latest):
                yield f"a paused saga rests only until {due}"
            return
        late = self.latest - self.earliest
        limit = self.limit
        ends = [time for time in (self.until, limit) if time is not None]
        if self.rest is not None or not (self.waiting or self.rolling):
            return
        if not ends:
            if self.waits and due is not None and not (woken and due <= self.latest):
                yield f"the saga rests until {due}, although only an event ends its wait"
            return
        lasts = [time + late for time in ends]
        end = min(ends)
        if due is None or due > max(min(lasts), self.latest, self.put_off.get(end, end)) + SLACK:
            yield f"the saga rests until {due}, although {end} ends its wait"
        elif due > end:
            self.put_off[end] = due
        elif not self.vague and due < end - SLACK and not (woken and due <= self.latest):
            yield f"the saga rests until {due}, although it waits until {end}"

    @property
    def limit(self) -> timedelta | None:
        """The deadline, where it stops the saga."""
        stops = not (self.rolling or self.paused or self.is_past_pivot)
        return self.deadline if stops else None

    # --- pieces of rules ------------------------------------------------------------------------

    def advance(self, entry: NewEntry) -> None:
        """Go on to the next step; `entry` has the output of the one before."""
        if self.position == len(self.plan.steps):
            return  # what is recorded after the end has been told
        serial = serial_of(entry)
        self.done[self.position] = (entry.input, serial)
        self.things.append(Thing(self.position, entry.input, serial, self.run))
        self.position += 1
        self.start_anew()
        self.rest = SagaStatus.COMPLETED if self.position == len(self.plan.steps) else None

    def roll_back(self) -> None:
        """Go on to the step that is undone next; at first that may be the one in doubt."""
        if not self.rolling and self.is_begun and self.step.maybe:
            self.owed = self.position
        self.rolling = True
        self.start_anew()
        self.rest = SagaStatus.COMPENSATED if self.current is None else None

    def start_anew(self) -> None:
        """Let what comes next begin with its first attempt."""
        self.failed = 0
        self.go_on()

    def go_on(self) -> None:
        """Let a wait be over, and a pause."""
        self.waiting = False
        self.paused = False
        self.ahead = False
        self.until = None
        self.dated = False
        self.vague = False
        self.waits = []

    def needs_forward(self, entry: NewEntry) -> Iterator[str]:
        if self.rolling:
            yield f"{entry.kind} was recorded after the rollback had begun"

    def needs_rollback(self, entry: NewEntry) -> Iterator[str]:
        if not self.rolling:
            yield f"{entry.kind} was recorded although no rollback had begun"

    def counted(self, entry: NewEntry, wanted: int) -> Iterator[str]:
        if entry.attempt != wanted:
            yield f"{entry.kind} was recorded as attempt {entry.attempt} instead of {wanted}"

    def backed(self, entry: NewEntry, last: Execution | None, *outcomes: Outcome) -> Iterator[str]:
        """Judge whether what is recorded has really happened, and once."""
        if last is None or last.used or last.outcome not in outcomes:
            yield f"{entry.kind} of {entry.step_id} was recorded, but nothing of the kind happened"
            return
        last.used = True
        began = last.began
        if f"step_{began.step}" != entry.step_id or began.act is not self.next_act:
            yield f"{entry.kind} of {entry.step_id} was recorded after {began.what} had run"
        if entry.kind is EntryKind.COMPLETED:
            if json.loads(entry.output or "{}").get("serial") != began.serial:
                yield "an output was recorded that the step did not put out"
            if slip_of(entry.input) != (began.after, began.event):
                yield "an input was recorded that the step was not given"


def serial_of(entry: NewEntry) -> int:
    """Return what an output says."""
    serial: int = json.loads(entry.output or '{"serial": 0}')["serial"]
    return serial


def slip_of(text: str | None) -> tuple[int, int]:
    """Return what an input says."""
    value = json.loads(text or "{}")
    return value.get("after", 0), value.get("event", 0)
