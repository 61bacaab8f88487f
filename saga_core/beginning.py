"""The rules of a saga that has not begun: put off to a time, or queued behind others."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from saga_core.deciding import go_on
from saga_core.errors import SagaDefinitionError, SagaStateError
from saga_core.happening import Decision, TurnCame
from saga_core.records import KEY, Due, NewEntry, SagaState
from saga_core.status import EntryKind, SagaStatus
from saga_core.timing import AT_START

__all__ = [
    "admit",
    "begin_at_last",
    "check_on_conflict",
    "line_up",
    "put_back",
    "put_off",
    "queued",
]

_WAYS = ("raise", "queue", "return")


def check_on_conflict(value: object) -> None:
    """Raise `SagaDefinitionError` for what `start` knows no meaning of."""
    if value not in _WAYS:
        raise SagaDefinitionError(
            f'on_conflict must be "raise", "queue" or "return", got {value!r}'
        )


def put_off(begun: Decision, later: Due) -> Decision:
    """Let a new saga begin at its time."""
    if not begun.drive:
        return begun  # its first map has failed
    ahead = replace(begun.state, status=SagaStatus.SUSPENDED, waiting_for=AT_START)
    return Decision(state=ahead, history=begun.history, drive=False, due=later)


def line_up(begun: Decision, limit: Due | None) -> Decision:
    """Let a new saga wait for its aggregate; a driver tries it. `limit` is its deadline."""
    if not begun.drive:
        return begun
    entry = NewEntry(kind=EntryKind.QUEUED, step_id=begun.state.step_id)
    return Decision(queued(begun.state), (*begun.history, entry), drive=True, due=limit)


def admit(state: SagaState, came: TurnCame) -> Decision:
    """Let a queued saga take its aggregate, and begin, unless its time is still ahead."""
    if not state.is_queued:
        raise SagaStateError(f"the saga is {state.status} and in no queue")
    entries = (NewEntry(kind=EntryKind.ADMITTED, step_id=state.step_id),)
    admitted = replace(state, active=True, waiting_for=None)
    if came.begins_at is None:
        return go_on(replace(admitted, status=SagaStatus.RUNNING), entries)
    ahead = replace(admitted, waiting_for=AT_START)
    return Decision(ahead, entries, drive=False, due=Due(at=came.begins_at))


def put_back(state: SagaState, holder: UUID | None) -> Decision:
    """Let a queued saga wait on, at its old place."""
    who = "another saga" if holder is None else f"saga {holder}"
    entry = NewEntry(kind=EntryKind.QUEUED, step_id=state.step_id, reason=f"{who} is before it")
    return Decision(queued(state), (entry,), drive=False, due=None)


def begin_at_last(state: SagaState) -> Decision:
    """Begin a saga whose time has come.

    On record before its first step runs: until then nothing can have been done.
    """
    begins = replace(state, status=SagaStatus.RUNNING, waiting_for=None)
    return go_on(begins, (NewEntry(kind=EntryKind.BEGUN, step_id=state.step_id),))


def queued(state: SagaState) -> SagaState:
    """Return the state in which a saga waits for its aggregate."""
    return replace(state, status=SagaStatus.SUSPENDED, active=False, waiting_for=KEY)
