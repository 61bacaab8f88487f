"""Where every end of a saga passes: COMPLETED, COMPENSATED, FAILED, and STUCK.

The rules say how a saga ends, by `end` or `get_stuck`; `conclude` has the last word on each such
decision before `decide` returns it. If there is a hook for the end, that is kept in an `ENDING`
entry and the saga goes on with the hook; the end is recorded when the hook is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import NAMESPACE_OID, UUID, uuid5

from saga_core.deciding import failed_entry, go_on
from saga_core.definition import SagaDefinition
from saga_core.errors import SagaStateError
from saga_core.happening import (
    WORKER_LOST,
    Aborted,
    CompensationRequested,
    CompensationSkipRequested,
    Decision,
    EditRequested,
    Failure,
    Happened,
    Recorded,
    ReturnRequested,
)
from saga_core.outputs import Outputs
from saga_core.pending import PendingEnd
from saga_core.records import NewEntry, SagaState
from saga_core.status import Direction, EntryKind, Hook, SagaStatus
from saga_core.timing import AT_START, is_unbegun

__all__ = ["Unwound", "conclude", "end", "get_stuck", "hook_over", "instead_of_hook"]


def end(state: SagaState, status: SagaStatus, history: tuple[NewEntry, ...]) -> Decision:
    """End the saga for good, or park a STUCK one for a person. Nobody looks at it by itself again.

    One that has FAILED may be revived: then it counts whether it had begun.
    """
    if status is SagaStatus.STUCK:
        ended = replace(state, status=status, waiting_for=None)
    else:
        keeps = status is SagaStatus.FAILED and is_unbegun(state)
        waiting_for = AT_START if keeps else None
        ended = replace(state, status=status, active=False, token=None, waiting_for=waiting_for)
    return Decision(state=ended, history=history, drive=False, due=None, ends=True)


def get_stuck(state: SagaState, failure: Failure, history: tuple[NewEntry, ...] = ()) -> Decision:
    """Park the saga for a person, because of a failure."""
    parked = replace(state, last_error=failure.error, error_code=failure.code)
    entry = failed_entry(EntryKind.STUCK, state, failure)
    return end(parked, SagaStatus.STUCK, (*history, entry))


def conclude(
    definition: SagaDefinition,
    before: SagaState,
    outputs: Mapping[str, Recorded],
    decision: Decision,
    token: UUID | None = None,
) -> Decision:
    """Return what follows from the decision that a saga in the state `before` ends.

    Called for each decision that `ends`, by `decide`. `token` is one that nobody else has used,
    if there is one.
    """
    told = outputs if isinstance(outputs, Outputs) else Outputs()
    if not definition.hooks and told.parent is None:
        return decision
    ended = decision.state
    hook = _hook_after(None, definition, ended, told)
    if hook is None:
        return decision
    outer = told.pending if ended.is_ending else None
    pending = PendingEnd(hook, ended, outer)
    # One that ends in the queue never holds its aggregate, also not for its hook; but one is
    # COMPLETED there only when a person skips its last step, which it has to take its turn for.
    in_queue = before.is_queued and ended.status is not SagaStatus.COMPLETED
    active = not in_queue and (before.active or not ended.is_ending)
    return _begin(told, pending, token or before.token, decision.history, active=active)


def hook_over(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    entry: NewEntry,
) -> Decision:
    """Record the end that the hook came before, or go on with a further hook of it."""
    pending = _pending(state, outputs)
    known = outputs if isinstance(outputs, Outputs) else Outputs()
    hook = _hook_after(state.step_id, definition, pending.state, known)
    if hook is not None:
        following = replace(pending, hook=hook, again=False)
        return _begin(known, following, state.token, (entry,), active=state.active)
    history: tuple[NewEntry, ...] = (entry,)
    if pending.outer is not None:
        history += (pending.outer.told_again().entry(),)
    return Decision(state=pending.state, history=history, drive=False, due=None)


def _hook_after(
    hook: str | None, definition: SagaDefinition, ended: SagaState, outputs: Outputs
) -> str | None:
    """Return which hook of an end follows one, or is the first, if there is any."""
    own = Hook.of(ended.status)
    # Who got stuck in telling of it is not told of it once more.
    wanted = hook is None and ended.step_id != Hook.ON_STUCK
    if wanted and definition.hook(own) is not None:
        return own.value
    if outputs.parent is None or hook == Hook.TELL_PARENT:
        return None
    if ended.status is SagaStatus.STUCK and ended.direction is Direction.FORWARD:
        return None  # its parent waits on
    return Hook.TELL_PARENT.value


def _begin(
    outputs: Outputs,
    pending: PendingEnd,
    token: UUID | None,
    history: tuple[NewEntry, ...],
    *,
    active: bool,
) -> Decision:
    ended = pending.state
    at_hook = replace(
        ended,
        status=SagaStatus.RUNNING,
        direction=Direction.FORWARD,
        active=active,
        step_id=pending.hook,
        step_input=None,
        token=uuid5(token or NAMESPACE_OID, pending.hook),
        # Whoever ends once more has more to tell, which is no repeat of what was told before.
        generation=outputs.times_ended(pending.hook),
        attempt=0,
        waiting_for=None,
        error_code=None if ended.error_code == WORKER_LOST else ended.error_code,
    )
    return go_on(at_hook, (*history, pending.entry()))


# --- what people ask for meanwhile --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unwound:
    """A saga as it stands without the hook that it is in."""

    state: SagaState
    outputs: Mapping[str, Recorded]
    entries: tuple[NewEntry, ...]
    """What is to be recorded before whatever follows."""


def instead_of_hook(
    definition: SagaDefinition,
    state: SagaState,
    outputs: Mapping[str, Recorded],
    asked: Happened,
) -> Decision | Unwound | None:
    """Return what a command means for a saga that has come to its end and is in its hook.

    None if it means the hook itself. To a saga that is about to be STUCK whatever a STUCK one
    allows; then what is `Unwound` is asked instead. Else the end is settled, and the hook goes on;
    but an abort gives up one that is stuck or paused.
    """
    match asked:
        case Aborted():
            command = "abort"
        case CompensationRequested():
            command = asked.command
        case CompensationSkipRequested():
            command = "skip_compensation"
        case ReturnRequested():
            command = "retry_from"
        case EditRequested():
            command = "edit_input"
        case _:
            return None
    pending = _pending(state, outputs)
    # A child that has told its parent has no hook of its own left to run.
    recalled = command == "recall" and state.step_id == Hook.TELL_PARENT
    stuck = command != "edit_input" and pending.state.status is SagaStatus.STUCK
    if recalled or stuck:
        again = () if pending.outer is None else (pending.outer.told_again().entry(),)
        known = outputs.after(again) if isinstance(outputs, Outputs) else outputs
        return Unwound(pending.state, known, again)
    rests = state.status is SagaStatus.STUCK or state.is_paused
    if isinstance(asked, Aborted) and rests:
        entry = NewEntry(
            kind=EntryKind.ABORTED,
            step_id=state.step_id,
            attempt=state.attempt,
            actor=asked.by.actor,
            reason=asked.by.reason,
        )
        return hook_over(definition, state, outputs, entry)
    raise SagaStateError(
        f"{command}: the saga is {state.status} in its hook {state.step_id}, and "
        f"{_settled(pending)}. Where the hook waits or is stuck, retry_step runs it again and "
        "skip_step goes on without it"
    )


def _settled(pending: PendingEnd) -> str:
    status = pending.state.status
    if status is SagaStatus.STUCK:
        return "STUCK after it"
    return f"its end is settled: {status}"


def _pending(state: SagaState, outputs: Mapping[str, Recorded]) -> PendingEnd:
    pending = outputs.pending if isinstance(outputs, Outputs) else None
    if pending is None:
        raise SagaStateError(
            f"the saga is {state.status} in its hook {state.step_id}, and there is no end on record"
        )
    return pending
