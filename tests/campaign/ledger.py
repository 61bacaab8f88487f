"""What happened in a world, in order, as seen from outside the store and the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from saga_core import StepContext
from saga_core.records import HistoryEntry, SagaRecord, StoredSignal
from tests.campaign.plan import Act, Outcome

__all__ = [
    "Aged",
    "Asked",
    "Began",
    "Call",
    "Crashed",
    "Ended",
    "Endless",
    "Happening",
    "Ledger",
    "Lost",
    "Outcome",
    "Rang",
    "Replied",
    "row_of",
]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that reached the store, with what the store said."""

    worker: str
    method: str
    request: Any
    """The method's arguments, by name."""
    answer: Any
    error: Exception | None
    heard: bool
    """Whether the answer reached the caller."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it was answered."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A call that never reached the store."""

    worker: str
    method: str


@dataclass(frozen=True, slots=True)
class Began:
    """A step, the undoing of it or the question for it was entered."""

    worker: str
    serial: int
    """Unique in its world."""
    step: int
    act: Act
    context: StepContext
    after: int
    event: int
    """What its input said."""
    out: int | None
    """When undoing, the serial in the output that is to be undone; None where none is known."""

    @property
    def what(self) -> str:
        return f"{self.act} {self.step}"


@dataclass(frozen=True, slots=True)
class Rang:
    """A hook was entered."""

    worker: str
    serial: int
    hook: str
    key: str
    fence: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A step was left: as its plan says, or None if it was cancelled or its process died."""

    serial: int
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class Aged:
    """Time passed for the saga."""

    by: timedelta


@dataclass(frozen=True, slots=True)
class Crashed:
    worker: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody called the library. `number` is in what the call leaves on record."""

    worker: str
    number: int
    what: str
    step: int | None = None
    """For which step it asks, if it names one."""


@dataclass(frozen=True, slots=True)
class Replied:
    number: int
    what: str
    answer: Any
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Endless:
    """The saga neither ended nor got stuck, however often it was looked at."""


Happening = Call | Lost | Began | Rang | Ended | Aged | Crashed | Asked | Replied | Endless


@dataclass(slots=True)
class Ledger:
    """All that happened, and what the store holds in the end."""

    happenings: list[Happening] = field(default_factory=list)
    record: SagaRecord | None = None
    """None if the saga was never written."""
    history: tuple[HistoryEntry, ...] = ()
    inbox: tuple[StoredSignal, ...] = ()
    rows: tuple[str, ...] | None = None
    """What steps have written in the store's transactions; None where it lends none."""


def row_of(act: Act, step: int, serial: int) -> str:
    """Return the row that an execution writes."""
    return f"{act.name.lower()} step_{step} {serial}"
