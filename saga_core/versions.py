"""Which version of its definition drives a saga: the one it was started with, or a later one.

Name, version, fingerprint and data of a stored saga never change, so that a claim and a repeated
start find it. An upcast is an entry of its history, written in one commit; from it on the saga is
read as the entry says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saga_core.codec import PayloadLimits, decode_json, encode_json
from saga_core.errors import PayloadError
from saga_core.records import HistoryEntry, NewEntry, SagaRecord
from saga_core.status import EntryKind

__all__ = ["Move", "NewOutput", "as_driven", "is_done", "tag_of", "was_upcast"]


@dataclass(frozen=True, slots=True)
class NewOutput:
    """What a step is taken to have been given and to have put out, as JSON texts."""

    input: str | None
    """None if the step never ran, so that there is nothing to undo."""
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An upcast: from which version to which, and what is on record from then on."""

    from_version: str
    from_fingerprint: str
    version: str
    fingerprint: str
    from_step: str
    step_id: str
    data: str | None
    """The initial data in its new form; None if it stays."""
    outputs: Mapping[str, NewOutput | None]
    """By step id of the new version; None for what stays as it is on record. What is not in it is
    no longer part of the saga."""
    maybe_done: Mapping[str, str] = field(default_factory=dict)
    """The inputs that have changed of steps that may have been done, JSON by step id."""

    def as_entry(self) -> NewEntry:
        """Return the entry to be written."""
        told: dict[str, Any] = {
            "from_version": self.from_version,
            "from_fingerprint": self.from_fingerprint,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "from_step": self.from_step,
            "step": self.step_id,
            "outputs": {step_id: _told(value) for step_id, value in self.outputs.items()},
        }
        if self.data is not None:
            told["initial_data"] = decode_json(self.data, what="initial_data")
        if self.maybe_done:
            told["maybe_done"] = {
                step_id: decode_json(text, what="input")
                for step_id, text in self.maybe_done.items()
            }
        return NewEntry(
            kind=EntryKind.UPCAST,
            step_id=self.step_id,
            output=_encoded(told, "the saga in its new form"),
            reason=f"moved from version '{self.from_version}' to version '{self.version}'",
        )

    @classmethod
    def decode(cls, text: str | None) -> Move:
        """Read back the output of an entry. Raises `PayloadError`."""
        told = decode_json(text or "", what="upcast")
        try:
            data = None
            if "initial_data" in told:
                data = _encoded(told["initial_data"], "initial_data")
            return cls(
                from_version=told["from_version"],
                from_fingerprint=told["from_fingerprint"],
                version=told["version"],
                fingerprint=told["fingerprint"],
                from_step=told["from_step"],
                step_id=told["step"],
                data=data,
                outputs={step_id: _read(value) for step_id, value in told["outputs"].items()},
                maybe_done={
                    step_id: _encoded(value, "input")
                    for step_id, value in told.get("maybe_done", {}).items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PayloadError(
                "an upcast in the store is not one that this library wrote"
            ) from error


def as_driven(record: SagaRecord) -> SagaRecord:
    """Return the saga as its newest upcast has left it: version, data and outputs. Pure.

    A record without its outputs, as a page of `find` has them, comes back as it is.
    """
    for entry in record.outputs:
        if entry.kind is EntryKind.UPCAST:
            break
    else:
        return record
    facts: list[HistoryEntry] = []
    outputs: dict[str, HistoryEntry] = {}
    for entry in record.outputs:
        if entry.kind is EntryKind.UPCAST:
            move = Move.decode(entry.output)
            outputs = dict(_after(move, entry, outputs))
            facts = [_with_input(fact, move) for fact in facts]
            record = replace(
                record,
                definition_version=move.version,
                fingerprint=move.fingerprint,
                data=record.data if move.data is None else move.data,
            )
        elif is_done(entry) and entry.step_id is not None:
            outputs.pop(entry.step_id, None)
            outputs[entry.step_id] = entry
        else:
            facts.append(entry)
    return replace(record, outputs=(*facts, *outputs.values()))


def is_done(entry: NewEntry) -> bool:
    """Tell whether an entry with an output says that its step was done, and with which output."""
    return entry.kind.is_step_output or entry.kind is EntryKind.PROBED


def was_upcast(record: SagaRecord) -> bool:
    """Tell whether a record, with or without its outputs, may be of a saga that was upcast."""
    return any(tag.startswith(_TAG) for tag in record.tags)


def tag_of(version: str) -> str:
    """Return the tag by which `find` finds the sagas that were upcast to a version."""
    return f"{_TAG}{version}"


_TAG = "upcast:"


def _after(
    move: Move, entry: HistoryEntry, before: Mapping[str, HistoryEntry]
) -> Iterator[tuple[str, HistoryEntry]]:
    for step_id, value in move.outputs.items():
        if value is None:
            yield step_id, before[step_id]
            continue
        kind = EntryKind.SKIPPED if value.input is None else EntryKind.COMPLETED
        told = replace(entry, kind=kind, input=value.input, output=value.output, reason=None)
        yield step_id, replace(told, step_id=step_id)


def _with_input(fact: HistoryEntry, move: Move) -> HistoryEntry:
    text = move.maybe_done.get(fact.step_id or "")
    if fact.kind is not EntryKind.MAYBE_DONE or text is None:
        return fact
    return replace(fact, input=text)


def _told(value: NewOutput | None) -> dict[str, Any] | None:
    if value is None:
        return None
    told = {"output": decode_json(value.output, what="output")}
    if value.input is not None:
        told["input"] = decode_json(value.input, what="input")
    return told


def _read(told: Mapping[str, Any] | None) -> NewOutput | None:
    if told is None:
        return None
    given = _encoded(told["input"], "input") if "input" in told else None
    return NewOutput(given, _encoded(told["output"], "output"))


def _encoded(value: Any, what: str) -> str:
    return encode_json(value, what=what, limits=_WHOLE)


_WHOLE = PayloadLimits(max_bytes=1 << 40, warn_bytes=1 << 40)
"""Each payload in it keeps to the limits, which were looked at before."""
