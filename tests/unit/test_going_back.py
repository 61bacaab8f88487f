"""However often a saga goes back or gets another input, all that was done is undone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core import FixedRetry, SagaDefinition, SagaStateError, SagaStatus
from saga_core.decide import decide
from saga_core.happening import (
    Compensated,
    CompensationFailed,
    CompensationRequested,
    Decision,
    EditRequested,
    Failure,
    Happened,
    Mapped,
    Operator,
    PauseRequested,
    ResumeRequested,
    ReturnRequested,
    StepDone,
    StepFailed,
    Unmappable,
)
from saga_core.outputs import Outputs, thing_of
from saga_core.pausing import read_pause
from saga_core.records import SagaState
from saga_core.status import Direction, EntryKind
from saga_core.timing import AT_START
from tests.behaviour.cast import Story, definition

BY = Operator("ann", "because")
NO = Failure("E: no", "E")


@st.composite
def definitions(draw: st.DrawFn) -> SagaDefinition:
    story = Story()
    kinds = draw(st.lists(st.sampled_from(["step", "final", "uncertain"]), min_size=1, max_size=5))
    return definition(
        *(getattr(story, kind)() for kind in kinds),
        retry_policy=FixedRetry(max_attempts=9, delay=timedelta(seconds=5)),
        compensation_retry_policy=FixedRetry(max_attempts=9, delay=timedelta(seconds=5)),
    )


@dataclass
class Life:
    """One saga and, beside it, what the outside world has seen."""

    made: SagaDefinition
    state: SagaState
    outputs: Outputs = field(default_factory=Outputs)
    serial: int = 0
    done: list[tuple[str, str]] = field(default_factory=list)
    """Step and output of what was done and can be undone, oldest first."""
    undone: list[tuple[str, str]] = field(default_factory=list)
    used: set[tuple[str, int]] = field(default_factory=set)
    """Step and generation of what was done."""
    undoing: set[tuple[str, int]] = field(default_factory=set)

    def happens(self, happened: Happened) -> Decision:
        decision = decide(self.made, self.state, self.outputs, happened)
        self.outputs.hear(decision.history)
        self.state = decision.state
        return decision

    def does(self) -> None:
        """Do the current step."""
        state, step_id = self.state, self.state.step_id or ""
        assert (step_id, state.generation) not in self.used, "a key is used for one thing"
        self.used.add((step_id, state.generation))
        self.serial += 1
        output = str(self.serial)
        if self.made.step(step_id).can_compensate:
            self.done.append((step_id, output))
        last = state.step_index + 1 == len(self.made.steps)
        following = None if last else Mapped(f'"{self.serial}"')
        self.happens(StepDone(state.step_input, output, uuid4(), following))

    def undoes(self) -> None:
        """Undo the current thing."""
        step_id = self.state.step_id or ""
        assert (step_id, self.state.generation) not in self.undoing, "each is undone by its own key"
        self.undoing.add((step_id, self.state.generation))
        thing = thing_of(self.outputs, self.state)
        if not thing.maybe:
            self.undone.append((step_id, thing.output))
        self.happens(Compensated(uuid4()))

    def ask(self, data: st.DataObject) -> Happened:
        steps = [spec.step_id for spec in self.made.steps]
        text = data.draw(st.sampled_from(['"a"', '"b"']))
        mapped = data.draw(st.sampled_from([Mapped(text), Unmappable(NO), None]))
        step_id = data.draw(st.sampled_from(steps))
        at = data.draw(st.sampled_from([self.state.step_id or "", *steps]))
        return data.draw(
            st.sampled_from(
                [
                    ReturnRequested(BY, step_id, Mapped(text), uuid4()),
                    ReturnRequested(BY, step_id, mapped, uuid4()),
                    EditRequested(BY, at, text, uuid4(), None),
                    CompensationRequested(BY, uuid4(), "cancel"),
                ]
            )
        )


@settings(max_examples=300, deadline=None)
@given(made=definitions(), data=st.data())
def test_all_that_was_done_is_undone_newest_first(
    made: SagaDefinition, data: st.DataObject
) -> None:
    first = made.steps[0].step_id
    life = Life(made, SagaState(status=SagaStatus.RUNNING, step_id=first, step_input="1"))
    for _ in range(40):
        if life.state.status.is_terminal:
            break
        rollback = life.state.direction is Direction.ROLLBACK
        if data.draw(st.integers(0, 3)) == 0:
            before = life.state
            try:
                life.happens(life.ask(data))
            except SagaStateError:
                assert life.state == before
        elif rollback and data.draw(st.booleans()):
            life.happens(CompensationFailed(NO, 0.5))
        elif rollback:
            life.undoes()
        elif data.draw(st.integers(0, 2)):
            life.does()
        else:
            life.happens(StepFailed(NO, uuid4(), 0.5))
    while life.state.direction is Direction.ROLLBACK and not life.state.status.is_terminal:
        if life.state.status is SagaStatus.STUCK:
            return
        life.undoes()
    if life.state.status is SagaStatus.COMPENSATED:
        assert life.undone == life.done[::-1]


def running(step: int, made: SagaDefinition, **changes: object) -> SagaState:
    spec = made.steps[step]
    state = SagaState(
        status=SagaStatus.RUNNING, step_id=spec.step_id, step_index=step, step_input="1"
    )
    return replace(state, **changes)  # type: ignore[arg-type]


def test_new_input_is_for_the_step_that_it_was_made_for() -> None:
    made = definition(Story().step(), Story().step())
    with pytest.raises(SagaStateError, match=r"has come to step 'step_1'; .* for step 'step_0'"):
        decide(made, running(1, made), {}, EditRequested(BY, "step_0", "2", uuid4(), None))


def test_same_input_leaves_nothing_behind() -> None:
    made = definition(Story().uncertain())
    same = decide(made, running(0, made), {}, EditRequested(BY, "step_0", "1", uuid4(), None))
    assert [entry.kind for entry in same.history] == [EntryKind.INPUT_EDITED]
    assert same.state.generation == 0
    other = decide(made, running(0, made), {}, EditRequested(BY, "step_0", "2", uuid4(), None))
    assert [entry.kind for entry in other.history] == [
        EntryKind.MAYBE_DONE,
        EntryKind.VOIDED,
        EntryKind.INPUT_EDITED,
    ]
    assert other.state.generation == 1


def test_saga_that_has_not_begun_can_have_done_nothing() -> None:
    made = definition(Story().uncertain())
    ahead = running(0, made, status=SagaStatus.SUSPENDED, waiting_for=AT_START)
    edited = decide(made, ahead, {}, EditRequested(BY, "step_0", "2", uuid4(), None))
    assert [entry.kind for entry in edited.history] == [EntryKind.INPUT_EDITED]
    assert (edited.state.waiting_for, edited.drive) == (AT_START, False)


def test_edited_saga_that_is_paused_enters_its_step_from_the_beginning() -> None:
    made = definition(Story().step())
    waits = running(0, made, status=SagaStatus.SUSPENDED, waiting_for="event:Paid")
    paused = decide(made, waits, {}, PauseRequested(BY, None)).state
    edited = decide(made, paused, {}, EditRequested(BY, "step_0", "2", uuid4(), None))
    assert (edited.state.is_paused, edited.drive, edited.due) == (True, False, None)
    pause = read_pause(edited.history[-1], None)
    resumed = decide(made, edited.state, {}, ResumeRequested(BY, pause))
    assert (resumed.state.status, resumed.state.waiting_for) == (SagaStatus.RUNNING, None)
    assert resumed.drive


def test_map_that_raises_keeps_the_saga_where_it_is() -> None:
    made = definition(Story().step(), Story().step())
    outputs = Outputs()
    outputs.hear(
        decide(made, running(0, made), outputs, StepDone("1", "2", uuid4(), Mapped("2"))).history
    )
    asked = ReturnRequested(BY, "step_0", Unmappable(NO), uuid4())
    with pytest.raises(SagaStateError, match=r"retry_from: the saga is RUNNING; .* E: no"):
        decide(made, running(1, made), outputs, asked)


def test_saga_that_was_upcast_does_not_go_back() -> None:
    made = definition(Story().step(), Story().step())
    outputs = Outputs()
    outputs.hear(
        decide(made, running(0, made), outputs, StepDone("1", "2", uuid4(), Mapped("2"))).history
    )
    asked = ReturnRequested(BY, "step_0", Mapped("1"), uuid4(), upcast=True)
    with pytest.raises(SagaStateError, match=r"retry_from: .* another version"):
        decide(made, running(1, made), outputs, asked)
