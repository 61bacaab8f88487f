"""How a rollback begins, what it asks for, and where there is no way back."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from saga_core import SagaDefinition, SagaStateError, SagaStatus
from saga_core.decide import decide
from saga_core.happening import (
    Aborted,
    CompensationFailed,
    CompensationRequested,
    CompensationSkipRequested,
    Decision,
    Failure,
    Happened,
    Operator,
    Probed,
    Recorded,
    StepDone,
    StepFailed,
    Unmappable,
    WorkerLost,
)
from saga_core.records import SagaState
from saga_core.status import Direction, EntryKind
from tests.behaviour.cast import Story, definition

BY = Operator("ann", "because")
NO = Failure("E: no", "E")
GARBLED = Failure("PayloadError: NaN", "PayloadError", unrecordable=True)
DONE = {"step_0": Recorded('{"n":1}', '{"n":2}')}
MAYBE = {**DONE, "step_1": Recorded('{"n":2}', '{"generation":0}', maybe=True)}
BOTH = {**DONE, "step_1": Recorded('{"n":2}', '{"n":3}')}


def uncertain() -> SagaDefinition:
    story = Story()
    return definition(story.step(), story.uncertain(), story.step())


def pivoted(**options: bool) -> SagaDefinition:
    story = Story()
    return definition(story.step(), story.step(), story.final(), pivot=1, **options)


def at(index: int, **more: object) -> SagaState:
    state = SagaState(
        status=SagaStatus.RUNNING,
        step_id=f"step_{index}",
        step_index=index,
        step_input=f'{{"n":{index + 1}}}',
        token=uuid4(),
    )
    return replace(state, **more)  # type: ignore[arg-type]


def undoing(index: int, **more: object) -> SagaState:
    return at(
        index,
        **{
            "status": SagaStatus.COMPENSATING,
            "direction": Direction.ROLLBACK,
            "step_input": None,
            **more,
        },
    )


def kinds(decision: Decision) -> list[str]:
    return [entry.kind for entry in decision.history]


CUT_OFF: dict[str, tuple[Happened, SagaState]] = {
    "it failed for good": (StepFailed(NO, uuid4(), 0.0), at(1)),
    "what it put out cannot be stored": (StepFailed(GARBLED, uuid4(), 0.0), at(1)),
    "a person asked for it": (CompensationRequested(BY, uuid4()), at(1)),
    "it waited for its retry": (
        CompensationRequested(BY, uuid4()),
        at(1, status=SagaStatus.SUSPENDED, attempt=1),
    ),
    "it was aborted": (
        CompensationRequested(BY, uuid4()),
        decide(uncertain(), at(1), DONE, Aborted(BY)).state,
    ),
    "its workers were lost": (
        CompensationRequested(BY, uuid4()),
        decide(uncertain(), at(1), DONE, WorkerLost(3)).state,
    ),
}


@pytest.mark.parametrize("why", CUT_OFF)
def test_step_that_may_have_been_done_is_undone_first(why: str) -> None:
    happened, state = CUT_OFF[why]
    decision = decide(uncertain(), replace(state, generation=2), DONE, happened)
    assert decision.state.status is SagaStatus.COMPENSATING
    assert (decision.state.step_id, decision.state.attempt) == ("step_1", 0)
    maybe = decision.history[-1]
    assert (maybe.kind, maybe.step_id) == (EntryKind.MAYBE_DONE, "step_1")
    assert (maybe.input, maybe.output) == ('{"n":2}', '{"generation":2}')


def test_step_whose_input_could_not_be_mapped_was_surely_not_done() -> None:
    broken = Unmappable(Failure("KeyError: x", "KeyError", retryable=False))
    decision = decide(uncertain(), at(0), DONE, StepDone('{"n":1}', '{"n":2}', uuid4(), broken))
    assert decision.state.step_id == "step_0"
    assert kinds(decision) == ["completed", "failed"]


def test_only_the_step_that_says_so_is_undone_without_an_output() -> None:
    decision = decide(uncertain(), at(2), BOTH, StepFailed(NO, uuid4(), 0.0))
    assert decision.state.step_id == "step_1"
    assert kinds(decision) == ["failed"]


def test_saga_with_nothing_done_can_be_rolled_back_if_something_may_have_been() -> None:
    made = definition(Story().uncertain())
    assert decide(made, at(0), {}, CompensationRequested(BY, uuid4())).state.step_id == "step_0"
    with pytest.raises(SagaStateError, match="nothing to undo"):
        decide(definition(Story().step()), at(0), {}, CompensationRequested(BY, uuid4()))


def test_saga_that_does_not_compensate_is_stuck_with_what_cannot_be_stored() -> None:
    story = Story()
    made = definition(story.step(), story.uncertain(), compensate_on_failure=False)
    garbled = decide(made, at(1), DONE, StepFailed(GARBLED, uuid4(), 0.0))
    assert garbled.state.status is SagaStatus.STUCK
    failed = decide(made, at(1), DONE, StepFailed(NO, uuid4(), 0.0))
    assert failed.state.status is SagaStatus.FAILED
    asked = decide(made, failed.state, DONE, CompensationRequested(BY, uuid4()))
    assert kinds(asked) == ["compensation_requested", "revived", "maybe_done"]


def test_what_the_probe_found_is_kept_and_undone() -> None:
    decision = decide(uncertain(), undoing(1, attempt=2), MAYBE, Probed('{"n":9}', uuid4()))
    assert (decision.state.step_id, decision.state.attempt, decision.drive) == ("step_1", 0, True)
    entry = decision.history[0]
    assert (entry.kind, entry.attempt, entry.output) == (EntryKind.PROBED, 3, '{"n":9}')
    assert entry.input == '{"n":2}'


def test_what_the_probe_did_not_find_is_not_undone() -> None:
    decision = decide(uncertain(), undoing(1), MAYBE, Probed(None, uuid4()))
    assert decision.state.step_id == "step_0"
    assert [entry.output for entry in decision.history] == [None]


def test_skipped_compensation_is_on_record_with_who_and_why() -> None:
    stuck = decide(
        uncertain(), undoing(1), MAYBE, CompensationFailed(replace(NO, retryable=False), 0.0)
    ).state
    assert stuck.status is SagaStatus.STUCK
    decision = decide(uncertain(), stuck, MAYBE, CompensationSkipRequested(BY, "step_1", uuid4()))
    entry = decision.history[0]
    assert (entry.kind, entry.step_id) == (EntryKind.COMPENSATION_SKIPPED, "step_1")
    assert (entry.actor, entry.reason) == ("ann", "because")
    assert (decision.state.status, decision.state.step_id) == (SagaStatus.COMPENSATING, "step_0")


@pytest.mark.parametrize(
    "state",
    [at(1), at(1, status=SagaStatus.STUCK), undoing(1, status=SagaStatus.FAILED)],
    ids=lambda state: str(state.status),
)
def test_compensation_is_skipped_in_a_rollback_only(state: SagaState) -> None:
    with pytest.raises(SagaStateError, match=rf"the saga is {state.status}; .* in a rollback"):
        decide(uncertain(), state, DONE, CompensationSkipRequested(BY, "step_1", uuid4()))


@pytest.mark.parametrize("compensates", [True, False])
def test_after_the_pivot_a_failure_for_good_is_stuck(compensates: bool) -> None:
    made = pivoted(compensate_on_failure=compensates)
    decision = decide(made, at(2), BOTH, StepFailed(NO, uuid4(), 0.0))
    assert (decision.state.status, decision.state.active) == (SagaStatus.STUCK, True)
    assert (decision.state.last_error, kinds(decision)) == ("E: no", ["stuck"])


def test_map_that_raises_after_the_pivot_is_stuck_with_the_pivot_on_record() -> None:
    broken = Unmappable(Failure("KeyError: x", "KeyError", retryable=False))
    decision = decide(pivoted(), at(1), BOTH, StepDone('{"n":2}', '{"n":3}', uuid4(), broken))
    assert (decision.state.status, decision.state.step_id) == (SagaStatus.STUCK, "step_2")
    assert kinds(decision) == ["completed", "stuck"]


def test_before_the_pivot_is_done_there_is_a_way_back() -> None:
    decision = decide(pivoted(), at(1), DONE, StepFailed(NO, uuid4(), 0.0))
    assert (decision.state.status, decision.state.step_id) == (SagaStatus.COMPENSATING, "step_0")


@pytest.mark.parametrize("status", [SagaStatus.RUNNING, SagaStatus.STUCK, SagaStatus.FAILED])
def test_rollback_is_refused_once_the_pivot_is_done(status: SagaStatus) -> None:
    with pytest.raises(SagaStateError, match=rf"{status} and its pivot, step 'step_1', is done"):
        decide(pivoted(), at(2, status=status), BOTH, CompensationRequested(BY, uuid4()))


def test_abort_ends_a_saga_also_after_its_pivot() -> None:
    decision = decide(pivoted(), at(2), BOTH, Aborted(BY))
    assert decision.state.status is SagaStatus.FAILED


def test_definition_knows_what_its_pivot_is() -> None:
    made = pivoted()
    assert made.is_past_pivot(BOTH)
    assert not made.is_past_pivot(DONE)
    assert not uncertain().is_past_pivot(BOTH)


def test_compensation_that_is_not_meant_is_not_skipped() -> None:
    with pytest.raises(SagaStateError, match=r"undoes step 'step_0' by now, not step 'step_1'"):
        decide(uncertain(), undoing(0), MAYBE, CompensationSkipRequested(BY, "step_1", uuid4()))


def test_compensation_of_the_same_step_at_another_time_is_not_skipped() -> None:
    asked = CompensationSkipRequested(BY, "step_1", uuid4(), number=1)
    with pytest.raises(SagaStateError, match=r"not step 'step_1' .no. 2 of its times., for"):
        decide(uncertain(), undoing(1), MAYBE, asked)
