"""What records are made of: when a saga is due, who holds it, where it stands, what it was told.

`saga_core.records` is the door to these for everybody outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

from saga_core.status import END_HOOKS, Direction, EntryKind, Hook, SagaStatus, SignalKind

__all__ = [
    "DUE_NOW",
    "Due",
    "HistoryEntry",
    "KEY",
    "Lease",
    "LeaseAction",
    "NewEntry",
    "RESUME",
    "SagaState",
    "Signal",
    "StoredSignal",
]


@dataclass(frozen=True, slots=True)
class Due:
    """When a saga is looked at again, by the store's clock: the earlier of the two that are set."""

    delay: timedelta | None = None
    at: datetime | None = None

    def __post_init__(self) -> None:
        if self.delay is None and self.at is None:
            raise ValueError("Due needs a delay, a time or both")
        if self.at is not None and self.at.tzinfo is None:
            raise ValueError("Due.at needs a time zone")

    def moment(self, now: datetime) -> datetime:
        """Return the time that this means for a store whose clock shows `now`."""
        if self.delay is None:
            return self.at or now
        after = now + self.delay
        return after if self.at is None else min(after, self.at)


DUE_NOW = Due(delay=timedelta(0))


class LeaseAction(Enum):
    """What a commit does to the lease."""

    KEEP = "keep"
    """Holder and lease end stay as they are; `due` is not used."""
    RELEASE = "release"
    """Nobody holds the saga afterwards; it is due as `due` says."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who drives the saga after this write, and for how long without a renewal.

    As the lease of a `Transition` it takes the saga over: `fence` rises unless `worker` is the
    holder already.
    """

    worker: str
    duration: timedelta


RESUME = "resume"
"""What a paused saga is `waiting_for`."""

KEY = "key"
"""What a queued saga is `waiting_for`: that no other saga holds its aggregate id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaState:
    """The part of a saga that its transitions rewrite. A store keeps each field as it is."""

    status: SagaStatus
    direction: Direction = Direction.FORWARD
    """Also the lane that `claim_due` serves it in."""
    active: bool = True
    """Whether the saga holds its `aggregation_id`."""
    step_id: str | None = None
    """The step being done or undone; None once the saga has ended."""
    step_index: int = 0
    """For display: how many steps are done."""
    step_input: str | None = None
    token: UUID | None = None
    """Made when a step begins in a direction; unchanged by retries, waits and takeovers."""
    generation: int = 0
    """Rises when a person or an event changes the step's input."""
    attempt: int = 0
    """Attempts that have failed in this step and direction."""
    waiting_for: str | None = None
    """The named thing whose arrival makes the saga due, if it waits for one."""
    last_error: str | None = None
    error_code: str | None = None
    """The exception's type name, indexed by the store."""

    @property
    def is_paused(self) -> bool:
        """Whether a person lets the saga rest. Its status is that of the rest of the way."""
        return self.waiting_for == RESUME

    @property
    def is_queued(self) -> bool:
        """Whether the saga has not begun because others are before it at its aggregate id."""
        return self.waiting_for == KEY and not self.active

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to come of the saga, unless a person revives it.

        One that is queued has not, nor one that has got stuck before it held its aggregate.
        """
        return not self.active and self.status.is_terminal

    @property
    def in_hook(self) -> bool:
        """Whether the saga is at a hook instead of a step."""
        return self.step_id in _HOOKS

    @property
    def is_ending(self) -> bool:
        """Whether the saga has come to its end, and records it once its hook is done."""
        return self.step_id in END_HOOKS


_HOOKS = frozenset[str | None](Hook)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """One thing that happened, to be appended to the saga's history."""

    kind: EntryKind
    step_id: str | None = None
    attempt: int = 0
    input: str | None = None
    output: str | None = None
    """Not None exactly when the entry is part of the saga's state (`SagaRecord.outputs`)."""
    error: str | None = None
    error_code: str | None = None
    actor: str | None = None
    reason: str | None = None

    def as_entry(self, *, seq: int, version: int, at: datetime) -> HistoryEntry:
        """Return the entry as a store holds it once appended."""
        return HistoryEntry(
            seq=seq,
            version=version,
            at=at,
            kind=self.kind,
            step_id=self.step_id,
            attempt=self.attempt,
            input=self.input,
            output=self.output,
            error=self.error,
            error_code=self.error_code,
            actor=self.actor,
            reason=self.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry(NewEntry):
    """An entry as the store holds it."""

    seq: int
    """Counts from 1 without gaps within a saga."""
    version: int
    """The version that the commit which wrote it made."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Something sent to a saga. `event_id` is unique within the saga: a second one is a repeat."""

    event_id: str
    kind: SignalKind
    payload: str

    def as_stored(self, *, seq: int, at: datetime, consumed: bool = False) -> StoredSignal:
        """Return the signal as a store holds it once appended."""
        return StoredSignal(
            event_id=self.event_id,
            kind=self.kind,
            payload=self.payload,
            seq=seq,
            at=at,
            consumed=consumed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSignal(Signal):
    """A signal as the store holds it."""

    seq: int
    """Counts from 1 without gaps within a saga."""
    at: datetime
    consumed: bool
