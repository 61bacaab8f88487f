"""Random lives of random parallel sagas, without a store: the rules hold whatever happens."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core import SagaDefinition, SagaStateError, SagaStatus
from saga_core.branches import ParallelOutputs, ready_steps
from saga_core.decide import decide
from saga_core.happening import (
    Begin,
    BranchesBegin,
    BranchesRest,
    BranchLeft,
    Compensated,
    CompensationFailed,
    CompensationRequested,
    CompensationSkipRequested,
    Decision,
    Failure,
    Happened,
    InBranch,
    Mapped,
    Operator,
    Probed,
    RetryRequested,
    SkipRequested,
    Started,
    StepDone,
    StepFailed,
    Unmappable,
    Waits,
    Woken,
)
from saga_core.records import DUE_NOW, Due, HistoryEntry, NewEntry, SagaState
from saga_core.resting import Rest
from saga_core.status import Direction, EntryKind
from tests.behaviour.branches import parallel
from tests.behaviour.cast import Story, retry

NOW = datetime(2030, 1, 1, tzinfo=UTC)
BY = Operator(actor="ann", reason="because")
FINAL = Failure("E: no", "E", retryable=False)
AGAIN = Failure("E: busy", "E", retryable=True)
LOST = Failure("E: odd", "E", retryable=False, unrecordable=True)
REST = Rest(events=("Paid",))


@st.composite
def definitions(draw: st.DrawFn) -> SagaDefinition:
    count = draw(st.integers(1, 6))
    names = [f"s{number}" for number in range(count)]
    story = Story()
    kinds = {"plain": story.step, "final": story.final, "unsure": story.uncertain}
    pivot = draw(st.none() | st.sampled_from(names))
    needs = {
        name: draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else []
        for at, name in enumerate(names)
    }
    behind = {pivot}
    for name in names:
        if behind & set(needs[name]):
            behind.add(name)
    steps = {
        name: kinds[
            draw(st.sampled_from(["plain", "final", "plain" if name in behind else "unsure"]))
        ]()
        for name in names
    }
    return parallel(
        steps,
        needs,
        options={} if pivot is None else {pivot: {"pivot": True}},
        retry_policy=retry(2),
        compensation_retry_policy=retry(2),
        compensate_on_failure=draw(st.booleans()),
        on_branch_failure=draw(st.sampled_from(["finish", "cancel"])),
    )


class Life:
    """One saga with all its history, judged after each decision."""

    def __init__(self, made: SagaDefinition) -> None:
        self.made = made
        self.outputs = ParallelOutputs(clock=lambda: NOW)
        self.history: list[NewEntry] = []
        self.busy: set[str] = set()
        self.undone: list[str] = []
        blank = SagaState(status=SagaStatus.RUNNING)
        self.take(decide(made, blank, {}, Started(Mapped("1"), uuid4())))

    def hear(self, happened: Happened) -> None:
        self.take(decide(self.made, self.state, self.outputs, happened))

    def take(self, decision: Decision) -> None:
        self.state, self.drive, self.due = decision.state, decision.drive, decision.due
        self.history += decision.history
        for entry in decision.history:
            if entry.kind is EntryKind.COMPENSATED:
                self._judge_undo(entry.step_id or "")
        self.outputs.hear(decision.history)
        self._judge()

    def _judge_undo(self, step_id: str) -> None:
        self.undone.append(step_id)
        assert self.undone.count(step_id) == 1, "undone twice"
        done = [each for each, recorded in self.outputs.items() if recorded.input is not None]
        for dependent in _after(self.made, step_id):
            spec = self.made.step(dependent)
            undoable = dependent in done and spec.can_compensate
            assert not undoable or dependent in self.outputs.undone, "undone before a dependent"

    def _judge(self) -> None:
        state, branches = self.state, self.outputs.branches
        stored = [_stored(entry, at) for at, entry in enumerate(self.history, start=1)]
        again = ParallelOutputs(entry for entry in stored if entry.output is not None)
        assert dict(again) == dict(self.outputs)
        assert {each: branch.state for each, branch in again.branches.items()} == {
            each: branch.state for each, branch in branches.items()
        }, "the history does not tell where the branches stand"
        assert again.undone == self.outputs.undone
        if state.status is SagaStatus.COMPLETED:
            assert len(self.outputs) == len(self.made.steps)
        if state.status is SagaStatus.COMPENSATED:
            left = [
                each
                for each, recorded in self.outputs.items()
                if recorded.input is not None and self.made.step(each).can_compensate
            ]
            undone = self.outputs.undone
            assert set(left) <= undone
            # A step that was left, and not done, may be told to have nothing to undo.
            assert not (undone - set(left)) & self.outputs.keys()
        if state.direction is Direction.ROLLBACK:
            assert not self.made.is_past_pivot(self.outputs), "turned back past the pivot"
        if state.status in (SagaStatus.SUSPENDED, SagaStatus.COMPENSATING) and not self.drive:
            assert self.due is not None or state.waiting_for is not None, "stranded"
        for branch in branches.values():
            assert branch.state.direction is state.direction or state.status.is_terminal

    def begin(self, mapped: Any) -> bool:
        forward = self.state.direction is Direction.FORWARD
        failing = any(branch.is_given_up for branch in self.outputs.branches.values())
        ready = ready_steps(self.made, self.outputs) if forward and not failing else []
        if ready:
            self.hear(BranchesBegin(tuple(Begin(each, mapped, uuid4()) for each in ready)))
        return bool(ready)


def _stored(entry: NewEntry, seq: int) -> HistoryEntry:
    return entry.as_entry(seq=seq, version=seq, at=NOW)


def _after(made: SagaDefinition, step_id: str) -> set[str]:
    found: set[str] = set()
    ahead: list[str] = [step_id]
    while ahead:
        for each in made.dependents[ahead.pop()]:
            if each not in found:
                found.add(each)
                ahead.append(each)
    return found


def outcomes(life: Life, step_id: str) -> list[Happened]:
    """Return what can happen next in a step whose code runs."""
    state = life.outputs.branches[step_id].state
    wait = Waits(REST.encode(), REST.waiting_for, None, False)
    nap = Waits(Rest(timeout=timedelta(hours=1)).encode(), "sleep", Due(delay=timedelta(1)), False)
    if state.direction is Direction.ROLLBACK:
        found: list[Happened] = [
            Compensated(uuid4()),
            CompensationFailed(AGAIN, 0.0),
            CompensationFailed(FINAL, 0.0),
            wait,
        ]
        if life.outputs[step_id].maybe:
            found += [Probed(None, uuid4()), Probed("5", uuid4())]
        return found
    done = StepDone(state.step_input, "2", uuid4(), None)
    failing = any(branch.is_given_up for branch in life.outputs.branches.values())
    cut: list[Happened] = [BranchLeft()] if failing else []
    return [
        done,
        done,
        done,
        StepFailed(AGAIN, uuid4(), 0.0),
        StepFailed(FINAL, uuid4(), 0.0),
        StepFailed(LOST, uuid4(), 0.0),
        wait,
        nap,
        *cut,
    ]


@settings(max_examples=300, deadline=None)
@given(definitions(), st.data())
def test_whatever_happens_the_rules_hold(made: SagaDefinition, data: st.DataObject) -> None:
    life = Life(made)
    for _ in range(80):
        if life.state.status in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED):
            return
        if life.state.status in (SagaStatus.STUCK, SagaStatus.FAILED):
            if not ordered(life, data):
                return
            continue
        mapped = Unmappable(FINAL) if data.draw(st.integers(0, 9)) == 9 else Mapped("1")
        if life.drive and not life.busy and life.begin(mapped):
            continue
        branches = life.outputs.branches
        can_run = [each for each, branch in branches.items() if branch.drive or branch.rests]
        startable = [each for each in can_run if each not in life.busy]
        if startable and (not life.busy or data.draw(st.booleans())):
            life.busy.add(data.draw(st.sampled_from(sorted(startable))))
            continue
        if not life.busy:
            life.hear(BranchesRest())
            assert not life.drive, "it is driven and there is nothing to do"
            return
        step_id = data.draw(st.sampled_from(sorted(life.busy)))
        life.busy.discard(step_id)
        what = data.draw(st.sampled_from(outcomes(life, step_id)))
        life.hear(InBranch(step_id, what, frozenset(life.busy)))


def ordered(life: Life, data: st.DataObject) -> bool:
    """Let a person do something about a saga that is STUCK or FAILED."""
    branches = sorted(life.outputs.branches)
    back = life.state.direction is Direction.ROLLBACK
    begins = tuple(Begin(each, Mapped("1"), uuid4()) for each in branches)
    commands: list[Happened] = [
        RetryRequested(BY, uuid4(), None, begins=begins),
        CompensationRequested(BY, uuid4()),
    ]
    for each in branches:
        commands.append(RetryRequested(BY, uuid4(), None, step_id=each, begins=begins))
        if back:
            commands.append(CompensationSkipRequested(BY, each, uuid4()))
        else:
            commands.append(InBranch(each, SkipRequested(BY, "7", uuid4(), None)))
    try:
        life.hear(data.draw(st.sampled_from(commands)))
    except SagaStateError:
        return False
    return True


def test_a_branch_is_kept_to_the_letter() -> None:
    made = parallel({"a": Story().step()})
    life = Life(made)
    life.begin(Mapped('{"n":1}'))
    life.hear(InBranch("a", Waits(REST.encode(), REST.waiting_for, Due(delay=timedelta(1)), False)))
    branch = life.outputs.branches["a"]
    assert branch.rests
    assert branch.due_at == NOW + timedelta(1)
    assert (life.state.status, life.state.waiting_for) == (SagaStatus.SUSPENDED, "event:Paid")
    assert life.due == Due(delay=timedelta(1))
    life.hear(InBranch("a", Woken()))
    assert life.outputs.branches["a"].drive
    assert life.due == DUE_NOW


def test_entries_twice_change_nothing() -> None:
    made = parallel({"a": Story().step(), "b": Story().step()})
    life = Life(made)
    life.begin(Mapped("1"))
    token: UUID | None = life.outputs.branches["a"].state.token
    entries: Iterable[NewEntry] = list(life.history)
    life.outputs.hear(entries)
    assert life.outputs.branches["a"].state.token == token
    assert set(life.outputs.branches) == {"a", "b"}
