"""What commands mean for a saga: for one that nobody drives, and for a driver who hears them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from saga_core.commands import Command
from saga_core.decide import decide, ignore_command
from saga_core.errors import SagaStateError
from saga_core.happening import (
    Aborted,
    CompensationRequested,
    CompensationSkipRequested,
    Decision,
    EditRequested,
    Happened,
    Pause,
    PauseRequested,
    ResumeRequested,
    ReturnRequested,
)
from saga_core.live import LiveSaga
from saga_core.pausing import newest_pause
from saga_core.records import DUE_NOW, Due, StoredSignal
from saga_core.status import Direction, EntryKind, SignalKind

__all__ = ["commands_in", "happening_of", "obey", "refused"]

_EVENTS = (SignalKind.EVENT, SignalKind.TYPED_EVENT)


def commands_in(signals: Sequence[StoredSignal]) -> list[StoredSignal]:
    """Return those of new signals that are commands nobody has obeyed."""
    return [each for each in signals if each.kind not in _EVENTS and not each.consumed]


def refused(live: LiveSaga, commands: Sequence[StoredSignal], reason: str) -> Decision:
    """Return what follows where the store does not let the saga do what commands ask for."""
    decision = Decision(live.state, (), drive=live.driving, due=live.due)
    for signal in commands:
        decision = _ignored(decision, signal, f"{_name(signal.kind)}: {reason}")
    return decision


def obey(live: LiveSaga, commands: Sequence[StoredSignal]) -> Decision:
    """Return what follows from commands to a saga that is driven here, one after the other.

    An abort goes before the others, and once it is obeyed they come too late. A command that the
    saga's state does not allow by then is told in the history and changes nothing.
    """
    first = next((each for each in commands if each.kind is SignalKind.ABORT), None)
    others = [each for each in commands if each is not first]
    due = DUE_NOW if live.driving else live.due
    decision = Decision(live.state, (), drive=live.driving, due=due)
    if first is not None:
        decision = _after(live, decision, first)
    aborted = any(entry.kind is EntryKind.ABORTED for entry in decision.history)
    for signal in others:
        decision = _too_late(decision, signal) if aborted else _after(live, decision, signal)
    return decision


def _too_late(before: Decision, signal: StoredSignal) -> Decision:
    reason = f"{_name(signal.kind)}: the saga has been aborted"
    return _ignored(before, signal, reason)


def _ignored(before: Decision, signal: StoredSignal, reason: str) -> Decision:
    by = Command.decode(signal.payload).by
    entry = ignore_command(before.state, before.due, reason=reason, by=by)
    return replace(before, history=(*before.history, *entry.history))


def _after(live: LiveSaga, before: Decision, signal: StoredSignal) -> Decision:
    command = Command.decode(signal.payload)
    state = before.state
    pause = newest_pause(before.history, live.pause)
    try:
        undoes = signal.kind in _UNDOES
        if undoes and state.direction is Direction.ROLLBACK and not state.is_paused:
            raise SagaStateError(f"{_name(signal.kind)}: the saga is {state.status} already")
        happened = happening_of(live, signal.kind, command, due=before.due, pause=pause)
        # An earlier command of the lot may have begun the rollback, with more to be undone.
        outputs = live.outputs.after(before.history)
        decision = decide(live.definition, state, outputs, happened)
    except SagaStateError as error:
        return _ignored(before, signal, str(error))
    return replace(decision, history=(*before.history, *decision.history))


_UNDOES = (SignalKind.COMPENSATE, SignalKind.CANCEL, SignalKind.RECALL)


def _name(kind: SignalKind) -> str:
    return "compensate_step" if kind is SignalKind.COMPENSATE else kind.value


def happening_of(
    live: LiveSaga, kind: SignalKind, command: Command, *, due: Due | None, pause: Pause | None
) -> Happened:
    """Return what a command asks of a saga that is due at `due`, paused as `pause` says."""
    match kind:
        case SignalKind.ABORT:
            return Aborted(command.by, pause)
        case SignalKind.PAUSE:
            return PauseRequested(command.by, due)
        case SignalKind.RESUME:
            return ResumeRequested(command.by, _by_now(live, pause))
        case SignalKind.COMPENSATE | SignalKind.CANCEL | SignalKind.RECALL:
            return CompensationRequested(command.by, uuid4(), _name(kind), pause)
        case SignalKind.SKIP_COMPENSATION:
            return CompensationSkipRequested(command.by, command.step_id, uuid4(), command.number)
        case SignalKind.EDIT_INPUT:
            step_id, text = command.step_id or "", command.input or "null"
            return EditRequested(command.by, step_id, text, uuid4(), due, live.is_overdue, pause)
        case SignalKind.RETRY_FROM:
            step_id = command.step_id or ""
            done = step_id in live.outputs and not live.outputs[step_id].maybe
            mapped = None
            if done:
                mapped = live.map_input(live.definition.step(step_id), once_more=True)
            return ReturnRequested(
                command.by, step_id, mapped, uuid4(), live.is_overdue, live.was_upcast
            )
        case SignalKind.EVENT | SignalKind.TYPED_EVENT:
            raise ValueError("an event is no command")


def _by_now(live: LiveSaga, pause: Pause | None) -> Pause | None:
    """Return a pause, due now if what it holds back has fallen due meanwhile."""
    if pause is None or pause.due is None or pause.due.at is None or pause.due.at > live.now:
        return pause
    return replace(pause, due=DUE_NOW)
