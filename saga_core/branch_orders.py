"""The rules of what a person or an event asks of a parallel saga."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid5

from saga_core.branches import Branch
from saga_core.deciding import request_entries, require, require_unpaused, void_deadline
from saga_core.errors import SagaStateError
from saga_core.fleet import Fleet
from saga_core.forward import with_input
from saga_core.happening import (
    CompensationRequested,
    CompensationSkipRequested,
    Decision,
    EditRequested,
    EventArrived,
    Failure,
    Mapped,
    Pause,
    RetryRequested,
    SkipRequested,
    Unmappable,
)
from saga_core.pausing import paused_entry, unpaused
from saga_core.records import NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus

__all__ = [
    "compensation_requested",
    "compensation_skip_requested",
    "edit_requested",
    "event_arrived",
    "retry_requested",
    "skip_requested",
]

_BEFORE = "before compensation has begun"


def event_arrived(
    fleet: Fleet,
    state: SagaState,
    arrived: EventArrived,
    fail: Callable[[Fleet, SagaState, Failure], None],
) -> None:
    """Enter a step anew with an event that is not one of those that it awaits."""
    require(fleet.state, "notify", fleet.state.status is SagaStatus.SUSPENDED, "SUSPENDED")
    require_unpaused(fleet.state, "notify")
    if isinstance(arrived.next_input, Mapped):
        _keep_input(fleet, state, arrived.next_input.text, "notify")
    fleet.entries.append(
        NewEntry(
            kind=EntryKind.EVENT, step_id=state.step_id, attempt=state.attempt, input=arrived.event
        )
    )
    woken = replace(state, status=SagaStatus.RUNNING, token=arrived.token, waiting_for=None)
    if isinstance(arrived.next_input, Unmappable):
        fail(fleet, woken, arrived.next_input.failure)
    else:
        fleet.put(Branch(with_input(woken, arrived.next_input), drive=True))


def skip_requested(fleet: Fleet, state: SagaState, asked: SkipRequested) -> None:
    """Take an output for what a step that waits, is stuck or failed would have put out."""
    whole = fleet.state
    allowed = not fleet.is_back and whole.status in (SagaStatus.SUSPENDED, SagaStatus.STUCK)
    require(whole, "skip_step", allowed, f"SUSPENDED or STUCK, {_BEFORE}")
    require_unpaused(whole, "skip_step")
    fleet.close(
        NewEntry(
            kind=EntryKind.SKIPPED,
            step_id=state.step_id,
            attempt=state.attempt,
            input=state.step_input,
            output=asked.output,
            actor=asked.by.actor,
            reason=asked.by.reason,
        )
    )
    if asked.overdue:
        fleet.entries.append(void_deadline(asked.by))


def retry_requested(fleet: Fleet, asked: RetryRequested) -> Decision:
    """Try again what failed or is stuck, else what waits; or one step of these."""
    state = fleet.state
    status = state.status
    allowed = status in (SagaStatus.SUSPENDED, SagaStatus.STUCK) or (
        status is SagaStatus.FAILED and not fleet.is_back
    )
    needed = "SUSPENDED, STUCK or FAILED"
    if status is not SagaStatus.STUCK and fleet.is_back:
        needed += f", {_BEFORE}"
    require(state, "retry_step", allowed, needed)
    require_unpaused(state, "retry_step")
    chosen = _to_retry(fleet, asked.step_id)
    shown = replace(state, step_id=asked.step_id or state.step_id)
    fleet.entries += request_entries(shown, EntryKind.RETRY_REQUESTED, asked.by)
    if asked.overdue and not fleet.is_back:
        fleet.entries.append(void_deadline(asked.by))
    inputs = {begin.step_id: begin.next_input for begin in asked.begins}
    for step_id in chosen:
        branch = fleet.branches[step_id]
        mapped = inputs.get(step_id)
        if branch.state.step_input is None and isinstance(mapped, Mapped):
            branch = replace(branch, state=with_input(branch.state, mapped))
        elif isinstance(mapped, Unmappable):
            raise SagaStateError(
                f"retry_step: the saga is {status}; step '{step_id}': {mapped.failure.error}"
            )
        fleet.resume(branch, None if branch.left else uuid5(asked.token, step_id))
    return fleet.settled(asked.token)


def _to_retry(fleet: Fleet, step_id: str | None) -> list[str]:
    open_ones = fleet.branches
    if step_id is not None:
        branch = open_ones.get(step_id)
        if branch is None or branch.drive:
            raise SagaStateError(
                f"retry_step: the saga is {fleet.state.status} and step '{step_id}' neither waits "
                f"nor failed; those that do: {', '.join(open_ones) or 'none'}"
            )
        others = {each for each, one in open_ones.items() if one.is_given_up} - {step_id}
        if all(open_ones[each].left for each in others):
            return [step_id, *sorted(others, key=fleet.place)]  # what it had stopped goes on
        return [step_id]
    failed = [each for each, branch in open_ones.items() if branch.is_stuck or branch.is_given_up]
    return failed or list(open_ones)  # all, if the saga waits, or as a whole is stuck or aborted


def edit_requested(fleet: Fleet, asked: EditRequested) -> Decision:
    """Try a step anew with another input, and so with another idempotency key."""
    whole = fleet.state
    moves = whole.status in (SagaStatus.RUNNING, SagaStatus.SUSPENDED, SagaStatus.STUCK)
    allowed = moves and not fleet.is_back
    require(whole, "edit_input", allowed, f"RUNNING, SUSPENDED or STUCK, {_BEFORE}")
    branch = fleet.branches.get(asked.step_id)
    if branch is None:
        raise SagaStateError(
            f"edit_input: the saga is {whole.status} and not at step '{asked.step_id}'; it is at "
            f"{', '.join(fleet.branches) or 'none'}"
        )
    state = branch.state
    changes = asked.input != state.step_input
    _keep_input(fleet, state, asked.input, "edit_input")
    fleet.entries.append(
        NewEntry(
            kind=EntryKind.INPUT_EDITED,
            step_id=asked.step_id,
            attempt=state.attempt,
            input=asked.input,
            actor=asked.by.actor,
            reason=asked.by.reason,
        )
    )
    if asked.overdue:
        fleet.entries.append(void_deadline(asked.by))
    edited = replace(
        state,
        step_input=asked.input,
        generation=state.generation + (changes and state.step_input is not None),
    )
    fleet.resume(replace(branch, state=edited), uuid5(asked.token, asked.step_id))
    decision = fleet.settled(asked.token)
    if not whole.is_paused:
        return decision
    rest = Pause(SagaStatus.RUNNING, None, None, again=True)
    history = (*decision.history, paused_entry(whole, rest, asked.by))
    return Decision(whole, history, drive=False, due=None)


def compensation_requested(fleet: Fleet, asked: CompensationRequested) -> Decision:
    """Begin the rollback, or go on at once with one that is stuck or waits."""
    state = fleet.state
    allowed = state.status not in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
    require(state, asked.command, allowed, "RUNNING, SUSPENDED, STUCK, FAILED or COMPENSATING")
    pivot = fleet.definition.pivot
    if fleet.is_past_pivot and pivot is not None:
        raise SagaStateError(
            f"{asked.command}: the saga is {state.status} and its pivot, step '{pivot.step_id}', "
            "is done, so there is no way back. It can only go on: use retry_step or skip_step "
            "where it is stuck, or abort to end it as it is."
        )
    begun = any(
        each.state.step_input is not None
        and fleet.definition.step(each.state.step_id or "").undoes_maybe_done
        for each in fleet.branches.values()
    )
    if not fleet.has_outputs and not begun and (asked.command != "cancel" or state.has_ended):
        raise SagaStateError(
            f"{asked.command}: the saga is {state.status} and no step was completed, so there is "
            "nothing to undo. It needs at least one completed step; use abort to end it."
        )
    fleet.entries += request_entries(state, EntryKind.COMPENSATION_REQUESTED, asked.by)
    fleet.state = unpaused(state, asked.pause)
    if not fleet.is_back:
        return fleet.turned_back(asked.token)
    for step_id, branch in list(fleet.branches.items()):
        if not branch.drive:
            fleet.resume(branch, uuid5(asked.token, step_id))
    return fleet.settled(asked.token)


def compensation_skip_requested(fleet: Fleet, asked: CompensationSkipRequested) -> Decision:
    """Go on with the rollback as if a step had been undone."""
    state = fleet.state
    allowed = fleet.is_back and not state.status.is_terminal
    require_unpaused(state, "skip_compensation")
    require(state, "skip_compensation", allowed, "STUCK or COMPENSATING, in a rollback")
    branch = fleet.branches.get(asked.step_id or "")
    if branch is None or branch.state.direction is not Direction.ROLLBACK:
        raise SagaStateError(
            f"skip_compensation: the saga is {state.status} and undoes "
            f"{', '.join(fleet.branches) or 'nothing'} by now, not step '{asked.step_id}', for "
            "which it was asked; look at it again"
        )
    fleet.undo(
        NewEntry(
            kind=EntryKind.COMPENSATION_SKIPPED,
            step_id=asked.step_id,
            attempt=branch.state.attempt,
            output="null",
            actor=asked.by.actor,
            reason=asked.by.reason,
        )
    )
    return fleet.settled(asked.token)


def _keep_input(fleet: Fleet, state: SagaState, text: str, command: str) -> None:
    """Refuse another input for a step that a rollback may have to undo with the one it has."""
    spec = fleet.definition.step(state.step_id or "")
    if text != state.step_input and state.step_input is not None and spec.undoes_maybe_done:
        raise SagaStateError(
            f"{command}: the saga is {fleet.state.status} and parallel, and step '{spec.step_id}' "
            "may have been done with the input that it has, which a rollback is to undo: cancel "
            "the saga, or skip the step"
        )
