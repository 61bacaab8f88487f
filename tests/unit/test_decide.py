"""Random lives of random sagas: whatever happens, the rules hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core import FixedRetry, SagaDefinition, SagaStateError, SagaStatus
from saga_core.decide import decide
from saga_core.happening import (
    Aborted,
    Compensated,
    CompensationFailed,
    CompensationRequested,
    CompensationSkipRequested,
    DeadlinePassed,
    Decision,
    EventArrived,
    Failure,
    Happened,
    Mapped,
    NextInput,
    Operator,
    Pause,
    PauseRequested,
    Probed,
    Recorded,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    StartAhead,
    StartDue,
    Started,
    StepDone,
    StepFailed,
    Suspected,
    Undecodable,
    Unmappable,
    Waits,
    WaitsOn,
    Woken,
    WorkerLost,
)
from saga_core.outputs import Outputs, thing_of
from saga_core.pausing import read_pause
from saga_core.records import DUE_NOW, Due, SagaState
from saga_core.status import Direction, EntryKind
from tests.behaviour.cast import Story, definition

MOST_STEPS = 5
SOON = datetime(2030, 1, 1, tzinfo=UTC)
UNMAPPABLE = Unmappable(Failure("E: map", "E", retryable=False))
TOKEN = uuid4()
ABOUT_WAITS = {
    EntryKind.WAITING,
    EntryKind.WOKEN,
    EntryKind.EVENT,
    EntryKind.COMMAND_IGNORED,
    EntryKind.SUSPECTED,
    EntryKind.RESUMED,
}
TERMINAL = [status for status in SagaStatus if status.is_terminal]


@st.composite
def definitions(draw: st.DrawFn) -> SagaDefinition:
    story = Story()
    make = [
        story.step,
        story.final,
        story.uncertain,
        lambda: story.uncertain(probe=lambda *_: None),
    ]
    kinds = draw(st.lists(st.sampled_from(make), min_size=1, max_size=MOST_STEPS))
    pivot = draw(st.none() | st.integers(0, len(kinds) - 1))
    if pivot is not None:
        # What may have been done is undone, so it is neither the pivot nor after it.
        kinds = [*kinds[:pivot], *([story.step] * (len(kinds) - pivot))]
    return definition(
        *(kind() for kind in kinds),
        pivot=pivot,
        compensate_on_failure=draw(st.booleans()),
        retry_policy=FixedRetry(
            max_attempts=draw(st.integers(1, 3)),
            delay=timedelta(seconds=draw(st.sampled_from([0, 5]))),
        ),
        compensation_retry_policy=FixedRetry(
            max_attempts=draw(st.integers(1, 2)), delay=timedelta(seconds=5)
        ),
    )


@dataclass
class Life:
    """One saga, and what was seen of it."""

    made: SagaDefinition
    state: SagaState
    outputs: Outputs = field(default_factory=Outputs)
    undone: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    """Steps that a person left as they were, or that a probe did not find."""
    before: list[int] = field(default_factory=list)
    """Steps that may have been done with an input that an event has replaced."""
    told: list[EntryKind] = field(default_factory=list)
    pause: Pause | None = None

    def live_through(self, happened: Happened) -> None:
        before = self.state
        if isinstance(happened, StepDone | SkipRequested) and before.step_id is not None:
            self.outputs[before.step_id] = Recorded(before.step_input, happened.output)
        decision = decide(self.made, before, self.outputs, happened)
        if isinstance(happened, CompensationSkipRequested) or happened == Probed(None, TOKEN):
            self.left.append(before.step_index)
        self.keep(decision)
        self.before += [
            self.made.step(entry.step_id or "").index
            for entry in decision.history
            if entry.kind is EntryKind.VOIDED
        ]
        self.check(before, happened, decision)
        self.told = [entry.kind for entry in decision.history]
        for entry in decision.history:
            if entry.kind is EntryKind.PAUSED:
                self.pause = read_pause(entry, None)
        self.state = decision.state

    def keep(self, decision: Decision) -> None:
        self.outputs.hear(decision.history)

    def past_pivot(self) -> bool:
        return self.made.pivot is not None and self.made.pivot.step_id in self.outputs

    def check_turn(self, before: SagaState, decision: Decision) -> None:
        """Judge how a rollback begins."""
        kinds = [entry.kind for entry in decision.history]
        step_id = next(
            (each.step_id for each in decision.history if each.kind is EntryKind.FAILED),
            before.step_id,
        )
        spec = self.made.step(step_id or "")
        never_ran = UNMAPPABLE.failure.error in [each.error for each in decision.history]
        never_ran |= before.waiting_for == "start" and EntryKind.EVENT not in kinds
        if spec.undoes_maybe_done and not never_ran and before.step_input is not None:
            assert kinds[-1] is EntryKind.MAYBE_DONE
            assert decision.state.step_id == step_id
            assert self.outputs[spec.step_id].maybe
        else:
            assert EntryKind.MAYBE_DONE not in kinds
        assert not self.past_pivot(), "there is no way back"

    def check(self, before: SagaState, happened: Happened, decision: Decision) -> None:
        state = decision.state
        assert decision.history, happened
        assert state.active == (not state.status.is_terminal)
        assert (state.token is None) == state.status.is_terminal
        rests = state.status.is_terminal or state.status is SagaStatus.STUCK or state.is_paused
        assert not (state.is_paused and not state.active)
        waits = state.waiting_for == "event:Paid"
        assert (decision.due is None) == rests or (waits and not decision.drive)
        if waits:
            kinds = {entry.kind for entry in decision.history}
            assert kinds & ABOUT_WAITS, "an attempt that is over leaves no wait behind"
            assert (before.step_id, before.direction) == (state.step_id, state.direction)
        assert not (decision.drive and rests)
        if decision.drive or state.status is SagaStatus.SUSPENDED:
            assert state.step_id is not None
        if state.status is SagaStatus.SUSPENDED:
            begun = self.outputs or state.attempt
            assert not (begun and state.waiting_for == "start")
            assert state.direction is Direction.FORWARD
        if state.status is SagaStatus.COMPENSATING:
            assert state.direction is Direction.ROLLBACK
            assert thing_of(self.outputs, state).input is not None, "it was done"
            assert self.made.step(state.step_id or "").can_compensate
        turned = before.direction is not state.direction
        if turned:
            self.check_turn(before, decision)
        if before.direction is Direction.ROLLBACK:
            assert state.direction is Direction.ROLLBACK, "nothing forward after the rollback"
        if isinstance(happened, Compensated):
            self.undone.append(before.step_index)
            again = Counter(self.undone) - Counter(set(self.undone))
            assert self.undone == sorted(self.undone, reverse=True), "newest first"
            assert again <= Counter(self.before), "once"
        if state.status is SagaStatus.COMPENSATED:
            undoable = [
                spec.index
                for spec in self.made.steps
                if spec.step_id in self.outputs
                and self.outputs[spec.step_id].input is not None
                and spec.can_compensate
            ]
            assert Counter(self.undone) == Counter(undoable + self.before) - Counter(self.left)


def operator_requests(pause: Pause | None, at: SagaState) -> st.SearchStrategy[Happened]:
    by = Operator("ann", "because")
    requests: list[Happened] = [
        RetryRequested(by, uuid4(), None),
        RetryRequested(by, uuid4(), None, overdue=True),
        CompensationRequested(by, uuid4()),
        CompensationRequested(by, uuid4(), "cancel"),
        PauseRequested(by, DUE_NOW),
        PauseRequested(by, Due(delay=timedelta(seconds=5))),
        ResumeRequested(by, pause),
        ResumeRequested(by, pause),
        CompensationSkipRequested(by, at.step_id, uuid4(), at.generation),
        Aborted(by),
        SkipRequested(by, "{}", uuid4(), Mapped("{}")),
        EventArrived("{}", Mapped('{"new":1}'), uuid4()),
        EventArrived("{}", Unmappable(Failure("KeyError: x", "KeyError")), uuid4()),
    ]
    return st.sampled_from(requests)


def waits_of(life: Life) -> list[Happened]:
    if life.state.waiting_for == "event:Paid":
        return [WaitsOn(None), WaitsOn(Due(at=SOON)), Woken(), Woken("{}", uuid4())]
    return [
        Waits("{}", "event:Paid", due, answered)
        for due in (None, Due(at=SOON))
        for answered in (False, True)
    ]


def what_a_driver_meets(data: st.DataObject, life: Life) -> Happened:
    if life.state.direction is Direction.ROLLBACK:
        spec = life.made.step(life.state.step_id or "")
        asks = thing_of(life.outputs, life.state).maybe and spec.signature.probe
        if asks and life.state.waiting_for is None and data.draw(st.booleans()):
            return data.draw(st.sampled_from([Probed(None, TOKEN), Probed("{}", TOKEN)]))
        failed = Failure("E: no", "E", retryable=data.draw(st.booleans()))
        undoing: list[Happened] = [
            Compensated(uuid4()),
            CompensationFailed(failed, 0.5),
            Suspected(),
            *waits_of(life),
        ]
        return data.draw(st.sampled_from(undoing))
    last = life.state.step_index + 1 == len(life.made.steps)
    mapped: list[NextInput] = [Mapped("{}"), Mapped("{}"), UNMAPPABLE]
    following = None if last else data.draw(st.sampled_from(mapped))
    failure = Failure(
        "E: no", "E", retryable=data.draw(st.booleans()), unrecordable=data.draw(st.booleans())
    )
    late = DeadlinePassed(Failure("E: late", "E"), uuid4())
    if life.state.waiting_for == "start":
        return data.draw(st.sampled_from([StartAhead(SOON), StartDue(), late]))
    doing: list[Happened] = [
        StepDone(life.state.step_input, "{}", uuid4(), following),
        StepDone(life.state.step_input, "{}", uuid4(), following),
        StepFailed(failure, uuid4(), 0.5),
        Suspected(),
        WorkerLost(3),
        Undecodable(Failure("E: old", "E")),
        late,
        *waits_of(life),
    ]
    return data.draw(st.sampled_from(doing))


@settings(max_examples=300, deadline=None)
@given(made=definitions(), data=st.data())
def test_rules_hold_whatever_happens(made: SagaDefinition, data: st.DataObject) -> None:
    blank = SagaState(status=SagaStatus.RUNNING)
    later = data.draw(st.sampled_from([None, Due(at=SOON)]))
    begun = decide(made, blank, {}, Started(Mapped("{}"), uuid4(), later))
    life = Life(made, begun.state)
    for _ in range(25):
        resting = life.state.status in TERMINAL or life.state.is_paused
        if resting or data.draw(st.integers(0, 5)) == 0:
            before, kept = life.state, life.outputs.after(())
            request = data.draw(operator_requests(life.pause, before))
            last = before.step_index + 1 >= len(made.steps)
            if isinstance(request, SkipRequested) and last:
                request = SkipRequested(request.by, "{}", uuid4(), None)
            forward = before.direction is Direction.FORWARD
            if isinstance(request, RetryRequested) and forward and before.step_input is None:
                # Its map had failed, so it is computed again.
                computed: list[NextInput] = [Mapped("{}"), UNMAPPABLE]
                again = data.draw(st.sampled_from(computed))
                request = RetryRequested(request.by, uuid4(), again, request.overdue)
            try:
                life.live_through(request)
                if before.status.is_terminal:
                    assert before.status is SagaStatus.FAILED, "an end is final"
                    assert EntryKind.REVIVED in life.told, "a revival is on record"
            except SagaStateError as refused:
                life.outputs = kept
                assert life.state == before
                assert str(before.status) in str(refused)  # noqa: PT017 - refusing is optional
        elif life.state.status is not SagaStatus.STUCK:
            life.live_through(what_a_driver_meets(data, life))
    assert life.state.step_index <= len(made.steps)


def test_first_map_that_raises_ends_the_saga_before_it_begins() -> None:
    made = definition(Story().step())
    blank = SagaState(status=SagaStatus.RUNNING)
    broken = Unmappable(Failure("KeyError: 'x'", "KeyError", retryable=False))
    decision = decide(made, blank, {}, Started(broken, uuid4()))
    assert decision.state.status is SagaStatus.COMPENSATED
    assert not decision.drive
