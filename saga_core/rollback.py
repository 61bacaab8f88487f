"""The rules of the way back: what is undone, in which order, and when it is given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from saga_core.deciding import (
    current_step,
    end_as,
    failed_entry,
    go_on,
    request_entries,
    require,
    rest,
    try_again,
)
from saga_core.definition import SagaDefinition
from saga_core.errors import SagaStateError
from saga_core.happening import (
    WORKER_LOST,
    Compensated,
    CompensationFailed,
    CompensationRequested,
    Decision,
    Recorded,
)
from saga_core.records import NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus

__all__ = ["compensated", "compensation_failed", "compensation_requested", "roll_back"]


def roll_back(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    before: int,
    token: UUID,
    history: tuple[NewEntry, ...],
) -> Decision:
    """Go on with the newest step before index `before` that was done and can be undone."""
    for index in range(before - 1, -1, -1):
        spec = definition.steps[index]
        recorded = outputs.get(spec.step_id)
        if recorded is not None and recorded.input is not None and spec.can_compensate:
            undoing = replace(
                state,
                status=SagaStatus.COMPENSATING,
                direction=Direction.ROLLBACK,
                active=True,
                step_id=spec.step_id,
                step_index=spec.index,
                step_input=None,
                token=token,
                generation=0,
                attempt=0,
                waiting_for=None,
            )
            return go_on(undoing, history)
    undone = replace(
        end_as(state, SagaStatus.COMPENSATED),
        direction=Direction.ROLLBACK,
        step_id=None,
        step_index=0,
    )
    return rest(undone, history)


def compensated(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    done: Compensated,
) -> Decision:
    spec = current_step(definition, state)
    if state.error_code == WORKER_LOST:
        state = replace(state, error_code=None)  # proven innocent
    entry = NewEntry(kind=EntryKind.COMPENSATED, step_id=spec.step_id, attempt=state.attempt + 1)
    return roll_back(definition, state, outputs, spec.index, done.token, (entry,))


def compensation_failed(
    definition: SagaDefinition, state: SagaState, failed: CompensationFailed
) -> Decision:
    spec = current_step(definition, state)
    failure = failed.failure
    attempt = state.attempt + 1
    # What the saga failed of stays its last error, unless the rollback gets stuck as well.
    tried = replace(state, status=SagaStatus.COMPENSATING, attempt=attempt)
    delay = None
    if failure.retryable:
        delay = spec.compensation_retry_policy.delay_after(attempt, jitter=failed.jitter)
    if delay is None:
        entry = failed_entry(EntryKind.COMPENSATION_FAILED, tried, failure)
        stuck = replace(
            tried,
            status=SagaStatus.STUCK,
            last_error=failure.error,
            error_code=failure.code,
        )
        return rest(stuck, (entry,))
    return try_again(tried, failed_entry(EntryKind.COMPENSATION_RETRYING, tried, failure), delay)


def compensation_requested(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    asked: CompensationRequested,
) -> Decision:
    allowed = state.status not in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
    needed = "RUNNING, SUSPENDED, STUCK, FAILED or COMPENSATING"
    require(state, asked.command, allowed, needed)
    if not outputs and (asked.command != "cancel" or not state.active):
        raise SagaStateError(
            f"{asked.command}: the saga is {state.status} and no step was completed, so there is "
            f"nothing to undo. It needs at least one completed step; use abort to end it."
        )
    entries = request_entries(state, EntryKind.COMPENSATION_REQUESTED, asked.by)
    # In a rollback the current step is yet to be undone; forward it has not been done.
    before = state.step_index + (1 if state.direction is Direction.ROLLBACK else 0)
    return roll_back(definition, state, outputs, before, asked.token, entries)
