"""Where the steps of a parallel saga stand by its history alone: each has a lane of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from saga_core.records import SagaState, Transition
from saga_core.status import Direction, EntryKind, SagaStatus
from tests.campaign.cast import FIRST
from tests.campaign.ledger import Began
from tests.campaign.plan import Act, SagaPlan, StepPlan
from tests.campaign.standing import SLACK
from tests.campaign.waits import Came, Wait

__all__ = ["Lane", "Lanes"]


@dataclass(slots=True)
class Lane:
    """One step."""

    number: int
    plan: StepPlan
    begun: bool = False
    done: bool = False
    given: str | None = None
    """Its input. None for one that was skipped before it had any, and one that has none."""
    serial: int | None = None
    maybe: bool = False
    """Whether nobody knows whether it was done, and the rollback minds."""
    undone: bool = False
    failed: int = 0
    """Failed attempts, in the direction of the saga."""
    given_up: bool = False
    left: bool = False
    """Whether another's failure has stopped it."""
    stuck: bool = False
    edited: int | None = None
    run: int = 0
    token: str | None = None
    until: timedelta | None = None
    """When it may go on, if it waits for a time."""
    waits: list[Wait] = field(default_factory=list)
    running: set[int] = field(default_factory=set)
    """The serials of its executions that have not ended, by whoever drives the saga."""
    events: tuple[object, ...] = ()
    """With which it was entered last."""
    brought: str | None = None
    """What `notify` has brought it last, in time by the clock of whoever did."""
    had: tuple[object, ...] = ()
    """All events with which it was ever entered."""
    changed: bool = False
    """Whether the commit at hand has changed where it stands, and not said so yet."""

    @property
    def is_open(self) -> bool:
        return self.begun and not self.done

    @property
    def is_over(self) -> bool:
        """Whether it is not to go on by itself."""
        return self.given_up or self.left or self.stuck

    @property
    def is_owed(self) -> bool:
        """Whether a rollback has to undo it, or to ask."""
        was_done = (self.done and self.given is not None) or self.maybe
        return was_done and self.plan.undo is not None and not self.undone

    def start_anew(self) -> None:
        self.failed = 0
        self.given_up = self.left = self.stuck = False
        self.go_on()

    def go_on(self) -> None:
        self.until = None
        self.waits = []
        self.events = ()
        self.brought = None


