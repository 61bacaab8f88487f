"""The rules of a pause: who may rest, and how he goes on afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from saga_core.codec import decode_json, encode_json
from saga_core.deciding import go_on, require, rest, retry_fact
from saga_core.errors import SagaStateError
from saga_core.happening import Decision, Operator, Pause, PauseRequested, ResumeRequested
from saga_core.records import DUE_NOW, RESUME, Due, HistoryEntry, NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.timing import AT_START

__all__ = [
    "begins_pause",
    "newest_pause",
    "pause_requested",
    "paused_entry",
    "read_pause",
    "resume_requested",
    "unpaused",
]

_MOVES = (SagaStatus.RUNNING, SagaStatus.SUSPENDED, SagaStatus.COMPENSATING)


def pause_requested(state: SagaState, asked: PauseRequested) -> Decision:
    """Let the saga rest where it is, until a person resumes, cancels or aborts it."""
    require(state, "pause", state.status in _MOVES, "RUNNING, SUSPENDED or COMPENSATING")
    if state.is_paused:
        raise SagaStateError(f"pause: the saga is {state.status} and paused already")
    if state.is_queued:
        raise SagaStateError(
            f"pause: the saga is {state.status} and has not begun, because it waits for its "
            "aggregation_id; cancel or abort takes it out of the queue"
        )
    entry = paused_entry(state, Pause(state.status, state.waiting_for, asked.due), asked.by)
    rolling_back = state.direction is Direction.ROLLBACK
    status = SagaStatus.COMPENSATING if rolling_back else SagaStatus.SUSPENDED
    return rest(replace(state, status=status, waiting_for=RESUME), (entry,))


def resume_requested(state: SagaState, asked: ResumeRequested) -> Decision:
    """Go on as if there had been no pause: a wait keeps its end, a retry its time."""
    pause = asked.pause
    if not state.is_paused or pause is None:
        raise SagaStateError(f"resume: the saga is {state.status}; it needs to be paused")
    entry = NewEntry(
        kind=EntryKind.RESUMED,
        step_id=state.step_id,
        attempt=state.attempt,
        actor=asked.by.actor,
        reason=asked.by.reason,
    )
    before = replace(state, status=pause.status, waiting_for=pause.waiting_for)
    if pause.waiting_for == AT_START:
        return Decision(before, (entry,), drive=False, due=DUE_NOW)
    waits = pause.waiting_for is not None
    if waits or pause.status is SagaStatus.RUNNING or pause.due in (None, DUE_NOW):
        # In a wait a driver looks what came meanwhile, and how long it still lasts.
        return go_on(before, (entry,))
    if pause.due.at is not None:  # else an event that comes before would have it counted from now
        entry = replace(entry, output=retry_fact(state, pause.due.at))
    return Decision(before, (entry,), drive=False, due=pause.due)


def unpaused(state: SagaState, pause: Pause | None) -> SagaState:
    """Return the state with what a paused saga was waiting for before."""
    if not state.is_paused or pause is None:
        return state
    return replace(state, waiting_for=pause.waiting_for)


def paused_entry(state: SagaState, pause: Pause, by: Operator) -> NewEntry:
    """Return the entry that says how a paused saga goes on."""
    return NewEntry(
        kind=EntryKind.PAUSED,
        step_id=state.step_id,
        attempt=state.attempt,
        output=_text(pause),
        actor=by.actor,
        reason=by.reason,
    )


def begins_pause(entry: NewEntry) -> bool:
    """Tell whether an entry is of a pause, and not of a command that has changed its end."""
    return entry.kind is EntryKind.PAUSED and "again" not in decode_json(
        entry.output or "{}", what="pause"
    )


def newest_pause(entries: Iterable[NewEntry], before: Pause | None = None) -> Pause | None:
    """Return the pause that the last entry of one tells of; `before` if there is none.

    The delay of an entry in the store counts from when that was written.
    """
    newest: NewEntry | None = None
    for entry in entries:
        if entry.kind is EntryKind.PAUSED:
            newest = entry
    if newest is None:
        return before
    return read_pause(newest, newest.at if isinstance(newest, HistoryEntry) else None)


def read_pause(entry: NewEntry, at: datetime | None) -> Pause:
    """Return the pause that an entry made at `at` tells of; None for one not yet in the store."""
    value = decode_json(entry.output or "null", what="pause")
    again = bool(value.get("again"))
    return Pause(SagaStatus(value["status"]), value["waiting_for"], _due(value, at), again)


def _text(pause: Pause) -> str:
    value: dict[str, Any] = {"status": pause.status.value, "waiting_for": pause.waiting_for}
    if pause.again:
        value["again"] = True
    if pause.due is not None and pause.due.delay is not None:
        value["delay"] = pause.due.delay.total_seconds()
    if pause.due is not None and pause.due.at is not None:
        value["at"] = pause.due.at.isoformat()
    return encode_json(value, what="pause")


def _due(value: dict[str, Any], at: datetime | None) -> Due | None:
    delay = timedelta(seconds=value["delay"]) if "delay" in value else None
    moment = datetime.fromisoformat(value["at"]) if "at" in value else None
    if delay and at is not None:
        # It counts from the pause, by the clock of the store.
        moment = at + delay if moment is None else min(moment, at + delay)
        delay = None
    return None if delay is None and moment is None else Due(delay=delay, at=moment)
