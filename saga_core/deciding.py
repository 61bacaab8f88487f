"""Pieces of decisions: what the rules of all directions are written with."""

from __future__ import annotations

from datetime import datetime, timedelta

from saga_core.codec import encode_json
from saga_core.definition import SagaDefinition, StepSpec
from saga_core.errors import SagaStateError
from saga_core.happening import Decision, Failure, Operator
from saga_core.records import DUE_NOW, Due, NewEntry, SagaState
from saga_core.status import EntryKind
from saga_core.timing import DEADLINE_VOID

__all__ = [
    "current_step",
    "failed_entry",
    "go_on",
    "request_entries",
    "require",
    "require_unpaused",
    "rest",
    "retry_fact",
    "try_again",
    "void_deadline",
]


def current_step(definition: SagaDefinition, state: SagaState) -> StepSpec:
    """Return the step that the saga is at. Raises `SagaStateError` where it has none."""
    if state.step_id is None:
        raise SagaStateError(f"the saga is {state.status} and has no current step")
    return definition.step(state.step_id)


def failed_entry(kind: EntryKind, state: SagaState, failure: Failure) -> NewEntry:
    """Return the entry that says what an attempt failed of."""
    return NewEntry(
        kind=kind,
        step_id=state.step_id,
        attempt=state.attempt,
        input=state.step_input,
        error=failure.error,
        error_code=failure.code,
    )


def request_entries(state: SagaState, kind: EntryKind, by: Operator) -> tuple[NewEntry, ...]:
    """Return what a granted request leaves in the history; a saga that had ended is revived."""
    entry = NewEntry(kind=kind, step_id=state.step_id, actor=by.actor, reason=by.reason)
    if not state.has_ended:
        return (entry,)
    return (entry, NewEntry(kind=EntryKind.REVIVED, step_id=state.step_id, actor=by.actor))


def require(state: SagaState, command: str, allowed: bool, needed: str) -> None:
    """Raise `SagaStateError` for a command that the state does not allow."""
    if not allowed:
        raise SagaStateError(f"{command}: the saga is {state.status}; it needs to be {needed}")


def require_unpaused(state: SagaState, command: str) -> None:
    """Raise `SagaStateError` for a command that a paused saga does not take."""
    if state.is_paused:
        raise SagaStateError(
            f"{command}: the saga is {state.status} and paused; resume it first, or cancel or "
            "abort it"
        )


def void_deadline(by: Operator) -> NewEntry:
    """Take a deadline that has passed away: who asks for more forward work has seen it."""
    return NewEntry(kind=EntryKind.DEADLINE, output=DEADLINE_VOID, actor=by.actor, reason=by.reason)


def go_on(state: SagaState, history: tuple[NewEntry, ...]) -> Decision:
    """Drive on at once."""
    return Decision(state=state, history=history, drive=True, due=DUE_NOW)


def rest(state: SagaState, history: tuple[NewEntry, ...]) -> Decision:
    """Let nobody look at the saga by itself again."""
    return Decision(state=state, history=history, drive=False, due=None)


def try_again(state: SagaState, entry: NewEntry, delay: timedelta) -> Decision:
    """Drive on after a delay, at once if there is none."""
    return Decision(state=state, history=(entry,), drive=not delay, due=Due(delay=delay))


def retry_fact(state: SagaState, at: datetime) -> str:
    """Return the output of an entry that keeps when the current step is tried again.

    `kept_retry` reads it, as long as the saga's token is the same.
    """
    return encode_json({"retry_at": at.isoformat(), "token": str(state.token)}, what="retry")