class Lanes:
    """All lanes. The rules that move them are in the class below this one."""

    def __init__(self, plan: SagaPlan) -> None:
        self.plan = plan
        self.lanes = [Lane(number, step) for number, step in enumerate(plan.steps)]
        self.asked: dict[int, str] = {}
        self.asked_for: dict[int, int] = {}
        self.rolling = False
        self.paused = False
        self.dated = self.vague = False
        """Whether a pause names a time of day, which does not move with the saga, and whether the
        commit at hand has taken that up again."""
        self.ahead = False
        self.aborted = False
        self.was_failing = False
        """Whether a step had failed for good before the commit at hand."""
        self.ended = False
        self.moves = False
        """Whether the commit that is judged lets a saga that was stuck move again."""
        self.reopens = False
        """Whether a person lets what rests or is stuck of the rollback go on."""
        self.convicted = False
        """Whether it is stuck because its drivers were lost."""
        self.suspicions = 0
        self.takeovers = 0
        self.begins_at: timedelta | None = None
        self.deadline: timedelta | None = None
        self.earliest = self.latest = timedelta(0)
        self.inbox: list[Came] = []
        self.heard = 0
        self.last: SagaState | None = None

    # --- what is so -----------------------------------------------------------------------------

    @property
    def status(self) -> SagaStatus:
        return SagaStatus.RUNNING if self.last is None else self.last.status

    def lane_of(self, step_id: str | None) -> Lane | None:
        """Return the lane of a step, None for what is none."""
        prefix, _, number = (step_id or "").partition("_")
        exists = prefix == "step" and number.isdigit() and int(number) < len(self.lanes)
        return self.lanes[int(number)] if exists else None

    @property
    def is_busy(self) -> bool:
        """Whether a step runs."""
        return any(lane.running for lane in self.lanes)

    @property
    def is_failing(self) -> bool:
        return any(lane.given_up for lane in self.lanes)

    @property
    def is_past_pivot(self) -> bool:
        return any(lane.plan.pivot and lane.done for lane in self.lanes)

    @property
    def has_begun(self) -> bool:
        """Whether there is anything that a rollback could undo."""
        return any(lane.done or (lane.begun and lane.plan.maybe) for lane in self.lanes)

    def is_ready(self, lane: Lane) -> bool:
        return all(self.lanes[each].done for each in lane.plan.depends)

    def input_of(self, lane: Lane) -> int:
        """Return what a step's input says, by what is on record."""
        if lane.edited is not None:
            return lane.edited
        if not lane.plan.depends:
            return FIRST
        return sum(self.lanes[each].serial or 0 for each in lane.plan.depends)

    def blockers(self, lane: Lane) -> list[int]:
        """Return the steps that must be undone before this one."""
        found: set[int] = set()
        for other in self.lanes[lane.number + 1 :]:
            if any(each == lane.number or each in found for each in other.plan.depends):
                found.add(other.number)
        return [number for number in sorted(found) if self.lanes[number].is_owed]

    def next_act(self, lane: Lane) -> Act:
        if not self.rolling:
            return Act.DO
        return Act.PROBE if lane.maybe and lane.plan.probe is not None else Act.UNDO

    def work_of(self, began: Began) -> tuple[object, ...]:
        """Return what must have one idempotency key, and no other work that one."""
        act = Act.DO if began.act is Act.PROBE else began.act
        return (began.step, act, self.lanes[began.step].run)

    def token_of(self, began: Began, state: SagaState) -> object:
        """Return the token that a step must be shown."""
        token = self.lanes[began.step].token
        return None if token is None else UUID(token)

    # --- executions -----------------------------------------------------------------------------

    def begins(self, began: Began) -> Iterator[str]:
        """Judge a step that its rightful driver entered."""
        what, lane = began.what, self.lanes[began.step]
        if lane.running:
            yield f"{what} ran while the same step was running"
        lane.running.add(began.serial)
        if self.status.is_terminal or self.status is SagaStatus.STUCK:
            yield f"{what} ran although the saga was {self.status}"
        if self.paused:
            yield f"{what} ran although the saga was paused"
        if began.act is Act.DO and self.rolling:
            yield f"{what} ran forward after the rollback had begun"
            return
        if began.act is not self.next_act(lane):
            yield f"{what} ran, but {self.next_act(lane)} {lane.number} was next"
            return
        if began.context.attempt != lane.failed + 1:
            yield f"{what} was told attempt {began.context.attempt} instead of {lane.failed + 1}"
        if lane.is_over:
            yield f"{what} ran although it was given up"
        if lane.until is not None and not lane.waits and self.latest < lane.until - SLACK:
            yield f"{what} ran at {self.latest}, its next attempt was due at {lane.until}"
        if began.act is Act.DO:
            yield from self._forward(began, lane)
        else:
            yield from self._backward(began, lane)
        yield from self._shown(began, lane)
        lane.events = began.context.events
        lane.had += lane.events

    def ends(self, serial: int) -> None:
        """Follow an execution to its end."""
        for lane in self.lanes:
            lane.running.discard(serial)

    def changes_hands(self) -> None:
        """Forget what is running: nobody minds what a former driver still does."""
        for lane in self.lanes:
            lane.running.clear()

    def _forward(self, began: Began, lane: Lane) -> Iterator[str]:
        what = began.what
        if not lane.is_open:
            yield f"{what} ran, but it was not begun, or done"
        missing = [each for each in lane.plan.depends if not self.lanes[each].done]
        if missing:
            yield f"{what} ran before the steps {missing} were done, on which it depends"
        if began.after != self.input_of(lane):
            yield f"{what} was given {began.after} instead of {self.input_of(lane)}"
        late = self.deadline is not None and self.earliest >= self.deadline
        if late and not self.is_past_pivot:
            yield f"{what} ran although the saga's deadline had passed"
        cancels = self.plan.cancels and self.is_failing and not lane.plan.pivot
        if cancels and not self.is_past_pivot:
            yield f"{what} ran although another step had failed, which was to cancel it"

    def _backward(self, began: Began, lane: Lane) -> Iterator[str]:
        what = began.what
        if not lane.is_owed:
            yield f"{what} ran, but there is nothing to undo"
        if blockers := self.blockers(lane):
            yield f"{what} ran before the steps {blockers} were undone, which depend on it"
        out = None if lane.maybe else lane.serial
        if began.out != out:
            yield f"{what} was given output {began.out} instead of {out}"
        if json.loads(lane.given or "{}").get("after", 0) != began.after:
            yield f"{what} was given another input than the one on record"

    def _shown(self, began: Began, lane: Lane) -> Iterator[str]:
        """Judge what a step is shown that is entered after its waits."""
        what, context = began.what, began.context
        if context.waits != len(lane.waits):
            yield f"{what} was told of {context.waits} waits, it has waited {len(lane.waits)} times"
            return
        if not lane.waits:
            return
        wait = lane.waits[-1]
        if wait.is_sleep:
            if wait.ends is not None and self.latest < wait.ends - SLACK:
                yield f"{what} was entered at {self.latest}, but sleeps until {wait.ends}"
            return
        late = self.latest - self.earliest
        fits = [
            came.event
            for came in self.inbox
            if wait.fits(came, late=late) or came.text == lane.brought
        ]
        if context.event not in fits:
            yield f"{what} was entered with {context.event}, but what it waits for has not come"
        for other in self.lanes:
            if other is not lane and other.running and context.event in other.events:
                yield f"{what} was given an event that step_{other.number} was given too"

    # --- what is used up ------------------------------------------------------------------------

    def uses(self, change: Transition) -> Iterator[str]:
        """Judge, before its entries are followed, which events a commit uses up."""
        ends = (EntryKind.COMPLETED, EntryKind.COMPENSATED)
        over = [self.lane_of(each.step_id) for each in change.history if each.kind in ends]
        given = [event for lane in over if lane is not None for event in lane.events]
        for came in self.inbox:
            used = came.event_id in change.consumed
            if came.event in given and not used:
                yield f"{came.event_id} was given to a step that is over, and not used up"
            if used and not any(came.event in lane.had for lane in self.lanes):
                yield f"{came.event_id} was used up, but given to no step"

    def is_early(self, began: Began) -> bool:
        return False

    def fits(self, state: SagaState) -> Iterator[str]:
        """Compare a state that was committed with where the history leaves the saga."""
        self.last = state
        self.reopens = self.moves = False
        self.was_failing = self.is_failing
        self.ended = state.status.is_terminal
        rolls = state.direction is Direction.ROLLBACK
        if rolls:
            yield from self.turn()
        if rolls is not self.rolling:
            yield f"the saga was left in the lane {state.direction.name}, rolling={self.rolling}"
        if state.active is state.status.is_terminal:
            yield f"a saga that is {state.status} was left active={state.active}"
        if self.paused is not (state.waiting_for == "resume"):
            yield f"the saga was left waiting for {state.waiting_for}, but paused={self.paused}"
        for lane in self.lanes:
            if lane.changed and lane.is_open and not self.rolling and not self.aborted:
                yield f"where step_{lane.number} stands was not recorded"
            lane.changed = False
        wanted = self._wanted()
        if state.status not in wanted:
            yield f"the saga was left {state.status}; by its history it is {wanted[0]}"

    def turn(self) -> Iterator[str]:
        """Let the rollback begin, if it has not."""
        if self.rolling:
            return
        self.rolling = True
        if running := [lane.number for lane in self.lanes if lane.running]:
            yield f"the rollback began while the steps {running} were running"
        for lane in self.lanes:
            started = lane.is_open and lane.given is not None
            if started and lane.plan.maybe and not lane.maybe:
                yield f"step {lane.number} may have been done, and the rollback passed it over"
            lane.start_anew()

    def _wanted(self) -> tuple[SagaStatus, ...]:
        """Return what the saga may be, the likeliest first."""
        if self.aborted:
            return (SagaStatus.FAILED,)
        if self.convicted:
            return (SagaStatus.STUCK,)
        stuck = any(lane.stuck for lane in self.lanes)
        if self.rolling:
            owed = [lane for lane in self.lanes if lane.is_owed]
            if not owed:
                return (SagaStatus.COMPENSATED,)
            free = [lane for lane in owed if not self.blockers(lane)]
            moves = any(not lane.is_over for lane in free)
            return (SagaStatus.COMPENSATING if moves or self.paused else SagaStatus.STUCK,)
        moving = (SagaStatus.RUNNING, SagaStatus.SUSPENDED)
        if self.paused or (self.ahead and not self.is_failing):
            return moving
        if all(lane.done for lane in self.lanes):
            return (SagaStatus.COMPLETED,)
        opened = [lane for lane in self.lanes if lane.is_open]
        goes_on = any(not lane.is_over for lane in opened)
        if self.is_failing and not self.is_past_pivot:
            rests = SagaStatus.STUCK if self.plan.compensates else SagaStatus.FAILED
            runs = [lane for lane in opened if lane.until is None and not lane.waits]
            if any(not lane.is_over for lane in runs):
                return (SagaStatus.RUNNING,)
            return (rests, SagaStatus.RUNNING) if goes_on else (rests,)
        ready = [lane for lane in self.lanes if not lane.begun and self.is_ready(lane)]
        if goes_on or ready:
            return moving
        return (SagaStatus.STUCK,) if stuck or self.is_failing else moving

    def rests(self, due: timedelta | None, *, woken: bool) -> Iterator[str]:
        """Judge when a saga that nobody drives is looked at again."""
        if self.paused or self.ahead or self.last is None or self.last.status.is_terminal:
            return
        vague, self.vague = self.vague, False
        if self.last.status is SagaStatus.STUCK or vague:
            return
        late = self.latest - self.earliest
        ends = [
            end
            for lane in self.lanes
            for end in (lane.waits[-1].ends if lane.waits else lane.until,)
            if end is not None and not lane.is_over and (lane.is_open or self.rolling)
        ]
        if ends and (due is None or due > max(min(ends) + late, self.latest) + SLACK):
            yield f"the saga rests until {due}, although {min(ends)} ends a step's wait"
