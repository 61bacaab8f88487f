"""The rules of the way forward: which step comes next, and what follows when one fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from saga_core import rollback
from saga_core.deciding import current_step, failed_entry, go_on, try_again
from saga_core.definition import SagaDefinition, StepSpec
from saga_core.ending import end, get_stuck, hook_over
from saga_core.failure import next_try
from saga_core.happening import (
    Decision,
    Failure,
    Mapped,
    NextInput,
    Recorded,
    StepDone,
    StepFailed,
    Unmappable,
)
from saga_core.records import NewEntry, SagaState
from saga_core.status import EntryKind, Hook, SagaStatus
from saga_core.timing import is_in_begun_hook

__all__ = [
    "advance",
    "begin",
    "fail_for_good",
    "past_hook",
    "start",
    "step_done",
    "step_failed",
    "with_input",
]


def start(
    definition: SagaDefinition,
    outputs: Mapping[str, Recorded],
    next_input: NextInput,
    token: UUID,
) -> Decision:
    """Begin the saga, with its hook if it has one for that, else with its first step."""
    if definition.hook(Hook.ON_START) is not None:
        hook = Hook.ON_START.value
        return go_on(SagaState(status=SagaStatus.RUNNING, step_id=hook, token=token), ())
    return begin(definition, outputs, definition.steps[0], next_input, token, ())


def past_hook(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    next_input: NextInput | None,
    token: UUID,
    entry: NewEntry,
) -> Decision:
    """Go on behind a hook: with the first step, or by recording the end."""
    if state.is_ending or next_input is None:
        return hook_over(definition, state, outputs, entry)
    return begin(definition, outputs, definition.steps[0], next_input, token, (entry,))


def begin(
    definition: SagaDefinition,
    outputs: Mapping[str, Recorded],
    spec: StepSpec,
    next_input: NextInput,
    token: UUID,
    history: tuple[NewEntry, ...],
    generation: int = 0,
) -> Decision:
    """Begin a step with its input, or fail at once where its map did.

    A parallel saga begins with those that its driver finds ready.
    """
    if definition.parallel:
        ready = SagaState(status=SagaStatus.RUNNING, step_id=spec.step_id, token=token)
        return go_on(ready, history)
    at_step = SagaState(
        status=SagaStatus.RUNNING,
        step_id=spec.step_id,
        step_index=spec.index,
        step_input=next_input.text if isinstance(next_input, Mapped) else None,
        token=token,
        generation=generation,
    )
    if isinstance(next_input, Unmappable):
        return fail_for_good(definition, at_step, outputs, next_input.failure, token, history)
    return go_on(at_step, history)


def step_done(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    done: StepDone,
) -> Decision:
    """Record what the step has put out, and go on."""
    spec = current_step(definition, state)
    if spec.hook is not None:
        over = NewEntry(
            kind=EntryKind.HOOK_DONE,
            step_id=spec.step_id,
            attempt=state.attempt + 1,
            input=done.input,
            reason=done.reason,
        )
        return past_hook(definition, state, outputs, done.next_input, done.token, over)
    entry = NewEntry(
        kind=EntryKind.COMPLETED,
        step_id=spec.step_id,
        attempt=state.attempt + 1,
        input=done.input,
        output=done.output,
        reason=done.reason,
    )
    return advance(definition, state, outputs, spec, done.next_input, done.token, (entry,))


def advance(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    spec: StepSpec,
    next_input: NextInput | None,
    token: UUID,
    entries: tuple[NewEntry, ...],
) -> Decision:
    """Begin the step after `spec`; without a next input there is none, and the saga is done."""
    if next_input is not None:
        following = definition.steps[spec.index + 1]
        # It never falls, so that a saga which went back uses no idempotency key again.
        generation = state.generation
        return begin(definition, outputs, following, next_input, token, entries, generation)
    finished = SagaState(status=SagaStatus.RUNNING, step_index=len(definition.steps))
    return end(finished, SagaStatus.COMPLETED, entries)


def step_failed(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    failed: StepFailed,
) -> Decision:
    """Try the step again as its policy says, or give it up."""
    spec = current_step(definition, state)
    failure = failed.failure
    attempt = state.attempt + 1
    # A child that has ended is not started again: the next try is another one.
    tried = replace(state, attempt=attempt, generation=state.generation + failure.undone)
    delay, failure = next_try(spec.retry_policy, failure, attempt, jitter=failed.jitter)
    if delay is None:
        return fail_for_good(definition, tried, outputs, failure, failed.token, ())
    waiting = replace(
        tried,
        status=SagaStatus.SUSPENDED if delay else SagaStatus.RUNNING,
        waiting_for=None,
        last_error=failure.error,
        error_code=failure.code,
    )
    return try_again(waiting, failed_entry(EntryKind.RETRYING, waiting, failure), delay)


def fail_for_good(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    failure: Failure,
    token: UUID,
    history: tuple[NewEntry, ...],
) -> Decision:
    """Turn back, end as FAILED or get stuck: the step will not be tried again by itself."""
    if is_in_begun_hook(state) or definition.is_past_pivot(outputs):
        return get_stuck(state, failure, history)
    if failure.unrecordable and not _undone_without_output(definition, state):
        # A rollback would skip a step that has happened, so a person has to look at it.
        return get_stuck(state, failure, history)
    entries = (*history, failed_entry(EntryKind.FAILED, state, failure))
    at_fault = replace(state, last_error=failure.error, error_code=failure.code)
    if not definition.compensate_on_failure:
        return end(at_fault, SagaStatus.FAILED, entries)
    if failure.undone:
        at_fault = replace(at_fault, step_input=None)
    return rollback.roll_back(definition, at_fault, outputs, state.step_index, token, entries)


def _undone_without_output(definition: SagaDefinition, state: SagaState) -> bool:
    undoes = current_step(definition, state).undoes_maybe_done
    return undoes and definition.compensate_on_failure


def with_input(state: SagaState, mapped: Mapped) -> SagaState:
    """Return the state with the step's input; another one begins a new generation."""
    if mapped.text == state.step_input:
        return state
    # Providers refuse a known idempotency key with other parameters.
    generation = state.generation + (1 if state.step_input is not None else 0)
    return replace(state, step_input=mapped.text, generation=generation)
