"""What comes to the rules made by others: inputs, failures, what is on record, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from saga_core.records import NewEntry
from saga_core.status import EntryKind

__all__ = [
    "WORKER_LOST",
    "Begin",
    "Failure",
    "Mapped",
    "NextInput",
    "Operator",
    "Recorded",
    "Unmappable",
]

WORKER_LOST = "WorkerLost"
"""The `error_code` of a saga whose workers were lost: a suspect until its next step."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, fit to be stored: cut to size, without payload values."""

    error: str
    code: str
    retryable: bool = True
    unrecordable: bool = False
    """The step ran, but what it put out cannot be stored: it counts as maybe done."""
    undone: bool = False
    """The step was a child saga that has undone what it did, or nothing: another try is new."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A step that has an output on record. Without an input it was skipped before it ever ran."""

    input: str | None
    output: str
    maybe: bool = False
    """It may have been done: then `output` says how to ask for it, and is none of the step's."""

    @classmethod
    def of(cls, entry: NewEntry) -> Recorded | None:
        """Return what an entry of the history says of its step's output, if it says anything."""
        kind = entry.kind
        told = kind.is_step_output or kind in (EntryKind.MAYBE_DONE, EntryKind.PROBED)
        if entry.output is None or not told:
            return None
        return cls(entry.input, entry.output, maybe=kind is EntryKind.MAYBE_DONE)


@dataclass(frozen=True, slots=True)
class Mapped:
    """The next step's input, ready to be stored."""

    text: str


@dataclass(frozen=True, slots=True)
class Unmappable:
    """The next step's input map raised, or what it returned cannot be stored."""

    failure: Failure


NextInput = Mapped | Unmappable


@dataclass(frozen=True, slots=True)
class Begin:
    """A step of a parallel saga that can begin, with its input."""

    step_id: str
    next_input: NextInput
    token: UUID


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asked, and why."""

    actor: str | None = None
    reason: str | None = None
