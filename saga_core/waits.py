"""The rules of waiting: how a step comes to rest within an attempt, and how it goes on."""

from __future__ import annotations

from dataclasses import replace

from saga_core.deciding import go_on, retry_fact
from saga_core.errors import SagaStateError
from saga_core.happening import WORKER_LOST, Decision, Waits, WaitsOn, Woken
from saga_core.records import NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus

__all__ = ["told_of", "wait", "wait_on", "wake"]


def wait(state: SagaState, asked: Waits) -> Decision:
    """Let the step rest; or enter it again at once, if what it waits for is there already."""
    entry = NewEntry(
        kind=EntryKind.WAITING,
        step_id=state.step_id,
        attempt=state.attempt + 1,
        output=asked.rest,
    )
    if state.error_code == WORKER_LOST:
        state = replace(state, error_code=None)  # proven innocent
    waiting = replace(state, waiting_for=asked.waiting_for)
    entries = (*asked.before, entry)
    if asked.answered:
        return replace(go_on(_at_work(waiting), entries), spawn=asked.spawn)
    at_rest = _at_rest(waiting)
    return Decision(at_rest, entries, drive=False, due=asked.due, spawn=asked.spawn)


def wait_on(state: SagaState, asked: WaitsOn) -> Decision:
    """Go on resting: what has come, if anything has, does not end the wait."""
    entry = NewEntry(
        kind=EntryKind.COMMAND_IGNORED,
        step_id=state.step_id,
        attempt=state.attempt,
        output=None if asked.retry_at is None else retry_fact(state, asked.retry_at),
        reason=f"{told_of(state, asked.events)}; still waiting for {_rest(state)}",
    )
    return Decision(state=_at_rest(state), history=(entry,), drive=False, due=asked.due)


def told_of(state: SagaState, events: int) -> str:
    """Say why a saga was looked at that goes on resting, and what becomes of `events` new ones."""
    if not events:
        return "it was looked at, and no new event for a step was there"
    came, them = (
        ("an event has come", "it") if events == 1 else (f"{events} events have come", "them")
    )
    if state.status.is_terminal:
        return f"{came} before the saga ended, and no step has used {them}"
    return f"{came}, kept for a step that may wait for {them}"


def _rest(state: SagaState) -> str:
    return "its next attempt" if state.waiting_for is None else state.waiting_for


def wake(state: SagaState, came: Woken) -> Decision:
    """Enter the step again; which wait is over, its entry and the inbox tell."""
    if state.waiting_for is None:
        raise SagaStateError(f"notify: the saga is {state.status}; it needs to wait for an event")
    entry = NewEntry(
        kind=EntryKind.WOKEN if came.event is None else EntryKind.EVENT,
        step_id=state.step_id,
        attempt=state.attempt,
        input=came.event,
    )
    return go_on(replace(_at_work(state), token=came.token or state.token), (entry,))


def _at_work(state: SagaState) -> SagaState:
    forward = state.direction is Direction.FORWARD
    return replace(state, status=SagaStatus.RUNNING if forward else SagaStatus.COMPENSATING)


def _at_rest(state: SagaState) -> SagaState:
    forward = state.direction is Direction.FORWARD
    return replace(state, status=SagaStatus.SUSPENDED if forward else SagaStatus.COMPENSATING)
