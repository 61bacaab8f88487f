"""Every rule of a saga, once: (definition, state, what happened) -> decision.

Pure: no await, no clock, no store, no randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from saga_core import amending, beginning, forward, pausing, rollback, waits
from saga_core.branching import decide_parallel
from saga_core.deciding import (
    current_step,
    go_on,
    request_entries,
    require,
    require_unpaused,
    void_deadline,
)
from saga_core.definition import SagaDefinition
from saga_core.ending import Unwound, conclude, end, get_stuck, instead_of_hook
from saga_core.errors import SagaStateError
from saga_core.happening import (
    WORKER_LOST,
    Aborted,
    BranchesBegin,
    BranchesRest,
    BranchLeft,
    Compensated,
    CompensationFailed,
    CompensationRequested,
    CompensationSkipRequested,
    DeadlinePassed,
    Decision,
    EditRequested,
    EventArrived,
    Failure,
    Happened,
    InBranch,
    MovedToVersion,
    Operator,
    PauseRequested,
    Probed,
    Recorded,
    ResumeRequested,
    RetryRequested,
    ReturnRequested,
    SkipRequested,
    StartAhead,
    StartDue,
    Started,
    StepDone,
    StepFailed,
    Suspected,
    TurnCame,
    TurnLost,
    Undecodable,
    Unmappable,
    Waits,
    WaitsOn,
    Woken,
    WorkerLost,
)
from saga_core.moving import move_to_version
from saga_core.records import Due, NewEntry, SagaState
from saga_core.status import END_HOOKS, Direction, EntryKind, SagaStatus
from saga_core.timing import AT_START, input_begun_with

__all__ = ["decide", "ignore_command"]


def decide(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    happened: Happened,
) -> Decision:
    """Return what follows from what happened to a saga in this state.

    `outputs` has the steps with an output, the one that `happened` brings included. Raises
    `SagaStateError`, which names the status found and those that would do, for a request that the
    state does not allow.
    """
    if state.step_id in END_HOOKS:
        instead = instead_of_hook(definition, state, outputs, happened)
        if isinstance(instead, Unwound):
            decision = decide(definition, instead.state, instead.outputs, happened)
            return replace(decision, history=(*instead.entries, *decision.history))
        if instead is not None:
            return instead
    decision = _decide(definition, state, outputs, happened)
    if not decision.ends:
        return decision
    if isinstance(happened, Started) and happened.queued:
        state = beginning.queued(state)
    return conclude(definition, state, outputs, decision, getattr(happened, "token", None))


def _decide(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    happened: Happened,
) -> Decision:
    if definition.parallel and not state.in_hook:
        decision = decide_parallel(definition, state, outputs, happened)
        if decision is not None:
            return decision
    match happened:
        case Started(next_input, token, later, queued, limit):
            begun = forward.start(definition, outputs, next_input, token)
            if queued:
                return beginning.line_up(begun, limit)
            return begun if later is None else beginning.put_off(begun, later)
        case TurnCame():
            return beginning.admit(state, happened)
        case TurnLost(holder):
            return beginning.put_back(state, holder)
        case StartAhead(begins_at):
            return _still_ahead(state, begins_at)
        case StartDue():
            return beginning.begin_at_last(state)
        case DeadlinePassed(failure, token):
            return forward.fail_for_good(definition, state, outputs, failure, token, ())
        case StepDone():
            return forward.step_done(definition, state, outputs, happened)
        case StepFailed():
            return forward.step_failed(definition, state, outputs, happened)
        case Compensated():
            return rollback.compensated(definition, state, outputs, happened)
        case CompensationFailed():
            return rollback.compensation_failed(definition, state, happened)
        case Probed():
            return rollback.probed(definition, state, outputs, happened)
        case EventArrived():
            return _event_arrived(definition, state, outputs, happened)
        case RetryRequested():
            return _retry_requested(definition, state, outputs, happened)
        case SkipRequested():
            return _skip_requested(definition, state, outputs, happened)
        case CompensationRequested():
            return rollback.compensation_requested(definition, state, outputs, happened)
        case EditRequested():
            return amending.edit_requested(definition, state, happened)
        case ReturnRequested():
            return amending.return_requested(definition, state, outputs, happened)
        case PauseRequested():
            return pausing.pause_requested(state, happened)
        case ResumeRequested():
            return pausing.resume_requested(state, happened)
        case CompensationSkipRequested():
            return rollback.compensation_skip_requested(definition, state, outputs, happened)
        case Aborted():
            return _aborted(state, happened)
        case Waits():
            return waits.wait(state, happened)
        case WaitsOn():
            return waits.wait_on(state, happened)
        case Woken():
            return waits.wake(state, happened)
        case Suspected():
            return _suspected(state)
        case WorkerLost(times):
            error = f"worker lost {times} times in step '{state.step_id}'"
            return get_stuck(state, Failure(error=error, code=WORKER_LOST))
        case MovedToVersion():
            return move_to_version(definition, state, happened)
        case Undecodable(failure):
            return get_stuck(state, failure)
        case BranchesBegin() | BranchesRest() | BranchLeft() | InBranch():
            raise SagaStateError("the saga has no branches: it is not parallel, or in a hook")
        case _:
            assert_never(happened)


def ignore_command(
    state: SagaState, due: Due | None, *, reason: str, by: Operator | None = None
) -> Decision:
    """Return a decision that only records that a command came too late, and who gave it why."""
    by = by or Operator()
    told = f"{reason} (asked for because of: {by.reason})" if by.reason else reason
    kind, step_id = EntryKind.COMMAND_IGNORED, state.step_id
    entry = NewEntry(kind=kind, step_id=step_id, actor=by.actor, reason=told)
    return Decision(state=state, history=(entry,), drive=False, due=due)


def _still_ahead(state: SagaState, begins_at: datetime) -> Decision:
    reason = "it was looked at before it begins; what is sent to it before waits until then"
    return ignore_command(replace(state, waiting_for=AT_START), Due(at=begins_at), reason=reason)


# --- what people and events ask for -------------------------------------------------------------


def _event_arrived(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    arrived: EventArrived,
) -> Decision:
    require(state, "notify", state.status is SagaStatus.SUSPENDED, "SUSPENDED")
    require_unpaused(state, "notify")
    entry = NewEntry(
        kind=EntryKind.EVENT, step_id=state.step_id, attempt=state.attempt, input=arrived.event
    )
    woken = replace(state, status=SagaStatus.RUNNING, token=arrived.token, waiting_for=None)
    if state.in_hook:
        return go_on(woken, (entry,))  # its input is computed once
    if isinstance(arrived.next_input, Unmappable):
        failure = arrived.next_input.failure
        return forward.fail_for_good(definition, woken, outputs, failure, arrived.token, (entry,))
    changes = arrived.next_input.text != state.step_input
    left = rollback.left_behind(definition, state) if changes else ()
    return go_on(forward.with_input(woken, arrived.next_input), (*left, entry))


def _retry_requested(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    asked: RetryRequested,
) -> Decision:
    status = state.status
    rolling_back = state.direction is Direction.ROLLBACK
    allowed = (
        status is SagaStatus.SUSPENDED
        or status is SagaStatus.STUCK
        or (status is SagaStatus.FAILED and not rolling_back)
    )
    needed = "SUSPENDED, STUCK or FAILED"
    if status is not SagaStatus.STUCK and rolling_back:
        needed += ", before compensation has begun"
    require(state, "retry_step", allowed, needed)
    require_unpaused(state, "retry_step")
    entries = request_entries(state, EntryKind.RETRY_REQUESTED, asked.by)
    if asked.overdue and not rolling_back:
        entries += (void_deadline(asked.by),)
    again = replace(
        state,
        status=SagaStatus.COMPENSATING if rolling_back else SagaStatus.RUNNING,
        active=state.active or not state.is_ending,
        token=asked.token,
        attempt=0,
        waiting_for=None,
        error_code=None if state.error_code == WORKER_LOST else state.error_code,
    )
    if isinstance(asked.next_input, Unmappable):
        failure = asked.next_input.failure
        return forward.fail_for_good(definition, again, outputs, failure, asked.token, entries)
    if asked.next_input is not None:
        again = forward.with_input(again, asked.next_input)
    return go_on(again, entries)


def _skip_requested(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    asked: SkipRequested,
) -> Decision:
    goes_on = state.direction is Direction.FORWARD
    allowed = goes_on and state.status in (SagaStatus.SUSPENDED, SagaStatus.STUCK)
    require(state, "skip_step", allowed, "SUSPENDED or STUCK, before compensation has begun")
    require_unpaused(state, "skip_step")
    spec = current_step(definition, state)
    if spec.hook is not None:
        skipped = NewEntry(
            kind=EntryKind.HOOK_SKIPPED,
            step_id=spec.step_id,
            attempt=state.attempt,
            input=state.step_input,
            actor=asked.by.actor,
            reason=asked.by.reason,
        )
        following = asked.next_input
        return forward.past_hook(definition, state, outputs, following, asked.token, skipped)
    entry = NewEntry(
        kind=EntryKind.SKIPPED,
        step_id=spec.step_id,
        attempt=state.attempt,
        input=input_begun_with(state),
        output=asked.output,
        actor=asked.by.actor,
        reason=asked.by.reason,
    )
    entries = (entry, void_deadline(asked.by)) if asked.overdue else (entry,)
    return forward.advance(definition, state, outputs, spec, asked.next_input, asked.token, entries)


def _aborted(state: SagaState, asked: Aborted) -> Decision:
    needed = "RUNNING, SUSPENDED, COMPENSATING or STUCK"
    require(state, "abort", not state.status.is_terminal, needed)
    entry = NewEntry(
        kind=EntryKind.ABORTED,
        step_id=state.step_id,
        attempt=state.attempt,
        actor=asked.by.actor,
        reason=asked.by.reason,
    )
    error = "aborted" if asked.by.reason is None else f"aborted: {asked.by.reason}"
    if state.last_error is not None:
        error = f"{error} (last error: {state.last_error})"
    unpaused = pausing.unpaused(state, asked.pause)
    at_fault = replace(unpaused, last_error=error, error_code="Aborted")
    return end(at_fault, SagaStatus.FAILED, (entry,))


# --- pieces -------------------------------------------------------------------------------------


def _suspected(state: SagaState) -> Decision:
    error = f"workers were lost in step '{state.step_id}'; it is driven apart from other suspects"
    entry = NewEntry(
        kind=EntryKind.SUSPECTED, step_id=state.step_id, attempt=state.attempt, error=error
    )
    return go_on(replace(state, last_error=error, error_code=WORKER_LOST), (entry,))
