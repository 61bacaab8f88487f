"""The rules of what a person changes in a saga that goes forward: a step's input, and the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from saga_core.deciding import go_on, request_entries, require, require_unpaused, void_deadline
from saga_core.definition import SagaDefinition
from saga_core.errors import SagaStateError
from saga_core.happening import (
    WORKER_LOST,
    Decision,
    EditRequested,
    Mapped,
    Pause,
    Recorded,
    ReturnRequested,
)
from saga_core.pausing import paused_entry, unpaused
from saga_core.records import DUE_NOW, NewEntry, SagaState
from saga_core.rollback import left_behind, voided
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.timing import AT_START, is_unbegun

__all__ = ["edit_requested", "return_requested"]

_BEFORE = "before compensation has begun"


def edit_requested(definition: SagaDefinition, state: SagaState, asked: EditRequested) -> Decision:
    """Try the current step anew, with another input and so with another idempotency key.

    A saga that is paused, or has not begun, takes the input and rests on.
    """
    moves = state.status in (SagaStatus.RUNNING, SagaStatus.SUSPENDED, SagaStatus.STUCK)
    allowed = moves and state.direction is Direction.FORWARD
    require(state, "edit_input", allowed, f"RUNNING, SUSPENDED or STUCK, {_BEFORE}")
    before = unpaused(state, asked.pause)
    if state.in_hook and is_unbegun(before):
        raise SagaStateError(
            f"edit_input: the saga is {state.status} and has not begun; the input of its first "
            f"step does not exist yet: it is computed after its hook {state.step_id}"
        )
    if state.in_hook:
        raise SagaStateError(
            f"edit_input: the saga is {state.status} in its hook {state.step_id}, whose input is "
            "computed once"
        )
    if state.step_id != asked.step_id:
        raise SagaStateError(
            f"edit_input: the saga is {state.status} and has come to step '{state.step_id}'; the "
            f"new input is for step '{asked.step_id}'"
        )
    changes = asked.input != state.step_input
    entry = NewEntry(
        kind=EntryKind.INPUT_EDITED,
        step_id=state.step_id,
        attempt=state.attempt,
        input=asked.input,
        actor=asked.by.actor,
        reason=asked.by.reason,
    )
    entries = (*(left_behind(definition, before) if changes else ()), entry)
    if asked.overdue:
        entries += (void_deadline(asked.by),)
    edited = replace(
        state,
        step_input=asked.input,
        token=asked.token,
        # Providers refuse a known idempotency key with other parameters.
        generation=state.generation + (changes and state.step_input is not None),
        attempt=0,
        error_code=None if state.error_code == WORKER_LOST else state.error_code,
    )
    if state.is_paused:
        # Whatever it waited for, it waited for with the old input; but for its beginning.
        rest = Pause(SagaStatus.RUNNING, None, None, again=True)
        if asked.pause is not None and before.waiting_for == AT_START:
            rest = replace(asked.pause, again=True)
        entries += (paused_entry(edited, rest, asked.by),)
        return Decision(edited, entries, drive=False, due=None)
    if state.waiting_for == AT_START:
        # Whoever was about to begin it may be lost: then it is due, and begun at its time.
        return Decision(edited, entries, drive=False, due=asked.due or DUE_NOW)
    if state.is_queued:
        return Decision(edited, entries, drive=False, due=asked.due)
    return go_on(replace(edited, status=SagaStatus.RUNNING, waiting_for=None), entries)


def return_requested(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    asked: ReturnRequested,
) -> Decision:
    """Do the steps from a done one on once more; what they put out before counts no more.

    A later rollback undoes all that was done, the newest first.
    """
    ended = state.status in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
    allowed = not ended and state.direction is Direction.FORWARD
    require(state, "retry_from", allowed, f"RUNNING, SUSPENDED, STUCK or FAILED, {_BEFORE}")
    require_unpaused(state, "retry_from")
    if asked.step_id not in outputs:
        raise SagaStateError(
            f"retry_from: the saga is {state.status} and step '{asked.step_id}' is not done; done "
            f"so far: {', '.join(outputs) or 'nothing'}"
        )
    if asked.upcast:
        raise SagaStateError(
            f"retry_from: the saga is {state.status}, and was moved to another version of its "
            "definition after it had begun, so it cannot go back"
        )
    target = definition.step(asked.step_id)
    pivot = definition.pivot
    if pivot is not None and pivot.step_id in outputs and target.index <= pivot.index:
        raise SagaStateError(
            f"retry_from: the saga is {state.status} and its pivot, step '{pivot.step_id}', is "
            "done, so there is no way back before it"
        )
    if not isinstance(asked.next_input, Mapped):
        why = "has no input" if asked.next_input is None else asked.next_input.failure.error
        raise SagaStateError(
            f"retry_from: the saga is {state.status}; step '{target.step_id}': {why}"
        )
    entries = (
        *left_behind(definition, state),
        *request_entries(replace(state, step_id=target.step_id), EntryKind.WENT_BACK, asked.by),
        *(
            voided(spec.step_id)
            for spec in reversed(definition.steps[target.index :])
            if spec.step_id in outputs
        ),
    )
    if asked.overdue:
        entries += (void_deadline(asked.by),)
    back = SagaState(
        status=SagaStatus.RUNNING,
        step_id=target.step_id,
        step_index=target.index,
        step_input=asked.next_input.text,
        token=asked.token,
        # No step after this has had it: providers would replay what they did for an old one.
        generation=state.generation + 1,
    )
    return go_on(back, entries)
