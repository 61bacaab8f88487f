"""The rules of a parallel saga: what follows for the whole from what happens in one step.

Within a branch the rules are those of a saga that has only this step. Pure, like
`saga_core.decide`, which hands over to `decide_parallel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from saga_core import branch_orders, rollback, waits
from saga_core.branches import Branch, ParallelOutputs
from saga_core.deciding import failed_entry, go_on, require
from saga_core.definition import SagaDefinition
from saga_core.ending import end
from saga_core.errors import SagaStateError
from saga_core.failure import next_try
from saga_core.fleet import Fleet
from saga_core.happening import (
    Begin,
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
    Mapped,
    Probed,
    Recorded,
    RetryRequested,
    ReturnRequested,
    SkipRequested,
    StepDone,
    StepFailed,
    Undecodable,
    Waits,
    WaitsOn,
    Woken,
)
from saga_core.records import Due, NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus

__all__ = ["decide_parallel"]


def decide_parallel(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    happened: Happened,
) -> Decision | None:
    """Return what follows; None for what means the same as in any other saga."""
    known = outputs if isinstance(outputs, ParallelOutputs) else ParallelOutputs()
    busy = happened.busy if isinstance(happened, InBranch) else frozenset()
    fleet = Fleet(definition, state, known, busy)
    match happened:
        case BranchesBegin(begins):
            for begin in begins:
                _begin(fleet, begin)
            return fleet.settled()
        case BranchesRest():
            kind, reason = EntryKind.COMMAND_IGNORED, "it was looked at, and no step can go on yet"
            fleet.entries.append(NewEntry(kind=kind, reason=reason))
            return fleet.settled()
        case Woken():
            woken = replace(state, status=fleet.moving)
            return go_on(woken, (NewEntry(kind=EntryKind.WOKEN, step_id=state.step_id),))
        case InBranch(step_id, what):
            _in_branch(fleet, step_id, what)
            return fleet.settled(getattr(what, "token", None))
        case DeadlinePassed(failure, token):
            return _all_fail(fleet, failure, token)
        case CompensationRequested():
            return branch_orders.compensation_requested(fleet, happened)
        case CompensationSkipRequested():
            return branch_orders.compensation_skip_requested(fleet, happened)
        case RetryRequested():
            return branch_orders.retry_requested(fleet, happened)
        case EditRequested():
            return branch_orders.edit_requested(fleet, happened)
        case SkipRequested():
            allowed = not fleet.is_back and state.status in (SagaStatus.SUSPENDED, SagaStatus.STUCK)
            needed = "SUSPENDED or STUCK, before compensation has begun"
            require(state, "skip_step", allowed, needed)
            raise SagaStateError(f"skip_step: the saga is {state.status} and no step of it waits")
        case ReturnRequested():
            raise SagaStateError(
                f"retry_from: the saga is {state.status} and parallel, so there is no one way to "
                "go back to: use retry_step for a step that failed, or cancel to undo the saga"
            )
        case _:
            return None


def _begin(fleet: Fleet, begin: Begin) -> None:
    if begin.step_id in fleet.branches or fleet.is_done(begin.step_id) or fleet.is_failing:
        return
    mapped = begin.next_input
    state = SagaState(
        status=SagaStatus.RUNNING,
        step_id=begin.step_id,
        step_input=mapped.text if isinstance(mapped, Mapped) else None,
        token=begin.token,
    )
    fleet.put(Branch(state, drive=True))
    if not isinstance(mapped, Mapped):
        _fail(fleet, state, mapped.failure)


def _in_branch(fleet: Fleet, step_id: str, what: Happened) -> None:
    branch = fleet.branches.get(step_id)
    if branch is None:
        raise SagaStateError(f"the saga is {fleet.state.status} and not at step '{step_id}' now")
    fleet.busy -= {step_id}
    state = branch.state
    match what:
        case StepDone():
            fleet.complete(state, what.input, what.output, what.reason)
        case StepFailed():
            _step_failed(fleet, state, what)
        case DeadlinePassed(failure):
            _fail(fleet, state, failure)
        case BranchLeft():
            _leave(fleet, branch)
        case Compensated():
            attempt = state.attempt + 1
            fleet.undo(NewEntry(kind=EntryKind.COMPENSATED, step_id=step_id, attempt=attempt))
        case CompensationFailed():
            _take(fleet, rollback.compensation_failed(fleet.definition, state, what))
        case Probed():
            _probed(fleet, state, what)
        case Waits() if fleet.is_failing and state.direction is Direction.FORWARD:
            _leave(fleet, branch)
        case Waits():
            _take(fleet, waits.wait(state, what), what.given)
        case WaitsOn():
            _take(fleet, waits.wait_on(state, what), branch.given)
        case Woken():
            meant = () if what.event_id is None else (what.event_id,)
            _take(fleet, waits.wake(state, what), branch.given + meant)
        case EventArrived():
            branch_orders.event_arrived(fleet, state, what, _fail)
        case SkipRequested():
            branch_orders.skip_requested(fleet, state, what)
        case Undecodable(failure):
            fleet.stick(state, failure)
        case _:
            raise TypeError(f"{type(what).__name__} does not happen in a branch")


def _take(fleet: Fleet, decision: Decision, given: tuple[str | None, ...] = ()) -> None:
    """Let a branch follow what was decided of it as of a saga of its own."""
    fleet.entries += decision.history
    fleet.spawned += decision.spawn
    due = None if decision.drive else decision.due
    fleet.put(Branch(decision.state, decision.drive, due, given=given))


def _step_failed(fleet: Fleet, state: SagaState, failed: StepFailed) -> None:
    failure = failed.failure
    # A child that has ended is not started again: the next try is another one.
    generation = state.generation + failure.undone
    tried = replace(state, attempt=state.attempt + 1, generation=generation, waiting_for=None)
    policy = fleet.definition.step(state.step_id or "").retry_policy
    delay = None
    if not fleet.is_failing:
        delay, failure = next_try(policy, failure, tried.attempt, jitter=failed.jitter)
    if delay is None:
        _fail(fleet, tried, failure)
        return
    status = SagaStatus.SUSPENDED if delay else SagaStatus.RUNNING
    again = replace(tried, status=status, last_error=failure.error, error_code=failure.code)
    fleet.entries.append(failed_entry(EntryKind.RETRYING, again, failure))
    fleet.put(Branch(again, drive=not delay, due=Due(delay=delay) if delay else None))


def _fail(fleet: Fleet, state: SagaState, failure: Failure) -> None:
    """Give the step up: in the end the saga turns back, is FAILED or gets stuck."""
    definition = fleet.definition
    spec = definition.step(state.step_id or "")
    undone = spec.undoes_maybe_done and definition.compensate_on_failure
    if fleet.is_past_pivot or (failure.unrecordable and not undone):
        # In the latter case a rollback would skip a step that has happened.
        fleet.stick(state, failure)
        return
    fleet.entries.append(failed_entry(EntryKind.FAILED, state, failure))
    fleet.fail(replace(state, last_error=failure.error, error_code=failure.code))


def _leave(fleet: Fleet, branch: Branch) -> None:
    fleet.leave(replace(branch, due=None))  # it ran, so it has no time to keep


def _all_fail(fleet: Fleet, failure: Failure, token: UUID) -> Decision:
    """Stop the forward work of a saga whose deadline has passed while no step ran."""
    open_ones = [each for each in fleet.branches.values() if not each.is_stuck]
    if not open_ones:
        state = replace(fleet.state, last_error=failure.error, error_code=failure.code)
        fleet.entries.append(failed_entry(EntryKind.FAILED, state, failure))
        if not fleet.definition.compensate_on_failure:
            return end(state, SagaStatus.FAILED, tuple(fleet.entries))
        return fleet.turned_back(token, failure)
    first = min(open_ones, key=lambda each: fleet.place(each.state.step_id))
    _fail(fleet, first.state, failure)
    return fleet.settled(token)


def _probed(fleet: Fleet, state: SagaState, answer: Probed) -> None:
    step_id = state.step_id or ""
    entry = NewEntry(
        kind=EntryKind.PROBED,
        step_id=step_id,
        attempt=state.attempt + 1,
        input=fleet.recorded(step_id).input,
        output=answer.output,
    )
    if answer.output is None:
        fleet.undo(entry)
        return
    fleet.entries.append(entry)
    fleet.put(Branch(replace(state, attempt=0), drive=True))
