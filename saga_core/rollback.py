"""The rules of the way back: what is undone, in which order, and when it is given up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from uuid import UUID

from saga_core.deciding import (
    current_step,
    failed_entry,
    go_on,
    request_entries,
    require,
    require_unpaused,
    try_again,
)
from saga_core.definition import SagaDefinition, StepSpec
from saga_core.ending import end
from saga_core.errors import SagaStateError
from saga_core.failure import next_try
from saga_core.happening import (
    WORKER_LOST,
    Compensated,
    CompensationFailed,
    CompensationRequested,
    CompensationSkipRequested,
    Decision,
    Probed,
    Recorded,
)
from saga_core.outputs import Outputs, Thing, thing_of
from saga_core.pausing import unpaused
from saga_core.records import NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.timing import is_unbegun

__all__ = [
    "begun_step",
    "compensated",
    "compensation_failed",
    "compensation_requested",
    "compensation_skip_requested",
    "left_behind",
    "maybe_entry",
    "probed",
    "roll_back",
]


def roll_back(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    before: int,
    token: UUID,
    history: tuple[NewEntry, ...],
) -> Decision:
    """Go on with the newest step before index `before` that was done and can be undone.

    In a saga that went back, with the newest thing that was done, also where it counts no more.
    When the rollback begins, that may be the current step, which nobody knows to be done or not.
    """
    begun = begun_step(definition, state)
    if begun is not None:
        number = outputs.times(begun.step_id) if isinstance(outputs, Outputs) else 0
        return go_on(_at(state, begun, token, number), (*history, maybe_entry(state)))
    for thing in _left(definition, state, outputs, before):
        spec = definition.step(thing.step_id)
        if thing.recorded.input is not None and spec.can_compensate:
            return go_on(_at(state, spec, token, thing.number), history)
    undone = replace(state, direction=Direction.ROLLBACK, step_id=None, step_index=0)
    return end(undone, SagaStatus.COMPENSATED, history)


def maybe_entry(state: SagaState) -> NewEntry:
    """Return the entry that says that the current step may have been done.

    It has the step's input, and its generation for whoever asks for it.
    """
    return NewEntry(
        kind=EntryKind.MAYBE_DONE,
        step_id=state.step_id,
        attempt=state.attempt,
        input=state.step_input,
        output=f'{{"generation":{state.generation}}}',
    )


def left_behind(definition: SagaDefinition, state: SagaState) -> tuple[NewEntry, ...]:
    """Return what keeps in mind that the current step may have been done with its present input."""
    begun = begun_step(definition, state)
    return () if begun is None else (maybe_entry(state), voided(begun.step_id))


def voided(step_id: str) -> NewEntry:
    """Return the entry after which what a step has put out counts no more."""
    return NewEntry(kind=EntryKind.VOIDED, step_id=step_id, output="null")


def _left(
    definition: SagaDefinition, state: SagaState, outputs: Mapping[str, Recorded], before: int
) -> Iterator[Thing]:
    """Yield what was done before index `before`, newest first."""
    if not isinstance(outputs, Outputs) or not outputs.went_back:
        for index in range(before - 1, -1, -1):
            step_id = definition.steps[index].step_id
            if step_id in outputs:
                yield Thing(step_id, 0, outputs[step_id])
        return
    passed = state.direction is Direction.FORWARD
    for thing in reversed(outputs.things):
        is_current = (thing.step_id, thing.number) == (state.step_id, state.generation)
        if passed or (is_current and before > state.step_index):
            yield thing
        passed = passed or is_current


def begun_step(definition: SagaDefinition, state: SagaState) -> StepSpec | None:
    """Return the step that is begun, if it is to be undone whether it was done or not."""
    if state.direction is Direction.ROLLBACK or state.step_id is None or state.step_input is None:
        return None
    if is_unbegun(state):
        return None
    spec = definition.step(state.step_id)
    return spec if spec.undoes_maybe_done else None


def _at(state: SagaState, spec: StepSpec, token: UUID, number: int) -> SagaState:
    """Return the state in which a step is about to be undone, `number` of the times it was done."""
    return replace(
        state,
        status=SagaStatus.COMPENSATING,
        direction=Direction.ROLLBACK,
        active=True,
        step_id=spec.step_id,
        step_index=spec.index,
        step_input=None,
        token=token,
        generation=number,
        attempt=0,
        waiting_for=None,
    )


def compensated(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    done: Compensated,
) -> Decision:
    spec = current_step(definition, state)
    entry = NewEntry(kind=EntryKind.COMPENSATED, step_id=spec.step_id, attempt=state.attempt + 1)
    return roll_back(definition, _innocent(state), outputs, spec.index, done.token, (entry,))


def probed(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    answer: Probed,
) -> Decision:
    """Undo the step with the output that was found, or leave it when there is none."""
    spec = current_step(definition, state)
    entry = NewEntry(
        kind=EntryKind.PROBED,
        step_id=spec.step_id,
        attempt=state.attempt + 1,
        input=thing_of(outputs, state).input,
        output=answer.output,
    )
    if answer.output is not None:
        return go_on(replace(_innocent(state), attempt=0), (entry,))
    return roll_back(definition, _innocent(state), outputs, spec.index, answer.token, (entry,))


def _innocent(state: SagaState) -> SagaState:
    """Return the state of a saga whose driver has come through its step alive."""
    return replace(state, error_code=None) if state.error_code == WORKER_LOST else state


def compensation_failed(
    definition: SagaDefinition, state: SagaState, failed: CompensationFailed
) -> Decision:
    spec = current_step(definition, state)
    attempt = state.attempt + 1
    # What the saga failed of stays its last error, unless the rollback gets stuck as well.
    tried = replace(state, status=SagaStatus.COMPENSATING, attempt=attempt, waiting_for=None)
    policy = spec.compensation_retry_policy
    delay, failure = next_try(policy, failed.failure, attempt, jitter=failed.jitter)
    if delay is None:
        entry = failed_entry(EntryKind.COMPENSATION_FAILED, tried, failure)
        at_fault = replace(tried, last_error=failure.error, error_code=failure.code)
        return end(at_fault, SagaStatus.STUCK, (entry,))
    return try_again(tried, failed_entry(EntryKind.COMPENSATION_RETRYING, tried, failure), delay)


def compensation_requested(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    asked: CompensationRequested,
) -> Decision:
    recalled = asked.command == "recall"
    allowed = state.status is not SagaStatus.COMPENSATED
    allowed = allowed and (recalled or state.status is not SagaStatus.COMPLETED)
    needed = "RUNNING, SUSPENDED, STUCK, FAILED or COMPENSATING"
    require(state, asked.command, allowed, needed)
    if definition.is_past_pivot(outputs) and definition.pivot is not None:
        raise SagaStateError(
            f"{asked.command}: the saga is {state.status} and its pivot, step "
            f"'{definition.pivot.step_id}', is done, so there is no way back. It can only go on: "
            "use retry_step or skip_step where it is stuck, or abort to end it as it is."
        )
    state = unpaused(state, asked.pause)
    went_back = isinstance(outputs, Outputs) and outputs.went_back
    nothing = not outputs and not went_back and begun_step(definition, state) is None
    if nothing and not recalled and (asked.command != "cancel" or state.has_ended):
        raise SagaStateError(
            f"{asked.command}: the saga is {state.status} and no step was completed, so there is "
            f"nothing to undo. It needs at least one completed step; use abort to end it."
        )
    entries = request_entries(state, EntryKind.COMPENSATION_REQUESTED, asked.by)
    # In a rollback the current step is yet to be undone; forward it has not been done.
    before = state.step_index + (1 if state.direction is Direction.ROLLBACK else 0)
    return roll_back(definition, state, outputs, before, asked.token, entries)


def compensation_skip_requested(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    asked: CompensationSkipRequested,
) -> Decision:
    """Go on with the rollback as if the current step had been undone."""
    allowed = state.direction is Direction.ROLLBACK and not state.status.is_terminal
    require_unpaused(state, "skip_compensation")
    require(state, "skip_compensation", allowed, "STUCK or COMPENSATING, in a rollback")
    spec = current_step(definition, state)
    if (asked.step_id, asked.number) != (spec.step_id, state.generation):
        there = _told(spec.step_id, state.generation)
        raise SagaStateError(
            f"skip_compensation: the saga is {state.status} and undoes {there} by now, not "
            f"{_told(asked.step_id, asked.number)}, for which it was asked; look at it again"
        )
    entry = NewEntry(
        kind=EntryKind.COMPENSATION_SKIPPED,
        step_id=spec.step_id,
        attempt=state.attempt,
        output="null",
        actor=asked.by.actor,
        reason=asked.by.reason,
    )
    return roll_back(definition, _innocent(state), outputs, spec.index, asked.token, (entry,))


def _told(step_id: str | None, number: int) -> str:
    return f"step '{step_id}'" + (f" (no. {number + 1} of its times)" if number else "")
