"""What an upcaster gets to see of a saga in flight, read from its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saga_core.codec import decode_json
from saga_core.records import HistoryEntry, SagaRecord
from saga_core.status import Direction, EntryKind
from saga_core.upcaster import DoneStep
from saga_core.versions import is_done

__all__ = ["done_step", "doubtful", "payload", "yet_to_be_undone"]


def yet_to_be_undone(record: SagaRecord) -> Iterator[HistoryEntry]:
    """Yield what was put out by the steps that are done; in a rollback, up to the current one."""
    newest: dict[str, HistoryEntry] = {}
    for entry in record.outputs:
        if is_done(entry) and entry.step_id is not None:
            newest.pop(entry.step_id, None)
            newest[entry.step_id] = entry
    current = record.state.step_id
    rollback = record.state.direction is Direction.ROLLBACK
    for step_id, entry in newest.items():
        yield entry
        if rollback and step_id == current:
            return


def doubtful(record: SagaRecord) -> Mapping[str, str]:
    """Return what nobody knows to be done or not and is yet to be undone: the input by step id.

    A rollback begins with it, so it is the current step if there is any.
    """
    current = record.state.step_id
    if record.state.direction is Direction.FORWARD or current is None:
        return {}
    for entry in reversed(record.outputs):
        if entry.step_id == current and is_done(entry):
            return {}  # it was asked whether it was done
        if entry.step_id == current and entry.kind is EntryKind.MAYBE_DONE:
            return {current: entry.input or "null"}
    return {}


def done_step(entry: HistoryEntry) -> DoneStep:
    return DoneStep(
        input=payload(entry.input), output=payload(entry.output), ran=entry.input is not None
    )


def payload(text: str | None) -> Any:
    return None if text is None else decode_json(text, what="a payload")
